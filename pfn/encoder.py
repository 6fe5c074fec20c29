"""From table cells to token vectors: standardise by the context, group neighbouring features, embed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_CLIP = 10.0


@dataclass(frozen=True)
class SortedColumns:
    """The context's columns, each in ascending order with its missing cells last, and the ranks of these values."""

    ordered: Tensor                                                                  # (B, F, C)
    ranks_of_ordered: Tensor                                                         # (B, F, C), -√3 … √3
    count: Tensor                                                                    # (B, F, 1), cells that are not missing

    @classmethod
    def of(cls, x: Tensor, weight: Tensor) -> SortedColumns:
        """Columns of `x` (B, C, F), the cells of which count `weight` (B, C, F); 0 where they are missing."""
        columns, weight = x.transpose(1, 2), weight.transpose(1, 2).contiguous()
        ordered, order = torch.where(weight > 0, columns, math.inf).sort(-1)
        cumulated = torch.nn.functional.pad(weight.gather(-1, order).cumsum(-1), (1, 0))
        first, behind = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))
        middle = cumulated.gather(-1, first) + cumulated.gather(-1, behind)          # equal values share their middle rank
        ranks = math.sqrt(3.0) * (middle / cumulated[..., -1:].clamp_min(1e-30) - 1.0)
        return cls(ordered, ranks, (weight > 0).sum(-1, keepdim=True))

    def ranks(self, x: Tensor) -> Tensor:
        """Weighted share of the context below the cells of x (B, R, F), scaled to -√3 … √3; linear between its values."""
        columns = x.transpose(1, 2).contiguous()
        behind = torch.searchsorted(self.ordered, columns, right=True)
        below = (behind - 1).clamp_min(0)
        above = behind.minimum(self.count - 1).clamp_min(0)
        left, right = self.ordered.gather(-1, below), self.ordered.gather(-1, above)
        gap = right - left
        share = torch.where(gap > 0, (columns - left) / torch.where(gap > 0, gap, 1.0), 0.0).clamp(0.0, 1.0)
        ranks = self.ranks_of_ordered.gather(-1, below).lerp(self.ranks_of_ordered.gather(-1, above), share)
        return torch.where(self.count > 0, ranks, 0.0).transpose(1, 2)


@dataclass(frozen=True)
class Scaling:
    """Location and scale of each feature, (B, 1, F), from the context rows alone; for ranks its sorted columns too."""

    mean: Tensor
    std: Tensor
    columns: SortedColumns | None = None

    @classmethod
    def of(cls, x: Tensor, weight: Tensor | None = None, *, ranks: bool = False) -> Scaling:
        """Statistics of `x` (B, C, F) that ignore missing cells; mean 0 and scale 1 where all are missing.

        Rows count `weight` (B, C), one each without; those of weight 0 do not exist.
        """
        seen = ~x.isnan()
        cell_weight = seen.to(x.dtype) if weight is None else seen * weight.unsqueeze(-1)
        total = cell_weight.sum(1, keepdim=True)
        total = torch.where(total > 0, total, 1.0)
        mean = (torch.where(seen, x, 0.0) * cell_weight).sum(1, keepdim=True) / total
        variance = (torch.where(seen, x - mean, 0.0).square() * cell_weight).sum(1, keepdim=True) / total
        varies = variance > 0                                                        # the root has no derivative at 0
        std = torch.where(varies, variance, 1.0).sqrt()
        std = torch.where(varies & (std > 1e-6 * mean.abs() + 1e-30), std, 1.0)
        return cls(mean, std, SortedColumns.of(x, cell_weight) if ranks else None)

    @classmethod
    def fixed(cls, moments: Tensor, batch_size: int, n_features: int) -> Scaling:
        """The same mean and standard deviation, `moments` (2,), for every feature of every task."""
        mean, std = moments.float().view(2, 1, 1, 1).expand(2, batch_size, 1, n_features)
        return cls(mean, std)

    def apply(self, x: Tensor) -> Tensor:
        """z-scores; beyond three standard deviations they grow like the logarithm, and never exceed 10."""
        z = (x - self.mean) / self.std
        excess = (z.abs() - 3.0).clamp_min(0.0)
        return (z.sign() * (z.abs().clamp_max(3.0) + torch.log1p(excess))).clamp(-_CLIP, _CLIP)


