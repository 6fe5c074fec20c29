"""What trained TabR networks say of rows, and which candidates they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from estimators.inference import padded_blocks
from estimators.tabr_kernels import squared_distances
from estimators.tabr_network import TabRNetwork
from estimators.tabr_rows import Rows
from estimators.tabr_search import Allowed, nearest
from estimators.tabr_training import log_weights

_BLOCK = 256                                                        # distinct neighbours that are prepared together

CandidateMask = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Found:
    """For a block of queries: what was read of them, their keys (size, width), neighbours and log weights (size, m)."""

    read: Tensor
    key: Tensor
    index: Tensor
    log_weight: Tensor
    n_queries: int                                                  # the other rows of the block are padding


def find(
    network: TabRNetwork, x: Tensor, rows: Rows, key: Tensor, numbers: np.ndarray, context_size: int,
    candidate_mask: CandidateMask | None,
) -> Iterator[Found]:
    """Neighbours of rows x (n, p), block by block, among candidates with these keys and the user's numbers."""
    for start, stop, size in padded_blocks(len(x)):
        asked = np.arange(start, stop)
        block = F.pad(x[start:stop], (0, 0, 0, size - len(asked))).to(rows.x.device)
        read, query_key = network.read(block)
        index = nearest(query_key[: len(asked)], key, context_size, pairs_of(candidate_mask, asked, numbers))
        index = F.pad(index, (0, 0, 0, size - len(asked)))
        yield Found(read, query_key, index, log_weights(rows, index), len(asked))


def outputs(network: TabRNetwork, rows: Rows, key: Tensor, found: Found) -> Tensor:
    """What a network says of the queries, (n_queries, n_outputs) float64, whatever else is in their block."""
    distinct, place = found.index.clamp(min=0).unique(return_inverse=True)
    near = F.pad(key[distinct], (0, 0, 0, -len(distinct) % _BLOCK))
    correction = torch.cat([network.corrections(part) for part in near.split(_BLOCK)])
    said = network.mix(found.read, found.key, near, correction, rows.label[distinct], place, found.log_weight)
    return said[: found.n_queries].double().cpu()


def votes(network: TabRNetwork, key: Tensor, found: Found) -> tuple[Tensor, Tensor]:
    """Neighbours, -1 where there is none, and their weights, both (n_queries, m)."""
    distances = squared_distances(found.key, key, found.index.clamp(min=0))
    weight = network.weights(distances, found.log_weight)
    return found.index[: found.n_queries].cpu(), weight[: found.n_queries].double().cpu()


def joined(parts: Sequence[tuple[Tensor, Tensor]], n_columns: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean weights and numbers of the voters in votes of several networks, each (n, m), from large to small.

    Without `n_columns` as many columns as any row needs; 0 and -1 where a row has no more voters.
    """
    weight, index = _summed(torch.cat([one for one, _ in parts], 1), torch.cat([one for _, one in parts], 1) / len(parts))
    width = n_columns or int((weight > 0).sum(1).max())
    padding = (0, max(width - weight.shape[1], 0))
    shares, numbers = (F.pad(part, padding)[:, :width].numpy() for part in (weight, index))
    return shares, np.where(shares > 0, numbers, -1)


def pairs_of(mask: CandidateMask | None, queries: np.ndarray, candidates: np.ndarray) -> Allowed | None:
    """The user's mask in terms of positions in `queries` and `candidates`, which hold the user's numbers."""
    if mask is None:
        return None

    def allowed(query: Tensor, candidate: Tensor) -> Tensor:
        asked = queries[query.cpu().numpy()], candidates[candidate.cpu().numpy()]
        pairs = np.asarray(mask(*asked))
        if pairs.dtype != np.bool_ or pairs.shape != (len(asked[0]), len(asked[1])):
            raise ValueError(
                f"candidate_mask returned {pairs.dtype} of shape {pairs.shape} for {len(asked[0])} queries and "
                f"{len(asked[1])} candidates; return a boolean array of shape ({len(asked[0])}, {len(asked[1])})."
            )
        return torch.from_numpy(np.require(pairs, requirements=["C", "W"])).to(query.device)

    return allowed


def _summed(index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the same number added up, row by row, from large to small."""
    index, order = index.sort(dim=1, stable=True)
    weight = weight.gather(1, order)
    starts = torch.ones_like(index, dtype=torch.bool)
    starts[:, 1:] = index[:, 1:] != index[:, :-1]
    place = starts.long().cumsum(1) - 1
    total = torch.zeros_like(weight).scatter_add(1, place, weight)
    number = torch.full_like(index, -1).scatter(1, place, index)
    total, order = total.sort(dim=1, descending=True, stable=True)
    return total, number.gather(1, order)
