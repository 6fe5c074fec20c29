"""State of a pretraining run: weights, their average, optimisers, counters; to and from a checkpoint."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pfn.checkpoint import CheckpointError, Envelope, ModelCard, build_model, check_weights, load_pretrained, read_tensors
from pfn.config import PretrainConfig
from pfn.files import CONTENT_ERRORS
from pfn.network import PFN
from pfn.optimizer import learning_rate_factor, load_optimizer_tensors, make_optimizers, optimizer_tensors
from pfn.sizes import TaskSizes
from pfn.tasks import fit_to_prior


@dataclass
class RunState:
    """What a run needs to go on."""

    model: PFN
    average: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    tasks: int = 0
    skipped: int = 0
    seconds: float = 0.0
    earlier: list[dict[str, Any]] = field(default_factory=list)            # stages on another prior or other sizes

    @classmethod
    def fresh(cls, config: PretrainConfig, device: torch.device) -> RunState:
        """State before the first step."""
        # Initialisation draws from torch's global generator; fork it so that the caller's stream is untouched.
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(config.seed)
            model = PFN(config.model)
        if config.start_from is not None:
            _adopt(model, load_pretrained(config.start_from), os.fspath(config.start_from))
        fit_to_prior(model, config)
        model.to(device)
        average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return cls(model, average, make_optimizers(model, config.learning_rate, config.weight_decay))

    @classmethod
    def resume(cls, config: PretrainConfig, path: str | os.PathLike[str], device: torch.device) -> RunState:
        """State of a checkpoint; CheckpointError if the file holds no such state."""
        tensors, card = read_tensors(path)
        if card.config != config.model:
            raise CheckpointError(
                f"{str(path)!r} holds a network of another configuration, {card.config!s:.400}; resume it with the recipe "
                f"that wrote it, or start afresh with {config.model}."
            )
        average = {name.removeprefix("ema."): value for name, value in tensors.items() if name.startswith("ema.")}
        raw = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        raw = raw or tensors                              # shipped weights are the average alone
        average = average or tensors
        model = build_model(raw, card, str(path)).requires_grad_(True).train().to(device)
        check_weights(average, model, str(path))
        average = {name: value.float().clone().to(device) for name, value in average.items()}
        state = cls(model, average, make_optimizers(model, config.learning_rate, config.weight_decay))
        try:
            state._continue(config, card, {name: value for name, value in tensors.items() if name.startswith("optimizer.")})
        except CONTENT_ERRORS as error:
            raise CheckpointError(
                f"the record of {str(path)!r} cannot be continued ({error!r:.400}); get it again.") from error
        return state

    def _continue(self, config: PretrainConfig, card: ModelCard, kept: dict[str, Tensor]) -> None:
        """Take over the counters of a record, and the optimisers' tensors."""
        training = card.training
        self.earlier = list(training.get("earlier", []))
        if card.prior != repr(config.prior) or not _sizes_go_on(training, config):
            stage = {name: training.get(name) for name in ("step", "tasks", "seconds", "sizes", "late_sizes")}
            self.earlier.append(stage | {"prior": card.prior})
        self.tasks, self.seconds = int(training.get("tasks", 0)), float(training.get("seconds", 0.0))
        if kept:                                          # else a new run, warm-up included, from these weights
            load_optimizer_tensors(self.optimizers, kept)
            self.step, self.skipped = int(training["step"]), int(training["skipped"])
        if min(self.step, self.skipped, self.tasks) < 0:
            raise ValueError(f"step={self.step}, skipped={self.skipped}, tasks={self.tasks}")

    def update(self, config: PretrainConfig, loss: float, n_tasks: int) -> float:
        """Take one step along the gradients; return their norm. A step that is not finite changes no weight."""
        factor = learning_rate_factor(
            self.step, n_steps=config.n_steps, warmup_steps=config.warmup_steps, decay_steps=config.decay_steps
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip).item()
        if math.isfinite(norm) and math.isfinite(loss):
            for optimizer in self.optimizers:
                optimizer.step()
            decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    self.average[name].lerp_(value, 1.0 - decay)
        else:
            self.skipped += 1
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        self.tasks += n_tasks
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint holds; the generators follow from the seed and the step."""
        model = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return model | {f"ema.{name}": value for name, value in self.average.items()} | optimizer_tensors(self.optimizers)

    def card(self, config: PretrainConfig, validation: float | None) -> ModelCard:
        """Model card of the averaged weights. The envelope includes the late sizes once a step has been taken on them."""
        settings = {entry.name: getattr(config, entry.name) for entry in fields(config)
                    if entry.name not in ("prior", "model")}
        training: dict[str, Any] = settings | {
            "sizes": asdict(config.sizes),
            "late_sizes": None if config.late_sizes is None else asdict(config.late_sizes),
            "step": self.step, "tasks": self.tasks, "skipped": self.skipped, "seconds": round(self.seconds, 1),
            "torch": torch.__version__, "device": next(self.model.parameters()).device.type,
            "validation_loss": validation, "earlier": self.earlier,
        }
        seen = (config.sizes, config.sizes_at(self.step - 1))
        classes = config.model.n_outputs if config.model.task == "classification" else None
        envelope = Envelope(max(sizes.rows[1] for sizes in seen), max(sizes.features[1] for sizes in seen), classes)
        return ModelCard(config.model, repr(config.prior), envelope, training)


def _adopt(model: PFN, source: PFN, name: str) -> None:
    """Copy into `model` every tensor of `source` that has the same name and shape; the layers must fit."""
    given, own = source.state_dict(), model.state_dict()
    shared = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    if any(key.startswith("blocks.") and key in own and key not in shared for key in given):
        raise ValueError(
            f"start_from={name!r}: its layers, of {source.config}, do not fit those of {model.config}; use the same "
            "embed_dim, hidden_dim and n_heads, or start afresh."
        )
    model.load_state_dict(own | shared)


def _sizes_go_on(training: dict[str, Any], config: PretrainConfig) -> bool:
    """Whether the tasks that a recorded run has seen are of the sizes that `config` asks for.

    Records that lack a field of `TaskSizes` were written before there was one, and mean its default.
    """
    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(TaskSizes()) | values))          # tuples become lists, as in a record

    def same(recorded: dict[str, Any] | None, sizes: TaskSizes | None) -> bool:
        if recorded is None or sizes is None:
            return recorded is sizes
        return plain(recorded) == plain(asdict(sizes))

    late, step = training.get("late_sizes"), training.get("step", 0)
    late_begun = late is not None and step > training.get("n_steps", 0) - training.get("decay_steps", 0)
    return same(training.get("sizes"), config.sizes) and (not late_begun or same(late, config.late_sizes))
