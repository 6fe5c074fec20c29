"""Views of one table for the members of an ensemble: feature order, class order, rank transform, subsample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import QuantileTransformer


@dataclass(frozen=True)
class View:
    """How one member sees the table."""

    columns: np.ndarray                                            # (n_columns,) in the member's order
    classes: np.ndarray                                            # (n_classes,) slot of each class
    rows: np.ndarray                                               # numbers of the context rows
    ranks: QuantileTransformer | None                              # fitted on the member's context
    scores: bool = False                                           # regression: targets as normal scores of their ranks

    def features(self, x: np.ndarray) -> np.ndarray:               # (n_rows, n_columns), float32
        x = x[:, self.columns]
        return x if self.ranks is None else self.ranks.transform(x).astype(np.float32)


def canonical_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """An order of the rows that depends on their content only, so that the order in which they came cannot matter."""
    return np.lexsort((y, *x.T[::-1]))


def canonical_classes(x: np.ndarray, y: np.ndarray, n_classes: int) -> np.ndarray:
    """Class index → rank by frequency, then by content: an order that knows nothing of the classes' names."""
    filled = np.nan_to_num(x.astype(np.float64))
    keys = []
    for label in range(n_classes):
        member = filled[y == label]
        # Sums of sorted columns: the same number whatever the order of the rows.
        keys.append((-len(member), *np.sort(member, axis=0).sum(0).tolist()))
    order = sorted(range(n_classes), key=keys.__getitem__)
    return np.argsort(order)


def make_views(
    x: np.ndarray,
    y: np.ndarray,
    *,
    n_estimators: int,
    n_classes: int,
    max_features: int,
    max_context: int,
    random_state: np.random.RandomState,
) -> list[View]:
    """One view for each member; every second one sees ranks in place of values, the last two of four target scores.

    Columns that are constant in the context are left out. Tables wider than `max_features` are dealt out in turn, so
    that few columns go unseen; contexts longer than `max_context` are subsampled, stratified by class.
    """
    varying = np.flatnonzero(~np.all((x == x[:1]) | (np.isnan(x) & np.isnan(x[:1])), axis=0))
    varying = varying if len(varying) else np.arange(1)
    deck = random_state.permutation(varying)
    first_slot = random_state.permutation(n_classes)
    views = []
    for member in range(n_estimators):
        if len(varying) > max_features:
            columns = random_state.permutation(np.roll(deck, -member * max_features)[:max_features])
        else:
            columns = random_state.permutation(varying)
        classes = (first_slot + member) % n_classes                 # every class visits different slots
        rows = _stratified_sample(y, max_context, random_state) if len(x) > max_context else np.arange(len(x))
        ranks = None
        if member % 2:
            context = x[rows][:, columns]
            ranks = QuantileTransformer(n_quantiles=min(len(context), 256), subsample=None).fit(context)
        views.append(View(columns, classes, rows, ranks, scores=member % 4 >= 2))
    return views


def _stratified_sample(y: np.ndarray, size: int, random_state: np.random.RandomState) -> np.ndarray:
    """`size` row numbers in ascending order; every class keeps its share, and at least one row."""
    shuffled = random_state.permutation(len(y))
    position = np.empty(len(y))
    for label in np.unique(y):
        member = shuffled[y[shuffled] == label]
        position[member] = np.arange(len(member)) / len(member)    # evenly spread over the sample
    return np.sort(np.argsort(position, kind="stable")[:size])
