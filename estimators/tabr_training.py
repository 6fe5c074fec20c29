"""Training of a TabR network: batches, neighbours that are found anew or kept, early stopping, the best weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from estimators.tabr_network import TabRNetwork
from estimators.tabr_rows import Rows
from estimators.tabr_search import Allowed, nearest

_EVALUATED = 512                                                    # validation rows that are predicted together


@dataclass(frozen=True)
class Plan:
    """How a network is trained; see the parameters of the estimators."""

    context_size: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_epochs: int
    patience: int
    freeze_contexts_after: int | None
    stopping: str                                                   # "loss" or "error"


@dataclass
class History:
    """Validation scores (smaller is better) after each epoch, seconds since the start, and the epoch of the best one."""

    score: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = -1


def log_weights(rows: Rows, index: Tensor, batch: Tensor | None = None) -> Tensor:
    """Logarithms of the weights of neighbours `index` (B, m); -inf where it is -1.

    Where a row of `batch` (B,) finds itself, it finds its other copies.
    """
    weight = rows.weight[index.clamp(min=0)]
    if batch is not None:
        weight = torch.where(index == batch.unsqueeze(1), rows.others[batch].unsqueeze(1), weight)
    return weight.log().masked_fill(index < 0, -math.inf)


def mixed(
    network: TabRNetwork, x: Tensor, candidates: Rows, index: Tensor, log_weight: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Outputs (B, n_outputs) for rows x (B, p) with neighbours `index` (B, m), in training with gradients to both."""
    distinct, place = index.clamp(min=0).unique(return_inverse=True)
    key, correction = network.candidates(candidates.x[distinct], generator)
    return network.mix(
        *network.read(x, generator), key, correction, candidates.label[distinct], place, log_weight, generator
    )


def losses(network: TabRNetwork, output: Tensor, label: Tensor) -> Tensor:
    """Cross entropy, or squared error, of each row (B,)."""
    if not network.config.n_labels:
        return (output.squeeze(1) - label).square()
    if network.config.n_outputs == 1:
        return F.binary_cross_entropy_with_logits(output.squeeze(1), label.to(output.dtype), reduction="none")
    return F.cross_entropy(output, label, reduction="none")


def errors(network: TabRNetwork, output: Tensor, label: Tensor, stopping: str) -> Tensor:
    """What early stopping averages, (B,)."""
    if stopping == "loss":
        return losses(network, output, label)
    if not network.config.n_labels:
        return (output.squeeze(1) - label).abs()
    guess = (output.squeeze(1) > 0).long() if network.config.n_outputs == 1 else output.argmax(1)
    return (guess != label).to(output.dtype)


def train(
    network: TabRNetwork,
    rows: Rows,
    validation: Rows,
    plan: Plan,
    generator: torch.Generator,
    allowed: Allowed | None = None,
    allowed_validation: Allowed | None = None,
    deadline: float = math.inf,
    progress: Callable[[], tqdm] | None = None,
) -> History:
    """Fit `network` to `rows`, and leave it with the weights that were best for `validation`.

    Parameters
    ----------
    network : TabRNetwork
    rows : Rows
        They are also the candidates. A row never sees itself, but it sees its other copies.
    validation : Rows
        If empty, the rows themselves, each without itself.
    plan : Plan
    generator : torch.Generator
        Of batches and dropout, on the device of the network.
    allowed, allowed_validation : callable or None
        Further limits to which rows see which; see `nearest`.
    deadline : float
        `time.monotonic()` at which training stops; at least one step is made.
    progress : callable or None
        Makes the progress bar, which counts epochs.

    Returns
    -------
    History
    """
    optimizer = torch.optim.AdamW(_parameter_groups(network, plan.weight_decay), lr=plan.learning_rate)
    contexts = torch.full((len(rows), min(plan.context_size, len(rows))), -1, device=rows.x.device)
    history, best = History(), copy.deepcopy(network.state_dict())
    start = time.monotonic()
    apart = _apart(rows, allowed)
    bar = None if progress is None else progress()
    for epoch in range(plan.max_epochs):
        is_frozen = plan.freeze_contexts_after is not None and epoch >= plan.freeze_contexts_after
        total = 0.0
        for batch in torch.randperm(len(rows), generator=generator, device=rows.x.device).split(plan.batch_size):
            if not is_frozen:
                contexts[batch] = _contexts(network, rows, batch, plan.context_size, apart)
            log_weight = log_weights(rows, contexts[batch], batch)
            output = mixed(network, rows.x[batch], rows, contexts[batch], log_weight, generator)
            weight = rows.weight[batch]
            loss = (losses(network, output, rows.label[batch]) * weight).sum() / weight.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            if time.monotonic() > deadline:
                break
        score = _score(network, rows, validation, plan, apart, allowed_validation)
        history.score.append(score)
        history.seconds.append(time.monotonic() - start)
        if history.best_epoch < 0 or score < history.score[history.best_epoch]:
            history.best_epoch, best = epoch, copy.deepcopy(network.state_dict())
        if bar is not None:
            bar.set_postfix(validation=f"{history.score[history.best_epoch]:.4f}")
            bar.update()
        if epoch - history.best_epoch >= plan.patience or time.monotonic() > deadline or not math.isfinite(total):
            break
    if bar is not None:
        bar.close()
    network.load_state_dict(best)
    return history


def _parameter_groups(network: TabRNetwork, weight_decay: float) -> list[dict[str, object]]:
    """Only matrices of linear layers decay: no biases, norms, labels or frequencies."""
    decayed = [p for name, p in network.named_parameters() if p.ndim == 2 and name.endswith(".weight")]
    chosen = {id(p) for p in decayed}
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": [p for p in network.parameters() if id(p) not in chosen], "weight_decay": 0.0}]


def _apart(rows: Rows, allowed: Allowed | None) -> Allowed:
    """Which pairs of rows may see each other in training."""
    has_others = rows.others > 0

    def apart(queries: Tensor, candidates: Tensor) -> Tensor:
        pairs = (queries.unsqueeze(1) != candidates) | has_others[queries].unsqueeze(1)
        return pairs if allowed is None else pairs & allowed(queries, candidates)
    return apart


def _contexts(network: TabRNetwork, rows: Rows, batch: Tensor, context_size: int, apart: Allowed) -> Tensor:
    key = network.places(rows.x)
    return nearest(key[batch], key, context_size, lambda queries, candidates: apart(batch[queries], candidates))


def _score(
    network: TabRNetwork, rows: Rows, validation: Rows, plan: Plan, apart: Allowed, allowed: Allowed | None
) -> float:
    asked, limits = (validation, allowed) if len(validation) else (rows, apart)
    key = network.places(rows.x)
    total = 0.0
    for some in blocks(len(asked), asked.x.device):
        index = nearest(network.places(asked.x[some]), key, plan.context_size, _shifted(limits, some))
        with torch.no_grad():
            log_weight = log_weights(rows, index, None if len(validation) else some)
            output = mixed(network, asked.x[some], rows, index, log_weight)
        total += float((errors(network, output, asked.label[some], plan.stopping) * asked.weight[some]).sum())
    mean = total / float(asked.weight.sum())
    return math.sqrt(mean) if plan.stopping == "loss" and not network.config.n_labels else mean


def _shifted(allowed: Allowed | None, rows: Tensor) -> Allowed | None:
    return None if allowed is None else lambda queries, candidates: allowed(rows[queries], candidates)


def blocks(n_rows: int, device: torch.device) -> Iterator[Tensor]:
    """Numbers of rows, some at a time."""
    yield from torch.arange(n_rows, device=device).split(_EVALUATED)
