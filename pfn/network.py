"""The prior-data fitted network: a context table and query rows in, logits of the posterior predictive out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from pfn.attention import CellBlock, norm
from pfn.bar import BarDistribution, BarPosterior
from pfn.encoder import CellEncoder, RowEncoder, Scaling, SortedColumns
from priors import Status

if TYPE_CHECKING:
    from pfn.checkpoint import ModelCard


@dataclass(frozen=True)
class PFNConfig:
    """Size and shape of a `PFN`.

    Parameters
    ----------
    task : {"classification", "regression"}
        What the logits are: classes, or bars of a bar distribution over the standardised target.
    n_outputs : int
        Largest number of classes, or the number of bars.
    embed_dim, n_layers, n_heads, hidden_dim : int
        Width of a cell, number of layers, attention heads (dividing the width), width of the layers' MLP.
    n_thinking_rows : int
        Learned rows that stand before the context of every task.
    feature_shifts : tuple of int
        Which neighbours a feature is grouped with; must contain 0 and 1.
    dense_features : int
        Up to this many features, one token a feature; above, one for every second. At equal training compute, dense
        tables are worth little (`benchmarks/bakeoff.py`), and they cost inference nearly twice as much.
    residual_decay : float
        Factor on the residual stream at the start of each layer.
    cell_ranks : bool
        Whether a cell is also shown as its rank in the context's column.
    row_features : int
        0: every cell is a token, whatever the number of features. Else every row is a single token of at most so many
        features, each with weights of its own: much cheaper, for priors of few features, of many that are read together
        (pixels), or whose features differ in meaning.
    scaling : {"context", "prior", "cube"}
        What features and targets are standardised by: the context of the task, so that units do not matter, or one mean
        and standard deviation of the prior for all tasks, so that they do. The posterior under a Gaussian process of
        known lengthscale and variance needs the latter. "cube" is for functions on the unit cube, in any units: features
        by the moments of U[0, 1], targets by the context. For row tokens, which then see the squares of features too, so
        that their first attention can weigh rows by distance.
    normal_base : bool
        Regression: whether the bars' logits are corrections of a normal distribution whose mean and standard deviation are
        two further outputs. Posteriors that are nearly normal and much narrower than the prior are then learnt faster:
        after 1,000 steps the gap of a small network is a quarter (`benchmarks/normal_base.py`). Where they are
        narrower than 1 % of it, train in float32: bfloat16 knows a mean to three digits.
    target_status : bool
        Regression: whether the target of a context row may also be a failure or a bound, see `priors.Status`.
    n_loops : int
        How often the sequence of layers is gone through, with the same weights. Every time but the first begins by adding
        the embedded table to the cells.
    """

    task: Literal["classification", "regression"] = "classification"
    n_outputs: int = 10
    embed_dim: int = 128
    n_layers: int = 4
    n_heads: int = 2
    hidden_dim: int = 256
    n_thinking_rows: int = 16
    feature_shifts: tuple[int, ...] = (0, 1, 3)
    dense_features: int = 6
    residual_decay: float = 0.95
    cell_ranks: bool = False
    row_features: int = 0
    scaling: Literal["context", "prior", "cube"] = "context"
    normal_base: bool = False
    target_status: bool = False
    n_loops: int = 1

    def __post_init__(self) -> None:
        if self.task not in ("classification", "regression"):
            raise ValueError(f"task={self.task!r} is unknown; use 'classification' or 'regression'.")
        if self.scaling not in ("context", "prior", "cube"):
            raise ValueError(f"scaling={self.scaling!r} is unknown; use 'context', 'prior' or 'cube'.")
        for name in ("n_outputs", "embed_dim", "n_layers", "n_heads", "hidden_dim", "dense_features", "n_loops"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value < 2**24:
                raise ValueError(f"{name}={value!r} is not a positive integer below 2**24.")
        if self.n_outputs < 2:
            raise ValueError(f"n_outputs={self.n_outputs} leaves nothing to predict; use n_outputs >= 2.")
        if self.embed_dim % self.n_heads:
            raise ValueError(f"embed_dim={self.embed_dim} is no multiple of n_heads={self.n_heads}.")
        for name in ("n_thinking_rows", "row_features"):
            if not isinstance(getattr(self, name), int) or not 0 <= getattr(self, name) < 2**24:
                raise ValueError(f"{name}={getattr(self, name)!r} is no count below 2**24; use 0 for none.")
        for name in ("cell_ranks", "normal_base", "target_status"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r} is no bool; use True or False.")
        if not isinstance(self.residual_decay, (int, float)) or not math.isfinite(self.residual_decay):
            raise ValueError(f"residual_decay={self.residual_decay!r} is no finite number.")
        if self.normal_base and self.task != "regression":
            raise ValueError("normal_base=True is for task='regression'; classes have no order.")
        if self.target_status and self.task != "regression":
            raise ValueError("target_status=True is for task='regression'; use False.")
        if self.scaling == "cube" and not self.row_features:
            raise ValueError("scaling='cube' is for row tokens; set row_features to the largest number of features.")
        if self.row_features and self.cell_ranks:
            raise ValueError("cell_ranks=True needs cells; use row_features=0.")
        object.__setattr__(self, "feature_shifts", tuple(self.feature_shifts))
        if not all(isinstance(shift, int) and abs(shift) < 2**24 for shift in self.feature_shifts):
            raise ValueError(f"feature_shifts={self.feature_shifts} are not integers.")
        if not {0, 1} <= set(self.feature_shifts):
            raise ValueError(f"feature_shifts={self.feature_shifts} must contain 0 and 1, so that no feature is left out.")

    def n_tokens(self, n_features: int) -> int:
        """Tokens of a row: feature groups and the target, or a single one."""
        if self.row_features:
            return 1
        return 1 + (n_features if n_features <= self.dense_features else (n_features + 1) // 2)

    @property
    def summary_dim(self) -> int:
        """Width of what the decoder sees of a row: the mean of its feature tokens and the target's, or its only token."""
        return self.embed_dim if self.row_features else 2 * self.embed_dim

    @property
    def least_parameters(self) -> int:
        """A lower bound on the number of parameters, close to it: the large matrices."""
        layer = (4 if self.row_features else 8) * self.embed_dim**2 + 2 * self.embed_dim * self.hidden_dim
        ends = self.summary_dim * (self.summary_dim + self.n_outputs)
        table = self.row_features or len(self.feature_shifts)
        return self.n_layers * layer + ends + self.embed_dim * (self.n_thinking_rows + 2 * table)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PFNConfig:
        """Inverse of `to_dict`; names that this version does not know are an error."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown PFNConfig fields {sorted(unknown)}; the file is from a newer version of pfnkit.")
        return cls(**values)


@dataclass(frozen=True)
class EncodedContext:
    """What queries need of a context: feature scaling, and per layer the keys and values of the context rows."""

    scaling: Scaling
    memories: tuple[tuple[Tensor, Tensor], ...]
    log_weight: Tensor | None = None                               # (B, thinking + context rows); None: all 0

    @classmethod
    def joined(cls, contexts: Sequence[EncodedContext]) -> EncodedContext:
        """Contexts of equal shapes as one batch."""
        scalings, weights = [one.scaling for one in contexts], [one.log_weight for one in contexts]
        columns = [scaling.columns for scaling in scalings if scaling.columns is not None]
        parts = (torch.cat([vars(one)[name] for one in columns]) for name in ("ordered", "ranks_of_ordered", "count"))
        scaling = Scaling(
            torch.cat([one.mean for one in scalings]), torch.cat([one.std for one in scalings]),
            SortedColumns(*parts) if columns else None,
        )
        memories = tuple((torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer]))
                         for layer in zip(*(one.memories for one in contexts), strict=True))
        return cls(scaling, memories, None if weights[0] is None else torch.cat([w for w in weights if w is not None]))


class PFN(nn.Module):
    """Two-axis cell transformer: every cell of the table is a token, or every row if `row_features` is set.

    Layers alternate attention between the tokens of a row and from all rows to the context rows. Query rows are read
    by nobody, so a prediction does not depend on the other queries; there is no positional encoding over rows, so it
    does not depend on the order of the context. The context can be encoded once and queried many times.

    Parameters
    ----------
    config : PFNConfig

    References
    ----------
    .. [1] N. Hollmann et al., "Accurate predictions on small data with a tabular foundation model", Nature 2025.
    .. [2] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.

    Examples
    --------
    >>> model = PFN(PFNConfig(embed_dim=16, n_heads=2, n_layers=2, hidden_dim=32, n_outputs=3))
    >>> logits = model(torch.randn(2, 20, 5), torch.randint(3, (2, 12)))
    >>> logits.shape  # two tasks, 20 - 12 query rows, 3 classes
    torch.Size([2, 8, 3])
    """

    borders: Tensor                                                # (n_outputs + 1,), regression only
    feature_scaling: Tensor                                        # (2,), mean and standard deviation; scaling="prior" only
    target_scaling: Tensor                                         # (2,), likewise, regression only
    card: ModelCard | None = None                                  # set by load_pretrained and pretrain

    def __init__(self, config: PFNConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        if config.row_features:
            self.cells: nn.Module = RowEncoder(width, config.row_features, squares=config.scaling == "cube")
        else:
            self.cells = CellEncoder(width, config.feature_shifts, config.dense_features, config.cell_ranks)
        if config.scaling == "prior":
            # Pretraining replaces them by moments of the prior's tasks.
            self.register_buffer("feature_scaling", torch.tensor([0.0, 1.0]))
            if config.task == "regression":
                self.register_buffer("target_scaling", torch.tensor([0.0, 1.0]))
        if config.task == "classification":
            self.embed_target: nn.Module = nn.Embedding(config.n_outputs, width)
        else:
            self.embed_target = nn.Linear(1, width)
            self.embed_status = nn.Embedding(len(Status), width) if config.target_status else None
            # In units of the standardised target; pretraining replaces them by quantiles of the prior's targets.
            self.register_buffer("borders", torch.linspace(-4.0, 4.0, config.n_outputs + 1))
        self.unknown_target = nn.Parameter(0.02 * torch.randn(width))
        self.thinking_rows = nn.Parameter(0.5 * torch.randn(config.n_thinking_rows, width))
        self.blocks = nn.ModuleList(
            CellBlock(width, config.n_heads, config.hidden_dim, config.residual_decay,
                      mixes_features=not config.row_features)
            for _ in range(config.n_layers)
        )
        summary = config.summary_dim
        self.decoder_norm = norm(summary)
        self.decoder = nn.Sequential(nn.Linear(summary, summary), nn.GELU(), nn.Linear(summary, config.n_outputs))
        self.normal = nn.Linear(summary, 2) if config.normal_base else None
        if self.normal is not None:                                                  # start from the standardised prior
            nn.init.zeros_(self.normal.weight)
            nn.init.zeros_(self.normal.bias)

    @property
    def n_parameters(self) -> int:
        """Weights that are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self,
        x: Tensor,                            # (B, R, F), NaN = missing
        y: Tensor,                            # (B, C) or longer: targets of the first C rows, the context
        n_context: int | None = None,         # C; None: all of y
        status: Tensor | None = None,         # like y, a `Status` of each target; None: NaN is a failure, others are values
    ) -> Tensor:                              # (B, R - C, n_outputs)
        """Logits for the rows after the first `n_context`."""
        n_context = y.shape[1] if n_context is None else n_context
        if not 0 < n_context < x.shape[1]:
            raise ValueError(
                f"n_context={n_context} must leave at least one context and one query row of {x.shape[1]} rows."
            )
        status = None if status is None else status[:, :n_context]
        context = self.encode_context(x[:, :n_context], y[:, :n_context], status=status)
        return self.decode(context, x[:, n_context:])

    def encode_context(
        self, x: Tensor, y: Tensor, weight: Tensor | None = None, status: Tensor | None = None
    ) -> EncodedContext:
        """Read a context once.

        Parameters
        ----------
        x : Tensor of shape (B, C, F)
            NaN where a value is missing.
        y : Tensor of shape (B, C)
            Class indices, or real targets.
        weight : Tensor of shape (B, C), optional
            A row of weight w counts as w equal rows: its key enters every softmax w times, and it enters the statistics
            w times. Rows of weight 0 do not exist, so that tasks with different numbers of rows can share a batch.
        status : Tensor of shape (B, C), int64, optional
            A `priors.Status` of each target, for networks with `target_status`. A target that is NaN has failed whatever its
            status says, and what a failed one is does not matter. None: all others are values.
        """
        self._check_status(status, y)
        scaling = self._feature_scaling(x, weight)
        if self.config.task == "regression":
            y = _without_failures(y, status)
            target = self.scale_of_targets(y, weight)
            embedded = self.embed_target(self._standardised(y, target).to(self.unknown_target.dtype))
            if self.embed_status is not None:
                status = torch.zeros_like(y, dtype=torch.int64) if status is None else status
                embedded = embedded + self.embed_status(status.masked_fill(y.isnan(), int(Status.FAILED)))
        else:
            embedded = self.embed_target(y)                                          # (B, C, E)
        log_weight = None
        if weight is not None:
            log_weight = nn.functional.pad(weight.float().log(), (self.config.n_thinking_rows, 0))
        memories = self._memories(x, scaling, embedded, log_weight)
        return EncodedContext(scaling, memories, log_weight)

    def _check_status(self, status: Tensor | None, y: Tensor) -> None:
        if status is not None and not self.config.target_status:
            raise ValueError("this network knows values only, no status; pass status=None and leave such rows out, "
                             "or pretrain one with PFNConfig(task='regression', target_status=True).")
        if status is not None and status.shape != y.shape:
            raise ValueError(f"status must be of the shape of y, {tuple(y.shape)}; got {tuple(status.shape)}.")

    def _standardised(self, y: Tensor, scaling: Scaling) -> Tensor:  # (B, C, 1)
        y = y.unsqueeze(-1)
        return scaling.apply(torch.where(y.isnan(), scaling.mean, y) if self.config.target_status else y)

    def _feature_scaling(self, x: Tensor, weight: Tensor | None) -> Scaling:
        if self.config.scaling == "prior":
            return Scaling.fixed(self.feature_scaling, len(x), x.shape[2])
        if self.config.scaling == "cube":
            size = len(x), 1, x.shape[2]                                             # made where they are: no copy, no wait
            return Scaling(torch.full(size, 0.5, device=x.device), torch.full(size, 12**-0.5, device=x.device))
        return Scaling.of(x, weight, ranks=self.config.cell_ranks)

    def scale_of_targets(self, y: Tensor, weight: Tensor | None = None, status: Tensor | None = None) -> Scaling:
        """Location and scale, (B, 1, 1), by which the targets of contexts y (B, C) are standardised.

        Those that failed do not enter; bounds count like values.
        """
        if self.config.scaling == "prior":
            return Scaling.fixed(self.target_scaling, len(y), 1)
        return Scaling.of(_without_failures(y, status).unsqueeze(-1), weight)

    def _memories(
        self, x: Tensor, scaling: Scaling, embedded: Tensor, log_weight: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """What queries read in each layer of a context x (B, C, F) with embedded targets (B, C, E)."""
        table = self._tokens(x, scaling, embedded)
        thinking = self.thinking_rows.to(table.dtype).expand(*table.shape[:2], -1, -1)
        cells = table = torch.cat([thinking, table], dim=2)
        memories, layers = [], self._layers()
        for position, block in enumerate(layers):
            if position and position % self.config.n_layers == 0:
                cells = cells + table
            cells, memory = block.context_memory(cells)
            memories.append(memory)
            if position + 1 < len(layers):                                           # nobody reads the last layer's output
                cells = block.read(cells, memory, log_weight)
        return tuple(memories)

    def decode(self, context: EncodedContext, x: Tensor) -> Tensor:
        """Logits (B, Q, n_outputs) of query rows x (B, Q, F)."""
        summary = self.represent(context, x)
        logits: Tensor = self.decoder(summary)
        if self.normal is None:
            return logits
        precise = torch.promote_types(logits.dtype, torch.float32)
        mean, log_std = self.normal(summary).to(precise).unsqueeze(-2).unbind(-1)    # (B, Q, 1)
        centres, widths = (self.borders[1:] + self.borders[:-1]) / 2, self.borders.diff()
        return logits.to(precise) + widths.log() - 0.5 * ((centres - mean) * (-log_std.clamp(-12.0, 4.0)).exp()).square()

    def represent(self, context: EncodedContext, x: Tensor) -> Tensor:
        """Representations (B, Q, 2E) of query rows x (B, Q, F), (B, Q, E) with row tokens: what the decoder sees of them."""
        cells = table = self._tokens(x, context.scaling, self.unknown_target.expand(*x.shape[:2], -1))
        for position, (block, memory) in enumerate(zip(self._layers(), context.memories, strict=True)):
            if position and position % self.config.n_layers == 0:
                cells = cells + table
            cells = block(cells, memory, context.log_weight)
        if self.config.row_features:
            return self.decoder_norm(cells[:, 0])
        return self.decoder_norm(torch.cat([cells[:, :-1].mean(1), cells[:, -1]], dim=-1))

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor, status: Tensor | None = None) -> BarPosterior:
        """Posterior predictive of a regression network, in the units of y.

        Parameters
        ----------
        x : Tensor of shape (B, C, F)
            Context; NaN where a value is missing.
        y : Tensor of shape (B, C)
        x_query : Tensor of shape (B, Q, F)
        status : Tensor of shape (B, C), int64, optional
            As in `encode_context`.

        Returns
        -------
        BarPosterior
            With leading shape (B, Q).
        """
        if self.config.task != "regression":
            raise ValueError("a classification network has no density; take the softmax of its logits.")
        logits = self(torch.cat([x, x_query], dim=1), y, status=status)
        scaling = self.scale_of_targets(y, status=status)
        standardised = BarDistribution(self.borders.float()).posterior(logits.float())
        return standardised.affine(scaling.std[:, :, 0], scaling.mean[:, :, 0])

    def _layers(self) -> list[CellBlock]:
        """Blocks in the order in which cells go through them."""
        return cast(list[CellBlock], [*self.blocks] * self.config.n_loops)

    def _tokens(self, x: Tensor, scaling: Scaling, embedded: Tensor) -> Tensor:
        """Tokens (B, T, R, E) of rows x (B, R, F) with embedded targets (B, R, E)."""
        features = self.cells(x, scaling)
        embedded = embedded.to(features.dtype).unsqueeze(1)
        return features + embedded if self.config.row_features else torch.cat([features, embedded], dim=1)


def _without_failures(y: Tensor, status: Tensor | None) -> Tensor:
    """Targets with NaN for those that failed."""
    return y if status is None else y.masked_fill(status == Status.FAILED, math.nan)


def class_logits(logits: Tensor, n_classes: Tensor) -> Tensor:
    """Logits with the slots beyond each task's number of classes at -inf; logits (B, Q, K), n_classes (B,)."""
    unused = torch.arange(logits.shape[-1], device=logits.device) >= n_classes.view(-1, 1, 1)
    return logits.float().masked_fill(unused, -math.inf)
