"""What the certificates share: scores of single tasks kept in a file, paired gaps between methods, and the clock.

Gaps are differences of two methods' scores on the same tasks, as tasks differ far more than methods do.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

SECONDS_ARE = "CPU time of the process, which has one thread: other work on the machine does not count"
clock = time.process_time
Scores = dict[str, list[float]]                                     # by name, one number a task


def use_one_thread() -> None:
    """Of torch, BLAS and XLA; XLA reads its flags when jax is first used."""
    import torch

    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    torch.set_num_threads(1)


class TaskScores:
    """Scores by method, in a JSON file if there is a path; tasks that are there are not computed again."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        exists = self.path is not None and self.path.exists()
        self.rows: dict[str, Scores] = json.loads(self.path.read_text()) if exists and self.path else {}

    def fill(self, key: str, n_tasks: int, compute: Callable[[int], dict[str, float]]) -> Scores:
        """Scores of the first `n_tasks` tasks; `compute` gives those of one. `seconds` is added if it is not among them."""
        row = self.rows.setdefault(key, {})
        done = len(next(iter(row.values()), []))
        for task in tqdm(range(done, n_tasks), desc=key, disable=None):
            start = clock()
            scores = compute(task)
            for name, value in ({"seconds": clock() - start} | scores).items():
                row.setdefault(name, []).append(float(value))
            if task % 20 == 19:
                self.write()
        self.write()
        return {name: values[:n_tasks] for name, values in row.items()}

    def write(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.rows) + "\n")


def mean_and_interval(values: Sequence[float] | np.ndarray, *, seed: int = 0, n_resamples: int = 2000) -> list[float]:
    """Mean over tasks and the ends of its 95 % bootstrap interval."""
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(n_resamples)])
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(v), 5) for v in (values.mean(), low, high)]


def show(interval: Sequence[float], digits: int = 3) -> str:
    """A mean with its interval, for a table."""
    mean, low, high = interval
    return f"{mean:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


def circumstances(seed: int, *packages: str) -> dict[str, Any]:
    """Date, machine, seed and versions, for a file of results."""
    versions = {}
    for package in ("torch", "numpy", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": str(datetime.date.today()), "machine": f"{os.cpu_count()} cores, {platform.machine()}", "threads": 1,
        "seed": seed, "seconds_are": SECONDS_ARE, "versions": versions,
    }


def write_json(path: str | os.PathLike[str], results: dict[str, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(results, indent=1) + "\n")
