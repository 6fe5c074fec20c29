"""Views of one table for the members of an ensemble: feature order, class slots, ranks, and which rows are context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from estimators.context import Table, stratified_sample
from estimators.local import divide


@dataclass(frozen=True)
class Part:
    """Rows that a member reads in one forward pass, and the slot of each class in it."""

    rows: np.ndarray                                               # numbers of rows of the table
    slots: np.ndarray                                              # (n_classes,), -1 for classes that do not take part


@dataclass(frozen=True)
class View:
    """How one member sees the table.

    Attributes
    ----------
    columns : ndarray of shape (n_columns,)
        In the member's order.
    ranks : bool
        Whether it sees ranks in place of values.
    scores : bool
        Regression: whether it sees normal scores of the targets' ranks.
    cells : list of Part
        A query goes through the one whose centre is nearest.
    branches : list of Part
        Choices within groups of classes; every query goes through all of them.
    centres : ndarray of shape (n_cells, f), or None
        In the space of `Table.ranks`; None if there is one cell.
    """

    columns: np.ndarray
    ranks: bool
    scores: bool
    cells: list[Part]
    branches: list[Part]
    centres: np.ndarray | None = None

    @property
    def parts(self) -> list[Part]:
        """All of them."""
        return [*self.cells, *self.branches]

    def features(self, table: Table, x: Tensor) -> Tensor:
        """x (n, f) as the member sees it, (n, n_columns)."""
        return (table.ranks(x) if self.ranks else x)[:, torch.from_numpy(self.columns)]

    def queries_of(self, table: Table, x: Tensor) -> list[np.ndarray]:
        """For each of `parts` the numbers of the rows of x (n, f) that go through it."""
        everybody = np.arange(len(x))
        if self.centres is None:
            return [everybody] * len(self.parts)
        position = table.ranks(x.detach()).nan_to_num(0.0)
        nearest = torch.cdist(position, torch.from_numpy(self.centres)).argmin(1).numpy()
        return [np.flatnonzero(nearest == cell) for cell in range(len(self.cells))] + [everybody] * len(self.branches)


def canonical_classes(table: Table, n_classes: int) -> np.ndarray:
    """Class index → rank by frequency, then by content: an order that knows nothing of the classes' names."""
    filled = np.nan_to_num(table.x.astype(np.float64))
    keys = []
    for label in range(n_classes):
        member = table.y == label
        total = table.weight[member].astype(np.float64)
        keys.append((-float(total.sum()), *(total @ filled[member]).tolist()))
    order = sorted(range(n_classes), key=keys.__getitem__)
    return np.argsort(order)


def make_views(
    table: Table,
    strata: np.ndarray,
    *,
    n_estimators: int,
    class_slots: Callable[[int, np.random.RandomState], Sequence[np.ndarray]],
    max_features: int,
    max_context: int,
    local: bool,
    plain: bool,
    random_state: np.random.RandomState,
    n_for_all: int = 0,
) -> list[View]:
    """One view for each member; every second one sees ranks in place of values, the last two of four target scores.

    Columns that are constant in the table are left out. Tables wider than `max_features` are dealt out in turn, so
    that few columns go unseen; the last `n_for_all` columns are seen by all members. Parts of more than `max_context` rows
    are sampled, stratified by `strata` (n,), or, if `local`, divided into cells that read the rows nearest to them.
    `class_slots(member, random_state)` are the slots of the classes in each part that a member needs. If `plain`, for
    networks to which units matter, members see features and targets as they are.
    """
    x = table.x
    varying = np.flatnonzero(~np.all((x == x[:1]) | (np.isnan(x) & np.isnan(x[:1])), axis=0))
    varying = varying if len(varying) else np.arange(1)
    for_all = np.arange(x.shape[1] - n_for_all, x.shape[1])
    deck = random_state.permutation(np.setdiff1d(varying, for_all))
    n_dealt = max_features - n_for_all
    everybody = np.arange(len(table))                                # one array for all members: pickles hold it once
    views = []
    for member in range(1 if plain and len(varying) == 1 else n_estimators):
        if len(varying) > max_features:
            columns = random_state.permutation(np.append(np.roll(deck, -member * n_dealt)[:n_dealt], for_all))
        else:
            columns = random_state.permutation(varying)
        first, *others = class_slots(member, random_state)
        centres, contexts = None, [everybody]
        if local and len(table) > max_context:
            centres, contexts = divide(table, strata, max_context, random_state)
        below = [np.flatnonzero(slots[table.y] >= 0) for slots in others]
        cells, branches = (
            [Part(_sampled(rows, strata, max_context, random_state), slots) for rows, slots in parts]
            for parts in ([(rows, first) for rows in contexts], zip(below, others, strict=True))
        )
        views.append(View(columns, not plain and member % 2 == 1, not plain and member % 4 >= 2, cells, branches, centres))
    return views


def _sampled(rows: np.ndarray, strata: np.ndarray, size: int, random_state: np.random.RandomState) -> np.ndarray:
    return rows if len(rows) <= size else rows[stratified_sample(strata[rows], size, random_state)]
