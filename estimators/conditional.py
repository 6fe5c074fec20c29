"""One column of a table given others: predictions, draws and log densities, for numbers and categories alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from estimators.classifier import PFNClassifier
from estimators.regressor import PFNRegressor
from estimators.table import TakesTables, as_numeric, as_table, check_finite, check_range
from pfn import PFN

TableLike: TypeAlias = "np.ndarray | pd.DataFrame"                             # float64, or a frame


class Columns:
    """Tables as float64 matrices and back; knows from `fit` which columns hold numbers and which categories.

    Categorical are columns of strings, booleans, categoricals and objects other than numbers, and whatever
    `categorical_features` names. Their cells become codes 0 … K-1, in the order of numbers or else of texts.

    Attributes
    ----------
    labels : dict of int to list
        Of each categorical column its categories by code.
    """

    def fit(self, table: TableLike, categorical_features: Any = None) -> Columns:
        frame = pd.DataFrame(table)
        declared = column_numbers(categorical_features, frame.columns)
        self.labels: dict[int, list[Any]] = {}
        self._code_of: dict[int, dict[str, int]] = {}
        self._blank = table[:0] if isinstance(table, np.ndarray) else table.iloc[:0]
        for j in range(frame.shape[1]):
            column = frame.iloc[:, j]
            numbers = None if _is_boolean(column) else _numbers(column)
            if numbers is None or j in declared:
                present = column.dropna()
                first = {_key(label): label for label in reversed(present.tolist())}
                keys = sorted(first, key=first.__getitem__ if numbers is not None else None)
                self.labels[j] = [first[key] for key in keys]
                self._code_of[j] = {key: code for code, key in enumerate(keys)}
        return self

    def encode(self, table: TableLike) -> tuple[np.ndarray, np.ndarray]:
        """Float64 matrix (n_rows, n_columns) and which cells are missing; NaN in these and in categories new since `fit`."""
        frame = pd.DataFrame(table)
        x = np.empty(frame.shape)
        for j in range(frame.shape[1]):
            column = frame.iloc[:, j]
            if j in self.labels:
                code, missing = self._code_of[j], column.isna().to_numpy(dtype=bool)
                keys = [None if gap else _key(cell) for cell, gap in zip(column, missing, strict=True)]
                x[:, j] = [np.nan if key is None else code.get(key, np.nan) for key in keys]
                continue
            numbers = _numbers(column)
            if numbers is None:
                raise ValueError(
                    f"column {column.name!r} held numbers in fit but now holds {column.dropna().iloc[0]!r}; "
                    "pass the same types, or strings from the start."
                )
            check_range(numbers[~np.isnan(numbers)], f"column {column.name!r}")
            x[:, j] = numbers
        return x, frame.isna().to_numpy()

    def fill(self, table: TableLike, x: np.ndarray) -> TableLike:
        """Copy of `table` whose missing cells come from the matrix `x`; they stay missing where that is NaN."""
        if isinstance(table, np.ndarray) and not isinstance(self._blank, np.ndarray):
            table = pd.DataFrame(table, dtype=object)                        # categories were strings in fit
        gaps = np.asarray(pd.isna(table)) & ~np.isnan(x)
        filled = table.copy()
        for j in np.flatnonzero(gaps.any(0)).tolist():
            values = x[gaps[:, j], j]
            if isinstance(filled, np.ndarray):
                filled[gaps[:, j], j] = self._cells(j, values, filled.dtype)
                continue
            column, dtype = filled.iloc[:, j], filled.dtypes.iloc[j]
            cells = _objects(list(column))
            cells[gaps[:, j]] = _objects(self._cells(j, values, dtype))
            if isinstance(dtype, pd.CategoricalDtype):                       # a category that only fit saw
                new = [label for label in self.labels[j] if label not in dtype.categories]
                dtype = pd.CategoricalDtype([*dtype.categories, *new], dtype.ordered)
            filled.isetitem(j, pd.Series(cells, column.index, dtype=object).astype(dtype))
        return filled

    def decode(self, x: np.ndarray) -> TableLike:
        """A table like that of `fit`, in kind, names and types, with all its cells from `x`."""
        if isinstance(self._blank, np.ndarray):
            return self.fill(np.full(x.shape, np.nan), x)
        columns = []
        for j, dtype in enumerate(self._blank.dtypes):
            cells, known = _objects([np.nan] * len(x)), ~np.isnan(x[:, j])
            cells[known] = _objects(self._cells(j, x[known, j], dtype))
            columns.append(pd.Series(cells, dtype=object).astype(dtype))
        frame = pd.concat(columns, axis=1)
        frame.columns = self._blank.columns
        return frame

    def _cells(self, j: int, values: np.ndarray, dtype: Any) -> list[Any]:
        """Codes or numbers in the terms of a column of this dtype; integers are rounded."""
        if j in self.labels:
            return [self.labels[j][int(code)] for code in values]
        if pd.api.types.is_datetime64_any_dtype(dtype):
            times = pd.to_datetime(np.rint(values), unit="s", utc=True)
            return list(times.tz_convert(getattr(dtype, "tz", None)))
        if pd.api.types.is_timedelta64_dtype(dtype):
            return list(pd.to_timedelta(np.rint(values), unit="s"))
        if pd.api.types.is_integer_dtype(dtype):
            limits = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
            return [min(max(int(value), limits.min), limits.max) for value in np.rint(values)]          # no float is 2⁶³ - 1
        return values.tolist()


def _objects(cells: list[Any]) -> np.ndarray:
    """As they are: NumPy would make columns of tuples, pandas strings of text that these do not hold."""
    column = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        column[row] = cell
    return column


class Conditional:
    """The posterior predictive distribution of one column given others, from the rows in which it is known.

    A column with a single value is a category that never changed. A category that was not seen in n rows has the
    probability 1 / (n + 2), by Laplace's rule of succession; the classifier divides the rest.

    Parameters
    ----------
    features : ndarray of shape (n, k)
        The other columns, NaN where missing; k = 0 gives the marginal distribution.
    target : ndarray of shape (n,)
        Numbers or codes of categories, NaN where missing.
    estimator : PFNRegressor or PFNClassifier
        Not fitted yet; decides whether the column is numeric.
    """

    def __init__(self, features: np.ndarray, target: np.ndarray, estimator: PFNRegressor | PFNClassifier) -> None:
        known = ~np.isnan(target)
        self._n_known = int(known.sum())
        self._values = np.unique(target[known])
        self._used = ~np.isnan(features[known]).all(0)
        self._estimator = estimator
        if len(self._values) > 1:
            numeric = isinstance(estimator, PFNRegressor)
            y = target[known] if numeric else target[known].astype(np.int64)
            with warnings.catch_warnings():
                # Many categories are no reason to suspect a regression problem: the caller has decided.
                warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
                estimator.fit(self._inputs(features[known]), y)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Expected number or most probable code of each row (m,); NaN if the column was never observed."""
        if len(self._values) > 1:
            return np.asarray(self._estimator.predict(self._inputs(features)), dtype=np.float64)
        return np.full(len(features), self._only_value)

    def sample(self, features: np.ndarray, random_state: np.random.RandomState) -> np.ndarray:
        """One draw for each row, (m,)."""
        if len(self._values) < 2:
            return np.full(len(features), self._only_value)
        if isinstance(self._estimator, PFNRegressor):
            return self._estimator.predict_distribution(self._inputs(features)).sample(1, random_state)[:, 0]
        cdf = self._estimator.predict_proba(self._inputs(features)).cumsum(1)
        drawn = (cdf < random_state.uniform(size=(len(cdf), 1)) * cdf[:, -1:]).sum(1)
        return self._values[drawn]

    def log_prob(self, features: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Log density in 1 / units of the column, or log probability; (m,), NaN in `values` is an unseen category.

        0 everywhere if the column was never observed.
        """
        if not len(self._values):
            return np.zeros(len(features))
        if len(self._values) > 1 and isinstance(self._estimator, PFNRegressor):
            return self._estimator.predict_distribution(self._inputs(features)).log_prob(values)
        unseen = 1.0 / (self._n_known + 2)
        seen = np.ones((len(features), 1))
        if len(self._values) > 1:
            seen = self._estimator.predict_proba(self._inputs(features))
        position = np.searchsorted(self._values, values).clip(0, len(self._values) - 1)
        probability = seen[np.arange(len(values)), position] * (1 - unseen)
        # Classes of vanishing probability underflow in the softmax; none is less likely than the smallest number.
        log_prob = np.log(np.maximum(probability, np.finfo(np.float64).tiny))
        return np.where(values == self._values[position], log_prob, np.log(unseen))

    @property
    def _only_value(self) -> float:
        return float(self._values[0]) if len(self._values) else np.nan

    def _inputs(self, features: np.ndarray) -> np.ndarray:
        """The columns that hold anything; a constant stands in if there is none, and leaves the marginal distribution."""
        used = features[:, self._used]
        return used if used.shape[1] else np.zeros((len(features), 1))


def as_given(table: TableLike, *, frame: bool) -> TableLike:
    """Frames that stand for an array of objects become one again."""
    return table.to_numpy(dtype=object) if isinstance(table, pd.DataFrame) and not frame else table


class ConditionalEstimator(TakesTables):
    """Base of the estimators that model columns by each other: parameters, the table, one `Conditional` at a time."""

    n_estimators: int
    categorical_features: Any
    regressor: str | os.PathLike[str] | PFN
    classifier: str | os.PathLike[str] | PFN
    device: Any
    precision: str
    max_context: int
    random_state: int | np.random.RandomState | None

    def _fit_table(self, X: Any, random_state: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """The checked table as numbers and its missing cells; sets the columns and the seed of each one's model."""
        table = self._read(X, reset=True)
        self._columns = Columns().fit(table, self.categorical_features)
        self._seeds = [random_state.randint(np.iinfo(np.int32).max) for _ in range(table.shape[1])]
        for column in {j in self._columns.labels: j for j in range(table.shape[1])}.values():
            # One of each kind on two rows: wrong parameters show now, not when the first column is asked for.
            self._conditional(np.zeros((2, 0)), np.array([0.0, 1.0]), column)
        return self._columns.encode(table)

    def _read(self, X: Any, *, reset: bool) -> TableLike:
        """Checked by scikit-learn's rules; frames stay frames."""
        table = as_table(self, X, reset=reset, keep_types=not reset and bool(self._columns.labels))
        return X if isinstance(X, pd.DataFrame) else table

    def _conditional(self, features: np.ndarray, target: np.ndarray, column: int) -> Conditional:
        """Model of a column with the given rows as context."""
        shared: dict[str, Any] = {
            "n_estimators": self.n_estimators, "device": self.device, "precision": self.precision,
            "max_context": self.max_context, "random_state": self._seeds[column],
        }
        if column in self._columns.labels:
            return Conditional(features, target, PFNClassifier(model=self.classifier, **shared))
        return Conditional(features, target, PFNRegressor(model=self.regressor, **shared))


def _numbers(column: pd.Series) -> np.ndarray | None:
    """The column as float64, or None if it holds anything but numbers, dates and booleans."""
    numbers = as_numeric(column)
    if numbers is not None:
        check_finite(numbers[:, None])
    return numbers


def _is_boolean(column: pd.Series) -> bool:
    if column.dtype != object:
        return pd.api.types.is_bool_dtype(column.dtype)
    present = column.dropna()
    return len(present) > 0 and all(isinstance(value, (bool, np.bool_)) for value in present)


def _key(label: Any) -> str:
    """Categories are compared by their text, so that anything can be one; 1 and 1.0 agree."""
    return str(float(label)) if isinstance(label, Real) and not isinstance(label, bool) else str(label)


def column_numbers(categorical_features: Any, names: Iterable[Any]) -> set[int]:
    """Positions of the columns that `categorical_features` declares: names, positions or a mask."""
    if categorical_features is None:
        return set()
    if isinstance(categorical_features, str) or not isinstance(categorical_features, Iterable):
        raise TypeError(
            f"categorical_features={categorical_features!r} is not a list; give names, positions or a mask of the columns."
        )
    names, declared = list(names), list(categorical_features)
    if len(declared) == len(names) and all(isinstance(item, (bool, np.bool_)) for item in declared):
        return set(np.flatnonzero(declared).tolist())
    positions = set()
    for item in declared:
        if isinstance(item, str) and item in names:
            positions.add(names.index(item))
        elif isinstance(item, (int, np.integer)) and not isinstance(item, bool) and 0 <= item < len(names):
            positions.add(int(item))
        else:
            raise ValueError(
                f"categorical_features has {item!r}, but X has the {len(names)} columns {names[:10]}; "
                "give names, positions from 0 up, or one boolean for each column."
            )
    return positions
