"""Tables as TabR reads them: numbers by rank as normal scores, categories one-hot, indicators of what is missing."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from estimators.table import TableEncoder
from estimators.tabr_rows import distinct_rows

if TYPE_CHECKING:
    from sklearn.preprocessing import QuantileTransformer as Transformer

_MAX_LEVELS = 64                                                    # one-hot columns per category; rarer levels share one
_NOISE = 1e-3                                                       # standard deviations, when quantiles are taken


class TabRTable:
    """Learn from a table how TabR reads it, and read later tables so.

    Parameters of `fit` are the table and the positions of columns that hold categories whatever their type; columns that are
    no numbers always do.
    """

    def fit(
        self, table: np.ndarray | pd.DataFrame, categorical: Collection[int], random_state: np.random.RandomState
    ) -> TabRTable:
        self.encoder_ = TableEncoder().fit(table)
        matrix = self.encoder_.matrix(table)
        matrix = matrix[distinct_rows(matrix)[0]]                   # copies of rows change nothing, nor does their order
        is_category = set(categorical) | set(self.encoder_.categories_)
        self.levels_: dict[int, np.ndarray] = {}
        self.binary_: dict[int, np.ndarray] = {}
        numeric = []
        for i, column in enumerate(matrix.T):
            values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
            if i in is_category:
                common = np.argsort(-counts, kind="stable")[: _MAX_LEVELS - 1 if len(values) > _MAX_LEVELS else None]
                self.levels_[i] = np.sort(values[common])
            elif len(values) == 2:
                self.binary_[i] = values
            elif len(values) > 2:
                numeric.append(i)
        self.numeric_ = np.array(numeric, dtype=np.int64)
        self.has_others_ = {i: bool((~np.isnan(matrix[:, i]) & ~np.isin(matrix[:, i], levels)).any())
                            for i, levels in self.levels_.items()}
        self.missing_ = np.flatnonzero(np.isnan(matrix).any(0) & ~np.isnan(matrix).all(0))
        scaled = self._scaled(matrix)
        n_quantiles = int(np.clip(len(matrix) // 30, min(100, max(len(matrix) // 3, 2)), 1000))
        self.quantiles_ = np.empty((n_quantiles, 0))
        if len(numeric):
            noisy = scaled + _NOISE * random_state.standard_normal(scaled.shape)
            self.quantiles_ = _transformer(n_quantiles).fit(noisy).quantiles_
        return self

    @property
    def n_numeric(self) -> int:
        return len(self.numeric_)

    @property
    def n_columns(self) -> int:
        """Width of what `transform` returns."""
        n_categorical = sum(len(levels) + self.has_others_[i] for i, levels in self.levels_.items())
        return max(self.n_numeric + len(self.binary_) + n_categorical + len(self.missing_), 1)

    def transform(self, table: np.ndarray | pd.DataFrame) -> np.ndarray:
        """Float32 matrix (n_rows, n_columns): first `n_numeric` normal scores, then columns of zeros and ones."""
        matrix = self.encoder_.matrix(table)
        columns = [self._scores(matrix)]
        for i, (low, high) in self.binary_.items():
            columns.append(np.nan_to_num(_share(matrix[:, i], low, high), nan=0.5)[:, None])
        for i, levels in self.levels_.items():
            columns.append(matrix[:, [i]] == levels)
            if self.has_others_[i]:
                columns.append(~np.isnan(matrix[:, [i]]) & ~np.isin(matrix[:, [i]], levels))
        columns.append(np.isnan(matrix[:, self.missing_]))
        x = np.concatenate([np.asarray(part, dtype=np.float32) for part in columns], axis=1)
        return x if x.shape[1] else np.zeros((len(x), 1), dtype=np.float32)         # nothing but constant columns

    def _scaled(self, matrix: np.ndarray) -> np.ndarray:
        numeric = self.numeric_
        with np.errstate(over="ignore"):                            # of values far outside; clipped
            z = (matrix[:, numeric] - self.encoder_.mean_[numeric]) / self.encoder_.scale_[numeric]
        return np.clip(z, -1e6, 1e6)

    def _scores(self, matrix: np.ndarray) -> np.ndarray:
        if not self.n_numeric:
            return np.empty((len(matrix), 0))
        n_quantiles = len(self.quantiles_)
        transformer = _transformer(n_quantiles)
        transformer.quantiles_, transformer.n_features_in_ = self.quantiles_, self.n_numeric
        transformer.n_quantiles_, transformer.references_ = n_quantiles, np.linspace(0, 1, n_quantiles)
        return np.nan_to_num(transformer.transform(self._scaled(matrix)), nan=0.0)


def _share(column: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where numbers (n,) are between `low`, 0, and `high`, 1; NaN stays NaN."""
    exponent = -int(np.frexp(max(abs(low), abs(high)))[1]) - 1
    start, stop = np.ldexp([low, high], exponent)
    with np.errstate(over="ignore"):                                # of values far outside; clipped
        return np.clip((np.ldexp(column, exponent) - start) / (stop - start), 0.0, 1.0)


def _transformer(n_quantiles: int) -> Transformer:
    """To normal scores, from all rows."""
    from sklearn.preprocessing import QuantileTransformer  # takes a fifth of a second to import

    return QuantileTransformer(n_quantiles=n_quantiles, subsample=None, output_distribution="normal")
