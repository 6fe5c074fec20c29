"""What is known of learning curves at given steps: one distribution a step, NumPy in and out, in the units of the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from estimators.curve_metric import CurveMetric
from estimators.distribution import checked_probabilities
from estimators.truncated_bars import TruncatedBars

_CURVES, _ROWS = 64, 1024   # so many at a time, in float64
_NEAREST = 1e-15            # to the ends of the range: where a bounded g is evaluated at infinite values


@dataclass(frozen=True)
class CurveDistribution:
    """Distributions of what will be observed of curves at some steps, noise included; one for each step of each curve.

    Densities are piecewise constant in the network's units, between the bounds of the metric, see
    `LearningCurveExtrapolator`. They are marginals: `sample` draws every step on its own, not whole curves.

    `mean`, `median` and `std` are of shape (n_steps,) for one curve and (n_curves, n_steps) for many, called the leading
    shape (...) below. Arguments y are numbers or arrays that broadcast to (...), or to (..., k) for k values each.

    Parameters
    ----------
    log_mass : Tensor of shape (n_curves, n_steps, n_bars)
        Of the bars between `borders` (n_bars + 1,).
    location, scale : ndarray of shape (n_curves,)
        A border b stands for the value location + scale · b of the normalised metric.
    metric : CurveMetric
    is_single : bool
        Whether the only curve was no list of curves.
    """

    log_mass: Tensor
    borders: Tensor
    location: np.ndarray
    scale: np.ndarray
    metric: CurveMetric
    is_single: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading shape."""
        return tuple(self.log_mass.shape[1:2] if self.is_single else self.log_mass.shape[:2])

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        n_curves, n_steps = self.log_mass.shape[:2]
        return f"CurveDistribution of {n_curves} {'curve' if n_curves == 1 else 'curves'} at {n_steps} steps"

    @property
    def mean(self) -> np.ndarray:
        """Expectation (...); see `std`."""
        return self._moments[0]

    @property
    def std(self) -> np.ndarray:
        """Standard deviation (...). By quadrature in every bar, as the mean: exact if the metric is normalised linearly."""
        return self._moments[1]

    @cached_property
    def median(self) -> np.ndarray:
        """Median (...)."""
        return self.quantile([0.5])[..., 0]

    def log_prob(self, y: Any) -> np.ndarray:
        """Log density in nats per unit of y; -inf outside the bounds, NaN where y is NaN."""

        def log_prob(rows: slice, bars: TruncatedBars, y: np.ndarray) -> np.ndarray:
            b, outside = self._positions(rows, y)
            slope = self.metric.rows(rows).log_slope(np.where(outside, self._inside(rows), y))
            log_density = bars.log_prob(b).numpy() + slope - np.log(self.scale[rows, None, None])
            return np.where(outside, -np.inf, log_density)

        return self._for_values("y", y, log_prob)

    def cdf(self, y: Any) -> np.ndarray:
        """P(value ≤ y)."""
        return self._for_values("y", y, lambda rows, bars, y: self._shares(rows, bars, y)[0])

    def survival(self, y: Any) -> np.ndarray:
        """P(value > y), with more digits than 1 - `cdf` where it is small."""
        return self._for_values("y", y, lambda rows, bars, y: self._shares(rows, bars, y)[1])

    def quantile(self, q: Any) -> np.ndarray:
        """Values (..., n_quantiles) below which those of a step fall with probabilities q, (n_quantiles,)."""
        q = checked_probabilities(q)
        return self._quantile(np.broadcast_to(q, (*self.log_mass.shape[:2], len(q))))

    def sample(self, size: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """Independent draws (..., size) for every step, by inversion of the cdf."""
        return self._quantile(check_random_state(random_state).uniform(size=(*self.log_mass.shape[:2], size)))

    def _quantile(self, q: np.ndarray) -> np.ndarray:  # (n_curves, n_steps, k)
        q = q if self.metric.sign > 0 else 1 - q
        found = []
        for rows, bars in self._blocks():
            location, scale = self.location[rows, None, None], self.scale[rows, None, None]
            g = location + scale * bars.quantile(torch.from_numpy(np.array(q[rows]))).numpy()
            low, high = self.metric.range
            g = np.where(q[rows] == 0, low, np.where(q[rows] == 1, high, np.clip(g, low, high)))     # to the last digit
            found.append(self.metric.rows(rows).inverse(g))
        return self._shaped(found)

    def _for_values(
        self, name: str, y: Any, function: Callable[[slice, TruncatedBars, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """`function` of curves, their bars and values (n, n_steps, k), in blocks."""
        y = np.asarray(y, dtype=np.float64)
        extra = y.shape[len(self.shape) :]
        try:
            y = np.broadcast_to(y, (*self.shape, *extra[:1]))
        except ValueError:
            raise ValueError(
                f"{name} has shape {y.shape}, the distributions {self.shape}; pass a number, one for each, or one more axis."
            ) from None
        shape, y = y.shape, y.reshape(*self.log_mass.shape[:2], *extra or (1,))
        found = []
        for rows, bars in self._blocks():
            known = ~np.isnan(y[rows])
            found.append(np.where(known, function(rows, bars, np.where(known, y[rows], self._inside(rows))), np.nan))
        return self._shaped(found).reshape(shape)

    def _shares(self, rows: slice, bars: TruncatedBars, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P(value ≤ y) and P(value > y)."""
        low, high = self.metric.bounds
        below, above = (part.numpy() for part in bars.shares(self._positions(rows, y)[0]))
        if self.metric.sign < 0:
            below, above = above, below
        below = np.where(y <= low, 0.0, np.where(y >= high, 1.0, below))
        return below, np.where(y <= low, 1.0, np.where(y >= high, 0.0, above))

    def _positions(self, rows: slice, y: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Where values (n, n_steps, k) lie among the borders, and which lie outside the bounds, or at infinite ones."""
        low, high = self.metric.bounds
        outside = (y < low) | (y > high) | np.isinf(y)
        g = self.metric.rows(rows).forward(np.where(outside, self._inside(rows), y))
        return torch.from_numpy((g - self.location[rows, None, None]) / self.scale[rows, None, None]), outside

    def _inside(self, rows: slice) -> np.ndarray:  # (n, 1, 1)
        """A value of each curve within the bounds."""
        return self.metric.rows(rows).inverse(np.full((len(self.location[rows]), 1, 1), 0.5))

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.metric.range
        mean, std = [], []
        for rows, bars in self._blocks():
            g = self.location[rows, None] + self.scale[rows, None] * bars.nodes.numpy()
            y = self.metric.rows(rows).inverse(np.clip(g, low + _NEAREST, high - _NEAREST))
            mean.append(bars.expectations(torch.from_numpy(y)).numpy())
            centre = mean[-1].mean(1, keepdims=True) if mean[-1].size else np.zeros((len(y), 1))
            square = bars.expectations(torch.from_numpy(np.square(y - centre))).numpy()
            std.append(np.sqrt(np.maximum(square - np.square(mean[-1] - centre), 0.0)))
        return self._shaped(mean), self._shaped(std)

    def _blocks(self) -> Iterator[tuple[slice, TruncatedBars]]:
        low, high = ((end - self.location) / self.scale for end in self.metric.range)
        size = min(max(_ROWS // max(self.log_mass.shape[1], 1), 1), _CURVES)
        for start in range(0, len(self.location), size):
            rows = slice(start, start + size)
            yield rows, TruncatedBars(
                self.borders, self.log_mass[rows].double(), torch.from_numpy(low[rows]), torch.from_numpy(high[rows])
            )

    def _shaped(self, blocks: list[np.ndarray]) -> np.ndarray:
        """Blocks of curves as one array of the leading shape."""
        whole = np.concatenate(blocks)
        return whole[0] if self.is_single else whole
