"""Simple extrapolations of learning curves, each with a normal predictive density: what a learned one has to beat.

All take steps t (k,), values y (k,) between 0 and 1, larger being better, k >= 1, and the later steps (q,) that are wanted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from curve_mcmc import NormalMixture

# Of the standard deviations below, and what stands in for one where nothing can be estimated. Of the floors 1e-3, 3e-3, 1e-2
# this one has the best mean log-likelihood for `last_value` on the development sets, over cut-offs of 10, 40 and 80 %.
SMALLEST_STD, UNKNOWN_STD = 3e-3, 0.05
RECENT = 10
EXPONENTS = np.geomspace(0.01, 5.0, 120)


def normal(mean: np.ndarray, std: np.ndarray | float) -> NormalMixture:
    """A normal distribution at each step; means are moved into [0, 1]."""
    mean = np.clip(mean, 0.0, 1.0)
    return NormalMixture(mean[None], np.broadcast_to(np.maximum(std, SMALLEST_STD), mean.shape)[None], np.zeros((1, 1)))


def distance_of_second_half(y: np.ndarray, level: float) -> float:
    """Root mean square distance from a level of the second half of what was observed, less a degree of freedom."""
    half = y[len(y) // 2 :]
    return float(np.sqrt(((half - level) ** 2).sum() / (len(half) - 1))) if len(half) > 1 else UNKNOWN_STD


def last_value(t: np.ndarray, y: np.ndarray, later: np.ndarray) -> NormalMixture:
    return normal(np.full(len(later), y[-1]), distance_of_second_half(y, y[-1]))


def best_so_far(t: np.ndarray, y: np.ndarray, later: np.ndarray) -> NormalMixture:
    return normal(np.full(len(later), y.max()), distance_of_second_half(y, y.max()))


def random_walk(t: np.ndarray, y: np.ndarray, later: np.ndarray) -> NormalMixture:
    """The last value, with a variance that grows in every step by that of the last ten changes."""
    changes = np.diff(y)[-RECENT:]
    change = float(np.sqrt(np.mean(changes**2))) if len(changes) else UNKNOWN_STD
    return normal(np.full(len(later), y[-1]), np.maximum(change, SMALLEST_STD) * np.sqrt(later - t[-1]))


def linear_in_log(t: np.ndarray, y: np.ndarray, later: np.ndarray) -> NormalMixture:
    """y = a + b ln t by least squares, with the variance of a new value in that model."""
    if len(y) < 3:
        return last_value(t, y, later)
    design, query = (np.stack([np.ones(len(steps)), np.log(steps)], axis=1) for steps in (t, later))
    return _regression(design, y, query, n_parameters=2)


def power_law(t: np.ndarray, y: np.ndarray, later: np.ndarray) -> NormalMixture:
    """y = c - a t^-α by least squares: c and a exactly for each α of a fine grid, of which the best; α in [0.01, 5]."""
    if len(y) < 4:
        return last_value(t, y, later)
    powers = -(t[None] ** -EXPONENTS[:, None])                                          # (grid, k)
    centred, target = powers - powers.mean(axis=1, keepdims=True), y - y.mean()
    explained = (centred @ target) ** 2 / (centred**2).sum(axis=1)
    exponent = EXPONENTS[explained.argmax()]
    design, query = (np.stack([np.ones(len(steps)), -(steps**-exponent)], axis=1) for steps in (t, later))
    return _regression(design, y, query, n_parameters=3)


def _regression(design: np.ndarray, y: np.ndarray, query: np.ndarray, n_parameters: int) -> NormalMixture:
    """Least squares; the predictive standard deviation is s √(1 + x' (X'X)⁻¹ x), s² = RSS / (k - n_parameters)."""
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = ((y - design @ coefficients) ** 2).sum() / (len(y) - n_parameters)
    leverage = np.einsum("qi,ij,qj->q", query, np.linalg.pinv(design.T @ design), query)
    return normal(query @ coefficients, np.sqrt(np.maximum(variance, SMALLEST_STD**2) * (1 + leverage)))


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], NormalMixture]] = {
    "last value": last_value,
    "best so far": best_so_far,
    "random walk": random_walk,
    "linear in log t": linear_in_log,
    "power law": power_law,
}
