"""The alternatives that `bakeoff.py` tries, each the default network with one part exchanged."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pfn import PFN, BarDistribution, PFNConfig
from pfn.attention import Attention, attend, norm
from pfn.encoder import CellEncoder, Scaling
from pfn.network import EncodedContext, class_logits
from priors import TaskBatch

Memory = tuple[Tensor, Tensor]


def mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class PlainSoftmax(PFN):
    """Attention over rows that does not know how long the context is."""

    def __init__(self, config: PFNConfig) -> None:
        super().__init__(config)
        for block in self.blocks:
            block.rows.length_scale = None


class QASSMaxAttention(Attention):
    """q ← q · base(log n) · (1 + tanh gate(q)), base and gate two-layer networks with 64 hidden units."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__(width, n_heads)
        size = width // n_heads
        self.base = nn.Sequential(nn.Linear(1, 64), nn.GELU(), nn.Linear(64, width))
        self.gate = nn.Sequential(nn.Linear(size, 64), nn.GELU(), nn.Linear(64, size))
        for last in (self.base[-1], self.gate[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, memory: Memory, log_weight: Tensor | None = None) -> Tensor:
        k, v = memory
        q = self._heads(self.query(x))
        log_n = torch.full((1, 1, 1), math.log(k.shape[2] / 256.0), dtype=x.dtype, device=x.device)
        q = q * (1.0 + self._heads(self.base(log_n))) * (1.0 + torch.tanh(self.gate(q)))
        return self.output(attend(q, k, v).transpose(1, 2).flatten(2))


class QASSMax(PFN):
    def __init__(self, config: PFNConfig) -> None:
        super().__init__(config)
        for block in self.blocks:
            block.rows = QASSMaxAttention(config.embed_dim, config.n_heads)


class RMSNorm(PFN):
    def __init__(self, config: PFNConfig) -> None:
        super().__init__(config)
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(parent, name, nn.RMSNorm(child.normalized_shape, eps=1e-6))


class SingleFeatures(PFN):
    """One feature a token, no neighbours."""

    def __init__(self, config: PFNConfig) -> None:
        super().__init__(config)
        self.cells = CellEncoder(config.embed_dim, (0,), 10_000)


class ManyChannels(CellEncoder):
    """A cell encoder with more than the z-score and the missing flag of a feature."""

    def __init__(self, width: int, shifts: tuple[int, ...], dense_features: int, n_channels: int) -> None:
        super().__init__(width, shifts, dense_features)
        self.embed = nn.Linear((2 + n_channels) * len(shifts), width)

    def more(self, x: Tensor, z: Tensor, scaling: Scaling) -> list[Tensor]:
        raise AssertionError("subclasses override this")

    def forward(self, x: Tensor, scaling: Scaling) -> Tensor:
        z = scaling.apply(x)
        missing = z.isnan()
        z = torch.where(missing, 0.0, z)
        extra = [torch.where(missing, 0.0, channel) for channel in self.more(x, z, scaling)]
        channels = torch.stack([z, missing.to(z.dtype), *extra], dim=-1)
        n_features = x.shape[2]
        start = torch.arange(0, n_features, 1 if n_features <= self.dense_features else 2, device=x.device)
        groups = torch.cat([channels[:, :, (start + shift) % n_features] for shift in self.shifts], dim=-1)
        return self.embed(groups.transpose(1, 2).to(self.embed.weight.dtype))


class FourierCells(ManyChannels):
    """Sine and cosine of the z-score at eight learned frequencies, 1/4 … 8 radians a standard deviation at the start."""

    def __init__(self, width: int, shifts: tuple[int, ...], dense_features: int) -> None:
        super().__init__(width, shifts, dense_features, 16)
        self.frequency = nn.Parameter(torch.logspace(-2, 3, 8, base=2.0))

    def more(self, x: Tensor, z: Tensor, scaling: Scaling) -> list[Tensor]:
        phase = [z * f for f in self.frequency.float()]
        return [p.sin() for p in phase] + [p.cos() for p in phase]


class Fourier(PFN):
    def __init__(self, config: PFNConfig) -> None:
        super().__init__(config)
        self.cells = FourierCells(config.embed_dim, config.feature_shifts, config.dense_features)


@dataclass(frozen=True, kw_only=True)
class RankScaling(Scaling):
    """Keeps the sorted context columns, (B, F, C) with gaps last, and how many cells of each are no gaps."""

    ordered: Tensor
    count: Tensor

    @classmethod
    def of(cls, x: Tensor, weight: Tensor | None = None, *, ranks: bool = False) -> RankScaling:
        plain = Scaling.of(x, weight, ranks=ranks)
        columns = x.transpose(1, 2)
        ordered = torch.where(columns.isnan(), math.inf, columns).sort(-1).values.contiguous()
        count = (~columns.isnan()).sum(-1, keepdim=True).clamp_min(1)
        return cls(plain.mean, plain.std, plain.columns, ordered=ordered, count=count)

    def ranks(self, x: Tensor) -> Tensor:
        """Distribution function of the context at x (B, R, F), -√3 … √3."""
        columns = x.transpose(1, 2).contiguous()
        place = torch.searchsorted(self.ordered, columns) + torch.searchsorted(self.ordered, columns, right=True)
        return math.sqrt(3.0) * (place.minimum(2 * self.count) / self.count - 1.0).transpose(1, 2)


class RankCells(ManyChannels):
    def __init__(self, width: int, shifts: tuple[int, ...], dense_features: int) -> None:
        super().__init__(width, shifts, dense_features, 1)

    def more(self, x: Tensor, z: Tensor, scaling: Scaling) -> list[Tensor]:
        assert isinstance(scaling, RankScaling)
        return [scaling.ranks(x)]


class Rank(PFN):
    def __init__(self, config: PFNConfig) -> None:
        super().__init__(config)
        self.cells = RankCells(config.embed_dim, config.feature_shifts, config.dense_features)


class Retrieval(PFN):
    """The decoder attends from a query's summary to those of the context rows and mixes their labels."""

    n_votes = 4

    def __init__(self, config: PFNConfig) -> None:
        super().__init__(config)
        width = 2 * config.embed_dim
        self.decoder = nn.ModuleDict({"query": nn.Linear(width, width), "key": nn.Linear(width, width)})
        self.sharpness = nn.Parameter(torch.zeros(self.n_votes))

    def _summary(self, cells: Tensor) -> Tensor:
        return self.decoder_norm(torch.cat([cells[:, :-1].mean(1), cells[:, -1]], dim=-1))

    def encode_context(
        self, x: Tensor, y: Tensor, weight: Tensor | None = None, status: Tensor | None = None
    ) -> EncodedContext:
        scaling = Scaling.of(x)
        cells = torch.cat([self.cells(x, scaling), self.embed_target(y).unsqueeze(1)], dim=1)
        thinking = self.thinking_rows.to(cells.dtype).expand(*cells.shape[:2], -1, -1)
        cells = torch.cat([thinking, cells], dim=2)
        memories: list[Memory] = []
        for block in self.blocks:
            cells, memory = block.context_memory(cells)
            cells = block.read(cells, memory)
            memories.append(memory)
        keys = self.decoder["key"](self._summary(cells[:, :, self.config.n_thinking_rows :]))
        labels = nn.functional.one_hot(y, self.config.n_outputs)
        memories.append((keys, labels))
        return EncodedContext(scaling, tuple(memories))

    def decode(self, context: EncodedContext, x: Tensor) -> Tensor:
        *memories, (keys, labels) = context.memories
        queries = self.decoder["query"](self.represent(replace(context, memories=tuple(memories)), x))
        q, k = (t.unflatten(-1, (self.n_votes, -1)).transpose(1, 2) for t in (queries, keys))
        q = q * (self.sharpness.exp().view(-1, 1, 1) * q.shape[-1] ** -0.5).to(q.dtype)
        weights = (q @ k.transpose(-1, -2)).float().softmax(-1).mean(1)                      # (B, Q, C)
        return (weights @ labels.float() + 1e-4).log()


class InducedBlock(nn.Module):
    """Inducing vectors read a column's context cells, cells read them: linear in the number of rows."""

    def __init__(self, width: int, n_heads: int, hidden: int, n_inducing: int) -> None:
        super().__init__()
        self.inducing = nn.Parameter(0.5 * torch.randn(1, n_inducing, width))          # three axes: no matrix for Muon
        self.norms = nn.ModuleList(norm(width) for _ in range(5))
        self.gather, self.spread = Attention(width, n_heads, scales_with_length=True), Attention(width, n_heads)
        self.gather_mlp, self.spread_mlp = mlp(width, hidden), mlp(width, hidden)

    def memory(self, cells: Tensor) -> Memory:                                               # cells (N, C, E), context
        inducing = self.inducing.to(cells.dtype).expand(len(cells), -1, -1)
        inducing = inducing + self.gather(self.norms[0](inducing), self.gather.memory(self.norms[1](cells)))
        inducing = inducing + self.gather_mlp(self.norms[2](inducing))
        return self.spread.memory(inducing)

    def forward(self, cells: Tensor, memory: Memory) -> Tensor:
        cells = cells + self.spread(self.norms[3](cells), memory)
        return cells + self.spread_mlp(self.norms[4](cells))


class SelfBlock(nn.Module):
    def __init__(self, width: int, n_heads: int, hidden: int, scales: bool) -> None:
        super().__init__()
        self.norm, self.mlp_norm = norm(width), norm(width)
        self.attention = Attention(width, n_heads, scales_with_length=scales)
        self.mlp = mlp(width, hidden)

    def memory(self, x: Tensor) -> Memory:
        return self.attention.memory(self.norm(x))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        x = x + self.attention(self.norm(x), memory)
        return x + self.mlp(self.mlp_norm(x))


class ThreeStage(PFN):
    """Columns by induced attention with the labels added, rows pooled into summary tokens, then rows to context rows."""

    cell_width, n_summaries, n_inducing, n_columns, n_rows, n_icl = 64, 4, 32, 2, 2, 4

    def __init__(self, config: PFNConfig) -> None:
        super().__init__(config)
        cell, row = self.cell_width, self.cell_width * self.n_summaries
        self.cells = CellEncoder(cell, config.feature_shifts, config.dense_features)
        self.embed_cell_target = nn.Embedding(config.n_outputs, cell)
        self.embed_target = nn.Embedding(config.n_outputs, row)
        self.unknown_target = nn.Parameter(torch.zeros(cell))
        self.summaries = nn.Parameter(0.5 * torch.randn(self.n_summaries, cell))
        self.thinking_rows = nn.Parameter(0.5 * torch.randn(config.n_thinking_rows, row))
        self.blocks = nn.ModuleDict({
            "columns": nn.ModuleList(InducedBlock(cell, 2, 2 * cell, self.n_inducing) for _ in range(self.n_columns)),
            "rows": nn.ModuleList(SelfBlock(cell, 2, 2 * cell, False) for _ in range(self.n_rows)),
            "icl": nn.ModuleList(SelfBlock(row, 4, 2 * row, True) for _ in range(self.n_icl)),
        })
        self.decoder_norm = norm(row)
        self.decoder = nn.Sequential(nn.Linear(row, 2 * row), nn.GELU(), nn.Linear(2 * row, config.n_outputs))

    def _columns(self, cells: Tensor, memories: list[Memory] | None) -> tuple[Tensor, list[Memory]]:
        shape, cells, kept = cells.shape, cells.flatten(0, 1), []
        for position, block in enumerate(self.blocks["columns"]):
            memory = block.memory(cells) if memories is None else memories[position]
            kept.append(memory)
            cells = block(cells, memory)
        return cells.view(shape), kept

    def _pool(self, cells: Tensor) -> Tensor:                                                # (B, T, R, E) -> (B, R, 4E)
        n_tasks, _, n_rows, _ = cells.shape
        tokens = cells.transpose(1, 2).flatten(0, 1)
        tokens = torch.cat([self.summaries.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks["rows"]:
            tokens = block(tokens, block.memory(tokens))
        return tokens[:, : self.n_summaries].reshape(n_tasks, n_rows, -1)

    def encode_context(
        self, x: Tensor, y: Tensor, weight: Tensor | None = None, status: Tensor | None = None
    ) -> EncodedContext:
        scaling = Scaling.of(x)
        cells = self.cells(x, scaling) + self.embed_cell_target(y).unsqueeze(1)
        cells, memories = self._columns(cells, None)
        rows = self._pool(cells) + self.embed_target(y)
        rows = torch.cat([self.thinking_rows.to(rows.dtype).expand(len(rows), -1, -1), rows], dim=1)
        for block in self.blocks["icl"]:
            memory = block.memory(rows)
            memories.append(memory)
            rows = block(rows, memory)
        return EncodedContext(scaling, tuple(memories))

    def decode(self, context: EncodedContext, x: Tensor) -> Tensor:
        cells = self.cells(x, context.scaling)
        cells, _ = self._columns(cells + self.unknown_target.to(cells.dtype), list(context.memories[: self.n_columns]))
        rows = self._pool(cells)
        for block, memory in zip(self.blocks["icl"], context.memories[self.n_columns :], strict=True):
            rows = block(rows, memory)
        return self.decoder(self.decoder_norm(rows))


@dataclass(frozen=True)
class RealContext(EncodedContext):
    """One whose targets are real."""


class TwoHeads(PFN):
    """One body for both tasks: integer targets are classes, real ones are standardised and predicted as bars."""

    def __init__(self, config: PFNConfig, n_bars: int = 256) -> None:
        super().__init__(config)
        width = config.embed_dim
        self.embed_real_target = nn.Linear(1, width)
        self.bars = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, n_bars))
        inner = 1.2 * torch.special.ndtri(torch.arange(1, n_bars) / n_bars)
        self.register_buffer("borders", torch.cat([torch.tensor([-10.0]), inner, torch.tensor([10.0])]))

    def encode_context(
        self, x: Tensor, y: Tensor, weight: Tensor | None = None, status: Tensor | None = None
    ) -> EncodedContext:
        if not y.is_floating_point():
            return super().encode_context(x, y)
        target, scaling = Scaling.of(y.unsqueeze(-1)), Scaling.of(x)
        embedded = self.embed_real_target(target.apply(y.unsqueeze(-1)).to(self.unknown_target.dtype))
        return RealContext(scaling, self._memories(x, scaling, embedded))

    def decode(self, context: EncodedContext, x: Tensor) -> Tensor:
        head = self.bars if isinstance(context, RealContext) else self.decoder
        return head(self.represent(context, x))


def either_loss(model: PFN, batch: TaskBatch, weights: dict[str, Tensor] | None = None) -> Tensor:
    """`pfn.tasks.task_loss` for `TwoHeads`: the batch says which head learns."""
    inputs = batch.x, batch.y[:, : batch.n_context]
    logits = model(*inputs) if weights is None else torch.func.functional_call(model, weights, inputs)
    target = batch.y[:, batch.n_context :]
    if batch.n_classes is not None:
        return nn.functional.cross_entropy(class_logits(logits, batch.n_classes).flatten(0, 1), target.flatten())
    scale = inputs[1].std(1, keepdim=True, correction=0)
    z = (target - inputs[1].mean(1, keepdim=True)) / torch.where(scale > 0, scale, 1.0)
    posterior = BarDistribution(model.borders.float()).posterior(logits.float())
    return -posterior.log_prob(z.clamp(-20.0, 20.0)).mean()
