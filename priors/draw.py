"""Random draws that a prior needs, all from one generator and on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """Shorthand for draws from `generator`; every method takes the size of the result."""

    generator: torch.Generator

    @property
    def device(self) -> torch.device:
        return self.generator.device

    def on_cpu(self) -> Draw:
        """Draws on the CPU that follow from this generator: for structure that decides the sizes of tensors."""
        seed = torch.randint(2**62, (), generator=self.generator, device=self.device).item()
        return Draw(torch.Generator().manual_seed(int(seed)))

    def uniform(self, *size: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*size, generator=self.generator, device=self.device)

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.generator, device=self.device)

    def log_uniform(self, *size: int, low: float, high: float) -> Tensor:
        """exp U(ln low, ln high)."""
        return self.uniform(*size, low=math.log(low), high=math.log(high)).exp()

    def integers(self, *size: int, low: int, high: int) -> Tensor:
        """Uniform integers in [low, high], both ends included."""
        return torch.randint(low, high + 1, size, generator=self.generator, device=self.device)

    def log_integers(self, *size: int, low: int, high: int) -> Tensor:
        """Integers in [low, high], uniform on the log scale: floor(exp U(ln low, ln(high + 1)))."""
        draw = self.log_uniform(*size, low=low, high=high + 1).floor().long()
        return draw.clamp(low, high)                                 # rounding may reach high + 1

    def chance(self, *size: int, p: float | Tensor) -> Tensor:
        """True with probability `p`."""
        return torch.rand(*size, generator=self.generator, device=self.device) < p

    def choice(self, *size: int, weights: tuple[float, ...] | list[float]) -> Tensor:
        """Index of a category drawn with the given unnormalised weights."""
        table = torch.tensor(weights, dtype=torch.float32, device=self.device)
        flat = torch.multinomial(table, math.prod(size), replacement=True, generator=self.generator)
        return flat.view(size)

    def exponential(self, *size: int) -> Tensor:
        """Exponential with mean 1."""
        return -torch.log1p(-self.uniform(*size))                    # of a number in (0, 1]

    def gumbel(self, *size: int) -> Tensor:
        """Standard Gumbel: logits plus these are largest at k with the probability softmax(logits)[k]."""
        return -torch.log(-torch.log(self.uniform(*size).clamp(1e-6, 1 - 1e-6)))

    def gamma(self, shape: Tensor) -> Tensor:
        """Gamma(shape, scale 1), element by element."""
        return torch._standard_gamma(shape, generator=self.generator)

    def beta(self, a: Tensor, b: Tensor) -> Tensor:
        """Beta(a, b), element by element."""
        x, y = self.gamma(a), self.gamma(b)
        return x / (x + y).clamp_min(1e-30)

    def permutation(self, *size: int) -> Tensor:
        """Independent uniform permutations of the last axis' indices."""
        return self.uniform(*size).argsort(-1)


def standardise(x: Tensor, dim: int = 1, eps: float = 1e-6) -> Tensor:
    """Mean 0 and standard deviation 1 along `dim`; a constant becomes 0."""
    centred = x - x.mean(dim, keepdim=True)
    return centred / centred.square().mean(dim, keepdim=True).sqrt().clamp_min(eps)
