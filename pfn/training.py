"""Pretraining: draw tasks from a prior, teach a network to predict their query rows. One loop for every prior."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from pfn.bar import BarDistribution
from pfn.checkpoint import CheckpointError, Envelope, ModelCard, build_model, read_tensors, write_tensors
from pfn.network import PFN, PFNConfig, class_logits
from pfn.optimizer import learning_rate_factor, load_optimizer_tensors, make_optimizers, optimizer_tensors
from pfn.sizes import TaskSizes
from priors import Prior, TaskBatch, TaskShape

_MAX_SKIPPED_IN_A_ROW = 50


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that determines the weights; device and time limit do not belong to it.

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
        Batches, of different shapes, whose gradients are averaged into one step.
    learning_rate, weight_decay, clip : float
        Peak rate of both optimisers, Muon's weight decay, largest gradient norm.
    ema_decay : float
        Of the moving average of the weights, which is what evaluation and the checkpoint use.
    precision : {"bfloat16", "float32"}
        Of the layers; statistics, loss and master weights are float32.
    seed : int
        Every step's tasks follow from (seed, step).
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

    def __post_init__(self) -> None:
        if not hasattr(self.prior, "sample"):
            raise TypeError(f"prior is {self.prior!r}, which has no sample(shape, *, generator) method.")
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


def step_generator(seed: int, step: int, device: str | torch.device = "cpu", purpose: str = "train") -> torch.Generator:
    """The generator of one step: the same whichever run, resumed or not, gets there."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def draw_batches(config: PretrainConfig, step: int, device: torch.device, purpose: str = "train") -> list[TaskBatch]:
    """The batches of one step."""
    shapes = step_generator(config.seed, step, purpose=f"{purpose}-shapes")
    tasks = step_generator(config.seed, step, device, purpose=f"{purpose}-tasks")
    return [
        config.prior.sample(config.sizes.draw(shapes, config.model.n_tokens), generator=tasks)
        for _ in range(config.batches_per_step)
    ]


def task_loss(model: PFN, batch: TaskBatch, weights: dict[str, Tensor] | None = None) -> Tensor:
    """Mean negative log-likelihood of the query targets, in nats a row; of the standardised target in regression.

    `weights` stands in for the parameters of `model`, for example a bfloat16 copy of them.
    """
    classifies = model.config.task == "classification"
    if classifies and batch.n_classes is None:
        raise ValueError("the prior draws real targets but the network classifies; wrap it in as_classification().")
    if not classifies and batch.n_classes is not None:
        raise ValueError("the prior draws classes but the network regresses; use PFNConfig(task='classification').")
    # The network knows no padding: a column that is none is one in which everything is missing.
    x = batch.x if batch.feature_mask is None else batch.x.masked_fill(~batch.feature_mask.unsqueeze(1), torch.nan)
    inputs = x, batch.y[:, : batch.n_context]
    logits = model(*inputs) if weights is None else torch.func.functional_call(model, weights, inputs)
    target = batch.y[:, batch.n_context :]
    if batch.n_classes is not None:
        return F.cross_entropy(class_logits(logits, batch.n_classes).flatten(0, 1), target.flatten())
    context = batch.y[:, : batch.n_context]
    scale = context.std(1, keepdim=True, correction=0)
    target = (target - context.mean(1, keepdim=True)) / torch.where(scale > 0, scale, 1.0)
    return -BarDistribution(model.borders.float()).posterior(logits.float()).log_prob(target).mean()


def prior_borders(config: PretrainConfig) -> Tensor:
    """Borders of equal prior mass for the standardised target, from tasks of a middling size."""
    shape = TaskShape(256, 128, max(config.sizes.features[0], 1), 64)
    per_draw = shape.batch_size * 64
    targets = []
    for number in range(math.ceil(64 * config.model.n_outputs / per_draw)):
        batch = config.prior.sample(shape, generator=step_generator(config.seed, number, purpose="borders"))
        context = batch.y[:, :64]
        scale = context.std(1, keepdim=True, correction=0).clamp_min(1e-6)
        targets.append((batch.y[:, 64:] - context.mean(1, keepdim=True)) / scale)
    return BarDistribution.from_samples(torch.cat(targets).clamp(-10.0, 10.0), config.model.n_outputs).borders


