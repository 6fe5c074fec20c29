"""A user's belief about where the optimum is, as a density over a search space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from estimators.space import SearchSpace

_LEAST = math.log(1e-12)                                            # relative to the largest density: a belief may be wrong
_GRID = 1001


class UserPrior:
    """Independent beliefs about some parameters; the others are uniform in the encoding of the space.

    Parameters
    ----------
    space : SearchSpace
    beliefs : mapping
        For a number, a frozen SciPy distribution of the parameter's value, such as ``scipy.stats.norm(0.1, 0.02)``; for a
        categorical parameter a mapping from choices to relative weights, 0 for those that are left out.

    Raises
    ------
    ValueError, TypeError
        If a parameter is unknown, or a belief is none, or gives all of the parameter's range no density.

    Examples
    --------
    >>> from optuna.distributions import CategoricalDistribution, FloatDistribution
    >>> from scipy.stats import norm
    >>> space = SearchSpace({"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])})
    >>> prior = UserPrior(space, {"x": norm(0.5, 0.1), "kind": {"a": 3, "b": 1}})
    >>> prior.log_density(space.encode([{"x": 0.5, "kind": "a"}, {"x": 0.6, "kind": "a"}, {"x": 0.5, "kind": "b"}])).round(3)
    array([ 0.   , -0.5  , -1.099])
    """

    def __init__(self, space: SearchSpace, beliefs: Mapping[str, Any]) -> None:
        if not isinstance(beliefs, Mapping):
            raise TypeError(f"prior={beliefs!r} is a {type(beliefs).__name__}; pass a mapping from parameters to beliefs.")
        unknown = set(beliefs) - set(space.names)
        if unknown:
            raise ValueError(f"prior names {sorted(unknown)}, which the space does not have; it has {list(space.names)}.")
        self.space, self.beliefs = space, dict(beliefs)
        self._largest: dict[str, float] = {}                        # log density of each belief
        for name, belief in self.beliefs.items():
            distribution = space.distributions[name]
            if isinstance(distribution, CategoricalDistribution):
                _check_weights(name, belief, distribution.choices)
                self._largest[name] = math.log(max(belief.values()))
            else:
                self._largest[name] = _largest_log_density(name, belief, distribution)

    def log_density(self, rows: np.ndarray) -> np.ndarray:
        """Log density (n,) in the encoding, of rows (n, n_columns), relative to its largest value.

        Each parameter contributes ln 1e-12 at least.
        """
        points = self.space.decode(rows)
        total = np.zeros(len(points))
        for name, belief in self.beliefs.items():
            values = [point[name] for point in points]
            if isinstance(belief, Mapping):
                log_density = np.array([math.log(belief[v]) if belief.get(v, 0) > 0 else -math.inf for v in values])
            else:
                log_density = _log_density(belief, self.space.distributions[name], np.array(values, dtype=float))
            total += np.clip(log_density - self._largest[name], _LEAST, -_LEAST)
        return total

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Valid rows (n, n_columns); values outside the range of a parameter are moved to its nearer end."""
        points = self.space.decode(self.space.sample(n, rng))
        for name, belief in self.beliefs.items():
            if isinstance(belief, Mapping):
                choices, weights = list(belief), np.array(list(belief.values()), dtype=float)
                values: list[Any] = [choices[i] for i in rng.choice(len(choices), size=n, p=weights / weights.sum())]
            else:
                distribution: Any = self.space.distributions[name]
                drawn = np.clip(belief.rvs(size=n, random_state=rng), distribution.low, distribution.high)
                values = [_nearest(distribution, value) for value in drawn]
            for point, value in zip(points, values, strict=True):
                point[name] = value
        return self.space.encode(points)


def _check_weights(name: str, belief: Any, choices: tuple[Any, ...]) -> None:
    try:
        weights = np.array(list(belief.values()), dtype=float)
        fits = set(belief) <= set(choices) and bool((weights >= 0).all()) and 0 < weights.sum() < math.inf
    except (AttributeError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"prior[{name!r}]={belief!r} must map some of the choices {choices} to weights, not all 0.")


def _largest_log_density(name: str, belief: Any, distribution: Any) -> float:
    """Over a grid of the parameter, and of the belief's quantiles in case it is much narrower."""
    if not hasattr(belief, "rvs") or not (hasattr(belief, "logpdf") or hasattr(belief, "logpmf")):
        raise TypeError(
            f"prior[{name!r}]={belief!r} is no frozen SciPy distribution; use for example scipy.stats.norm(0.1, 0.02)."
        )
    alone = SearchSpace({name: distribution})
    grid = np.linspace(0.0, 1.0, _GRID)[:, None][:, : alone.n_columns]
    values = np.array([point[name] for point in alone.decode(grid)], dtype=float)
    if hasattr(belief, "ppf"):
        likely = np.clip(belief.ppf(np.linspace(0.01, 0.99, 99)), distribution.low, distribution.high)
        values = np.append(values, [_nearest(distribution, value) for value in likely[~np.isnan(likely)]])
    log_density = _log_density(belief, distribution, values)
    if log_density.shape != values.shape or not np.isfinite(log_density).any():
        raise ValueError(
            f"prior[{name!r}] has no density anywhere in {distribution}; believe in some values of it, or leave it out."
        )
    return float(log_density[np.isfinite(log_density)].max())


def _log_density(belief: Any, distribution: Any, values: np.ndarray) -> np.ndarray:
    """At values (n,) of the parameter, in its encoding: that of its logarithm, if it is logarithmic."""
    log_of = belief.logpdf if hasattr(belief, "logpdf") else belief.logpmf
    with np.errstate(all="ignore"):
        log_density = np.asarray(log_of(values), dtype=float)
    log_density = np.where(np.isnan(log_density), -np.inf, log_density)
    return log_density + np.log(values) if distribution.log else log_density


def _nearest(distribution: Any, value: float) -> float | int:
    """The valid value closest to one in the range."""
    if distribution.step is None:
        return float(value)
    steps = round((value - distribution.low) / distribution.step)
    nearest = min(distribution.low + steps * distribution.step, distribution.high)
    return type(distribution.low)(nearest)
