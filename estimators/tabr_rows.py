"""Rows of a table in canonical order, copies merged, and their division into training and validation."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """What the network knows of n rows: x (n, p), labels (n,), weights (n,), and what of a weight other copies have (n,)."""

    x: Tensor
    label: Tensor
    weight: Tensor
    others: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> Rows:
        return Rows(self.x[rows], self.label[rows], self.weight[rows], self.others[rows])


def distinct_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the first of each set of equal rows of x (n, p), and for every row which set it belongs to.

    The sets are in an order that depends on their values only, not on the order of the rows.
    """
    values = np.ascontiguousarray(np.where(np.isnan(x), np.nan, x + 0.0))      # one NaN, and -0.0 becomes 0.0
    as_bytes = values.view(np.dtype((np.void, values.itemsize * values.shape[1]))).ravel()
    _, first, of_row = np.unique(as_bytes, return_index=True, return_inverse=True)
    return first, of_row


def weight_of_copies(weight: np.ndarray | None, total: np.ndarray, count: np.ndarray, label: np.ndarray) -> np.ndarray:
    """What remains of the weight of each of a table's distinct rows if one copy of it is left out.

    Whole weights are numbers of copies, unless they are the same throughout a class: then they are the class's. Of other
    weights a copy has its share of the total, so that a row without copies has no other weight however large its own is.

    Parameters
    ----------
    weight : ndarray of shape (n,) or None
        Given for the rows of the table.
    total : ndarray of shape (u,)
        Sums over the copies of each distinct row.
    count : ndarray of shape (u,)
        Number of copies.
    label : ndarray of shape (n,)
        int64 classes of the rows of the table, or float32 targets, which are one class here.
    """
    if weight is not None:
        classes = label if label.dtype.kind == "i" else np.zeros(len(label), dtype=np.int64)
        smallest, largest = np.full(classes.max() + 1, np.inf), np.zeros(classes.max() + 1)
        np.minimum.at(smallest, classes, weight)
        np.maximum.at(largest, classes, weight)
        of_classes = bool((smallest[classes] == largest[classes]).all())
        if of_classes or (weight != np.round(weight)).any():
            return total * (1 - 1 / count)
    return total - 1.0


def split_rows(
    label: np.ndarray, group: np.ndarray, share: float, stratify: bool, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows for training and of those for validation.

    Groups stay together. Of rows sorted by label, in random order within a label, every k-th group is taken, so that all
    labels have their share; with `stratify` a class keeps a group for training.

    Parameters
    ----------
    label : ndarray of shape (n,)
        Classes 0 … K-1, or targets.
    group : int ndarray of shape (n,)
        Numbers 0 … G-1 of groups.
    share : float
        Of the groups that are for validation, from 0 to less than 1.
    stratify : bool
        Whether labels are classes.
    random_state : RandomState
    """
    members, first = np.unique(group, return_index=True)
    order = random_state.permutation(len(members))
    of_group = label[first][order]
    order = order[np.argsort(of_group, kind="stable")]
    chosen = np.floor((np.arange(len(order)) + 1) * share) > np.floor(np.arange(len(order)) * share)
    if stratify:
        classes = label[first][order]
        for k in np.unique(classes):
            own = np.flatnonzero(classes == k)
            if chosen[own].all():
                chosen[own[0]] = False
    is_validation = np.isin(group, members[order[chosen]])
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


def canonical_rows(
    x: np.ndarray, label: np.ndarray, weight: np.ndarray | None, numbers: np.ndarray, *, merge: bool
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """The rows sorted by content, equal ones with equal labels as one; groups of equal x; the number of the first of each.

    Weights are float64 still. Without `merge` every row stays where it is, a group of its own.
    """
    if not merge:
        total = np.ones(len(x)) if weight is None else weight
        rows = Rows(*(torch.tensor(part) for part in (x, label, total, np.zeros(len(x)))))
        return rows, np.arange(len(x)), numbers
    first, of_row = distinct_rows(np.column_stack([x, label.astype(np.float32)]))
    total, count = np.bincount(of_row, weights=weight), np.bincount(of_row)
    others = weight_of_copies(weight, total, count, label)
    rows = Rows(*(torch.from_numpy(part) for part in (x[first], label[first], total.astype(np.float64), others)))
    return rows, distinct_rows(x[first])[1], numbers[first]


def in_units_of(rows: Rows, unit: float) -> Rows:
    """The same with weights in units of `unit`, float32, none infinite, and none 0 that was not."""
    limits = torch.finfo(torch.float32)
    weight, others = ((part / unit).clamp(max=limits.max).float() for part in (rows.weight, rows.others))
    return Rows(rows.x, rows.label, weight.clamp(min=limits.tiny), others)


def moved(rows: Rows, device: torch.device) -> Rows:
    return Rows(*(getattr(rows, f.name).to(device) for f in fields(Rows)))