class CellEncoder(nn.Module):
    """Tokens of feature groups. Token t sees the features s·t + δ (modulo F) for δ in `shifts`; s is 1 or 2.

    Overlapping groups let one layer see pairs of features at once. Tables wider than `dense_features` take every second
    start only, which halves their cost; with shifts 0 and 1 every feature still occurs. With `ranks`, a token also sees
    the rank of its features among those of the context; that part starts at zero, so that it can be added to a network
    that was trained without.
    """

    def __init__(self, width: int, shifts: tuple[int, ...], dense_features: int, ranks: bool = False) -> None:
        super().__init__()
        self.shifts = shifts
        self.dense_features = dense_features
        self.embed = nn.Linear(2 * len(shifts), width)
        self.embed_ranks = nn.Linear(len(shifts), width, bias=False) if ranks else None
        if self.embed_ranks is not None:
            nn.init.zeros_(self.embed_ranks.weight)

    def forward(self, x: Tensor, scaling: Scaling) -> Tensor:                        # x (B, R, F)
        missing = x.isnan()
        x = torch.where(missing, scaling.mean, x)            # before all arithmetic: NaN × 0 in a gradient would be NaN
        z = scaling.apply(x)
        channels = torch.stack([z, missing.to(z.dtype)], dim=-1)                                # (B, R, F, 2)
        tokens = self.embed(self._groups(channels).to(self.embed.weight.dtype))                # (B, T, R, E)
        if self.embed_ranks is None:
            return tokens
        assert scaling.columns is not None
        ranks = torch.where(missing, 0.0, scaling.columns.ranks(x)).unsqueeze(-1)
        return tokens + self.embed_ranks(self._groups(ranks).to(self.embed.weight.dtype))

    def _groups(self, channels: Tensor) -> Tensor:
        """Channels (B, R, F, K) of the features that each token sees, (B, T, R, shifts × K)."""
        n_features = channels.shape[2]
        start = torch.arange(0, n_features, 1 if n_features <= self.dense_features else 2, device=channels.device)
        groups = torch.cat([channels[:, :, (start + shift) % n_features] for shift in self.shifts], dim=-1)
        return groups.transpose(1, 2)


class RowEncoder(nn.Module):
    """One token a row: each feature has weights of its own. Tables with fewer than `n_features` lack the rest.

    With `squares` the squares of features are channels too, and the values and squares of F < `n_features` features are
    multiplied by √(`n_features` / F), so that tokens keep their size.
    """

    def __init__(self, width: int, n_features: int, *, squares: bool = False) -> None:
        super().__init__()
        self.n_features, self.squares = n_features, squares
        self.embed = nn.Linear((3 if squares else 2) * n_features, width)

    def forward(self, x: Tensor, scaling: Scaling) -> Tensor:                        # x (B, R, F) -> (B, 1, R, E)
        if x.shape[2] > self.n_features:
            raise ValueError(
                f"x has {x.shape[2]} features, but this network reads rows of at most row_features={self.n_features}."
            )
        seen = torch.where(x.isnan(), scaling.mean, x)       # before all arithmetic: NaN × 0 in a gradient would be NaN
        absent = self.n_features - x.shape[2]
        value = nn.functional.pad(scaling.apply(seen), (0, absent))
        missing = nn.functional.pad(x.isnan(), (0, absent), value=True)
        channels = torch.cat([value, missing.to(value.dtype)], dim=-1)
        if self.squares:
            square = torch.where(missing, 0.0, value.square() - 1.0)
            scale = (self.n_features / x.shape[2]) ** 0.5
            channels = torch.cat([scale * value, missing.to(value.dtype), scale * square], dim=-1)
        return self.embed(channels.to(self.embed.weight.dtype)).unsqueeze(1)
