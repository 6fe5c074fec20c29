"""The behaviour suite of priors: run it on a prior of your own before you pretrain on it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from priors.task import Prior, Status, TaskBatch, TaskShape

DEFAULT_SHAPES = (TaskShape(6, 60, 7, 30), TaskShape(1, 2, 1, 1), TaskShape(3, 12, 40, 5), TaskShape(2, 50, 1, 49))
_LEAK_ROWS = 10                     # fewer rows than this may agree with their targets by chance


def check_prior(
    prior: Prior,
    *,
    shapes: Sequence[TaskShape] | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    constant_columns: bool = False,
) -> None:
    """Check that `prior` keeps the contract that networks, pretraining and readers of results rely on.

    Batches have the shape, dtypes and device asked for; the generator decides everything and global random state is
    left alone; targets are finite, but for NaN where a context row failed, features finite or NaN; columns vary; class
    indices are compact and each class occurs in the context; no column gives the target away; every tensor is created on
    a device that is named, so that what runs on a CPU runs on a GPU.

    Parameters
    ----------
    prior : Prior
    shapes : sequence of TaskShape, optional
        Shapes to draw, for priors that do not serve every shape. The default covers many and few rows and features.
    device : str or torch.device
        Where tasks are drawn.
    seed : int
        Of the first batch of each shape.
    constant_columns : bool
        Accept columns that are the same in all rows, such as the margin of images.

    Raises
    ------
    AssertionError
        At the first rule that is broken; the message says which, at what shape, and what to do.

    Notes
    -----
    A target may equal a column by rights, for example in a rule on a binary column. It is called a leak when that happens
    in more than a quarter of the tasks with at least ten rows.

    Examples
    --------
    >>> from priors import GPPrior
    >>> check_prior(GPPrior())
    """
    if not callable(getattr(prior, "sample", None)):
        raise AssertionError(f"{prior!r} has no method sample(shape, *, generator); a prior needs nothing but that.")
    if shapes is not None and not shapes:
        raise ValueError("shapes is empty; pass at least one TaskShape, or None for the default ones.")
    cases = [_Case(prior, shape, torch.device(device), seed) for shape in shapes or DEFAULT_SHAPES]
    _check_rejects_other_generators(cases[0])
    leaks = []
    for case in [*cases, replace(cases[0], shape=replace(cases[0].shape, batch_size=1))]:
        batches = [_check_global_state(case), case.sample(1)]
        for batch in batches:
            _check_contract(case, batch)
            _check_values(case, batch, constant_columns)
            _check_classes(case, batch)
            leaks += _leaks(case, batch)
        _check_seeds(case, *batches)
    cases[0].demand(4 * sum(leaks) <= len(leaks), f"y is among the features in {sum(leaks)} of {len(leaks)} tasks",
                    "leave the target's column out of x, or add noise to it")
    _check_devices_are_named(cases[0])


@dataclass(frozen=True)
class _Case:
    prior: Prior
    shape: TaskShape
    device: torch.device
    seed: int

    def generator(self, number: int = 0) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.seed + number)

    def sample(self, number: int = 0, generator: torch.Generator | None = None) -> TaskBatch:
        try:
            return self.prior.sample(self.shape, generator=self.generator(number) if generator is None else generator)
        except ValueError as error:
            raise AssertionError(self._message(
                f"sample() raised ValueError: {error}",
                "return a batch of the shape asked for; if the prior serves other shapes only, pass them as shapes=[...]",
            )) from error
        except Exception as error:
            error.add_note(f"while check_prior drew {self.shape} from {self.prior!r}")
            raise

    def demand(self, holds: bool | Tensor, broken: str, remedy: str) -> None:
        if not bool(holds):
            raise AssertionError(self._message(broken, remedy))

    def _message(self, broken: str, remedy: str) -> str:
        where = f"{self.shape}, device {self.device}, seed {self.seed}"
        return f"{broken}\n  at: {where}\n  prior: {self.prior!r}\n  remedy: {remedy}."


def _check_rejects_other_generators(case: _Case) -> None:
    try:
        case.prior.sample(case.shape, generator=7)  # type: ignore[arg-type]
    except TypeError:
        return
    except Exception as error:
        case.sample()                                                # where a proper generator fails too, that comes first
        case.demand(False, f"sample(generator=7) raised {type(error).__name__}, not TypeError: {error}",
                    "begin sample with priors.task.check_generator(generator)")
    case.demand(False, "sample(generator=7) raised nothing, so its randomness comes from somewhere else",
                "draw with generator=generator, and begin sample with priors.task.check_generator(generator)")


def _check_devices_are_named(case: _Case) -> None:
    """Whoever relies on the default device fails on a GPU, so make the default one on which nothing can be computed."""
    expected = case.sample()
    try:
        with torch.device("meta"):
            found = case.prior.sample(case.shape, generator=case.generator())
    except Exception as error:
        raise AssertionError(case._message(
            f"sample() creates a tensor without naming its device ({type(error).__name__}: {error})",
            "create every tensor with device=generator.device, or with device='cpu' if it is meant to stay there",
        )) from error
    same = all(getattr(found, name).device == expected.x.device for name in ("x", "y")) and _equal(expected, found)
    case.demand(same, "sample() creates a tensor without naming its device",
                "create every tensor with device=generator.device, or with device='cpu' if it is meant to stay there")


def _check_global_state(case: _Case) -> TaskBatch:
    def states() -> dict[str, bytes]:
        name, keys, *position = np.random.get_state(legacy=True)  # noqa: NPY002, the global state is what is tested
        found = {"torch": torch.random.get_rng_state().numpy().tobytes(), "random": repr(random.getstate()).encode(),
                 "numpy": repr((name, position)).encode() + np.asarray(keys).tobytes()}
        if case.device.type == "cuda":
            found["torch.cuda"] = torch.cuda.get_rng_state(case.device).numpy().tobytes()
        return found

    before = states()
    batch = case.sample()
    touched = [name for name, state in states().items() if state != before[name]]
    case.demand(not touched, f"sample() changed the global random state of {', '.join(touched)}",
                "draw from the generator that was passed: torch.randn(..., generator=generator, device=generator.device)")
    return batch


def _check_contract(case: _Case, batch: TaskBatch) -> None:
    case.demand(isinstance(batch, TaskBatch), f"sample() returned {type(batch).__name__}",
                "return priors.TaskBatch(x=x, y=y, n_context=shape.n_context)")
    tasks, _, n_features = wanted = case.shape.batch_size, case.shape.n_rows, case.shape.n_features
    case.demand(batch.x.shape == wanted, f"x has shape {tuple(batch.x.shape)}, expected {wanted}",
                "return x of shape (batch_size, n_rows, n_features)")
    case.demand(batch.y.shape == wanted[:2], f"y has shape {tuple(batch.y.shape)}, expected {wanted[:2]}",
                "return y of shape (batch_size, n_rows)")
    case.demand(batch.n_context == case.shape.n_context,
                f"n_context is {batch.n_context}, expected {case.shape.n_context}", "pass n_context=shape.n_context on")
    case.demand(batch.x.dtype == torch.float32, f"x is {batch.x.dtype}", "return x.float()")
    case.demand(batch.y.dtype in (torch.float32, torch.int64), f"y is {batch.y.dtype}",
                "return y.float() for regression, y.long() for classes")
    parts = {"x": batch.x, "y": batch.y, "n_classes": batch.n_classes, "feature_mask": batch.feature_mask,
             "status": batch.status}
    device = torch.empty(0, device=case.device).device             # "cuda" becomes "cuda:0", or whichever is current
    for name, part in parts.items():
        case.demand(part is None or part.device == device, f"{name} is on {getattr(part, 'device', None)}, not on {device}",
                    "create tensors with device=generator.device")
    if batch.n_classes is not None:
        case.demand(batch.n_classes.shape == (tasks,) and batch.n_classes.dtype == torch.int64,
                    f"n_classes is {batch.n_classes.dtype} of shape {tuple(batch.n_classes.shape)}",
                    f"return one int64 for each task, shape ({tasks},)")
    mask = batch.feature_mask
    if mask is not None:
        case.demand(mask.shape == (tasks, n_features) and mask.dtype == torch.bool,
                    f"feature_mask is {mask.dtype} of shape {tuple(mask.shape)}",
                    f"return a bool for each task and column, shape {(tasks, n_features)}, or None if all are real")
        case.demand(mask.any(1).all(), "feature_mask leaves a task without columns", "keep at least one column a task")


def _check_values(case: _Case, batch: TaskBatch, constant_columns: bool) -> None:
    case.demand(~batch.x.isinf().any(), "x holds infinite values", "bound the features, or use NaN for missing ones")
    failed = torch.zeros_like(batch.y, dtype=torch.bool)
    if batch.status is not None:
        failed[:, : case.shape.n_context] = batch.status == Status.FAILED
        case.demand(((batch.status >= 0) & (batch.status < len(Status))).all(), "status holds unknown numbers",
                    "use those of priors.Status")
    case.demand((batch.y.isfinite() | failed).all(), "y holds NaN or infinite values",
                "every row needs a target: bound it, and see to it that no missing feature reaches it; where a context row "
                "failed, say so in status")
    case.demand((batch.y.isnan() | ~failed).all(), "y holds targets of context rows that failed", "use NaN there")
    if case.shape.n_rows <= 2 or constant_columns:
        return
    constant = (batch.x == batch.x[:, :1]).all(1)                    # (B, F); a column with gaps is not equal to itself
    if batch.feature_mask is not None:
        constant &= batch.feature_mask
    where = f" {constant.nonzero()[0].tolist()}" if bool(constant.any()) else ""
    case.demand(~constant.any(), f"x is constant in a column: [task, column]{where}",
                "make columns vary, set feature_mask, or pass constant_columns=True if that is meant")


def _check_classes(case: _Case, batch: TaskBatch) -> None:
    if batch.n_classes is None:
        return
    remedy = "use priors.labels.finish_labels(x, label, n_context, draw), which renumbers the classes and moves rows"
    for task, (labels, n_classes) in enumerate(zip(batch.y.tolist(), batch.n_classes.tolist(), strict=True)):
        found, seen = set(labels), set(labels[: case.shape.n_context])
        case.demand(found == set(range(len(found))), f"the classes of task {task} are {sorted(found)}, not 0 … C-1", remedy)
        case.demand(n_classes == len(found),
                    f"n_classes of task {task} is {n_classes}, but {len(found)} classes occur in y", remedy)
        case.demand(found == seen, f"the classes {sorted(found - seen)} of task {task} do not occur in its context", remedy)


def _check_seeds(case: _Case, first: TaskBatch, second: TaskBatch) -> None:
    generator = case.generator()
    case.demand(_equal(first, case.sample(generator=generator)), "the same seed gave two different batches",
                "take every random number, in a fixed order, from the generator")
    # A tiny batch may come twice by chance, four times it does not.
    case.demand(not all(_equal(first, other) for other in chain([second], (case.sample(n) for n in (2, 3)))),
                "four seeds gave the same batch", "draw the tasks from the generator")
    case.demand(not all(_equal(first, case.sample(generator=generator)) for _ in range(3)),
                "one generator gave the same batch four times", "draw from the generator itself, not from its seed")


def _equal(one: TaskBatch, other: TaskBatch) -> bool:
    def same(a: Tensor | None, b: Tensor | None) -> bool:
        if a is None or b is None:
            return a is b
        return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0))

    names = ("x", "y", "n_classes", "feature_mask", "status")
    return all(same(getattr(one, name), getattr(other, name)) for name in names)


def _leaks(case: _Case, batch: TaskBatch) -> list[bool]:
    """Whether each task has a column that equals its target, or names its classes; no answer where that means little."""
    if case.shape.n_rows < _LEAK_ROWS or (batch.n_classes is not None and case.shape.n_features == 1):
        return []                                              # a single column may decide the class all by itself
    if batch.n_classes is not None:
        return _renames(batch.x, batch.y).any(1).tolist()
    missing = batch.x.isnan()
    equal = ((batch.x == batch.y.unsqueeze(2)) | missing).all(1) & (missing.float().mean(1) < 0.5)       # (B, F)
    return equal.any(1).tolist()


def _renames(x: Tensor, label: Tensor) -> Tensor:
    """Where a column is the label under other names: two rows agree in one exactly if they agree in the other; (B, F)."""
    same_label = label.unsqueeze(2) == label.unsqueeze(1)                                # (B, R, R)
    found = []
    for column in x.unbind(2):
        known = ~column.isnan()
        agree = (column.unsqueeze(2) == column.unsqueeze(1)) == same_label
        ignored = ~(known.unsqueeze(2) & known.unsqueeze(1))
        found.append((agree | ignored).flatten(1).all(1) & (2 * known.sum(1) > label.shape[1]))
    return torch.stack(found, dim=1)
