"""From table cells to token vectors: standardise by the context, group neighbouring features, embed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_CLIP = 10.0


@dataclass(frozen=True)
class Scaling:
    """Location and scale of each feature, (B, 1, F), from the context rows alone."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scaling:
        """Statistics of `x` (B, C, F) that ignore missing cells; mean 0 and scale 1 where all are missing."""
        seen = ~x.isnan()
        count = seen.sum(1, keepdim=True).clamp_min(1)
        mean = torch.where(seen, x, 0.0).sum(1, keepdim=True) / count
        variance = torch.where(seen, x - mean, 0.0).square().sum(1, keepdim=True) / count
        std = variance.sqrt()
        return cls(mean, torch.where(std > 1e-6 * mean.abs() + 1e-30, std, 1.0))

    def apply(self, x: Tensor) -> Tensor:
        """z-scores; beyond three standard deviations they grow like the logarithm, and never exceed 10."""
        z = (x - self.mean) / self.std
        excess = (z.abs() - 3.0).clamp_min(0.0)
        return (z.sign() * (z.abs().clamp_max(3.0) + torch.log1p(excess))).clamp(-_CLIP, _CLIP)


class CellEncoder(nn.Module):
    """Tokens of feature groups. Token t sees the features s·t + δ (modulo F) for δ in `shifts`; s is 1 or 2.

    Overlapping groups let one layer see pairs of features at once. Tables wider than `dense_features` take every second
    start only, which halves their cost; with shifts 0 and 1 every feature still occurs.
    """

    def __init__(self, width: int, shifts: tuple[int, ...], dense_features: int) -> None:
        super().__init__()
        self.shifts = shifts
        self.dense_features = dense_features
        self.embed = nn.Linear(2 * len(shifts), width)

    def forward(self, x: Tensor, scaling: Scaling) -> Tensor:                        # x (B, R, F)
        z = scaling.apply(x)
        missing = z.isnan()
        channels = torch.stack([torch.where(missing, 0.0, z), missing.to(z.dtype)], dim=-1)     # (B, R, F, 2)
        n_features = x.shape[2]
        start = torch.arange(0, n_features, 1 if n_features <= self.dense_features else 2, device=x.device)
        groups = torch.cat([channels[:, :, (start + shift) % n_features] for shift in self.shifts], dim=-1)
        return self.embed(groups.transpose(1, 2).to(self.embed.weight.dtype))             # (B, T, R, E)
