"""Local contexts: a long table is divided into cells, and queries of a cell read the rows nearest to it."""

from __future__ import annotations

import math

import numpy as np
import torch

from estimators.context import Table, stratified_sample

_SHARE_OF_ALL = 0.125                                               # of a cell's context that is a sample of all rows
_MOST_CELLS = 32                                                    # of a member: each costs a context


def divide(
    table: Table, strata: np.ndarray, size: int, random_state: np.random.RandomState
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Centres (n_cells, f) in the space of the table's ranks and, for each, the numbers of `size` rows of context.

    Seven eighths are the nearest to the centre, the rest a stratified sample of the others, so that no class is
    unheard of. Cells are decided by the training rows alone: a prediction does not depend on the other queries.

    References
    ----------
    .. [1] T. Nagler, "Statistical Foundations of Prior-Data Fitted Networks", ICML 2023: a network that was trained on
       n rows keeps its bias when it reads more; restricted to a neighbourhood that shrinks, the bias goes to 0.
    """
    from sklearn.cluster import KMeans  # takes a fifth of a second, and few tables need it

    position = table.ranks(torch.from_numpy(table.x)).nan_to_num(0.0).numpy()
    fit_on = position if len(table) <= 20_000 else position[random_state.permutation(len(table))[:20_000]]
    n_cells = min(math.ceil(2 * len(table) / size), _MOST_CELLS, len(np.unique(fit_on, axis=0)))
    kmeans = KMeans(n_cells, n_init=1, max_iter=30, random_state=random_state)
    centres = np.ascontiguousarray(kmeans.fit(fit_on).cluster_centers_, dtype=np.float32)
    n_far = max(int(_SHARE_OF_ALL * size), 1)
    contexts = []
    for centre in centres:
        order = np.argsort(np.square(position - centre).sum(1), kind="stable")
        near, others = order[: size - n_far], np.sort(order[size - n_far :])
        far = others[stratified_sample(strata[others], n_far, random_state)]
        contexts.append(np.sort(np.concatenate([near, far])))
    return centres, contexts
