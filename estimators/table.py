"""Any table in, one float matrix out: numbers stay numbers, everything else becomes category codes, gaps become NaN."""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import (
    _check_sample_weight,
    assert_all_finite,
    check_consistent_length,
    column_or_1d,
    validate_data,
)
from torch import Tensor

_LARGEST = 1e306                                                    # of targets: differences of larger ones leave float64


def as_table(estimator: BaseEstimator, X: Any, *, reset: bool, keep_types: bool = False) -> np.ndarray | pd.DataFrame:
    """Check `X` by scikit-learn's rules; returns a float64 array, or a DataFrame if any column is not numeric.

    Booleans, and text of numbers, count as numbers. With `keep_types`, for queries, a frame of them remains one: "1" and
    True may be categories of the table that was fitted.

    Sets (`reset=True`) or checks `n_features_in_` and `feature_names_in_` of `estimator`. Infinite values, sparse
    matrices, complex numbers and empty tables raise scikit-learn's own errors.
    """
    if isinstance(X, np.ma.MaskedArray):
        X = np.ma.filled(X.astype(np.float64 if X.dtype.kind in "biuf" else object), np.nan)
    if not isinstance(X, pd.DataFrame):
        array = X if sparse.issparse(X) else np.asarray(X)
        if array.dtype.kind in "US" and isinstance(X, (list, tuple)):
            array = np.asarray(X, dtype=object)                     # NumPy turned numbers beside strings into strings
        if array.dtype.kind == "V":
            raise TypeError(f"X is an array of dtype {array.dtype}; pass pd.DataFrame(X).")
        if array.dtype.kind in "OUST" and array.ndim != 2:          # scikit-learn's words, before it tries to read numbers
            return validate_data(estimator, array, dtype=None, reset=reset)
        if sparse.issparse(X) or array.dtype.kind not in "OUST" or 0 in array.shape:
            with np.errstate(invalid="ignore"):                     # of the sum of huge numbers
                return validate_data(estimator, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset)
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        frame = _as_frame(array)
    else:
        if not X.columns.is_unique:
            twice = X.columns[X.columns.duplicated()][0]
            raise ValueError(f"column name {twice!r} occurs more than once in X; rename the columns or pass X.to_numpy().")
        if 0 in X.shape:                                            # scikit-learn's words for an empty table
            return validate_data(estimator, X.to_numpy(dtype=np.float64), reset=reset)
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        frame = X
    if keep_types:
        return frame
    columns = {i: as_numeric(frame.iloc[:, i]) for i in range(frame.shape[1])}
    if all(column is not None for column in columns.values()):
        array = np.column_stack([column for column in columns.values() if column is not None])
        check_finite(array)
        return array
    return frame


