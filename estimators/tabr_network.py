"""The network of TabR: a row's representation is completed by those of its neighbours, then read by a small MLP."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.tabr_kernels import dropped, mixed_relu, squared_distances

_NEGLIGIBLE = 30 * math.log(2)                                      # 96 such neighbours are below the precision of float32
_KEYED = 4096                                                       # rows that become keys together


@dataclass(frozen=True)
class TabRConfig:
    """Shape of a network; the defaults are those published for TabR-S [1]_.

    Attributes
    ----------
    n_numeric : int
        Columns that get an embedding, the first ones.
    n_plain : int
        Columns that are read as they are: binary and one-hot columns.
    n_outputs : int
        Classes (a single output serves two), or 1 for regression.
    n_labels : int
        Classes, 0 for regression.
    """

    n_numeric: int
    n_plain: int
    n_outputs: int
    n_labels: int
    width: int = 264
    hidden: int = 528
    n_encoder_blocks: int = 0
    n_predictor_blocks: int = 1
    n_frequencies: int = 0                                          # 0: numbers are read as they are
    frequency_scale: float = 1.0
    embedding_width: int = 16
    dropout: float = 0.38852797479169876
    context_dropout: float = 0.38920071545944357


class PeriodicEmbedding(nn.Module):
    """PLR-lite: sines and cosines of learnt frequencies per column, one linear layer for all columns, ReLU [2]_."""

    def __init__(self, n_columns: int, n_frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.zeros(n_columns, n_frequencies))
        self.linear = _linear(2 * n_frequencies, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, f) to (n, f · width)."""
        angle = 2 * math.pi * x.unsqueeze(-1) * self.frequencies
        return torch.relu(self.linear(torch.cat([angle.cos(), angle.sin()], -1))).flatten(1)


