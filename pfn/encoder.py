"""From table cells to token vectors: standardise by the context, group neighbouring features, embed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_CLIP = 10.0


@dataclass(frozen=True)
class SortedColumns:
    """The context's columns, each in ascending order with its missing cells last."""

    ordered: Tensor                                                                  # (B, F, C)
    count: Tensor                                                                    # (B, F, 1), cells that are not missing

    @classmethod
    def of(cls, x: Tensor) -> SortedColumns:
        """Columns of `x` (B, C, F)."""
        columns = x.transpose(1, 2)
        missing = columns.isnan()
        ordered = torch.where(missing, math.inf, columns).sort(-1).values
        return cls(ordered, (~missing).sum(-1, keepdim=True).clamp_min(1))

    def ranks(self, x: Tensor) -> Tensor:
        """Mid-ranks of the cells of x (B, R, F) in the context, scaled to -√3 … √3 (standard deviation 1)."""
        columns = x.transpose(1, 2).contiguous()
        place = torch.searchsorted(self.ordered, columns) + torch.searchsorted(self.ordered, columns, right=True)
        return math.sqrt(3.0) * (place.minimum(2 * self.count) / self.count - 1.0).transpose(1, 2)


@dataclass(frozen=True)
class Scaling:
    """Location and scale of each feature, (B, 1, F), from the context rows alone; also the sorted context for ranks."""

    mean: Tensor
    std: Tensor
    columns: SortedColumns | None = None

    @classmethod
    def of(cls, x: Tensor, ranks: bool = False) -> Scaling:
        """Statistics of `x` (B, C, F) that ignore missing cells; mean 0 and scale 1 where all are missing."""
        seen = ~x.isnan()
        count = seen.sum(1, keepdim=True).clamp_min(1)
        mean = torch.where(seen, x, 0.0).sum(1, keepdim=True) / count
        variance = torch.where(seen, x - mean, 0.0).square().sum(1, keepdim=True) / count
        std = variance.sqrt()
        std = torch.where(std > 1e-6 * mean.abs() + 1e-30, std, 1.0)
        return cls(mean, std, SortedColumns.of(x) if ranks else None)

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
        z = scaling.apply(x)
        missing = z.isnan()
        channels = torch.stack([torch.where(missing, 0.0, z), missing.to(z.dtype)], dim=-1)     # (B, R, F, 2)
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