@dataclass
class _State:
    """What a run needs to go on: weights, their average, optimisers, and counters."""

    model: PFN
    average: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    tasks: int = 0
    skipped: int = 0
    seconds: float = 0.0
    earlier: list[dict[str, Any]] = field(default_factory=list)            # stages on another prior or other sizes

    @classmethod
    def fresh(cls, config: PretrainConfig, device: torch.device) -> _State:
        # Initialisation draws from torch's global generator; fork it so that the caller's stream is untouched.
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(config.seed)
            model = PFN(config.model)
        if config.model.task == "regression":
            model.borders.copy_(prior_borders(config))
        model.to(device)
        average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return cls(model, average, make_optimizers(model, config.learning_rate, config.weight_decay))

    @classmethod
    def resume(cls, config: PretrainConfig, path: str | os.PathLike[str], device: torch.device) -> _State:
        tensors, card = read_tensors(path)
        if card.config != config.model:
            raise CheckpointError(
                f"{str(path)!r} holds a network of another configuration, {card.config}; resume it with the recipe that "
                f"wrote it, or start afresh with {config.model}."
            )
        average = {name.removeprefix("ema."): value for name, value in tensors.items() if name.startswith("ema.")}
        raw = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        raw = raw or tensors                              # shipped weights are the average alone
        average = average or tensors
        model = build_model(raw, card, str(path)).requires_grad_(True).train().to(device)
        average = {name: value.float().clone().to(device) for name, value in average.items()}
        state = cls(model, average, make_optimizers(model, config.learning_rate, config.weight_decay))
        kept = {name: value for name, value in tensors.items() if name.startswith("optimizer.")}
        training = card.training
        state.earlier = list(training.get("earlier", []))
        if (card.prior, training.get("sizes")) != (repr(config.prior), json.loads(json.dumps(asdict(config.sizes)))):
            stage = {name: training.get(name) for name in ("step", "tasks", "seconds", "sizes")}
            state.earlier.append(stage | {"prior": card.prior})
        state.tasks, state.seconds = int(training.get("tasks", 0)), float(training.get("seconds", 0.0))
        if kept:                                          # else a new run, warm-up included, from these weights
            load_optimizer_tensors(state.optimizers, kept)
            state.step, state.skipped = int(training["step"]), int(training["skipped"])
        return state

    def tensors(self) -> dict[str, Tensor]:
        model = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return model | {f"ema.{name}": value for name, value in self.average.items()} | optimizer_tensors(self.optimizers)


def _card(config: PretrainConfig, state: _State, validation: float | None) -> ModelCard:
    settings = {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.name not in ("prior", "model")}
    training: dict[str, Any] = settings | {
        "sizes": asdict(config.sizes),
        "step": state.step, "tasks": state.tasks, "skipped": state.skipped, "seconds": round(state.seconds, 1),
        "torch": torch.__version__, "validation_loss": validation, "earlier": state.earlier,
    }
    classes = config.model.n_outputs if config.model.task == "classification" else None
    envelope = Envelope(config.sizes.rows[1], config.sizes.features[1], classes)
    return ModelCard(config.model, repr(config.prior), envelope, training)


