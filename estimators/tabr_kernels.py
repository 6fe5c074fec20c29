"""The two sums over retrieved rows that TabR spends its time on, block by block and with gradients of their own.

Published TabR computes T(k - k_i) = W₂ dropout(relu(W₁(k - k_i) + b₁)) for every pair of a row and one of its neighbours.
As W₁ and W₂ are linear, W₁k_i is needed once per distinct neighbour and W₂ once per row, after the weighted sum; what is
left per pair is elementwise, and nothing for pairs that context dropout removes. Blocks of pairs stay in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = {"cpu": 8 * 96, "cuda": 4096 * 96}                        # pairs
_LEVELS = 256                                                       # dropout probabilities are multiples of 1 / 256


def keep_mask(shape: tuple[int, ...], dropout: float, generator: torch.Generator) -> Tensor:
    """Boolean tensor on the generator's device, False with probability round(256 · dropout) / 256, at most 255 / 256.

    One random byte decides; drawing bytes eight at a time takes a twentieth of the time of `torch.bernoulli`.
    """
    size = 1
    for length in shape:
        size *= length
    words = torch.empty(-(-size // 8), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[:size].view(shape) >= _level(dropout)


def kept_share(dropout: float) -> float:
    """Probability that `keep_mask` is True."""
    return 1.0 - _level(dropout) / _LEVELS


def _level(dropout: float) -> int:
    """Bytes below it drop what they stand for; some are always kept."""
    return min(round(dropout * _LEVELS), _LEVELS - 1)


def dropped(x: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout of `x`; without a generator, as in evaluation, `x` itself."""
    if generator is None or _level(dropout) == 0:
        return x
    return x * keep_mask(tuple(x.shape), dropout, generator) / kept_share(dropout)


def squared_distances(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    """‖query_b - key_index[b, i]‖², with gradients.

    Parameters
    ----------
    query : Tensor of shape (B, d)
    key : Tensor of shape (U, d)
    index : int64 Tensor of shape (B, m)
        Rows of `key`.

    Returns
    -------
    Tensor of shape (B, m)
    """
    return _SquaredDistances.apply(query, key, index)


def mixed_relu(
    query: Tensor, key: Tensor, index: Tensor, weight: Tensor, dropout: float, generator: torch.Generator | None
) -> Tensor:
    """Σ_i weight[b, i] · dropout(relu(query_b - key_index[b, i])), with gradients.

    Parameters
    ----------
    query : Tensor of shape (B, h)
    key : Tensor of shape (U, h)
    index : int64 Tensor of shape (B, m)
        Rows of `key`.
    weight : Tensor of shape (B, m)
    dropout : float
    generator : torch.Generator or None
        None: no dropout.

    Returns
    -------
    Tensor of shape (B, h)
    """
    if generator is None or _level(dropout) == 0:
        dropout, generator = 0.0, None
    weight, order = weight.sort(dim=1, descending=True)             # those without weight come last, and are left out
    kept = _MixedRelu.apply(query, key, index.gather(1, order), weight, dropout, generator)
    return kept / kept_share(dropout)


def _blocks(index: Tensor) -> list[slice]:
    n_rows, n_neighbors = index.shape
    size = max(_BLOCK.get(index.device.type, _BLOCK["cpu"]) // max(n_neighbors, 1), 1)
    return [slice(start, start + size) for start in range(0, n_rows, size)]


def _dense_blocks(weight: Tensor) -> list[tuple[Tensor, int]]:
    """Rows with about as many weights, and how many; `weight` (B, m) has its zeros last."""
    sorted_counts, order = (weight > 0).sum(1).sort(descending=True)
    counts: list[int] = sorted_counts.tolist()
    size = _BLOCK.get(weight.device.type, _BLOCK["cpu"])
    blocks, start = [], 0
    while start < len(counts) and counts[start]:
        stop = start + max(size // counts[start], 1)
        blocks.append((order[start:stop], counts[start]))
        start = stop
    return blocks


def _differences(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    """(B, m, d), in fresh memory."""
    gathered = key.index_select(0, index.flatten()).view(*index.shape, key.shape[1])
    return torch.sub(query.unsqueeze(1), gathered, out=gathered)


class _SquaredDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, index)
        distances = query.new_empty(index.shape)
        for rows in _blocks(index):
            distances[rows] = _differences(query[rows], key, index[rows]).square_().sum(-1)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        query, key, index = ctx.saved_tensors
        grad_query, grad_key = torch.empty_like(query), torch.zeros_like(key)
        for rows in _blocks(index):
            pairs = _differences(query[rows], key, index[rows]).mul_(2 * grad[rows].unsqueeze(-1))
            grad_query[rows] = pairs.sum(1)
            grad_key.index_add_(0, index[rows].flatten(), pairs.flatten(0, 1), alpha=-1)
        return grad_query, grad_key, None


class _MixedRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, index: Tensor, weight: Tensor, dropout: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        ctx.shape, ctx.blocks, kept = key.shape, [], []
        if generator is None and not any(ctx.needs_input_grad):     # the same operations for a row, whatever the others
            mixed = torch.empty_like(query)
            for rows in _blocks(index):
                pairs = _differences(query[rows], key, index[rows]).clamp_(min=0)
                mixed[rows] = torch.bmm(weight[rows].unsqueeze(1), pairs).squeeze(1)
            return mixed
        mixed = torch.zeros_like(query)
        ctx.blocks = _dense_blocks(weight)
        for rows, count in ctx.blocks:
            pairs = _differences(query[rows], key, index[rows, :count]).clamp_(min=0)
            if generator is not None:
                pairs *= keep_mask(tuple(pairs.shape), dropout, generator)
            mixed[rows] = torch.bmm(weight[rows, :count].unsqueeze(1), pairs).squeeze(1)
            kept.append(pairs)
        ctx.save_for_backward(index, weight, *kept)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor, None, None]:
        index, weight, *kept = ctx.saved_tensors
        grad_query, grad_key, grad_weight = torch.zeros_like(grad), grad.new_zeros(ctx.shape), torch.zeros_like(weight)
        for (rows, count), pairs in zip(ctx.blocks, kept, strict=True):
            out = grad[rows]
            grad_weight[rows, :count] = torch.bmm(pairs, out.unsqueeze(-1)).squeeze(-1)
            passed = torch.ops.aten.threshold_backward(weight[rows, :count].unsqueeze(-1) * out.unsqueeze(1), pairs, 0)
            grad_query[rows] = passed.sum(1)
            grad_key.index_add_(0, index[rows, :count].flatten(), passed.flatten(0, 1), alpha=-1)
        return grad_query, grad_key, None, grad_weight, None, None
