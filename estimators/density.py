"""The joint density of a table's rows, as a chain of posterior predictive distributions, one column after another."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from estimators.base import check_positive_integer
from estimators.conditional import ConditionalEstimator, TableLike, as_given
from estimators.fitting import all_or_nothing
from pfn import PFN


class PFNDensity(DensityMixin, ConditionalEstimator):
    """How likely is a row, and what do more of them look like: density and synthetic rows without training.

    The joint distribution is p(x₁) p(x₂ | x₁) p(x₃ | x₁, x₂) …, where the pretrained networks give each factor with the
    stored table as context. Networks are no exact conditionals of one joint distribution, so the order of the columns
    matters a little; the model is the equal mixture of several random orders, which is a proper density again.

    Parameters
    ----------
    n_orders : int, default=4
        Random orders of the columns; the time grows with it.
    n_estimators : int, default=1
        Forward passes that are averaged for each factor, see `PFNRegressor`.
    categorical_features : sequence of str, int or bool, optional
        Names, positions or mask of numeric columns that hold categories. Strings, booleans and categoricals always do.
    regressor, classifier : str, path or PFN
        Networks for numeric and for categorical columns: bundled weights, checkpoints, or your own.
    device : str, default="auto"
        "auto" takes a CUDA device if there is one; else "cpu", "cuda", "cuda:1", …
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the networks' layers, see `PFNRegressor`.
    max_context : int, default=1000
        Largest number of rows that a member reads; in longer tables, those nearest to the query, see `PFNRegressor`.
    random_state : int, RandomState or None, default=None
        Decides the orders of the columns, and the draws of `sample`: with an int it returns the same rows every time.

    Attributes
    ----------
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only when X had string column names.

    Notes
    -----
    A row of the fitted table is part of its own context and scores higher than it would unseen, as in any kernel density
    estimate. To find outliers in a table, fit on one half and score the other.

    References
    ----------
    .. [1] N. Hollmann et al., "Accurate predictions on small data with a tabular foundation model", Nature 2025, whose
       density estimation chains the columns in the same way.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> density = PFNDensity(n_orders=2, random_state=0).fit(X[:50])
    >>> density.score(X[50:100]) < density.score(X[:50]) - 5                # another species
    True
    >>> density.sample(3).shape
    (3, 4)
    """

    def __init__(
        self,
        n_orders: int = 4,
        n_estimators: int = 1,
        categorical_features: Any = None,
        *,
        regressor: str | os.PathLike[str] | PFN = "regressor",
        classifier: str | os.PathLike[str] | PFN = "classifier",
        device: str | torch.device = "auto",
        precision: str = "auto",
        max_context: int = 1000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_orders = n_orders
        self.n_estimators = n_estimators
        self.categorical_features = categorical_features
        self.regressor = regressor
        self.classifier = classifier
        self.device = device
        self.precision = precision
        self.max_context = max_context
        self.random_state = random_state

    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> PFNDensity:
        """Store the table as context; no weight is trained.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Numbers, booleans, strings, categoricals or dates; NaN, None and pandas' NA are missing values.
        y : ignored

        Returns
        -------
        PFNDensity
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is wrong or X holds infinite values.
        """
        check_positive_integer("n_orders", self.n_orders)
        random_state = check_random_state(self.random_state)
        self._frame = isinstance(X, pd.DataFrame)
        self._x, _ = self._fit_table(X, random_state)
        orders = [tuple(random_state.permutation(self.n_features_in_).tolist()) for _ in range(self.n_orders)]
        self._orders = [list(order) for order in dict.fromkeys(orders)]
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Log density of each row.

        Numeric columns contribute log densities per unit of the data (dates: per second), categorical columns log
        probabilities; missing cells and columns that `fit` never saw filled contribute nothing.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`. A category that was not seen in n rows has the probability 1 / (n + 2).

        Returns
        -------
        ndarray of shape (n_samples,)
            In nats.
        """
        check_is_fitted(self)
        x, missing = self._columns.encode(self._read(X, reset=False))
        log_prob = np.zeros((len(self._orders), len(x)))
        for chain, order in zip(log_prob, self._orders, strict=True):
            for i, column in enumerate(order):
                rows = np.flatnonzero(~missing[:, column])
                if len(rows):
                    model = self._conditional(self._x[:, order[:i]], self._x[:, column], column)
                    chain[rows] += model.log_prob(x[np.ix_(rows, order[:i])], x[rows, column])
        return logsumexp(log_prob, axis=0) - np.log(len(self._orders))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log density of the rows, in nats; `y` is ignored."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> TableLike:
        """Synthetic rows, drawn column after column.

        Parameters
        ----------
        n_samples : int, default=1

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            What `fit` got, with the same column types; integers are rounded, and columns that were never filled are
            missing.
        """
        check_is_fitted(self)
        check_positive_integer("n_samples", n_samples)
        random_state = check_random_state(self.random_state)
        x = np.full((n_samples, self.n_features_in_), np.nan)
        order_of = random_state.randint(len(self._orders), size=n_samples)
        for k, order in enumerate(self._orders):
            rows = np.flatnonzero(order_of == k)
            for i, column in enumerate(order) if len(rows) else ():
                model = self._conditional(self._x[:, order[:i]], self._x[:, column], column)
                x[rows, column] = model.sample(x[np.ix_(rows, order[:i])], random_state)
        return as_given(self._columns.decode(x), frame=self._frame)
