"""The posterior predictive distribution that a regressor returns: NumPy in and out, in the units of y."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from pfn import BarDistribution
from pfn.bar import BarPosterior

__all__ = ["PredictiveDistribution"]


@dataclass(frozen=True)
class PredictiveDistribution:
    """One distribution over real targets for each of n predicted rows.

    Densities are piecewise constant with half-normal tails, see `pfn.BarDistribution`.

    Parameters
    ----------
    posterior : BarPosterior
        Of n rows, float64, in units of the standardised target (y - location) / scale.
    location, scale : float
        In units of y.
    """

    posterior: BarPosterior
    location: float
    scale: float

    def __len__(self) -> int:
        return len(self.posterior.log_mass)

    def __repr__(self) -> str:
        return f"PredictiveDistribution of {len(self)} rows"

    @cached_property
    def mean(self) -> np.ndarray:
        """Expectation of each row, (n,)."""
        return self.location + self.scale * self.posterior.mean.numpy()

    @cached_property
    def median(self) -> np.ndarray:
        """Median of each row, (n,); the best guess where absolute errors count."""
        return self.quantile([0.5])[:, 0]

    @cached_property
    def mode(self) -> np.ndarray:
        """Where the density of each row is highest, (n,): the middle of the densest bar, or the inner end of a tail."""
        return self.location + self.scale * self.posterior.mode.numpy()

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation of each row's target, noise included, (n,)."""
        return self.scale * self.posterior.variance.sqrt().numpy()

    def log_prob(self, y: Any) -> np.ndarray:
        """Log density in nats per unit of y; y (n,), or (n, k) for k values a row. Shaped like y."""
        rows, z = self._per_row(y)
        return rows.log_prob(z).numpy() - np.log(self.scale)

    def cdf(self, y: Any) -> np.ndarray:
        """P(Y ≤ y) for y (n,), or (n, k) for k values a row. Shaped like y."""
        rows, z = self._per_row(y)
        return rows.cdf(z).numpy()

    def quantile(self, q: Any) -> np.ndarray:
        """Values (n, n_quantiles) below which the target falls with probabilities q, (n_quantiles,)."""
        q = checked_probabilities(q)
        return self.location + self.scale * self.posterior.quantile(torch.from_numpy(q)).numpy()

    def sample(self, size: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """Independent draws (n, size) of every row's target, by inversion of the cdf."""
        q = check_random_state(random_state).uniform(size=(len(self), size))
        return self.location + self.scale * self.posterior.quantile(torch.from_numpy(q)).numpy()

    def crps(self, y: Any) -> np.ndarray:
        """Continuous ranked probability score in units of y, smaller is better; y (n,), or (n, k). Shaped like y."""
        rows, z = self._per_row(y)
        return self.scale * rows.crps(z).numpy()

    def pinball(self, y: Any, q: Any) -> np.ndarray:
        """Pinball losses (n, n_quantiles) in units of y of the quantiles q (n_quantiles,) in (0, 1) for targets y (n,)."""
        y, q = np.asarray(y, dtype=np.float64), checked_probabilities(q)
        if y.shape != (len(self),):
            raise ValueError(f"y has shape {y.shape}; pass ({len(self)},): a target for each row.")
        return self.scale * self.posterior.pinball(self._standardised(y), torch.from_numpy(q)).numpy()

    def expected_improvement(self, best: Any, *, maximize: bool = True) -> np.ndarray:
        """E[max(Y - best, 0)], or E[max(best - Y, 0)] to minimise, in units of y, exact.

        Parameters
        ----------
        best : float or array of shape (n,) or (n, k)
            The value to improve on, in units of y; one for all rows, or one or k for each.

        Returns
        -------
        ndarray of shape (n,), or (n, k)
        """
        return self.scale * self._improvement(BarPosterior.expected_improvement, best, maximize)

    def log_expected_improvement(self, best: Any, *, maximize: bool = True) -> np.ndarray:
        """Logarithm of `expected_improvement`, finite where that underflows: candidates far from `best` keep their order."""
        return np.log(self.scale) + self._improvement(BarPosterior.log_expected_improvement, best, maximize)

    def probability_of_improvement(self, best: Any, *, maximize: bool = True) -> np.ndarray:
        """P(Y > best), or P(Y < best) to minimise; `best` and result as in `expected_improvement`."""
        return self._improvement(BarPosterior.probability_of_improvement, best, maximize)

    def log_probability_of_improvement(self, best: Any, *, maximize: bool = True) -> np.ndarray:
        """Logarithm of `probability_of_improvement`, finite where that underflows."""
        return self._improvement(BarPosterior.log_probability_of_improvement, best, maximize)

    def _improvement(self, method: Callable[..., Tensor], best: Any, maximize: bool) -> np.ndarray:
        best = np.asarray(best, dtype=np.float64)
        rows, z = (self.posterior, self._standardised(best)) if best.ndim == 0 else self._per_row(best, "best")
        return method(rows, z, maximize=maximize).numpy()

    def _standardised(self, y: np.ndarray) -> Tensor:
        return torch.as_tensor((y - self.location) / self.scale)

    def _per_row(self, y: Any, name: str = "y") -> tuple[BarPosterior, Tensor]:
        y = np.asarray(y, dtype=np.float64)
        if y.ndim not in (1, 2) or len(y) != len(self):
            raise ValueError(f"{name} has shape {y.shape}; pass ({len(self)},) or ({len(self)}, k): a line for each row.")
        return self.posterior.unsqueeze() if y.ndim == 2 else self.posterior, self._standardised(y)


def checked_probabilities(q: Any) -> np.ndarray:
    q = np.asarray(q, dtype=np.float64)
    if q.ndim != 1:
        raise ValueError(f"quantiles have shape {q.shape}; pass a list such as [0.05, 0.5, 0.95].")
    wrong = np.flatnonzero(~((q >= 0) & (q <= 1)))
    if len(wrong):
        hint = f"; did you mean {q[wrong[0]] / 100:g}?" if 1 < q[wrong[0]] <= 100 else "."
        raise ValueError(f"quantiles must lie in [0, 1], got {q[wrong[0]]:g} at position {wrong[0]}{hint}")
    return q


def on_other_borders(
    log_mass: Tensor,    # (n, n_bars)
    borders: Tensor,     # (n_bars + 1,) of these masses
    others: Tensor,      # (n_bars + 1,)
) -> Tensor:             # (n, n_bars)
    """Log masses that the bars between `others` receive; within them the density becomes constant.

    The cumulative mass is linear in the cdf of the distribution whose bars have equal masses, whatever the shape of the
    tails, so interpolation in that variable is exact at every border.
    """
    n_bars = log_mass.shape[1]
    flat = BarDistribution(borders).posterior(torch.zeros(n_bars, dtype=borders.dtype))
    position = (flat.cdf(others[1:-1]) * n_bars).clamp(0, n_bars)                        # bar number + share of that bar
    bar = position.long().clamp_max(n_bars - 1)
    mass = log_mass.exp()
    below = mass.cumsum(1) - mass
    cdf = below[:, bar] + mass[:, bar] * (position - bar)                                # (n, n_bars - 1)
    ends = torch.zeros_like(mass[:, :1]), torch.ones_like(mass[:, :1])
    return torch.cat([ends[0], cdf, ends[1]], dim=1).diff(dim=1).clamp_min(torch.finfo(mass.dtype).tiny).log()