@torch.no_grad()
def in_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of rows x (n, p), some at a time, without gradients."""
    return torch.cat([function(some) for some in x.split(_KEYED)])


class Block(nn.Module):
    """x + Linear(dropout(relu(Linear(norm(x)))))."""

    def __init__(self, width: int, hidden: int, normalized: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if normalized else nn.Identity()
        self.inner = _linear(width, hidden)
        self.outer = _linear(hidden, width)

    def forward(self, x: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
        return x + self.outer(dropped(torch.relu(self.inner(self.norm(x))), dropout, generator))


class TabRNetwork(nn.Module):
    """TabR [1]_: the published equations in another order (see `tabr_kernels`).

    Periodic embeddings [2]_ stand beside the numbers that they embed, not in their place: better in trials on four
    development tables, which are no committed benchmark.

    References
    ----------
    .. [1] Y. Gorishniy et al., "TabR: Tabular Deep Learning Meets Nearest Neighbors", ICLR 2024.
    .. [2] Y. Gorishniy, I. Rubachev, A. Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS
       2022.
    """

    def __init__(self, config: TabRConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.width, config.hidden
        n_inputs = config.n_numeric + config.n_plain
        self.embedding: PeriodicEmbedding | None = None
        if config.n_frequencies and config.n_numeric:
            self.embedding = PeriodicEmbedding(config.n_numeric, config.n_frequencies, config.embedding_width)
            n_inputs += config.n_numeric * config.embedding_width
        self.input = _linear(n_inputs, width)
        self.encoder = nn.ModuleList(Block(width, hidden, i > 0) for i in range(config.n_encoder_blocks))
        self.key_norm = nn.LayerNorm(width) if config.n_encoder_blocks else nn.Identity()
        self.key = _linear(width, width)
        self.label = nn.Parameter(torch.zeros(config.n_labels or 2, width))         # regression: slope and offset
        self.correction_inner = _linear(width, hidden)
        self.correction_outer = _linear(hidden, width, bias=False)
        self.predictor = nn.ModuleList(Block(width, hidden, True) for _ in range(config.n_predictor_blocks))
        self.head_norm = nn.LayerNorm(width)
        self.head = _linear(width, config.n_outputs)
        if generator is not None:                                   # None: the weights come from elsewhere
            self._reset(generator)

    @torch.no_grad()
    def _reset(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                for parameter in module.parameters():
                    bound = 1 / math.sqrt(module.in_features)
                    parameter.uniform_(-bound, bound, generator=generator)
        bound = 1.0 if self.config.n_labels else 1 / math.sqrt(2)
        self.label.uniform_(-bound, bound, generator=generator)
        if self.embedding is not None:
            self.embedding.frequencies.normal_(0, self.config.frequency_scale, generator=generator)

    def read(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Rows x (n, f) to what is predicted from, and to the points between which distances are taken, both (n, width)."""
        inputs = self._embedded(x)
        read = self.input(inputs)
        for block in self.encoder:
            read = block(read, self.config.dropout, generator)
        return read, F.linear(inputs, *self._direct()) if self._is_direct else self.key(self.key_norm(read))

    def keys(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The second part of `read`."""
        return F.linear(self._embedded(x), *self._direct()) if self._is_direct else self.read(x, generator)[1]

    @torch.no_grad()
    def places(self, x: Tensor) -> Tensor:
        """Rows x (n, f) to points that are as far apart as their keys, but have no more coordinates than inputs.

        A linear map from d inputs to keys is a rotation of one to d coordinates.
        """
        if not self._is_direct:
            return in_parts(self.keys, x)
        triangle = torch.linalg.qr(self._direct()[0], mode="r").R
        return in_parts(lambda some: F.linear(self._embedded(some), triangle), x)

    def corrections(self, key: Tensor) -> Tensor:
        """What neighbours with these keys (n, width) are subtracted as, (n, hidden): W₁ k_i."""
        return F.linear(key, self.correction_inner.weight)

    def candidates(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """`keys` of rows x (n, f), and `corrections` of these."""
        if not self._is_direct:
            key = self.keys(x, generator)
            return key, self.corrections(key)
        inputs, (weight, bias) = self._embedded(x), self._direct()
        inner = self.correction_inner.weight
        return F.linear(inputs, weight, bias), F.linear(inputs, inner @ weight, inner @ bias)

    @property
    def _is_direct(self) -> bool:
        """Whether keys are a linear map of fewer inputs than keys have coordinates."""
        return not self.encoder and self.input.in_features < self.config.width

    def _direct(self) -> tuple[Tensor, Tensor]:
        """Weight and bias from inputs to keys: two linear maps are one, and a smaller one if there are few inputs."""
        weight, bias = self.input.weight, self.input.bias
        return self.key.weight @ weight, F.linear(bias, self.key.weight, self.key.bias)

    def mix(
        self,
        query: Tensor,
        query_key: Tensor,
        key: Tensor,
        correction: Tensor,
        label: Tensor,
        index: Tensor,
        log_weight: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits or predictions for rows, given the neighbours of each.

        Parameters
        ----------
        query : Tensor of shape (B, width)
            What `read` made of the rows.
        query_key : Tensor of shape (B, width)
            Their keys.
        key : Tensor of shape (U, width)
            Of distinct candidates.
        correction : Tensor of shape (U, hidden)
            What `corrections` made of these.
        label : Tensor of shape (U,)
            int64 classes or float32 targets of these.
        index : int64 Tensor of shape (B, m)
            Neighbours, as rows of `key`.
        log_weight : Tensor of shape (B, m)
            Added to the similarities: logarithms of sample weights, -inf for a place without a neighbour.
        generator : torch.Generator or None
            Of the dropout; None for evaluation.

        Returns
        -------
        Tensor of shape (B, n_outputs)
        """
        weight = self.weights(squared_distances(query_key, key, index), log_weight)
        weight = dropped(weight, self.config.context_dropout, generator)
        labels = self._mixed_labels(weight, label[index])
        # W₁(k - k_i) + b₁ as the difference of what belongs to the row and what belongs to the neighbour.
        own = self.correction_inner(query_key)
        mixed = mixed_relu(own, correction, index, weight, self.config.dropout, generator)
        x = query + labels + self.correction_outer(mixed)
        for block in self.predictor:
            x = block(x, self.config.dropout, generator)
        return self.head(torch.relu(self.head_norm(x)))

    @staticmethod
    def weights(squared_distance: Tensor, log_weight: Tensor) -> Tensor:
        """Shares of the neighbours, (B, m); they add up to 1, or are all 0 where a row has no neighbour."""
        similarity = log_weight - squared_distance
        best = similarity.detach().amax(-1, keepdim=True)
        absent = (similarity < best - _NEGLIGIBLE) | (best == -math.inf)
        # Not -inf throughout a row without neighbours, where softmax would not be a number.
        return torch.softmax(similarity.masked_fill(absent, -1e30), -1).masked_fill(absent, 0.0)

    def _mixed_labels(self, weight: Tensor, label: Tensor) -> Tensor:
        if self.config.n_labels:
            shares = weight.new_zeros(len(weight), self.config.n_labels).scatter_add(1, label, weight)
            return shares @ self.label
        moments = torch.stack([(weight * label).sum(1), weight.sum(1)], 1)
        return moments @ self.label

    def _embedded(self, x: Tensor) -> Tensor:
        if self.embedding is None:
            return x
        n = self.config.n_numeric
        return torch.cat([self.embedding(x[:, :n]), x], 1)


def _linear(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """A layer without values: `TabRNetwork` draws them from its generator."""
    return nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias)
