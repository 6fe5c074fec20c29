"""Metrics of learning curves in the network's terms: between 0 and 1, larger is better, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit, log_expit, logit

_OUTLIER = 10.0             # times as far from the reference as both of the next two values, or as near


@dataclass(frozen=True)
class CurveMetric:
    r"""Increasing maps g of goodness, the value or with `sign` -1 its negative, one for each of n curves.

    Where both bounds are finite, g is linear and takes them to 0 and 1. Else it is the sigmoid of LC-PFN [1]_: with
    u = 2 (v - soft_low) / (soft_high - soft_low) - 1 for goodness v, g = (σ(u) - σ(u(low))) / (σ(u(high)) - σ(u(low))), so
    that most of the unit interval belongs to values between the soft bounds.

    Parameters
    ----------
    sign : {1, -1}
        Whether larger or smaller values are better.
    low, high : float
        The bounds of goodness, possibly infinite.
    soft_low, soft_high : ndarray of shape (n,)
        The soft bounds of goodness.
    is_open : bool
        Whether values may lie beyond finite bounds: the network's own units, used as they are.

    References
    ----------
    .. [1] S. Adriaensen et al., "Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks",
       NeurIPS 2023, appendix A. Its formula for the offset has a sign error; the authors' code does what is written here.
    """

    sign: int
    low: float
    high: float
    soft_low: np.ndarray
    soft_high: np.ndarray
    is_open: bool = False

    @classmethod
    def of(
        cls, values: Sequence[np.ndarray], minimize: bool, bounds: tuple[float, float] | None,
        expected: tuple[float, float] | None,
    ) -> CurveMetric:
        """For curves of which `values` have been observed; the arguments are those of `LearningCurveExtrapolator`."""
        sign, (low, high) = -1 if minimize else 1, (0.0, 1.0) if bounds is None else bounds
        low, high = sorted((sign * low, sign * high))
        if expected is not None:
            worst, best = sorted(sign * bound for bound in expected)
            soft = [(worst, best)] * len(values)
        elif math.isinf(low) or math.isinf(high):
            soft = [soft_bounds(sign * y, low, high) for y in values]
        else:
            soft = [(low, high)] * len(values)
        soft_low, soft_high = np.array(soft, dtype=np.float64).reshape(-1, 2).T
        return cls(sign, float(low), float(high), soft_low, soft_high, bounds is None)

    @property
    def range(self) -> tuple[float, float]:
        """Between which numbers g may lie."""
        return (-math.inf, math.inf) if self.is_open else (0.0, 1.0)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the values themselves may lie."""
        if self.is_open:
            return -math.inf, math.inf
        return (self.low, self.high) if self.sign > 0 else (-self.high + 0.0, -self.low + 0.0)       # no -0.0

    def rows(self, numbers: Any) -> CurveMetric:
        """The maps of these curves."""
        return replace(self, soft_low=self.soft_low[numbers], soft_high=self.soft_high[numbers])

    def forward(self, y: np.ndarray) -> np.ndarray:
        """g of values y (n, ...) within the bounds."""
        v = self.sign * y
        if self._is_linear:
            return (v - self.low) / (self.high - self.low)
        low, high = self._ends(v.ndim)
        return (expit(self._u(v)) - low) / (high - low)

    def inverse(self, g: np.ndarray) -> np.ndarray:
        """Values y for g (n, ...) within the range; the bounds for its ends."""
        if self._is_linear:
            return self.sign * (self.low + g * (self.high - self.low)) + 0.0
        low, high = self._ends(g.ndim)
        u = logit(np.clip(low + g * (high - low), 0.0, 1.0))
        soft_low, soft_high = self._soft(g.ndim)
        v = np.clip(soft_low + (u + 1) / 2 * (soft_high - soft_low), self.low, self.high)
        return self.sign * np.where(g <= 0, self.low, np.where(g >= 1, self.high, v)) + 0.0

    def log_slope(self, y: np.ndarray) -> np.ndarray:
        """ln |dg / dy| at values y (n, ...) within the bounds."""
        if self._is_linear:
            return np.full_like(y, -math.log(self.high - self.low))
        (low, high), (soft_low, soft_high), u = self._ends(y.ndim), self._soft(y.ndim), self._u(self.sign * y)
        return np.log(2.0 / (soft_high - soft_low)) + log_expit(u) + log_expit(-u) - np.log(high - low)

    @property
    def _is_linear(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def _u(self, v: np.ndarray | float, ndim: int | None = None) -> np.ndarray:
        soft_low, soft_high = self._soft(np.ndim(v) if ndim is None else ndim)
        return 2.0 * (v - soft_low) / (soft_high - soft_low) - 1.0

    def _ends(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        """σ(u) of the bounds, (n, 1, ...) with `ndim` axes."""
        return expit(self._u(self.low, ndim)), expit(self._u(self.high, ndim))

    def _soft(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (-1,) + (1,) * (ndim - 1)
        return self.soft_low.reshape(shape), self.soft_high.reshape(shape)


def soft_bounds(v: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Soft bounds of a metric that has no expected ones, from the goodness v (k,) seen of a curve, in its order.

    One bound is infinite at least. A metric that improves towards a bound, such as a loss, will go from the first value to
    that bound. One that improves away from a bound may go twice as far from it as it is now. Without a bound, it may
    improve by twice of what it has gained, and by the size of the first value at least. "First" is the median of the
    first three if the first is far out among them; "now" is the median of the last three; a curve that is worse now than at
    first counts as if it had begun so. Multiples of a curve get multiples of the bounds.
    """
    reference = high if math.isfinite(high) else low if math.isfinite(low) else 0.0
    distance = np.abs(v - reference)
    first = _first(distance)
    now = float(np.median(distance[-3:])) if len(v) else 0.0
    farthest = float(distance.max(initial=0.0))
    if math.isfinite(high):
        return high - (max(first, now) or farthest or 1.0), high
    if math.isfinite(low):
        return low, low + 2.0 * (max(first, now) or farthest or 1.0)
    start = 0.0 if not len(v) else float(v[0] if first == distance[0] else np.median(v[:3]))
    gain = abs(float(np.median(v[-3:])) - start) if len(v) else 0.0
    return start, start + (max(first, 2.0 * gain) or 2.0 * farthest or 1.0)


def _first(distance: np.ndarray) -> float:
    """The first of these distances, or the median of the first three if it is out of proportion to the next two."""
    if len(distance) < 3:
        return float(distance[0]) if len(distance) else 0.0
    first, others = distance[0], distance[1:3]
    is_outlier = first > _OUTLIER * others.max() or _OUTLIER * first < others.min()
    return float(np.median(distance[:3]) if is_outlier else first)
