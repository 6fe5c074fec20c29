"""The training table as every member of an ensemble reads it: distinct rows in an order of their own, with weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pfn.encoder import SortedColumns


@dataclass(frozen=True)
class Table:
    """Distinct training rows.

    Equal rows are one row with the sum of their weights. So an integer weight is that many copies by construction, and
    the order in which rows came cannot matter.

    Parameters
    ----------
    x : ndarray of shape (n, f), float32
        NaN where missing.
    y : ndarray of shape (n,)
        Class indices, or real targets.
    weight : ndarray of shape (n,), float32
        Positive.
    source : ndarray of shape (n_samples,), int32
        For each row as it came the number of the distinct row.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    source: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Table:
        """Merge the rows of x (n_samples, f), y (n_samples,) with these weights, all positive, 1 each without."""
        weight = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=np.float64)
        x = x + np.float32(0)                                       # -0.0 becomes 0.0
        order = np.lexsort((weight, y, *x.T[::-1]))
        x_sorted, y_sorted = x[order], y[order]
        same = (x_sorted[1:] == x_sorted[:-1]) | (np.isnan(x_sorted[1:]) & np.isnan(x_sorted[:-1]))
        new = np.append(True, ~same.all(1) | (y_sorted[1:] != y_sorted[:-1]))
        group = np.cumsum(new) - 1
        source = np.empty(len(x), dtype=np.int32)
        source[order] = group
        total = np.bincount(group, weight[order])
        return cls(x_sorted[new], y_sorted[new], total.astype(np.float32), source)

    def __len__(self) -> int:
        return len(self.x)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "columns"}

    @cached_property
    def columns(self) -> SortedColumns:
        """For ranks of cells within the table."""
        x = torch.from_numpy(self.x).unsqueeze(0)
        weight = torch.from_numpy(self.weight).view(1, -1, 1) * ~x.isnan()
        return SortedColumns.of(x, weight)

    def ranks(self, x: Tensor) -> Tensor:
        """Ranks of x (n, f) within the table's columns, -√3 … √3; NaN stays."""
        return torch.where(x.isnan(), x, self.columns.ranks(x.unsqueeze(0))[0])


def location_and_scale(y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Weighted mean and standard deviation; 1 for a constant."""
    order = np.argsort(y, kind="stable")                            # sums do not depend on the order of the rows
    exponent = int(np.frexp(np.abs(y).max())[1])                    # taken out, so that squares neither overflow nor vanish
    y, share = np.ldexp(y[order], -exponent), weight[order] / weight.sum(dtype=np.float64)
    location = share @ y
    scale = np.sqrt(share @ (y - location) ** 2)
    constant = not scale > 1e-12 * abs(location)
    return float(np.ldexp(location, exponent)), 1.0 if constant else float(np.ldexp(scale, exponent))


def stratified_sample(strata: np.ndarray, size: int, random_state: np.random.RandomState) -> np.ndarray:
    """`size` of len(strata) positions in ascending order; every stratum keeps its share, and at least one row."""
    shuffled = random_state.permutation(len(strata))
    by_stratum = shuffled[np.argsort(strata[shuffled], kind="stable")]
    _, start, count = np.unique(strata[by_stratum], return_index=True, return_counts=True)
    position = np.empty(len(strata))
    position[by_stratum] = (np.arange(len(strata)) - np.repeat(start, count)) / np.repeat(count, count)
    return np.sort(np.argsort(position, kind="stable")[:size])     # evenly spread over the sample
