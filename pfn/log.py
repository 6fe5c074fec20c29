"""The log of a pretraining run: one line of averages for every few steps, in a .jsonl file and in TensorBoard."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfn.files import replacing
from pfn.state import RunState


@dataclass(frozen=True)
class StepRecord:
    """What one step did; `seconds` includes drawing the tasks, or waiting for them."""

    loss: float
    gradient_norm: float
    n_tasks: int
    seconds: float


class RunLog:
    """Collects steps and writes a line when asked.

    Parameters
    ----------
    path : Path, optional
        The .jsonl file. Lines of steps after `step` are dropped: a killed run wrote them after the checkpoint from which
        it is resumed.
    tensorboard : path-like, optional
        Directory for TensorBoard, which is imported only then.
    step : int
        Steps that the run has behind it.
    """

    def __init__(self, path: Path | None, tensorboard: str | os.PathLike[str] | None, step: int) -> None:
        self._path = path
        self._board = None if tensorboard is None else _open_board(tensorboard, step)
        self._recent: list[StepRecord] = []
        if path is not None and path.exists():
            _trim(path, step)

    def add(self, record: StepRecord) -> None:
        self._recent.append(record)

    def write(self, state: RunState, validation: float | None) -> dict[str, Any]:
        """Write and return the averages since the last line."""
        steps, self._recent = self._recent, []
        n_tasks = sum(step.n_tasks for step in steps)
        line = {
            "step": state.step, "tasks": state.tasks, "seconds": round(state.seconds, 1), "skipped": state.skipped,
            "loss": round(sum(step.loss for step in steps) / len(steps), 5),
            "gradient_norm": round(sum(step.gradient_norm for step in steps) / len(steps), 4),
            "learning_rate": state.optimizers[0].param_groups[0]["lr"],
            "tasks_per_step": round(n_tasks / len(steps), 2),
            "tasks_per_second": round(n_tasks / max(sum(step.seconds for step in steps), 1e-9), 2),
        }
        if validation is not None:
            line["validation_loss"] = round(validation, 5)
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name in ("loss", "validation_loss", "gradient_norm", "learning_rate", "tasks_per_second"):
                if name in line:
                    self._board.add_scalar(name, line[name], state.step)
            self._board.flush()
        return line

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _open_board(directory: str | os.PathLike[str], step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"tensorboard={os.fspath(directory)!r} needs the tensorboard package; pip install pfnkit[tensorboard]."
        ) from error
    return SummaryWriter(os.fspath(directory), purge_step=step + 1)


def _trim(path: Path, step: int) -> None:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue                                                # the last line of a killed run may be cut short
    with replacing(path) as made:
        made.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
