"""A prior of one's own from a function: how a target follows from features and random parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw
from priors.labels import finish_labels
from priors.task import TaskBatch, TaskShape, check_generator

_FEATURES: dict[str, Callable[[TaskShape, Draw], Tensor]] = {
    "uniform": lambda shape, draw: draw.uniform(shape.batch_size, shape.n_rows, shape.n_features),
    "normal": lambda shape, draw: draw.normal(shape.batch_size, shape.n_rows, shape.n_features),
}


@dataclass(frozen=True, repr=False)
class FunctionPrior:
    """Tasks y = function(x, draw) for a whole batch of tasks at once. Works as a decorator, too.

    Parameters
    ----------
    function : callable
        Takes features x (B, R, F) and a `draw`, and returns targets (B, R): floating point for regression; integers or
        booleans for classes, which are then renumbered 0 … n_classes - 1 such that each occurs in the context. Every
        random number comes from `draw`: `draw.uniform(B, 1, low=…, high=…)` is one parameter for each task,
        `draw.normal(B, R)` one noise term for each row; see `priors.draw.Draw` for more.
    features : {"uniform", "normal"} or callable
        How x is drawn: U[0, 1], N(0, 1), or a function (shape, draw) → x (B, R, F).

    See Also
    --------
    priors.testing.check_prior : Tests whether a prior, made in this way or another, keeps the contract.

    Examples
    --------
    >>> from priors import FunctionPrior, TaskShape
    >>> @FunctionPrior
    ... def sines(x, draw):
    ...     tasks, rows, _ = x.shape
    ...     frequency = draw.uniform(tasks, 1, low=2, high=20)
    ...     return torch.sin(frequency * x[:, :, 0]) + 0.1 * draw.normal(tasks, rows)
    >>> sines
    FunctionPrior(sines)
    >>> batch = sines.sample(TaskShape(8, 50, 1, 30), generator=torch.Generator().manual_seed(0))
    >>> batch.y.shape  # 8 tasks of 50 rows
    torch.Size([8, 50])
    """

    function: Callable[[Tensor, Draw], Tensor]
    features: str | Callable[[TaskShape, Draw], Tensor] = "uniform"

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function is {self.function!r}, which cannot be called; pass a function (x, draw) -> y.")
        if not callable(self.features) and self.features not in _FEATURES:
            raise ValueError(
                f"features={self.features!r} is unknown; use 'uniform', 'normal' or a function (shape, draw) -> x."
            )

    def __repr__(self) -> str:
        # Names in place of addresses: checkpoints record this, and a resumed run compares it.
        features = "" if self.features == "uniform" else f", features={_name(self.features)}"
        return f"FunctionPrior({_name(self.function)}{features})"

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        draw_features = _FEATURES[self.features] if isinstance(self.features, str) else self.features
        wanted = shape.batch_size, shape.n_rows, shape.n_features
        x = _checked(draw_features(shape, draw), "features", wanted, "(batch, rows, features)", draw).float()
        y = _checked(self.function(x.clone(), draw), _name(self.function), wanted[:2], "(batch, rows)", draw)
        if y.is_floating_point():
            return TaskBatch(x=x, y=y.float(), n_context=shape.n_context)
        label = y.long() - y.long().amin(1, keepdim=True)
        return finish_labels(x, label, shape.n_context, draw)


def _name(value: object) -> str:
    return getattr(value, "__qualname__", repr(value)).rpartition("<locals>.")[2]


def _checked(value: object, name: str, shape: tuple[int, ...], axes: str, draw: Draw) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} returned {type(value).__name__}, not a torch.Tensor of shape {axes} = {shape}.")
    if tuple(value.shape) != shape:
        remedy = "drop the last axis with .squeeze(-1)" if tuple(value.shape) == (*shape, 1) else (
            "draw one parameter a task with draw.uniform(x.shape[0], 1), which broadcasts against (batch, rows)")
        raise ValueError(f"{name} returned shape {tuple(value.shape)}, expected {axes} = {shape}; {remedy}.")
    if value.device.type != draw.device.type:
        raise ValueError(f"{name} returned a tensor on {value.device}, not {draw.device}; create tensors on x.device.")
    return value
