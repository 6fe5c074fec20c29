"""The bar distribution: a piecewise-constant density with half-normal tails, the head of every regression network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_HALF_NORMAL_MEDIAN = 0.6744897501960817                           # Φ⁻¹(¾)


@dataclass(frozen=True)
class BarDistribution:
    """Bars between `borders`; the first and the last are half-normals, so the support is the whole real line.

    A tail is anchored at the inner border of its bar and scaled such that half of its mass lies inside the bar.

    Parameters
    ----------
    borders : Tensor of shape (n_bars + 1,)
        Strictly increasing, in units of y.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022, Riemann distribution and its
       full-support variant.

    Examples
    --------
    >>> bars = BarDistribution(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    >>> posterior = bars.posterior(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    >>> posterior.quantile(torch.tensor([0.5]))
    tensor([0.6667])
    """

    borders: Tensor

    def __post_init__(self) -> None:
        if self.borders.ndim != 1 or len(self.borders) < 3:
            raise ValueError(f"borders has shape {tuple(self.borders.shape)}; at least two bars need three borders.")
        if not bool((self.borders.diff() > 0).all()):
            raise ValueError("borders must increase strictly; remove repeated values.")

    @property
    def n_bars(self) -> int:
        return len(self.borders) - 1

    @classmethod
    def from_samples(cls, y: Tensor, n_bars: int) -> BarDistribution:
        """Borders such that every bar holds the same share of the sample `y` (any shape); ends at its extremes.

        Raises
        ------
        ValueError
            If `y` has fewer distinct values than borders are needed.
        """
        ordered = y.flatten().double().sort().values
        if len(ordered) <= n_bars:
            raise ValueError(f"{len(ordered)} samples cannot fill n_bars={n_bars} bars; draw at least {n_bars + 1}.")
        position = torch.arange(1, n_bars, device=y.device) * len(ordered) // n_bars
        inner = (ordered[position - 1] + ordered[position]) / 2
        borders = torch.cat([ordered[:1], inner, ordered[-1:]]).float().unique()
        if len(borders) != n_bars + 1:
            raise ValueError(
                f"y has too many equal values for n_bars={n_bars} distinct borders (got {len(borders)}); use fewer bars."
            )
        return cls(borders)

    def posterior(self, logits: Tensor) -> BarPosterior:
        """The distribution with these unnormalised log masses, (..., n_bars)."""
        if logits.shape[-1] != self.n_bars:
            raise ValueError(f"logits end in {logits.shape[-1]} values, but there are {self.n_bars} bars.")
        return BarPosterior(self.borders.to(logits.dtype), logits.log_softmax(-1))


@dataclass(frozen=True)
class BarPosterior:
    """One bar distribution for each leading index of `log_mass` (..., n_bars)."""

    borders: Tensor
    log_mass: Tensor

    @property
    def _widths(self) -> Tensor:
        return self.borders.diff()

    @property
    def _tail_scales(self) -> tuple[Tensor, Tensor]:
        """Standard deviations of the normals whose halves are the tails."""
        return self._widths[0] / _HALF_NORMAL_MEDIAN, self._widths[-1] / _HALF_NORMAL_MEDIAN

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density at y (...), in nats per unit of y."""
        inner = self.borders[1:-1].contiguous()
        bar = torch.searchsorted(inner, y.contiguous().to(inner.dtype), right=True)          # tails reach outwards
        log_mass = self.log_mass.gather(-1, bar.unsqueeze(-1)).squeeze(-1)
        density = -self._widths.log()[bar]
        left, right = self._tail_scales
        half_normal = math.log(2.0) - 0.5 * math.log(2.0 * math.pi)
        density = torch.where(
            bar == 0, half_normal - left.log() - 0.5 * ((y - self.borders[1]) / left).square(), density
        )
        density = torch.where(
            bar == len(inner), half_normal - right.log() - 0.5 * ((y - self.borders[-2]) / right).square(), density
        )
        return log_mass + density

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y ≤ y) for y (...)."""
        mass = self.log_mass.exp()
        share = ((y.unsqueeze(-1) - self.borders[:-1]) / self._widths).clamp(0.0, 1.0)        # (..., n_bars)
        left, right = self._tail_scales
        low = 2.0 * torch.special.ndtr(-(self.borders[1] - y).clamp_min(0.0) / left)
        high = 2.0 * torch.special.ndtr((y - self.borders[-2]).clamp_min(0.0) / right) - 1.0
        share = torch.cat([low.unsqueeze(-1), share[..., 1:-1], high.unsqueeze(-1)], dim=-1)
        return (mass * share).sum(-1)

    def quantile(self, q: Tensor) -> Tensor:
        """Inverse of `cdf`: values (..., n_quantiles) for probabilities q in [0, 1], (n_quantiles,) or (..., n_quantiles).

        0 and 1 give -inf and inf, the ends of the support.
        """
        if bool(((q < 0) | (q > 1)).any()):
            raise ValueError(f"quantiles must lie in [0, 1], got {q.tolist()}; 95 % is 0.95.")
        mass = self.log_mass.exp()
        upper = mass.cumsum(-1)
        q = q.to(mass.dtype).expand(*mass.shape[:-1], -1).contiguous()
        bar = torch.searchsorted(upper[..., :-1].contiguous(), q)
        bar_mass = mass.gather(-1, bar)
        below = upper.gather(-1, bar) - bar_mass
        share = ((q - below) / bar_mass.clamp_min(torch.finfo(mass.dtype).tiny)).clamp(0.0, 1.0)
        value = self.borders[bar] + share * self._widths[bar]
        left, right = self._tail_scales
        value = torch.where(bar == 0, self.borders[1] + left * torch.special.ndtri(0.5 * share), value)
        return torch.where(
            bar == mass.shape[-1] - 1, self.borders[-2] + right * torch.special.ndtri(0.5 + 0.5 * share), value
        )

    @property
    def mean(self) -> Tensor:
        """Expectation (...)."""
        return (self.log_mass.exp() * self._bar_moments()[0]).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Variance (...)."""
        first, second = self._bar_moments()
        mass, mean = self.log_mass.exp(), self.mean
        # Centred before squaring: second moment minus squared mean cancels when the mean is far from 0.
        return (mass * (second - first.square() + (first - mean.unsqueeze(-1)).square())).sum(-1)

    def _bar_moments(self) -> tuple[Tensor, Tensor]:
        """First and second moment of each bar, (n_bars,)."""
        low, high = self.borders[:-1], self.borders[1:]
        left, right = self._tail_scales
        a_left, a_right = self.borders[1], self.borders[-2]
        root = math.sqrt(2.0 / math.pi)
        first, second = (low + high) / 2, (low.square() + low * high + high.square()) / 3
        first = torch.cat([(a_left - left * root)[None], first[1:-1], (a_right + right * root)[None]])
        second_left = a_left.square() - 2 * a_left * left * root + left.square()
        second_right = a_right.square() + 2 * a_right * right * root + right.square()
        return first, torch.cat([second_left[None], second[1:-1], second_right[None]])

    def sample(self, n_samples: int, *, generator: torch.Generator) -> Tensor:
        """Independent draws (..., n_samples), by inversion."""
        q = torch.rand(*self.log_mass.shape[:-1], n_samples, generator=generator, device=generator.device)
        return self.quantile(q.to(self.log_mass))
