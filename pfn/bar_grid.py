"""Where values fall among bars of which the first and the last are half-normal tails: what all bar algebra shares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

HALF_NORMAL_MEDIAN = 0.6744897501960817                            # Φ⁻¹(¾): a tail has half of its mass inside its bar
HALF_NORMAL_MEAN = math.sqrt(2.0 / math.pi)                        # E|Z|; also 2φ(0), its density at 0


def tail_scales(
    borders: Tensor,             # (..., n_bars + 1)
) -> tuple[Tensor, Tensor]:      # (...), (...)
    """Standard deviations of the normals whose halves are the left and the right tail."""
    left, right = borders[..., 1] - borders[..., 0], borders[..., -1] - borders[..., -2]
    return left / HALF_NORMAL_MEDIAN, right / HALF_NORMAL_MEDIAN


def per_bar(
    left: Tensor,        # (...), of the left tail
    interior: Tensor,    # (..., n_bars - 2)
    right: Tensor,       # (...)
) -> Tensor:             # (..., n_bars)
    """What belongs to the tails and what belongs to the bars between them, side by side."""
    return torch.cat([left.unsqueeze(-1), interior, right.unsqueeze(-1)], dim=-1)


def log_heights(
    borders: Tensor,     # (..., n_bars + 1)
) -> Tensor:             # (..., n_bars), in nats per unit of y
    """Highest log density in each bar, given that y lies in it; a tail has it at its inner border."""
    left, right = tail_scales(borders)
    at_anchor = math.log(HALF_NORMAL_MEAN)
    return per_bar(at_anchor - left.log(), -borders[..., 1:-1].diff().log(), at_anchor - right.log())


def exclusive_sum(
    parts: Tensor,       # (..., n_bars)
) -> Tensor:             # (..., n_bars), 0 first
    """Sum over the bars to the left of each bar. Not `cumsum - parts`, which loses small sums beside a large part."""
    return torch.nn.functional.pad(parts.cumsum(-1), (1, -1))


def take(
    values: Tensor,      # (..., n_bars) or (n_bars,)
    index: Tensor,       # (..., k)
) -> Tensor:             # (..., k)
    """`gather` along the last axis whose other axes broadcast."""
    if values.ndim == 1:
        return values[index]
    shape = torch.broadcast_shapes(values.shape[:-1], index.shape[:-1])
    return values.expand(*shape, -1).gather(-1, index.expand(*shape, -1))


def entry_before(
    cumulated: Tensor,   # (..., n_bars), a `cumsum`
    index: Tensor,       # (..., k)
) -> Tensor:             # (..., k)
    """Sum up to but not including `index`: of an exclusive sum, without the copy that shifts it."""
    return take(cumulated, (index - 1).clamp_min(0)).masked_fill(index == 0, 0.0)


@dataclass(frozen=True)
class Place:
    """Where each value (...) lies. `depth` counts tail scales from a tail's inner border outwards; 0 between the tails."""

    bar: Tensor
    in_left: Tensor
    in_right: Tensor
    depth: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The entry of `values` (..., n_bars) that belongs to each bar, (...)."""
        return take(values, self.bar.unsqueeze(-1)).squeeze(-1)

    def sums_beside(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of `left` (..., n_bars) over the bars left of each value's, and of `right` over those right of it, (...)."""
        bar = self.bar.unsqueeze(-1)
        behind = right.shape[-1] - 1 - bar
        return entry_before(left.cumsum(-1), bar).squeeze(-1), entry_before(right.flip(-1).cumsum(-1), behind).squeeze(-1)


def locate(
    borders: Tensor,     # (..., n_bars + 1), or (n_bars + 1,) shared by all
    y: Tensor,           # (...)
) -> Place:
    """A border belongs to the bar on its right, but the inner border of a tail to the tail, whose mode it is."""
    inner = borders[..., 1:-1].contiguous()
    if borders.ndim == 1:
        bar = torch.searchsorted(inner, y.contiguous(), right=True)                      # tails reach outwards
    else:
        shape = torch.broadcast_shapes(borders.shape[:-1], y.shape)
        y = y.expand(shape)
        inner = inner.expand(*shape, -1).contiguous()
        bar = torch.searchsorted(inner, y.unsqueeze(-1).contiguous(), right=True).squeeze(-1)
    bar = bar.masked_fill(y <= borders[..., 1], 0)
    in_left, in_right = bar == 0, bar == borders.shape[-1] - 2
    left, right = tail_scales(borders)
    outwards = torch.where(in_left, (borders[..., 1] - y) / left, (y - borders[..., -2]) / right)
    return Place(bar, in_left, in_right, torch.where(in_left | in_right, outwards, 0.0))
