"""A posterior seen through a monotone function of y, such as the inverse of a target warp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Posterior(Protocol):
    """What a distribution must offer to be transformed or mixed."""

    def log_prob(self, y: Tensor) -> Tensor: ...

    def cdf(self, y: Tensor) -> Tensor: ...

    def survival(self, y: Tensor) -> Tensor: ...

    def quantile(self, q: Tensor) -> Tensor: ...

    def sample(self, n_samples: int, *, generator: torch.Generator) -> Tensor: ...

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor: ...

    def unsqueeze(self) -> Posterior: ...

    @property
    def mean(self) -> Tensor: ...

    @property
    def variance(self) -> Tensor: ...

    @property
    def median(self) -> Tensor: ...


@dataclass(frozen=True)
class TransformedPosterior:
    """The distribution of forward(Z) for Z ~ `base`.

    Density, cdf and quantiles are exact: F(y) = F_Z(inverse(y)), and the log density gains ln inverse'(y), which autograd
    finds. The mean is the quadrature of `BarPosterior.expectation`.

    Parameters
    ----------
    base : Posterior
        Of Z, a `BarPosterior`, `MixturePosterior` or another of these.
    forward, inverse : callable
        Elementwise functions of tensors, inverses of each other, increasing, the same for the whole batch. `forward` must
        take every real number. Where y cannot be reached, `inverse` returns -inf or inf.

    Examples
    --------
    Counts modelled as z = ln(1 + y):

    >>> from pfn import BarDistribution
    >>> z = BarDistribution(torch.tensor([0.0, 1.0, 2.0, 3.0])).posterior(torch.zeros(3))
    >>> counts = z.transformed(torch.expm1, torch.log1p)
    >>> counts.median, z.median.expm1()
    (tensor(3.4817), tensor(3.4817))
    """

    base: Posterior
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        low, high = self.forward(torch.tensor(-1.0)), self.forward(torch.tensor(1.0))
        if not bool((low <= high).all()):
            raise ValueError(
                f"forward(-1) = {low.tolist()} and forward(1) = {high.tolist()}, but forward must increase on the whole "
                f"real line; for a decreasing one use posterior.affine(-1.0).transformed(...)."
            )

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density at y (...), in nats per unit of y; -inf where y cannot be reached."""
        tracked = torch.is_grad_enabled() and y.requires_grad
        with torch.enable_grad():
            y = y if tracked else y.detach().requires_grad_()
            z = self.inverse(y)
            (slope,) = torch.autograd.grad(z.sum(), y, create_graph=tracked)
        log_density = self.base.log_prob(z if tracked else z.detach())
        return torch.where(log_density == -torch.inf, -torch.inf, log_density + slope.log())

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y ≤ y) for y (...)."""
        return self.base.cdf(self.inverse(y))

    def survival(self, y: Tensor) -> Tensor:
        """P(Y > y) for y (...)."""
        return self.base.survival(self.inverse(y))

    def quantile(self, q: Tensor) -> Tensor:
        """Values (..., n_quantiles) for probabilities q in [0, 1]: those of the base, transformed."""
        return self.forward(self.base.quantile(q))

    def sample(self, n_samples: int, *, generator: torch.Generator) -> Tensor:
        """Independent draws (..., n_samples)."""
        return self.forward(self.base.sample(n_samples, generator=generator))

    def unsqueeze(self) -> TransformedPosterior:
        """The same distributions with batch shape (..., 1), for several values of y in each."""
        return TransformedPosterior(self.base.unsqueeze(), self.forward, self.inverse)

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E function(Y), (...), by quadrature."""
        return self.base.expectation(lambda z: function(self.forward(z)))

    @property
    def mean(self) -> Tensor:
        """Expectation (...), by quadrature; see `BarPosterior.expectation` for its accuracy."""
        return self.base.expectation(self.forward)

    @property
    def variance(self) -> Tensor:
        """Variance (...), by quadrature around one centre for the batch."""
        mean = self.mean
        centre = mean.detach().mean()
        return self.expectation(lambda y: (y - centre).square()) - (mean - centre).square()

    @property
    def median(self) -> Tensor:
        """Median (...)."""
        return self.forward(self.base.median)