def as_numeric(column: pd.Series) -> np.ndarray | None:
    """The column as float64 with NaN for missing values, or None if it holds anything but numbers and booleans."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return None
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        utc = column if column.dt.tz is None else column.dt.tz_convert(None)
        column = utc - pd.Timestamp("1970-01-01")                   # the origin does not matter
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds().to_numpy(dtype=np.float64)
    if pd.api.types.is_complex_dtype(column.dtype):
        raise ValueError(f"Complex data not supported: column {column.name!r}; pass real and imaginary part separately.")
    if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if column.dtype == object:
        present = column[column.notna()]
        if all(isinstance(value, (Real, Decimal, np.bool_)) for value in present):
            try:
                return column.where(column.notna(), np.nan).to_numpy(dtype=np.float64)
            except OverflowError as error:
                raise ValueError(f"column {column.name!r} holds an integer beyond float64; take logarithms.") from error
    text = column[column.notna()]
    if len(text) and all(isinstance(value, str) for value in text):                    # numbers that were read as text
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        return numbers if np.isfinite(numbers[column.notna()]).all() else None
    return None


def _as_frame(array: np.ndarray) -> pd.DataFrame:
    try:
        return pd.DataFrame(array)
    except UnicodeEncodeError:                                      # of half a surrogate pair, which only objects hold
        columns = {}
        for i, values in enumerate(array.T):
            try:
                columns[i] = pd.Series(values)
            except UnicodeEncodeError:
                columns[i] = pd.Series(values, dtype=object)
        return pd.DataFrame(columns)


def check_finite(array: np.ndarray) -> None:
    if np.isinf(array).any():
        row, column = np.argwhere(np.isinf(array))[0]
        raise ValueError(
            f"Input X contains infinity: row {row}, column {column}; replace infinite values by NaN, which is supported."
        )


def read_training_table(
    estimator: BaseEstimator, X: Any, y: Any, sample_weight: Any, several_targets: bool = False
) -> tuple[Any, np.ndarray, np.ndarray | None, np.ndarray]:
    """The table, the target and the weights, checked by scikit-learn's rules, without the rows of weight 0.

    Also which rows of X these are, boolean (n,). The weights are None if none were given.
    """
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."
        )
    table = as_table(estimator, X, reset=True)
    y = checked_target(y, several_targets)
    check_consistent_length(table, y)
    kept = np.ones(len(y), dtype=bool)
    if sample_weight is None:
        return table, y, None, kept
    weight = _check_sample_weight(sample_weight, table, dtype=np.float64, ensure_non_negative=True)
    kept = weight > 0
    if not kept.any():
        raise ValueError("sample_weight is zero for every row; give at least one row a positive weight.")
    return take_rows(table, kept), y[kept], weight[kept], kept


def checked_target(y: Any, several_targets: bool = False) -> np.ndarray:
    """The target without gaps, (n,), or (n, n_targets) if there may be several."""
    y = np.asarray(y)
    missing = np.argwhere(pd.isna(y))                               # scikit-learn sees neither None nor pd.NA
    if len(missing):
        raise ValueError(f"Input y contains NaN, None or NA, first in row {missing[0, 0]}; leave such rows out of fit.")
    y = y if y.ndim == 2 and y.shape[1] > 1 and several_targets else column_or_1d(y, warn=True)
    if y.dtype == object and y.ndim == 1:                           # integers or booleans that came as objects
        inferred = pd.Series(y).infer_objects()
        y = inferred.to_numpy() if inferred.dtype.kind in "biuf" else y
    with np.errstate(invalid="ignore"):                             # of the sum of huge numbers
        assert_all_finite(y, input_name="y")
    return y


def check_range(numbers: np.ndarray, name: str = "y") -> None:
    """That numbers are finite, and that their differences are."""
    with np.errstate(invalid="ignore"):                             # of the sum of huge numbers
        assert_all_finite(numbers, input_name=name)
    largest = np.abs(numbers).max(initial=0.0)
    if largest > _LARGEST:
        raise ValueError(f"{name} has values up to {largest:g}, beyond {_LARGEST:g}; divide it by a constant.")


def take_rows(table: np.ndarray | pd.DataFrame, rows: np.ndarray) -> Any:
    """Rows of what `as_table` returns, by numbers or a mask."""
    return table[rows] if isinstance(table, np.ndarray) else table.iloc[rows]


class TakesTables(BaseEstimator):
    """An estimator that reads tables by `as_table`: tells scikit-learn so."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


