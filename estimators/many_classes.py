"""More classes than the network has outputs: a tree of choices between groups of classes."""

from __future__ import annotations

import numpy as np


def class_tree(centres: np.ndarray, n_slots: int, random_state: np.random.RandomState) -> list[np.ndarray]:
    """Slots of the classes in each choice of the tree.

    Classes with similar means go into the same group, so that a choice between groups is an easy one. The probability of
    a class is the product of those along its branch.

    Parameters
    ----------
    centres : ndarray of shape (n_classes, f)
        Mean of each class.
    n_slots : int
        Most alternatives of a choice, at least 2.
    random_state : RandomState
        Different trees for different members.

    Returns
    -------
    list of ndarray of shape (n_classes,)
        For each choice the slot of every class, -1 for those that are not below it.
    """
    choices = []
    pending = [np.arange(len(centres))]
    while pending:
        classes = pending.pop(0)
        group = _groups(centres[classes], n_slots, random_state)
        slots = np.full(len(centres), -1)
        slots[classes] = group
        choices.append(slots)
        pending += [classes[group == slot] for slot in range(n_slots) if (group == slot).sum() > 1]
    return choices


def _groups(centres: np.ndarray, n_slots: int, random_state: np.random.RandomState) -> np.ndarray:
    """Slot of each of these classes."""
    from sklearn.cluster import KMeans  # takes a fifth of a second, and few tables need it

    if len(centres) <= n_slots:
        return random_state.permutation(len(centres))
    distinct = len(np.unique(centres, axis=0))
    if distinct >= n_slots:
        return KMeans(n_slots, n_init=1, random_state=random_state).fit_predict(centres)
    return random_state.permutation(len(centres)) % n_slots       # nothing tells them apart
