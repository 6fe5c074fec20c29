"""Missing values of a table predicted, or drawn, from the values that are there."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from estimators.base import check_positive_integer
from estimators.conditional import ConditionalEstimator, TableLike, as_given
from estimators.fitting import all_or_nothing
from pfn import PFN


class PFNImputer(OneToOneFeatureMixin, TransformerMixin, ConditionalEstimator):
    """Fill missing values of numbers and categories from the other columns, without training or tuning.

    Pretrained networks predict each column with gaps from all others, with the rows of `fit` in which it is known as
    context. They read missing values as they are; a second pass sees the estimates of the first in their place, which
    helps where columns determine each other. `transform` gives the expected number (mean over the passes) or the most
    probable category; `sample` draws several completed tables whose differences tell how uncertain the values are.

    Parameters
    ----------
    n_estimators : int, default=2
        Forward passes that are averaged for each column, see `PFNRegressor`.
    categorical_features : sequence of str, int or bool, optional
        Names, positions or mask of numeric columns that hold categories. Strings, booleans and categoricals always do.
    n_passes : int, default=2
        Over the columns. With 1 `fit` only stores the table; with more it fills the gaps of that once less.
    regressor, classifier : str, path or PFN
        Networks for numeric and for categorical columns: bundled weights, checkpoints, or your own.
    device : str, default="auto"
        "auto" takes a CUDA device if there is one; else "cpu", "cuda", "cuda:1", …
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the networks' layers, see `PFNRegressor`.
    max_context : int, default=1000
        Largest number of rows that a member reads; in longer tables, those nearest to the query, see `PFNRegressor`.
    random_state : int, RandomState or None, default=None
        Decides the views of the members, and the draws of `sample`: with an int it returns the same tables every time.

    Attributes
    ----------
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only when X had string column names.

    Notes
    -----
    Values are taken to be missing at random given the observed cells. A numeric column without any value in `fit` is
    filled with 0, as `SimpleImputer(keep_empty_features=True)` does; a categorical one stays missing.

    References
    ----------
    .. [1] S. van Buuren, K. Groothuis-Oudshoorn, "mice: Multivariate Imputation by Chained Equations in R", JSS 2011.
    .. [2] N. Hollmann et al., "Accurate predictions on small data with a tabular foundation model", Nature 2025.

    Examples
    --------
    >>> X = np.linspace(0, 1, 30)[:, None] * [1.0, 10.0] + [0.0, 5.0]
    >>> X[10, 1] = np.nan                                                   # 8.45 by the line
    >>> imputer = PFNImputer(random_state=0)
    >>> bool(abs(imputer.fit_transform(X)[10, 1] - 8.45) < 0.2)
    True
    >>> len(imputer.sample(X, n_imputations=3))
    3
    """

    def __init__(
        self,
        n_estimators: int = 2,
        categorical_features: Any = None,
        *,
        n_passes: int = 2,
        regressor: str | os.PathLike[str] | PFN = "regressor",
        classifier: str | os.PathLike[str] | PFN = "classifier",
        device: str | torch.device = "auto",
        precision: str = "auto",
        max_context: int = 1000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.categorical_features = categorical_features
        self.n_passes = n_passes
        self.regressor = regressor
        self.classifier = classifier
        self.device = device
        self.precision = precision
        self.max_context = max_context
        self.random_state = random_state

    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> PFNImputer:
        """Store the table as context, once as it is and once for each further pass; no weight is trained.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Numbers, booleans, strings, categoricals or dates; NaN, None and pandas' NA are missing values.
        y : ignored

        Returns
        -------
        PFNImputer
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is wrong or X holds infinite values.
        """
        check_positive_integer("n_passes", self.n_passes)
        self._x, _ = self._fit_table(X, check_random_state(self.random_state))
        self._contexts = [self._x]                                           # of each pass
        while len(self._contexts) < self.n_passes:
            self._contexts.append(self._predict_gaps(self._contexts[-1], self._contexts[-1], np.isnan(self._x)))
        return self

    def transform(self, X: Any) -> TableLike:
        """Fill the missing cells; all others are returned as they came.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`. Categories that `fit` did not see stay, and count as missing in the other predictions.

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            A DataFrame with the types and index of X if that is one with columns that are not numeric; else an array,
            unless `set_output` says otherwise. Estimates for integer columns of a DataFrame are rounded.
        """
        check_is_fitted(self)
        table = self._read(X, reset=False)
        observed, _ = self._columns.encode(table)
        estimates = [observed]
        for context in self._contexts:
            estimates.append(self._predict_gaps(context, estimates[-1], np.isnan(observed)))
        return self._output(X, table, estimates[1:])

    def fit_transform(self, X: Any, y: Any = None) -> TableLike:
        """`fit(X).transform(X)`, but the passes that both would make are made once."""
        self.fit(X)
        last = self._predict_gaps(self._contexts[-1], self._contexts[-1], np.isnan(self._x))
        return self._output(X, self._read(X, reset=False), [*self._contexts[1:], last])

    def sample(self, X: Any, n_imputations: int = 5) -> list[TableLike]:
        """Multiple imputation: completed tables whose missing cells are drawn from their joint predictive distribution.

        Within a row one missing cell is drawn after another, each given the observed cells and those drawn before, so
        that the cells fit together.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`.
        n_imputations : int, default=5

        Returns
        -------
        list of ndarray or DataFrame of shape (n_samples, n_features)
            A DataFrame each, with its types and index, if X is one.
        """
        check_is_fitted(self)
        check_positive_integer("n_imputations", n_imputations)
        random_state = check_random_state(self.random_state)
        table = self._read(X, reset=False)
        observed, _ = self._columns.encode(table)
        gaps = np.isnan(observed)
        x, gap = np.tile(observed, (n_imputations, 1)), np.tile(gaps, (n_imputations, 1))
        for column in np.argsort(gaps.sum(0), kind="stable").tolist():                # the best known first
            rows, others = gap[:, column], np.arange(self.n_features_in_) != column
            if rows.any():
                model = self._conditional(self._x[:, others], self._x[:, column], column)
                x[rows, column] = model.sample(x[rows][:, others], random_state)
        frame = isinstance(X, pd.DataFrame)
        return [as_given(self._fill(table, drawn), frame=frame) for drawn in np.split(x, n_imputations)]

    def _predict_gaps(self, context: np.ndarray, x: np.ndarray, gaps: np.ndarray) -> np.ndarray:
        """One pass: `x` with new estimates in its `gaps`, from `context`, the table of `fit` in the same state as `x`."""
        filled = x.copy()
        for column in np.flatnonzero(gaps.any(0)).tolist():
            rows, others = gaps[:, column], np.arange(x.shape[1]) != column
            model = self._conditional(context[:, others], self._x[:, column], column)
            filled[rows, column] = model.predict(x[rows][:, others])
        return filled

    def _fill(self, table: TableLike, x: np.ndarray) -> TableLike:
        numeric = [j not in self._columns.labels for j in range(x.shape[1])]
        return self._columns.fill(table, np.where(np.isnan(x) & numeric, 0.0, x))

    def _output(self, X: Any, table: TableLike, estimates: list[np.ndarray]) -> TableLike:
        """The table with the mean of all passes, or the categories of the last; an array in place of a frame of numbers."""
        is_categorical = [j in self._columns.labels for j in range(self.n_features_in_)]
        x = np.where(is_categorical, estimates[-1], sum(one / len(estimates) for one in estimates))
        filled = as_given(self._fill(table, x), frame=isinstance(X, pd.DataFrame))
        is_numeric, is_bool = pd.api.types.is_numeric_dtype, pd.api.types.is_bool_dtype
        if isinstance(filled, pd.DataFrame) and all(is_numeric(dtype) and not is_bool(dtype) for dtype in filled.dtypes):
            return filled.to_numpy(dtype=np.float64, na_value=np.nan)
        return filled
