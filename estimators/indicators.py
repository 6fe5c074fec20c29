"""Rows of a table as points for a kernel: standardised numbers, and an indicator for each level of a category."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pfn.encoder import Scaling

_FARTHEST = 4.0                                                     # standard deviations from a column's mean
# Columns of numbers that have so few levels, of so many rows each, may be codes of categories.
_MOST_LEVELS, _ROWS_A_LEVEL = 30, 10
_MOST_INDICATORS = 500


@dataclass(frozen=True)
class Points:
    """Coordinates (n, f + l) of rows (n, f): each column standardised, and indicators of l levels, less their shares.

    So two levels can be far apart whose codes are neighbours. Missing cells are at a column's mean, and have no level.

    Parameters
    ----------
    location, scale : Tensor of shape (f,), float64
        Of the columns.
    column : Tensor of shape (l,), int64
        For each indicator the number of its column.
    level : Tensor of shape (l,), float32
        The value that it indicates.
    share : Tensor of shape (l,), float64
        Of the training rows' weight.
    """

    location: Tensor
    scale: Tensor
    column: Tensor
    level: Tensor
    share: Tensor

    @classmethod
    def of(cls, x: np.ndarray, weight: np.ndarray, categories: Collection[int] = ()) -> Points:
        """For rows like x (n, f), float32, of weight (n,); `categories` are the columns that get indicators.

        Of levels that occur at least twice.
        """
        rows = torch.from_numpy(x)
        scaling = Scaling.of(rows.double().unsqueeze(0), torch.from_numpy(weight).unsqueeze(0))
        levels = [_levels(x[:, column]) for column in sorted(categories)]
        frequent = [values[counts > 1] for values, counts in levels]
        column = np.repeat(np.array(sorted(categories), dtype=np.int64), [len(values) for values in frequent])
        level = np.concatenate([np.empty(0, dtype=np.float32), *frequent])
        indicated = (x[:, column] == level).astype(np.float64)
        share = weight @ indicated / weight.sum()
        return cls(scaling.mean[0, 0], scaling.std[0, 0], *map(torch.from_numpy, (column, level, share)))

    @classmethod
    def candidates(cls, x: np.ndarray, weight: np.ndarray, categories: Collection[int]) -> Iterator[Points]:
        """With indicators of these categories, and then of columns, too, that may be categories by their looks."""
        yield cls.of(x, weight, categories)
        guessed, n_levels = [], 0
        for column in sorted(set(range(x.shape[1])) - set(categories)):
            counts = _levels(x[:, column])[1]
            if 2 < len(counts) <= _MOST_LEVELS and counts.sum() >= _ROWS_A_LEVEL * len(counts):
                guessed.append(column)
                n_levels += len(counts)
        if 0 < n_levels <= _MOST_INDICATORS:
            yield cls.of(x, weight, {*categories, *guessed})

    def __call__(self, x: Tensor) -> Tensor:
        """Coordinates of rows x (n, f), float64; differentiable."""
        z = ((x.double() - self.location) / self.scale).nan_to_num(0.0).clamp(-_FARTHEST, _FARTHEST)
        return torch.cat([z, (x[:, self.column] == self.level).double() - self.share], dim=1)


def _levels(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values and how often each occurs."""
    return np.unique(column[~np.isnan(column)], return_counts=True)
