"""Search spaces of objectives that ask for a parameter only if another has certain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from estimators.space import SearchSpace

_CENTRE = 0.5                                                       # columns of parameters that a point does not have


class ConditionalSpace(SearchSpace):
    """A search space that learns from complete points when a parameter exists.

    A parameter depends on the integer, step or choice whose value tells, in all the examples, whether it is there; of
    several the one with the fewest values. Where it is not, its columns stand at the centre, for every point alike, so that
    points which differ only in what does not exist are the same point. Values that no example has are taken to have all.

    Parameters
    ----------
    distributions : mapping of str to optuna.distributions.BaseDistribution
    examples : sequence of mappings
        Points; parameters of theirs that are not of this space are ignored, and points outside its ranges.

    Attributes
    ----------
    required : set of str
        Parameters that all the examples have.

    Examples
    --------
    >>> from optuna.distributions import CategoricalDistribution, FloatDistribution
    >>> distributions = {"kernel": CategoricalDistribution(["linear", "rbf"]), "gamma": FloatDistribution(0.0, 1.0)}
    >>> space = ConditionalSpace(distributions, [{"kernel": "linear"}, {"kernel": "rbf", "gamma": 0.2}])
    >>> space.snap([[0.0, 0.9], [1.0, 0.9]])
    array([[0. , 0.5],
           [1. , 0.9]])
    >>> space.decode(space.snap([[0.0, 0.9]]))
    [{'kernel': 'linear'}]
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], examples: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(distributions)
        known = [self.restrict(point) for point in examples]
        known = [point for point in known if point and self.contains(point)]
        self.required = set.intersection(*map(set, known)) if known else set()
        # For axes in the order of dependence: the axis it depends on, and positions of that where it does not exist.
        self._conditions: dict[int, tuple[int, np.ndarray]] = {}
        if known and self._axes:
            plain = SearchSpace(distributions)
            positions = np.stack(plain._read(plain.encode(known)), 1)
            self._conditions = _find_conditions(positions, [math.isfinite(one.n_values) for one in self._axes.values()])

    def restrict(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The point without parameters that are not of this space."""
        return {name: value for name, value in point.items() if name in self.distributions}

    def decode(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Parameters of the nearest valid points, without those that do not exist there."""
        absent = self._absent(self._read(rows))
        gone = [{name for name, is_absent in zip(self._axes, row, strict=True) if is_absent} for row in absent.tolist()]
        return [
            {name: value for name, value in point.items() if name not in without}
            for point, without in zip(super().decode(rows), gone, strict=True)
        ]

    def _write(self, positions: Sequence[np.ndarray], n: int) -> np.ndarray:
        rows = super()._write(positions, n)
        if positions:
            for columns, is_absent in zip(self._columns, self._absent(positions).T, strict=True):
                rows[is_absent, columns] = _CENTRE
        return np.nan_to_num(rows, nan=_CENTRE)

    def _absent(self, positions: Sequence[np.ndarray]) -> np.ndarray:  # n_axes × (n,) -> (n, n_axes), bool
        table = np.stack(positions, 1) if positions else np.empty((0, 0))
        absent = np.isnan(table)
        for axis, (parent, values) in self._conditions.items():
            absent[:, axis] |= np.isin(np.where(absent[:, parent], -1.0, table[:, parent]), values)
        return absent


def _find_conditions(positions: np.ndarray, is_discrete: Sequence[bool]) -> dict[int, tuple[int, np.ndarray]]:
    """Of positions (n, n_axes), NaN where there is none."""
    exists = ~np.isnan(positions)
    table = np.where(exists, positions, -1.0)
    n_existing = exists.sum(0)
    conditions: dict[int, tuple[int, np.ndarray]] = {}
    for axis in np.argsort(-n_existing, kind="stable").tolist():
        best = math.inf
        # Only what exists more often can decide: so nothing depends on itself through others.
        for parent in np.flatnonzero(is_discrete & (n_existing > n_existing[axis])).tolist():
            values = np.unique(table[:, parent])
            shares = np.array([exists[table[:, parent] == value, axis].mean() for value in values])
            if np.isin(shares, (0.0, 1.0)).all() and len(values) < best:
                best = len(values)
                conditions[axis] = (parent, values[shares == 0.0])
    return conditions
