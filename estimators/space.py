"""Search spaces in the encoding that the network reads: Optuna's distributions as columns in [0, 1]."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import qmc

_RESOLUTION = 1e-9                                                  # of keys: closer points of [0, 1] are the same


class _Axis(ABC):
    """One parameter. A position is a point of [0, 1] if it is continuous, else a number of 0, …, n_values - 1; or NaN."""

    n_columns = 1
    n_values: float
    is_relaxed: bool

    def column_names(self, name: str) -> list[str]:
        return [name]

    @abstractmethod
    def position(self, internal: np.ndarray) -> np.ndarray:
        """Position (n,) of values in Optuna's internal representation."""

    @abstractmethod
    def value(self, position: float) -> Any:
        """The parameter's value."""

    @abstractmethod
    def write(self, position: np.ndarray) -> np.ndarray:
        """Columns (n, n_columns) of positions (n,)."""

    @abstractmethod
    def read(self, columns: np.ndarray) -> np.ndarray:
        """Nearest positions (n,) of columns (n, n_columns)."""

    @abstractmethod
    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """Positions (n,) with the distribution's own spread, of uniform numbers in [0, 1)."""

    @abstractmethod
    def move(self, position: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
        """Other positions (n,), `scale` away in units of [0, 1]."""


class _Continuous(_Axis):
    n_values = math.inf
    is_relaxed = True

    def __init__(self, distribution: FloatDistribution) -> None:
        self.low, self.high, self.log = distribution.low, distribution.high, distribution.log
        if self.low == self.high:
            self.n_values = 1
        self.start, self.stop = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    def position(self, internal: np.ndarray) -> np.ndarray:
        t = np.log(internal) if self.log else internal
        # Halves: the width of (-1e308, 1e308) is no float.
        return np.clip((t / 2 - self.start / 2) / (self.stop / 2 - self.start / 2), 0.0, 1.0)

    def value(self, position: float) -> float:
        low, high = self.low, self.high                             # in both forms the ends come out exactly
        value = low ** (1 - position) * high**position if self.log else low * (1 - position) + high * position
        return float(min(max(value, low), high))

    def write(self, position: np.ndarray) -> np.ndarray:
        return position[:, None]

    def read(self, columns: np.ndarray) -> np.ndarray:
        return np.clip(columns[:, 0], 0.0, 1.0)

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        return uniform

    def move(self, position: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
        return _reflect(position + scale * rng.standard_normal(len(position)))


class _Grid(_Axis):
    """Integers and stepped floats."""

    def __init__(self, distribution: IntDistribution | FloatDistribution) -> None:
        if isinstance(distribution, IntDistribution):
            self.low: Any = distribution.low
            self.step: Any = distribution.step
            self.n_values = (distribution.high - self.low) // self.step + 1
        else:  # in decimals, as Optuna finds the bounds: 0.3 is 0.3 and not 3 * 0.1
            self.low, self.step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
            self.n_values = int((Decimal(str(distribution.high)) - self.low) // self.step) + 1
        self.kind = int if isinstance(distribution, IntDistribution) else float
        self.log = distribution.log
        self.is_relaxed = self.n_values > 2

    def _edge(self, position: np.ndarray | float) -> np.ndarray:
        """Logarithm of the lower end of a cell."""
        return np.log(self.low + position - 0.5)

    def position(self, internal: np.ndarray) -> np.ndarray:
        return np.rint((internal - float(self.low)) / float(self.step))

    def value(self, position: float) -> int | float:
        return self.kind(self.low + int(position) * self.step)

    def write(self, position: np.ndarray) -> np.ndarray:
        if not self.log:
            return ((position + 0.5) / self.n_values)[:, None]
        first, last = self._edge(0.0), self._edge(self.n_values)
        return (((self._edge(position) + self._edge(position + 1)) / 2 - first) / (last - first))[:, None]

    def read(self, columns: np.ndarray) -> np.ndarray:
        u = columns[:, 0]
        if self.log:
            first, last = self._edge(0.0), self._edge(self.n_values)
            cell = np.floor(np.exp(first + np.clip(u, 0.0, 1.0) * (last - first)) + 0.5 - self.low)
        else:
            cell = np.floor(u * self.n_values)
        return np.clip(cell, 0, self.n_values - 1)

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        return self.read(uniform[:, None])

    def move(self, position: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
        step = scale * rng.standard_normal(len(position))
        found = self.read(_reflect(self.write(position)[:, 0] + step)[:, None])
        beside = position + np.where(step < 0, -1, 1)
        beside = np.where((beside < 0) | (beside >= self.n_values), 2 * position - beside, beside)
        return np.where(found == position, beside, found)


class _Choice(_Axis):
    is_relaxed = False

    def __init__(self, distribution: CategoricalDistribution) -> None:
        self.choices = distribution.choices
        self.n_values = len(self.choices)
        self.n_columns = 1 if self.n_values == 2 else int(self.n_values)

    def column_names(self, name: str) -> list[str]:
        return [f"{name}={choice!r}" for choice in self.choices[-self.n_columns :]]

    def position(self, internal: np.ndarray) -> np.ndarray:
        return internal

    def value(self, position: float) -> Any:
        return self.choices[int(position)]

    def write(self, position: np.ndarray) -> np.ndarray:
        if self.n_columns == 1:
            return position[:, None]
        columns = (position[:, None] == np.arange(self.n_columns)).astype(np.float64)
        return np.where(np.isnan(position)[:, None], np.nan, columns)

    def read(self, columns: np.ndarray) -> np.ndarray:
        largest = (columns[:, 0] >= 0.5) if self.n_columns == 1 else columns.argmax(1)
        return np.where(np.isnan(columns).any(1), np.nan, largest)

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        return np.floor(uniform * self.n_values)

    def move(self, position: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
        return (position + rng.integers(1, int(self.n_values), size=len(position))) % self.n_values


def _reflect(u: np.ndarray) -> np.ndarray:
    """Folded back into [0, 1] at both ends, as often as it takes."""
    return 1.0 - np.abs(np.mod(u, 2.0) - 1.0)


def _make_axis(name: str, distribution: BaseDistribution) -> _Axis:
    if not isinstance(name, str):
        raise TypeError(f"names of parameters are strings, got {name!r} of type {type(name).__name__}.")
    if isinstance(distribution, CategoricalDistribution):
        return _Choice(distribution)
    if not isinstance(distribution, (FloatDistribution, IntDistribution)):
        raise TypeError(
            f"space[{name!r}] is {distribution!r} of type {type(distribution).__name__}; use one of optuna.distributions: "
            "FloatDistribution(1e-4, 0.1, log=True), IntDistribution(1, 10) or CategoricalDistribution(['a', 'b'])."
        )
    if not (math.isfinite(distribution.low) and math.isfinite(distribution.high)):
        raise ValueError(f"space[{name!r}] is {distribution}; its bounds must be finite.")
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return _Continuous(distribution)
    return _Grid(distribution)


class SearchSpace:
    """Parameters as rows of numbers in [0, 1], and back.

    Floats are linear in their value or its logarithm, integers and stepped floats lie in the centre of a cell, (i + ½) / k
    for k values (for logarithmic integers the cell of v ends at v ± ½), a choice of two is one column of 0 and 1, and one of
    more has a column for each. Parameters with a single value have none. NaN stands for a parameter that a point lacks.

    Parameters
    ----------
    distributions : mapping of str to optuna.distributions.BaseDistribution

    Attributes
    ----------
    names : tuple of str
    distributions : dict
    n_columns : int
    column_names : tuple of str
    is_relaxed : ndarray of bool, shape (n_columns,)
        Columns along which a gradient step makes sense: floats, and integers and steps with more than two values.
    n_points : int or float
        Number of distinct points; infinite if there is any continuous parameter.

    Raises
    ------
    TypeError, ValueError
        If a value is no distribution, a bound is not finite, or there is no parameter.

    Examples
    --------
    >>> from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    >>> space = SearchSpace({"lr": FloatDistribution(1e-4, 1.0, log=True), "depth": IntDistribution(1, 5),
    ...                      "loss": CategoricalDistribution(["log", "hinge", "huber"])})
    >>> rows = space.encode([{"lr": 0.01, "depth": 2, "loss": "huber"}])
    >>> rows
    array([[0.5, 0.3, 0. , 0. , 1. ]])
    >>> space.decode(rows)
    [{'lr': 0.01, 'depth': 2, 'loss': 'huber'}]
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        if not isinstance(distributions, Mapping):
            raise TypeError(
                f"a space is a mapping of names to optuna.distributions, got a {type(distributions).__name__}; "
                "pass for example {'lr': FloatDistribution(1e-4, 0.1, log=True)}."
            )
        if not distributions:
            raise ValueError("a space needs at least one parameter, got an empty mapping.")
        self.distributions = dict(distributions)
        self.names = tuple(self.distributions)
        axes = {name: _make_axis(name, one) for name, one in self.distributions.items()}
        self._single = {name: one.value(0.0) for name, one in axes.items() if one.n_values == 1}
        self._axes = {name: one for name, one in axes.items() if one.n_values > 1}
        ends = np.cumsum([0] + [one.n_columns for one in self._axes.values()])
        self._columns = [slice(start, stop) for start, stop in pairwise(ends)]
        self.n_columns = int(ends[-1])
        self.column_names = tuple(column for name, one in self._axes.items() for column in one.column_names(name))
        self.is_relaxed = np.array([one.is_relaxed for one in self._axes.values() for _ in range(one.n_columns)], dtype=bool)
        sizes = [one.n_values for one in axes.values()]
        self.n_points = math.inf if math.inf in sizes else math.prod(sizes)

    def __repr__(self) -> str:
        return f"SearchSpace({self.distributions})"

    def contains(self, point: Mapping[str, Any]) -> bool:
        """Whether all parameters of the point are known and valid; it may lack some."""
        return all(name in self.distributions and self._number(name, value) is not None for name, value in point.items())

    def encode(self, points: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Rows (n, n_columns) of the points; NaN for parameters that they lack.

        Raises
        ------
        ValueError
            If a point has an unknown parameter or a value that its distribution does not contain.
        """
        internal = np.full((len(points), len(self._axes)), np.nan)
        order = {name: j for j, name in enumerate(self._axes)}
        for i, point in enumerate(points):
            for name, value in point.items():
                if name not in self.distributions:
                    known = ", ".join(map(repr, self.names))
                    raise ValueError(f"unknown parameter {name!r} in point {i}; the space has {known}.")
                number = self._number(name, value)
                if number is None:
                    raise ValueError(
                        f"{name}={value!r} in point {i} is not a value of {self.distributions[name]}; "
                        "pass one that it contains, or widen it."
                    )
                if name in order:
                    internal[i, order[name]] = number
        return self._write([one.position(internal[:, j]) for j, one in enumerate(self._axes.values())], len(points))

    def decode(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Parameters of the nearest valid points, in the types that Optuna's trials have; without those that are NaN."""
        positions = self._read(rows)
        points = []
        for i in range(len(rows)):
            found = {
                name: one.value(position[i])
                for (name, one), position in zip(self._axes.items(), positions, strict=True)
                if not np.isnan(position[i])
            } | self._single
            points.append({name: found[name] for name in self.names if name in found})
        return points

    def snap(self, rows: np.ndarray) -> np.ndarray:
        """Nearest valid points (n, n_columns); choices by their largest column."""
        return self._write(self._read(rows), len(rows))

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Scrambled Sobol points (n, n_columns), uniform over cells and choices; fewer points are the first of more."""
        if not self._axes or n == 0:
            return np.empty((n, self.n_columns))
        # `seed` also takes a Generator, and is what SciPy before 1.15 calls it. Sobol's points want a power of two.
        cube = qmc.Sobol(len(self._axes), seed=rng).random_base2(math.ceil(math.log2(n)))[:n]
        return self._write([one.draw(cube[:, j]) for j, one in enumerate(self._axes.values())], n)

    def keys(self, rows: np.ndarray) -> list[tuple[int, ...]]:
        """Hashable names of the nearest valid points: equal for equal points, up to 1e-9 along continuous columns."""
        positions = [
            position if math.isfinite(one.n_values) else position / _RESOLUTION
            for one, position in zip(self._axes.values(), self._read(rows), strict=True)
        ]
        table = np.rint(np.stack(positions, 1)) if positions else np.empty((len(rows), 0))
        return [tuple(row) for row in np.nan_to_num(table, nan=-1.0).astype(np.int64).tolist()]

    def neighbours(self, rows: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
        """Valid points (n, n_columns) near the rows: some parameters moved, at least one, and those missing drawn anew.

        Floats move by a normal step of standard deviation `scale`, reflected at the bounds; integers and steps likewise but
        by one cell at least; choices change. How many parameters move differs from row to row, from one to all.
        """
        shape = len(rows), len(self._axes)
        moved = rng.random(shape) < rng.random((len(rows), 1))
        if self._axes:
            moved[np.arange(len(rows)), rng.integers(len(self._axes), size=len(rows))] = True
        positions = []
        for j, (one, position) in enumerate(zip(self._axes.values(), self._read(rows), strict=True)):
            start = np.where(np.isnan(position), one.draw(rng.random(len(rows))), position)
            positions.append(np.where(moved[:, j] & ~np.isnan(position), one.move(start, scale, rng), start))
        return self._write(positions, len(rows))

    def _number(self, name: str, value: Any) -> float | None:
        """Optuna's number for a value; None if the distribution does not contain it."""
        distribution = self.distributions[name]
        try:
            number = float(distribution.to_internal_repr(value))
            return number if distribution._contains(number) else None
        except (TypeError, ValueError):
            return None

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        """Positions (n,) along each axis."""
        rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.n_columns:
            raise ValueError(f"rows of this space have shape (n, {self.n_columns}), got {rows.shape}; use encode.")
        return [one.read(rows[:, columns]) for one, columns in zip(self._axes.values(), self._columns, strict=True)]

    def _write(self, positions: Sequence[np.ndarray], n: int) -> np.ndarray:
        return np.concatenate(
            [np.empty((n, 0))] + [one.write(at) for one, at in zip(self._axes.values(), positions, strict=True)], axis=1
        )