def _train_step(config: PretrainConfig, state: _State, device: torch.device) -> tuple[float, float, int]:
    """One update; returns loss, gradient norm and number of tasks. A step that is not finite changes nothing."""
    batches = draw_batches(config, state.step, device)
    factor = learning_rate_factor(
        state.step, n_steps=config.n_steps, warmup_steps=config.warmup_steps, decay_steps=config.decay_steps
    )
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
    loss_sum = 0.0
    for batch in batches:
        # Low-precision copies of float32 weights; gradients flow back through the cast.
        dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        copies: dict[str, Tensor] = {name: p.to(dtype) for name, p in state.model.named_parameters()}
        loss = task_loss(state.model, batch, copies) / len(batches)
        loss.backward()
        loss_sum += loss.item()
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip).item()
    if math.isfinite(norm) and math.isfinite(loss_sum):
        for optimizer in state.optimizers:
            optimizer.step()
        decay = min(config.ema_decay, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            for name, value in state.model.state_dict().items():
                state.average[name].lerp_(value, 1.0 - decay)
    else:
        state.skipped += 1
    state.model.zero_grad(set_to_none=True)
    state.step += 1
    n_tasks = sum(len(batch) for batch in batches)
    state.tasks += n_tasks
    return loss_sum, norm, n_tasks


@torch.no_grad()
def validation_loss(config: PretrainConfig, average: dict[str, Tensor], model: PFN, n_steps: int = 6) -> float:
    """Loss of the averaged weights on tasks that training never draws; the same tasks at every call."""
    device = next(iter(average.values())).device
    fixed = replace(config, seed=0)
    losses = [
        task_loss(model, batch, average).item()
        for step in range(n_steps)
        for batch in draw_batches(fixed, step, device, purpose="validation")
    ]
    return sum(losses) / len(losses)


def pretrain(
    config: PretrainConfig,
    *,
    device: str | torch.device = "cpu",
    time_limit: float | None = None,
    resume: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    log_every: int = 20,
    validate_every: int = 500,
    progress: bool | None = None,
) -> PFN:
    """Pretrain a network on a prior.

    Parameters
    ----------
    config : PretrainConfig
        Decides the result: a run that is interrupted and resumed ends with the same weights, bit for bit on CPU.
    device : str or torch.device
        Where tasks are drawn and the network is trained.
    time_limit : float, optional
        Minutes after which the run stops, with a checkpoint; resume it to go on.
    resume : path-like, optional
        Checkpoint to continue from. From weights without optimiser state, as they are shipped, a new run starts at
        step 0, with its warm-up: give it another seed, or it sees the same tasks again.
    out : path-like, optional
        Checkpoint to write, together with a log of the same name ending in `.jsonl`.
    checkpoint_every : float
        Seconds between checkpoints.
    log_every, validate_every : int
        Steps between log lines, and between validations.
    progress : bool, optional
        Show a progress bar; None shows it on a terminal.

    Returns
    -------
    PFN
        The averaged weights, ready for `save_checkpoint` or an estimator's `model` parameter.

    Raises
    ------
    CheckpointError
        If `resume` is no checkpoint, or one of another architecture.
    RuntimeError
        If 50 steps in a row were not finite.

    Examples
    --------
    >>> from priors import GPPrior
    >>> small = PFNConfig(task="regression", n_outputs=32, embed_dim=16, n_heads=2, n_layers=2, hidden_dim=32)
    >>> sizes = TaskSizes(rows=(16, 32), features=(1, 2), cells=256)
    >>> model = pretrain(PretrainConfig(GPPrior(), small, sizes, n_steps=3, decay_steps=0), progress=False)
    >>> model.card.training["step"]
    3
    """
    device = torch.device(device)
    state = _State.fresh(config, device) if resume is None else _State.resume(config, resume, device)
    log_path = None if out is None else Path(out).with_suffix(".jsonl")
    if log_path is not None:
        _trim_log(log_path, state.step if resume is not None else 0)
    begun, earlier = time.monotonic(), state.seconds
    last_saved, validation, skipped_in_a_row = begun, None, 0
    recent: list[tuple[float, float, int]] = []

    def save() -> None:
        if out is not None:
            state.seconds = earlier + time.monotonic() - begun
            write_tensors(out, state.tensors(), _card(config, state, validation))

    with tqdm(total=config.n_steps, initial=state.step, disable=None if progress is None else not progress,
              unit="step", smoothing=0.02) as bar:
        while state.step < config.n_steps:
            skipped_before = state.skipped
            recent.append(_train_step(config, state, device))
            bar.update()
            skipped_in_a_row = skipped_in_a_row + 1 if state.skipped > skipped_before else 0
            if skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
                raise RuntimeError(
                    f"{_MAX_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not finite (step "
                    f"{state.step}); lower learning_rate={config.learning_rate:g} or check the prior."
                )
            out_of_time = time_limit is not None and time.monotonic() - begun > 60.0 * time_limit
            finished = state.step == config.n_steps or out_of_time
            if state.step % validate_every == 0 or finished:
                validation = validation_loss(config, state.average, state.model)
            if state.step % log_every == 0 or finished:
                seconds = earlier + time.monotonic() - begun
                line = _log_line(state, recent, seconds, validation if state.step % validate_every == 0 else None)
                bar.set_postfix(loss=f"{line['loss']:.4f}", validation=validation)
                if log_path is not None:
                    with open(log_path, "a", encoding="utf-8") as log:
                        log.write(json.dumps(line) + "\n")
                recent = []
            if finished or time.monotonic() - last_saved > checkpoint_every:
                save()
                last_saved = time.monotonic()
            if out_of_time:
                break
    state.seconds = earlier + time.monotonic() - begun
    return build_model(dict(state.average), _card(config, state, validation), "pretrain")


def _log_line(
    state: _State, recent: list[tuple[float, float, int]], seconds: float, validation: float | None
) -> dict[str, Any]:
    losses, norms, tasks = zip(*recent, strict=True)
    line = {
        "step": state.step, "tasks": state.tasks, "seconds": round(seconds, 1), "skipped": state.skipped,
        "loss": round(sum(losses) / len(losses), 5), "gradient_norm": round(sum(norms) / len(norms), 4),
        "learning_rate": state.optimizers[0].param_groups[0]["lr"], "tasks_per_step": round(sum(tasks) / len(tasks), 2),
    }
    return line if validation is None else line | {"validation_loss": round(validation, 5)}


def _trim_log(path: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after the checkpoint from which it is resumed."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue                                                # the last line of a killed run may be cut short
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
