"""Rows of a table in canonical order, copies merged, and their division into training and validation."""

from __future__ import annotations

import numpy as np


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
