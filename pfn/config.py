"""What determines the weights of a pretraining run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pfn.network import PFNConfig
from pfn.sizes import TaskSizes
from priors import Prior


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that determines the weights; device, number of processes and time limit do not belong to it.

    Parameters
    ----------
    prior : Prior
        Where tasks come from.
    model : PFNConfig
        The network.
    sizes : TaskSizes
        Shapes of the tasks.
    n_steps, warmup_steps, decay_steps : int
        Length of the run, of the linear warm-up and of the final decay. Between them the learning rate is constant; a
        run that has not begun to decay can be prolonged by resuming it with a larger `n_steps`.
    batches_per_step : int
        Batches, of different shapes, whose gradients are accumulated and averaged into one step. Memory does not depend
        on it; several processes divide it among themselves.
    learning_rate, weight_decay, clip : float
        Peak rate of both optimisers, Muon's weight decay, largest gradient norm.
    ema_decay : float
        Of the moving average of the weights, which is what evaluation and the checkpoint use.
    precision : {"bfloat16", "float32"}
        Of the layers; statistics, loss and master weights are float32.
    seed : int
        Every step's tasks follow from (seed, step).
    start_from : str or path-like, optional
        Bundled name or checkpoint of a network, perhaps of another task, that initialises this one: every tensor that
        has the same name and shape is copied, and those of the layers must. Without effect on a run that is resumed.
    late_sizes : TaskSizes, optional
        Shapes of the tasks in the final decay, for a curriculum: a last stage of more rows and features. The part before
        keeps to `sizes`, so that it can be prolonged, and so does the validation, so that its losses compare.
    """

    prior: Prior
    model: PFNConfig = field(default_factory=PFNConfig)
    sizes: TaskSizes = field(default_factory=TaskSizes)
    n_steps: int = 10_000
    warmup_steps: int = 100
    decay_steps: int = 2_000
    batches_per_step: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 2.0
    ema_decay: float = 0.999
    precision: str = "bfloat16"
    seed: int = 0
    start_from: str | os.PathLike[str] | None = None
    late_sizes: TaskSizes | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.prior, "sample"):
            raise TypeError(f"prior is {self.prior!r}, which has no sample(shape, *, generator) method.")
        for name in ("sizes", "late_sizes"):
            value = getattr(self, name)
            if not isinstance(value, TaskSizes) and (value is not None or name == "sizes"):
                raise TypeError(f"{name}={value!r} is no TaskSizes; use {name}=TaskSizes(rows=..., features=...).")
        if self.precision not in ("bfloat16", "float32"):
            raise ValueError(f"precision={self.precision!r} is unknown; use 'bfloat16' or 'float32'.")
        for name in ("n_steps", "batches_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive.")
        if self.decay_steps < 0 or self.warmup_steps < 0 or self.decay_steps > self.n_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} and decay_steps={self.decay_steps} do not fit n_steps={self.n_steps}; "
                "use 0 <= decay_steps <= n_steps."
            )
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} is not positive.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} is no decay; use 0 <= ema_decay < 1, 0 for no averaging.")
        if self.start_from is not None:
            object.__setattr__(self, "start_from", os.fspath(self.start_from))

    def sizes_at(self, step: int) -> TaskSizes:
        """Shapes of the tasks of this step, counted from 0."""
        if self.late_sizes is None or step < self.n_steps - self.decay_steps:
            return self.sizes
        return self.late_sizes
