"""Exact nearest neighbours by Euclidean distance, block by block: memory does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_CANDIDATES = 16_384                                                # looked at together
_QUERIES = 128                                                      # padded to this number: a row never feels the others
_FAR = torch.iinfo(torch.int64).max

Allowed = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def nearest(query: Tensor, key: Tensor, n_neighbors: int, allowed: Allowed | None = None) -> Tensor:
    """Rows of `key` nearest to each row of `query`; of equally distant ones those with the lowest numbers.

    Parameters
    ----------
    query : float32 Tensor of shape (B, d)
    key : float32 Tensor of shape (n, d)
    n_neighbors : int
        m; at most n are found.
    allowed : callable or None
        Given the numbers of b queries and of c candidates, two int64 tensors, which pairs may be found: boolean (b, c).

    Returns
    -------
    int64 Tensor of shape (B, min(m, n))
        From near to far; -1 where a row has fewer neighbours that are allowed.
    """
    n_found = min(n_neighbors, len(key))
    center = key.mean(0) if len(key) else 0.0                       # differences of small numbers keep more digits
    query, key = query - center, key - center
    norms = key.square().sum(1)
    numbers = torch.arange(len(key), device=key.device)
    found = torch.empty(len(query), n_found, dtype=torch.int64, device=query.device)
    for start in range(0, len(query), _QUERIES):
        rows = torch.arange(start, min(start + _QUERIES, len(query)), device=query.device)
        block = F.pad(query[start : start + _QUERIES], (0, 0, 0, _QUERIES - len(rows)))
        own = block.square().sum(1, keepdim=True)
        best = torch.empty(len(rows), 0, dtype=torch.int64, device=query.device)
        for first in range(0, len(key), _CANDIDATES):
            some = slice(first, first + _CANDIDATES)
            distance = torch.addmm(norms[some], block, key[some].T, alpha=-2).add_(own).clamp_(min=0)[: len(rows)]
            # Floats that are not negative sort like their bits; below these the candidate's number decides.
            order = distance.view(torch.int32).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(numbers[some])
            if allowed is not None:
                order.masked_fill_(~allowed(rows, numbers[some]), _FAR)
            order = torch.cat([best, order], 1)
            best = order.topk(min(n_found, order.shape[1]), largest=False).values
        found[rows] = torch.where(best == _FAR, -1, best.bitwise_and(2**32 - 1))
    return found
