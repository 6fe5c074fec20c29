"""The data contract of every prior: the shape asked for, the batch of tasks returned, the protocol between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class TaskShape:
    """Size of a batch of tasks; every task in a batch has the same size.

    Parameters
    ----------
    batch_size : int
        Tasks in the batch.
    n_rows : int
        Rows of a task, context and query rows together.
    n_features : int
        Columns of a task.
    n_context : int
        Leading rows whose targets the network sees; the others are queries.
    """

    batch_size: int
    n_rows: int
    n_features: int
    n_context: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_rows", "n_features"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}.")
            if value < 1:
                raise ValueError(f"{name}={value} is not positive; use {name} >= 1.")
        if not isinstance(self.n_context, int) or isinstance(self.n_context, bool):
            raise TypeError(f"n_context must be an int, got {self.n_context!r}.")
        if self.n_context < 0:
            raise ValueError(f"n_context={self.n_context} is negative; use 0 <= n_context < n_rows.")
        if self.n_context >= self.n_rows:
            raise ValueError(
                f"n_context={self.n_context} leaves no query row in a task of {self.n_rows} rows; "
                f"use n_context <= {self.n_rows - 1}."
            )


class Status(IntEnum):
    """What the target of a context row says about the function there."""

    VALUE = 0               #: the target is the value there
    FAILED = 1              #: nothing but that the evaluation failed; the target is NaN
    AT_LEAST = 2            #: the value lies at or above the target
    AT_MOST = 3             #: the value lies at or below the target


@dataclass(frozen=True)
class TaskBatch:
    """A batch of synthetic supervised tasks; B tasks, R rows of which the first `n_context` are context, F features.

    Parameters
    ----------
    x : Tensor of shape (B, R, F), float32
        Features; NaN marks a missing value.
    y : Tensor of shape (B, R), float32 or int64
        Targets: real values, or class indices 0 … n_classes - 1. NaN in context rows that failed, and nowhere else.
    n_context : int
        Leading rows with known targets.
    n_classes : Tensor of shape (B,), int64, or None
        Classes of each task; None for regression. Every class occurs in the context.
    feature_mask : Tensor of shape (B, F), bool, or None
        Which columns are real; None when all are.
    status : Tensor of shape (B, C), int64, or None
        What the targets of the context rows say, as a `Status`; None when all are values.
    """

    x: Tensor
    y: Tensor
    n_context: int
    n_classes: Tensor | None = None
    feature_mask: Tensor | None = None
    status: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.ndim != 3 or self.y.shape != self.x.shape[:2]:
            raise ValueError(
                f"x must be (batch, rows, features) and y (batch, rows); got {tuple(self.x.shape)} and "
                f"{tuple(self.y.shape)}."
            )
        if not 0 <= self.n_context < self.x.shape[1]:
            raise ValueError(
                f"n_context={self.n_context} leaves no query row in a task of {self.x.shape[1]} rows; "
                f"use 0 <= n_context < {self.x.shape[1]}."
            )
        if (self.n_classes is not None) != (not self.y.is_floating_point()):
            raise ValueError(
                f"y of dtype {self.y.dtype} with n_classes={self.n_classes!r}: class indices need n_classes of shape "
                "(batch,), real targets need n_classes=None."
            )
        status = self.status
        if status is not None and (status.shape != (len(self.x), self.n_context) or status.dtype != torch.int64):
            raise ValueError(
                f"status must be int64 of shape (batch, n_context) = {(len(self.x), self.n_context)}; got {status.dtype} of "
                f"shape {tuple(status.shape)}."
            )
        if status is not None and self.n_classes is not None:
            raise ValueError("status is for real targets, but n_classes is set: a class has no bounds; use status=None.")

    def __len__(self) -> int:
        return self.x.shape[0]

    def select(self, index: Tensor) -> TaskBatch:
        """The tasks at these positions, or where the mask is true."""
        return replace(
            self, x=self.x[index], y=self.y[index],
            n_classes=None if self.n_classes is None else self.n_classes[index],
            feature_mask=None if self.feature_mask is None else self.feature_mask[index],
            status=None if self.status is None else self.status[index],
        )

    def with_features(self, x: Tensor) -> TaskBatch:
        """The same tasks with other features."""
        return replace(self, x=x)


@runtime_checkable
class Prior(Protocol):
    """A distribution over supervised tasks. Whatever has this method is a prior; subclassing is not needed."""

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        """Draw a batch of tasks on the generator's device; the same seed gives the same batch."""
        ...


def check_generator(generator: object) -> torch.Generator:
    """Return `generator` if it is a torch.Generator, else say what to pass."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__} {generator!r}; "
            "pass torch.Generator(device).manual_seed(seed)."
        )
    return generator


def in_chunks(
    sample: Callable[[TaskShape, torch.Generator], TaskBatch],
    shape: TaskShape,
    generator: torch.Generator,
    *,
    rows_at_once: int,
) -> TaskBatch:
    """Draw `shape` in several calls of `sample`, each of at most `rows_at_once` rows (or one task): bounds memory."""
    most = max(1, rows_at_once // shape.n_rows)
    if shape.batch_size <= most:
        return sample(shape, generator)
    sizes = [min(most, shape.batch_size - begin) for begin in range(0, shape.batch_size, most)]
    return join([sample(replace(shape, batch_size=size), generator) for size in sizes])


def join(parts: Sequence[TaskBatch]) -> TaskBatch:
    """One batch of the tasks of several, which agree in rows, features, context and kind of target."""
    feature_mask = None
    if any(part.feature_mask is not None for part in parts):
        feature_mask = torch.cat([
            torch.ones(len(part), part.x.shape[2], dtype=torch.bool, device=part.x.device)
            if part.feature_mask is None else part.feature_mask
            for part in parts
        ])
    status = None
    if any(part.status is not None for part in parts):
        status = torch.cat([
            torch.zeros(len(part), part.n_context, dtype=torch.int64, device=part.x.device)
            if part.status is None else part.status
            for part in parts
        ])
    n_classes = [part.n_classes for part in parts if part.n_classes is not None]
    return TaskBatch(
        x=torch.cat([part.x for part in parts]), y=torch.cat([part.y for part in parts]), n_context=parts[0].n_context,
        n_classes=torch.cat(n_classes) if n_classes else None, feature_mask=feature_mask, status=status,
    )
