"""Fine-tuning: the network goes on learning, on contexts and queries drawn from one table."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_random_state
from tqdm import tqdm

from estimators.base import PFNEstimator
from estimators.context import Table
from estimators.fitting import all_or_nothing
from estimators.inference import resolve_device, resolve_precision
from pfn import PFN
from pfn.tasks import task_loss
from priors import TaskBatch

_EVALUATE_EVERY = 10
_MAX_QUERIES = 256


@dataclass(frozen=True)
class TableTasks:
    """Tasks from one table: random contexts and queries, columns in random order, values or ranks."""

    table: Table
    n_classes: int | None
    max_features: int
    max_rows: int

    def draw(self, generator: torch.Generator) -> TaskBatch:
        """One task."""
        n = min(len(self.table), self.max_rows)
        rows = torch.multinomial(torch.from_numpy(self.table.weight), n, generator=generator)
        n_context = max(n - _MAX_QUERIES, round(n * float(0.5 + 0.4 * torch.rand((), generator=generator))), 1)
        n_context = min(n_context, n - 1)
        x = torch.from_numpy(self.table.x)[rows]
        if torch.rand((), generator=generator) < 0.5:
            x = self.table.ranks(x)
        x = x[:, torch.randperm(x.shape[1], generator=generator)[: self.max_features]]
        y = torch.from_numpy(self.table.y)[rows]
        if self.n_classes is None:
            return TaskBatch(x[None], y[None], n_context)
        slots = torch.randperm(self.n_classes, generator=generator)
        return TaskBatch(x[None], slots[y][None], n_context, n_classes=torch.tensor([self.n_classes]))


class FineTuning(PFNEstimator):
    """Adds `fine_tune` to an estimator."""

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Forget what `fine_tune` has learned, and fit."""
        self.__dict__.pop("_tuned", None)
        return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        raise NotImplementedError

    def _tasks(self) -> TableTasks:
        """Tasks from the table that was fitted."""
        raise NotImplementedError

    def _negative_log_likelihood(self, X: Any, y: Any) -> float:
        """Mean over rows, in nats."""
        raise NotImplementedError

    @all_or_nothing
    def fine_tune(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation_fraction: float = 0.2,
        n_steps: int = 200,
        learning_rate: float = 3e-5,
        patience: int = 5,
        time_limit: float | None = None,
        progress: bool = True,
    ) -> Self:
        """Fit, after training the network further on this table.

        A part of the rows is held out. Every ten steps the loss on it (negative log-likelihood) is taken with the other
        rows as context, and the weights with the lowest loss are kept, the original ones if none is lower: on the rows
        held out the result is never worse than `fit`.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`; one output, and no more classes than the network has outputs.
        validation_fraction : float, default=0.2
            Share of the rows that is held out, in (0, 1).
        n_steps : int, default=200
            Most steps; each is one random context and its queries.
        learning_rate : float, default=3e-5
            Of AdamW, after a warm-up of ten steps.
        patience : int, default=5
            Stops when this many evaluations in a row have brought no improvement.
        time_limit : float, optional
            Minutes after which it stops.
        progress : bool, default=True
            Show a progress bar.

        Returns
        -------
        self
            Fitted on all rows with the best weights. `fine_tuning_losses_` are the losses on the held-out rows, the first
            before training. A later `fit` starts from the original weights again.

        Raises
        ------
        ValueError
            For bad arguments, several outputs, or more classes than the network has outputs.
        """
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction={validation_fraction!r} is no share; use a number between 0 and 1.")
        for name, value in (("n_steps", n_steps), ("learning_rate", learning_rate), ("patience", patience)):
            if not value > 0:
                raise ValueError(f"{name}={value!r} is not positive.")
        begun = time.monotonic()
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(2**31 - 1))
        train, held_out = _split(self.fit(X, y, sample_weight), y, validation_fraction, seed)
        probe = clone(self)

        def loss(network: PFN) -> float:
            """On the held-out rows, with the others as context."""
            weight = None if sample_weight is None else np.asarray(sample_weight)[train]
            probe._tuned = network
            probe._fit(_safe_indexing(X, train), _safe_indexing(y, train), weight)
            return probe._negative_log_likelihood(_safe_indexing(X, held_out), _safe_indexing(y, held_out))

        network = copy.deepcopy(self._original()).to(resolve_device(self.device)).requires_grad_(True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.0)
        losses, best, since_best = [loss(network)], None, 0
        tasks = probe._tasks()
        generator = torch.Generator().manual_seed(seed)
        with tqdm(total=n_steps, disable=not progress, desc="fine-tuning", unit="step") as bar:
            for step in range(1, n_steps + 1):
                optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, step / 10)
                _step(network, optimizer, tasks.draw(generator))
                bar.update()
                out_of_time = time_limit is not None and time.monotonic() - begun > 60 * time_limit
                if step % _EVALUATE_EVERY and step < n_steps and not out_of_time:
                    continue
                losses.append(loss(network))
                bar.set_postfix(held_out=f"{losses[-1]:.4f}", at_first=f"{losses[0]:.4f}")
                if losses[-1] < min(losses[:-1]):
                    best, since_best = copy.deepcopy(network), 0
                else:
                    since_best += 1
                if since_best == patience or out_of_time:
                    break
        if best is not None:
            self._tuned = best.requires_grad_(False)
            self._fit(X, y, sample_weight)
        self.fine_tuning_losses_ = np.array(losses)
        return self


def _step(network: PFN, optimizer: torch.optim.Optimizer, task: TaskBatch) -> None:
    """One update in the precision that `precision="auto"` takes; one that is not finite is left out."""
    device = next(network.parameters()).device
    dtype = resolve_precision("auto", device, network.config)
    copies = {name: parameter.to(dtype) for name, parameter in network.named_parameters()}
    n_classes = None if task.n_classes is None else task.n_classes.to(device)
    task_loss(network, replace(task, x=task.x.to(device), y=task.y.to(device), n_classes=n_classes), copies).backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    if math.isfinite(float(norm)):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _split(fitted: Any, y: Any, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows for training and of those held out; the latter hold no class that the former lack."""
    if hasattr(fitted, "estimators_"):
        raise ValueError(f"y has {len(fitted.estimators_)} outputs; fine-tune a regressor for each of them.")
    rows = np.flatnonzero(fitted._kept)                             # without those of weight 0
    labels = np.unique(np.asarray(y)[rows], return_inverse=True)[1] if hasattr(fitted, "classes_") else None
    if labels is not None and len(fitted.classes_) > fitted.model_.config.n_outputs:
        raise ValueError(
            f"y has {len(fitted.classes_)} classes, more than the network's {fitted.model_.config.n_outputs} outputs; "
            "fine_tune takes no tree of classes, use fit."
        )
    from sklearn.model_selection import train_test_split  # takes a fifth of a second to import

    stratify = labels if labels is not None and np.bincount(labels).min() >= 2 else None
    positions = np.arange(len(rows))
    try:
        train, held_out = train_test_split(positions, test_size=fraction, random_state=seed, stratify=stratify)
    except ValueError:                                              # too few rows for one of each class on either side
        train, held_out = train_test_split(positions, test_size=fraction, random_state=seed)
    if labels is not None:
        held_out = held_out[np.isin(labels[held_out], labels[train])]
    if len(train) < 2 or len(held_out) < 1:
        raise ValueError(f"{len(rows)} rows are too few to hold out {fraction} of them; use fit.")
    return rows[train], rows[held_out]
