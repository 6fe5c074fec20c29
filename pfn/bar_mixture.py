"""Mixtures of posteriors: one bar distribution where the borders are shared, else components with their own tails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pfn.bar_posterior import BarPosterior, check_probabilities
from pfn.bar_scores import pinball
from pfn.bar_transform import Posterior, TransformedPosterior


def mixture(
    posteriors: Sequence[Posterior],
    weights: Tensor | Sequence[float] | None = None,
) -> BarPosterior | MixturePosterior:
    """The distribution that draws a component with probability `weights` and y from it.

    Parameters
    ----------
    posteriors : sequence of posteriors
        Of batch shapes that broadcast to (...).
    weights : Tensor or sequence of shape (n_components,) or (..., n_components), optional
        At least 0; they are divided by their sum. Equal by default.

    Returns
    -------
    BarPosterior
        If all are bar posteriors on the same borders: their masses are averaged.
    MixturePosterior
        Otherwise. No single bar distribution is a mixture of half-normals with different anchors or scales.

    Examples
    --------
    >>> from pfn import BarDistribution
    >>> left = BarDistribution(torch.tensor([0.0, 1.0, 2.0])).posterior(torch.zeros(2))
    >>> mixed = mixture([left, left.affine(1.0, 10.0)], weights=[0.75, 0.25])
    >>> mixed.mean, mixed.quantile(torch.tensor([0.375]))
    (tensor(3.5000), tensor([1.]))
    """
    if not posteriors:
        raise ValueError("posteriors is empty; a mixture needs at least one component.")
    log_weights = _log_weights(weights, len(posteriors))
    bars = [p for p in posteriors if isinstance(p, BarPosterior)]
    first = bars[0] if bars else None
    if first is not None and len(bars) == len(posteriors) and all(torch.equal(p.borders, first.borders) for p in bars):
        log_mass = torch.stack(torch.broadcast_tensors(*(p.log_mass for p in bars)), dim=-1)      # (..., n_bars, C)
        return BarPosterior(first.borders, (log_mass + log_weights.to(log_mass).unsqueeze(-2)).logsumexp(-1))
    return MixturePosterior(tuple(posteriors), log_weights)


@dataclass(frozen=True)
class MixturePosterior:
    """Mixture of posteriors with different borders or warps; `mixture` makes it.

    Density, cdf, moments, improvement and draws are those of the components, averaged, and as exact. Quantiles bisect the
    cdf between those of the components, to 2⁻⁶⁰ of their distance (2⁻³⁰ in float32).

    Parameters
    ----------
    components : tuple of C posteriors
    log_weights : Tensor of shape (C,) or (..., C)
        Normalised.
    """

    components: tuple[Posterior, ...]
    log_weights: Tensor

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density at y (...), in nats per unit of y."""
        return self._log_average([c.log_prob(y) for c in self.components])

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y ≤ y) for y (...)."""
        return self._average([c.cdf(y) for c in self.components])

    def survival(self, y: Tensor) -> Tensor:
        """P(Y > y) for y (...)."""
        return self._average([c.survival(y) for c in self.components])

    def quantile(self, q: Tensor) -> Tensor:
        """Inverse of `cdf`: values (..., n_quantiles) for probabilities q in [0, 1], (n_quantiles,) or (..., n_quantiles).

        Differentiable once, by a Newton step of length 0 from the root.
        """
        q = check_probabilities(q)
        rows = self.unsqueeze()
        with torch.no_grad():
            ends, _ = _stack([c.quantile(q) for c in self.components]).sort(-1)          # (..., n_quantiles, C)
            low, high = ends[..., 0], ends[..., -1]
            below, above = q.to(low.dtype), (1 - q).to(low.dtype)
            for _ in range(60 if low.dtype == torch.float64 else 30):
                middle = (low + high) / 2
                too_low = torch.where(below <= 0.5, rows.cdf(middle) < below, rows.survival(middle) > above)
                low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
            density = rows.log_prob(high).exp().clamp_min(torch.finfo(high.dtype).tiny)
        step = (q.to(high.dtype) - rows.cdf(high)) / density
        return high + (step - step.detach())

    def sample(self, n_samples: int, *, generator: torch.Generator) -> Tensor:
        """Independent draws (..., n_samples): of every component, of which the weights choose one."""
        draws = _stack([c.sample(n_samples, generator=generator) for c in self.components])
        weights = self.log_weights.exp().expand(*draws.shape[:-2], -1)                   # (..., C)
        choice = torch.multinomial(
            weights.reshape(-1, weights.shape[-1]).to(generator.device), n_samples, replacement=True, generator=generator
        )
        return draws.gather(-1, choice.view(draws.shape[:-1]).unsqueeze(-1).to(draws.device)).squeeze(-1)

    def unsqueeze(self) -> MixturePosterior:
        """The same distributions with batch shape (..., 1), for several values of y in each."""
        weights = self.log_weights if self.log_weights.ndim == 1 else self.log_weights.unsqueeze(-2)
        return MixturePosterior(tuple(c.unsqueeze() for c in self.components), weights)

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E function(Y), (...), by the quadrature of the components."""
        return self._average([c.expectation(function) for c in self.components])

    @property
    def mean(self) -> Tensor:
        """Expectation (...)."""
        return self._average([c.mean for c in self.components])

    @property
    def variance(self) -> Tensor:
        """Variance (...): within the components plus between them."""
        mean = self.mean
        return self._average([c.variance + (c.mean - mean).square() for c in self.components])

    @property
    def median(self) -> Tensor:
        """Median (...)."""
        return self.quantile(torch.tensor([0.5], device=self.log_weights.device)).squeeze(-1)

    def pinball(self, y: Tensor, q: Tensor) -> Tensor:
        """Pinball loss (..., n_quantiles) of the quantiles q (n_quantiles,) in (0, 1) at y (...), in units of y."""
        quantiles = self.quantile(check_probabilities(q, inside=True))
        return pinball(quantiles, y, q.to(quantiles.dtype))

    def expected_improvement(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """E[(Y − best)₊], or E[(best − Y)₊] to minimise, (...), in units of y."""
        return self.log_expected_improvement(best, maximize=maximize).exp()

    def log_expected_improvement(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """ln of `expected_improvement`, see `BarPosterior`."""
        return self._log_average([c.log_expected_improvement(best, maximize=maximize) for c in self._bars()])

    def probability_of_improvement(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """P(Y > best), or P(Y < best) to minimise, (...)."""
        return self.log_probability_of_improvement(best, maximize=maximize).exp()

    def log_probability_of_improvement(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """ln of `probability_of_improvement`, see `BarPosterior`."""
        return self._log_average([c.log_probability_of_improvement(best, maximize=maximize) for c in self._bars()])

    def affine(self, scale: Tensor | float, location: Tensor | float = 0.0) -> MixturePosterior:
        """The distribution of scale · Y + location, see `BarPosterior`."""
        return MixturePosterior(tuple(c.affine(scale, location) for c in self._bars()), self.log_weights)

    def transformed(
        self, forward: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor]
    ) -> TransformedPosterior:
        """The distribution of forward(Y), `forward` increasing, see `TransformedPosterior`."""
        return TransformedPosterior(self, forward, inverse)

    def _bars(self) -> list[BarPosterior | MixturePosterior]:
        bars = [c for c in self.components if isinstance(c, BarPosterior | MixturePosterior)]
        if len(bars) < len(self.components):
            raise TypeError(
                "a component is no BarPosterior, and only their improvement and affine maps are exact; for a "
                "TransformedPosterior use expectation(lambda y: (y - best).clamp_min(0))."
            )
        return bars

    def _average(self, values: list[Tensor]) -> Tensor:
        stacked = _stack(values)
        return (stacked * self.log_weights.exp().to(stacked)).sum(-1)

    def _log_average(self, values: list[Tensor]) -> Tensor:
        stacked = _stack(values)
        return (stacked + self.log_weights.to(stacked)).logsumexp(-1)


def _stack(values: list[Tensor]) -> Tensor:
    """(..., C)"""
    return torch.stack(torch.broadcast_tensors(*values), dim=-1)


def _log_weights(weights: Tensor | Sequence[float] | None, n_components: int) -> Tensor:
    if weights is None:
        weights = torch.ones(n_components, dtype=torch.float64)
    weights = torch.as_tensor(weights, dtype=torch.float64)
    if weights.ndim == 0 or weights.shape[-1] != n_components:
        raise ValueError(
            f"weights have shape {tuple(weights.shape)} for {n_components} posteriors; the last axis must have one each."
        )
    if not bool(((weights >= 0) & weights.isfinite()).all() & (weights.sum(-1) > 0).all()):
        raise ValueError(f"weights must be at least 0 and not all 0, got {weights.tolist()}.")
    return (weights / weights.sum(-1, keepdim=True)).log()
