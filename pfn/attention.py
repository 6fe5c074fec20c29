"""The two attentions of the cell network: between the features of a row, and from rows to the context rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Scores that a CPU holds in its cache: larger products are taken in pieces.
_PIECE = 2**21


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D + bias) v over the last two axes; q (N, H, R, D), k and v (N, H, C, D), bias (N, 1, 1, C).

    On CPUs the fused kernel serves float32 with many keys; written out, the product is 2–4× faster for bfloat16 and for
    the short sequences of the feature axis (AMD Zen 5, torch 2.13: forward and backward, 300 × 200 and 12 × 12).
    """
    if q.device.type == "cpu" and (q.dtype == torch.bfloat16 or k.shape[-2] <= 32):
        return _attend_in_pieces(q, k, v, bias)
    # Fused kernels on GPUs keep the batch in a grid axis of at most 65,535 blocks.
    if q.device.type == "cuda" and q.shape[0] > 32_768:
        return torch.cat([attend(*part) for part in _split(32_768, q, k, v, bias)])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _attend_in_pieces(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The product written out, for so many sequences or rows at a time that their scores stay in the cache.

    In one piece, 26 sequences of 1000 × 1000 take 2.3 times as long, forward alone or with backward.
    """
    n_sequences, n_rows = q.shape[0], q.shape[-2]
    scores_of_a_row = q.shape[1] * k.shape[-2]
    if n_sequences * n_rows * scores_of_a_row <= _PIECE or n_sequences * n_rows == 1:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (scores if bias is None else scores + bias).softmax(-1) @ v
    if n_sequences > 1:
        size = max(_PIECE // (n_rows * scores_of_a_row), 1)
        return torch.cat([_attend_in_pieces(*part) for part in _split(size, q, k, v, bias)])
    size = max(_PIECE // scores_of_a_row, 1)
    return torch.cat([_attend_in_pieces(part, k, v, bias) for part in q.split(size, dim=-2)], dim=-2)


def _split(size: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """The arguments of `attend` for `size` sequences at a time."""
    parts = q.split(size), k.split(size), v.split(size)
    return zip(*parts, repeat(None) if bias is None else bias.split(size), strict=False)


def norm(width: int) -> nn.LayerNorm:
    """Layer norm without bias, for RMSNorm: the same quality in the published ablations, and 5× faster on CPUs.

    `F.rms_norm` has no fused CPU kernel in torch 2.13: forward and backward of 20,000 × 128 take 14 ms, layer norm 3.
    """
    return nn.LayerNorm(width, eps=1e-6, bias=False)


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be computed once and kept.

    Axes: N sequences, R queries, C keys, H heads, D = width / H.

    Parameters
    ----------
    width : int
        Width of a token.
    n_heads : int
        Divides `width`.
    scales_with_length : bool
        Sharpen the scores as the number of keys grows: q is multiplied by 1 + s·ln(C / 256), s learned per head and
        starting at 0 (scalable softmax). Without it attention flattens on contexts longer than those of pretraining.
    """

    def __init__(self, width: int, n_heads: int, *, scales_with_length: bool = False) -> None:
        super().__init__()
        self.n_heads = n_heads
        # Separate matrices: Muon orthogonalises each of them.
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.length_scale = nn.Parameter(torch.zeros(n_heads)) if scales_with_length else None

    def memory(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `keys` (N, C, width), each (N, H, C, D)."""
        return self._heads(self.key(keys)), self._heads(self.value(keys))

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], log_weight: Tensor | None = None) -> Tensor:
        """Attention of x (N, R, width) to a memory; a key of weight w counts as w equal keys, log_weight (N, C)."""
        k, v = memory
        q = self._heads(self.query(x))
        bias = None if log_weight is None else log_weight[:, None, None].to(q.dtype)
        if self.length_scale is not None:
            if log_weight is None:
                log_count = torch.tensor(float(k.shape[2])).log()
            else:
                log_count = log_weight.logsumexp(-1).view(-1, 1, 1, 1)
            factor = 1.0 + self.length_scale.view(-1, 1, 1) * (log_count - math.log(256.0))
            q = q * factor.to(q.dtype)
        return self.output(attend(q, k, v, bias).transpose(1, 2).flatten(2))         # (N, R, width)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class CellBlock(nn.Module):
    """One layer over cells: features of a row exchange, then rows read the context, then each cell thinks.

    Cells are (B, T, R, E): B tasks, T tokens of a row (feature groups and the target), R rows, E width. Rows lie next
    to each other because attention over them does most of the work. Without `mixes_features` there is no first step: for
    rows of a single token.
    """

    def __init__(
        self, width: int, n_heads: int, hidden_width: int, residual_decay: float, *, mixes_features: bool = True
    ) -> None:
        super().__init__()
        self.residual_decay = residual_decay
        self.feature_norm = norm(width) if mixes_features else None
        self.row_norm, self.mlp_norm = norm(width), norm(width)
        self.features = Attention(width, n_heads) if mixes_features else None
        self.rows = Attention(width, n_heads, scales_with_length=True)
        self.mlp = nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, width))

    def context_memory(self, cells: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Cells after the exchange between features, and what other rows read of them."""
        cells = self._mix_features(cells)
        return cells, self.rows.memory(self.row_norm(cells).flatten(0, 1))

    def read(self, cells: Tensor, memory: tuple[Tensor, Tensor], log_weight: Tensor | None = None) -> Tensor:
        """Finish the layer for cells that have exchanged features already; `log_weight` (B, C) of the context rows."""
        if log_weight is not None:
            log_weight = log_weight.repeat_interleave(cells.shape[1], 0)
        update = self.rows(self.row_norm(cells).flatten(0, 1), memory, log_weight)
        cells = cells + update.view(cells.shape)
        return cells + self.mlp(self.mlp_norm(cells))

    def forward(self, cells: Tensor, memory: tuple[Tensor, Tensor], log_weight: Tensor | None = None) -> Tensor:
        """The layer for query rows, which are read by nobody."""
        return self.read(self._mix_features(cells), memory, log_weight)

    def _mix_features(self, cells: Tensor) -> Tensor:
        if self.features is None or self.feature_norm is None:
            return self.residual_decay * cells
        # For a single task the flattened transpose is a view, over which products crawl.
        rows = self.feature_norm(cells).transpose(1, 2).flatten(0, 1).contiguous()   # (B·R, T, E)
        update = self.features(rows, self.features.memory(rows)).unflatten(0, (cells.shape[0], -1)).transpose(1, 2)
        return torch.add(update, cells, alpha=self.residual_decay)
