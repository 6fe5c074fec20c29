"""Proper scores of a bar distribution besides the log density: CRPS and pinball loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pfn.bar_grid import HALF_NORMAL_MEAN, exclusive_sum, locate, tail_scales

_SQUARE_OF_WHOLE_TAIL = 2 * HALF_NORMAL_MEAN - 2 / math.sqrt(math.pi)                   # ∫₀^∞ (2Φ(−u))² du


def crps(
    borders: Tensor,     # (..., n_bars + 1)
    log_mass: Tensor,    # (..., n_bars)
    y: Tensor,           # (...)
) -> Tensor:             # (...), in units of y
    """∫ (F(t) − [t ≥ y])² dt, exact: a sum of positive terms, one or two for each bar.

    Between the tails F is linear and ∫ F² = width · (A² + AB + B²)/3 with A and B its values at the ends. Mass comes from
    the left for F and from the right for 1 − F, so neither loses small values.
    """
    mass, widths = log_mass.exp(), borders.diff()
    left, right = tail_scales(borders)
    below = exclusive_sum(mass)                                                          # F at each bar's left border
    above = exclusive_sum(mass.flip(-1)).flip(-1)                                        # 1 − F at its right border
    squares_below = widths * _mean_square(below, below + mass)
    squares_above = widths * _mean_square(above, above + mass)
    whole_tail = _SQUARE_OF_WHOLE_TAIL * mass.square()
    squares_below = torch.cat([left.unsqueeze(-1) * whole_tail[..., :1], squares_below[..., 1:]], dim=-1)
    squares_above = torch.cat([squares_above[..., :-1], right.unsqueeze(-1) * whole_tail[..., -1:]], dim=-1)
    place = locate(borders, y)
    from_left, from_right = place.sums_beside(squares_below, squares_above)
    p, width = place.of(mass), place.of(widths)
    at_left, at_right = place.of(below), place.of(above)
    share = ((y - place.of(borders[..., :-1])) / width).clamp(0.0, 1.0)
    split = width * (
        share * _mean_square(at_left, at_left + p * share)
        + (1 - share) * _mean_square(at_right, at_right + p * (1 - share))
    )
    in_tail = torch.where(place.in_left, left, right) * _split_tail(p, place.depth)
    return from_left + from_right + torch.where(place.in_left | place.in_right, in_tail, split)


def pinball(
    quantiles: Tensor,   # (..., n_quantiles), in units of y
    y: Tensor,           # (...)
    q: Tensor,           # (n_quantiles,)
) -> Tensor:             # (..., n_quantiles), in units of y
    """q(y − quantile) above the quantile, (1 − q)(quantile − y) below."""
    excess = y.unsqueeze(-1) - quantiles
    return torch.maximum(q * excess, (q - 1) * excess)


def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Mean of the square of a function that goes linearly from a to b."""
    return (a.square() + a * b + b.square()) / 3


def _split_tail(p: Tensor, u: Tensor) -> Tensor:
    """Contribution of a tail of mass p, in units of its scale, if y lies u scales outside its inner border.

    Outside t the tail has the mass 2pΦ(−t), so it is ∫₀ᵘ (1 − 2pΦ(−t))² dt + ∫ᵤ^∞ (2pΦ(−t))² dt, and the squares of both
    add up to those of a whole tail.
    """
    integral = 2 * u * torch.special.ndtr(-u) - HALF_NORMAL_MEAN * torch.expm1(-0.5 * u.square())      # ∫₀ᵘ 2Φ(−t) dt
    return u - 2 * p * integral + _SQUARE_OF_WHOLE_TAIL * p.square()
