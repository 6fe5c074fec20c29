"""Forward passes of a network: device, precision, blocks of queries that keep rows independent, batches of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pfn import PFN, PFNConfig
from pfn.cpu import prefers_bfloat16
from pfn.network import EncodedContext

# Queries go through the network in blocks of these sizes, the last one padded to the next of them. Kernels treat a row
# of such blocks alike, to the last bit, so its result does not depend on which or how many rows are predicted with it;
# a block of a single row is computed by other kernels.
_BLOCKS = (8, 32, 128)

# Tables share a forward pass up to this many cells (rows × tokens), and if padding adds less than a quarter.
_BATCH_CELLS = {"cpu": 4096, "cuda": 2**20}


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown to torch; use 'auto', 'cpu' or 'cuda'.") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}, but torch finds no CUDA device; use 'auto' or 'cpu'.")
    return resolved


def resolve_precision(precision: str, device: torch.device, config: PFNConfig) -> torch.dtype:
    """ "auto" is bfloat16 on a CPU that gains from it, but float32 for networks that read real targets in their units."""
    is_exact = config.normal_base or (config.scaling == "prior" and config.task == "regression")
    if precision == "bfloat16" and is_exact:
        raise ValueError("precision='bfloat16' knows a number to three digits, too few for this network; use 'auto'.")
    if precision == "auto":
        return torch.bfloat16 if device.type == "cpu" and prefers_bfloat16() and not is_exact else torch.float32
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision={precision!r} is unknown; use 'auto', 'float32' or 'bfloat16'.")
    return torch.float32 if precision == "float32" else torch.bfloat16


@dataclass(frozen=True)
class Pass:
    """One table in the network's terms: what it reads, and the rows that it is asked about."""

    x: Tensor                                                       # (n, f) float32, NaN = missing
    y: Tensor                                                       # (n,), class slots or targets
    weight: Tensor | None                                           # (n,); None: 1 each
    query: Tensor                                                   # (m, f)


def encode(model: PFN, x: Tensor, y: Tensor, weight: Tensor | None) -> EncodedContext:
    """The network's memory of one table x (n, f), y (n,), weight (n,) or None."""
    device = next(model.parameters()).device
    parts = (None if part is None else part.unsqueeze(0).to(device) for part in (x, y, weight))
    return model.encode_context(*parts)                             # type: ignore[arg-type]


def in_blocks(function: Callable[[EncodedContext, Tensor], Tensor], context: EncodedContext, x: Tensor) -> Tensor:
    """`model.decode` or `model.represent` of queries x (B, m, f) of any number, (B, m, ...) float64 on the CPU."""
    device = context.scaling.mean.device
    outputs = []
    for start, stop, size in padded_blocks(x.shape[1]):
        block = torch.nn.functional.pad(x[:, start:stop], (0, 0, 0, size - (stop - start)))
        outputs.append(function(context, block.to(device))[:, : stop - start].double().cpu())
    return torch.cat(outputs, dim=1)


def run_passes(model: PFN, passes: Sequence[Pass]) -> list[Tensor]:
    """Logits (m, n_outputs) of every pass; tables of similar size go through the network together."""
    logits: dict[int, Tensor] = {}
    device = next(model.parameters()).device
    with torch.no_grad():
        for numbers in _batches(model.config, passes, _BATCH_CELLS.get(device.type, 4096)):
            batch = [passes[number] for number in numbers]
            n_rows, n_queries = max(len(p.x) for p in batch), max(len(p.query) for p in batch)
            weight = torch.stack([_padded(_ones(p) if p.weight is None else p.weight, n_rows) for p in batch])
            context = model.encode_context(
                torch.stack([_padded(p.x, n_rows) for p in batch]).to(device),
                torch.stack([_padded(p.y, n_rows) for p in batch]).to(device),
                None if (weight == 1).all() else weight.to(device),
            )
            found = in_blocks(model.decode, context, torch.stack([_padded(p.query, n_queries) for p in batch]))
            logits |= {number: found[i, : len(passes[number].query)] for i, number in enumerate(numbers)}
    return [logits[number] for number in range(len(passes))]


def run_grouped(model: PFN, passes: list[list[Pass]]) -> list[list[Tensor]]:
    """`run_passes` of all lists at once, in lists of the same lengths."""
    answers = iter(run_passes(model, [one for own in passes for one in own]))
    return [[next(answers) for _ in own] for own in passes]


def bytes_per_context_row(config: PFNConfig, n_features: int, itemsize: int) -> int:
    """Memory that a context row costs at the peak of encoding: kept keys and values, and what a layer computes."""
    return config.n_tokens(n_features) * config.embed_dim * itemsize * (2 * config.n_layers * config.n_loops + 14)


def memory_bytes(context: EncodedContext) -> int:
    """Size of a context's keys and values."""
    return sum(part.numel() * part.element_size() for memory in context.memories for part in memory)


def padded_blocks(n_rows: int) -> Iterator[tuple[int, int, int]]:
    """Start, stop and padded size of each block."""
    for start in range(0, n_rows, _BLOCKS[-1]):
        stop = min(start + _BLOCKS[-1], n_rows)
        yield start, stop, next(size for size in _BLOCKS if size >= stop - start)


def _batches(config: PFNConfig, passes: Sequence[Pass], max_cells: int) -> list[list[int]]:
    """Numbers of the passes of each batch: same columns, similar rows."""
    order = sorted(range(len(passes)), key=lambda i: (passes[i].x.shape[1], len(passes[i].x), len(passes[i].query)))
    batches: list[list[int]] = []
    for number in order:
        p, first = passes[number], passes[batches[-1][0]] if batches else None
        n_rows = len(p.x) + len(p.query)
        if (
            first is not None and first.x.shape[1] == p.x.shape[1]
            and n_rows <= 1.25 * (len(first.x) + len(first.query)) + 8
            and (len(batches[-1]) + 1) * n_rows * config.n_tokens(p.x.shape[1]) <= max_cells
        ):
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _padded(rows: Tensor, n_rows: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, n_rows - len(rows)) if rows.ndim == 2 else (0, n_rows - len(rows)))


def _ones(p: Pass) -> Tensor:
    return torch.ones(len(p.x))