class TableEncoder:
    """Learn from a checked table how to turn it into numbers, and do so for later tables.

    Numeric columns are shifted and scaled in float64, so that large offsets (timestamps) survive float32. Categories
    get the codes 0 … K-1 in sorted order, or in their own if they have one; a category that was not seen in `fit`, and
    any missing value, becomes NaN. With `keeps_units` numbers stay what they are.
    """

    def fit(self, table: np.ndarray | pd.DataFrame, *, keeps_units: bool = False) -> TableEncoder:
        self.categories_: dict[int, dict[Any, int]] = {}
        if isinstance(table, pd.DataFrame):
            for i in range(table.shape[1]):
                if as_numeric(table.iloc[:, i]) is None:
                    self.categories_[i] = {label: code for code, label in enumerate(_levels(table.iloc[:, i]))}
        # Of distinct values, so that copies of rows change nothing.
        values = [np.unique(column[~np.isnan(column)]) for column in self.matrix(table).T]
        moments = [(0.0, 1.0) if keeps_units else _mean_and_std(column) for column in values]
        self.mean_, self.scale_ = np.array(moments).T
        self.is_filled_ = np.array([len(column) > 0 for column in values])
        return self

    def transform(self, table: np.ndarray | pd.DataFrame) -> np.ndarray:
        """Float32 matrix (n_rows, n_features), NaN where missing."""
        with np.errstate(over="ignore"):                            # of values far outside; clipped
            x = np.clip((self.matrix(table) - self.mean_) / self.scale_, -1e6, 1e6).astype(np.float32)
        x[:, ~self.is_filled_] = np.nan                             # whatever a query has there, nothing is known of it
        return x

    def transform_tensor(self, x: Tensor) -> Tensor:
        """`transform` of a table of numbers (n_rows, n_features), through which gradients flow."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"X is {type(x).__name__}; pass a floating-point torch.Tensor, or call predict_proba.")
        if self.categories_:
            raise TypeError(
                f"columns {sorted(self.categories_)} of the fitted table are no numbers, so there is no gradient with "
                "respect to them; encode them as numbers before fit, or call predict_proba."
            )
        if x.ndim != 2 or x.shape[1] != len(self.mean_):
            width = len(self.mean_)
            raise ValueError(f"X has shape {tuple(x.shape)}, but fit saw {width} features; pass (n, {width}).")
        if not len(x):
            raise ValueError(f"X has shape {tuple(x.shape)}, no rows to predict; pass at least one.")
        z = (x.cpu().double() - torch.from_numpy(self.mean_)) / torch.from_numpy(self.scale_)
        return torch.where(torch.from_numpy(self.is_filled_), z.clamp(-1e6, 1e6), torch.nan).float()

    def matrix(self, table: np.ndarray | pd.DataFrame) -> np.ndarray:
        """Float64 matrix (n_rows, n_features) of numbers as they are and codes of categories, NaN where missing."""
        if isinstance(table, np.ndarray):
            if not self.categories_:
                return table
            table = pd.DataFrame(table)                            # strings in fit, numbers now: unseen categories
        columns = []
        for i in range(table.shape[1]):
            column = table.iloc[:, i]
            if i in self.categories_:
                code = self.categories_[i]
                columns.append(np.array([code.get(label, np.nan) for label in _labels(column)], dtype=np.float64))
                continue
            numbers = as_numeric(column)
            if numbers is None and (not self.is_filled_[i] or column.isna().all()):
                numbers = np.full(len(column), np.nan)
            if numbers is None:
                raise ValueError(
                    f"column {column.name!r} held numbers in fit but now holds {column.dropna().iloc[0]!r}; "
                    "pass the same types to fit and predict."
                )
            columns.append(numbers)
        matrix = np.column_stack(columns)
        check_finite(matrix)
        return matrix


def _labels(column: pd.Series) -> list[str | None]:
    """Categories are compared by their text, so that 1 and "1" agree and mixed columns can be sorted; None if missing.

    A list, as pandas' own string types do not hold every text.
    """
    if column.dtype == object:
        for value in column[column.notna()]:
            if not isinstance(value, Hashable):
                raise TypeError(f"column {column.name!r} holds {value!r}, a {type(value).__name__}; give its parts columns.")
    missing = column.isna().to_numpy(dtype=bool)
    return [None if gap else _text(value) for value, gap in zip(column.to_numpy(dtype=object), missing, strict=True)]


def _text(value: Any) -> str:
    """Whole floats as integers: a gap makes floats of a column of integers."""
    if isinstance(value, (float, np.floating)) and abs(number := float(value)) < 2**53 and number.is_integer():
        return str(int(number))
    return str(value)


def _levels(column: pd.Series) -> list[str]:
    """The categories in `column`: in their order if they have one, else sorted."""
    present = {label for label in _labels(column) if label is not None}
    if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.ordered:
        return [level for level in map(_text, column.cat.categories) if level in present]
    return sorted(present)


def _mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """0 for the mean of nothing, 1 for the standard deviation of nothing and of a constant."""
    if not len(values):
        return 0.0, 1.0
    exponent = int(np.frexp(np.abs(values).max())[1])
    values = np.ldexp(values, -exponent)                            # exact, and squares neither overflow nor vanish
    with np.errstate(over="ignore"):
        mean, std = np.ldexp([values.mean(), values.std()], exponent).tolist()
    return mean, std if std > 0 else 1.0
