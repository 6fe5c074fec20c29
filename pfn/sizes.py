"""Which task sizes pretraining visits, and how many tasks of a size fit one batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from priors import TaskShape


@dataclass(frozen=True)
class TaskSizes:
    """Distribution of task shapes; every batch has one shape, so nothing is padded.

    Parameters
    ----------
    rows : (int, int)
        Fewest and most rows of a task, context and queries together; log-uniform.
    features : (int, int)
        Fewest and most features; nearly log-uniform.
    context_share : (float, float)
        Range of the share of rows that are context; uniform, or log-uniform with `log_share`.
    cells : int
        Rows × tokens of a batch: small tasks come in large batches. A larger task comes alone.
    n_shapes : int
        Number of distinct shapes, spread evenly over the ranges. Kernels are compiled or planned once for each: with
        a fresh shape at every step, bfloat16 training on a CPU spends half of its time on that.
    row_step : int
        Rows are rounded to multiples of this.
    max_cells : int, optional
        Rows × tokens of the largest single task; wide tasks have fewer rows for its sake. None: twice `cells`.
    log_share : bool
        Whether contexts of one or two rows occur as often as those of fifty to a hundred.
    queries : int
        If positive, every task has so many query rows, `rows` counts context rows only, without rounding, and
        `context_share` is not used: for tasks that are cut off anywhere, as learning curves are.
    """

    rows: tuple[int, int] = (32, 1024)
    features: tuple[int, int] = (1, 60)
    context_share: tuple[float, float] = (0.4, 0.9)
    cells: int = 10_240
    n_shapes: int = 96
    row_step: int = 16
    max_cells: int | None = None
    log_share: bool = False
    queries: int = 0

    def __post_init__(self) -> None:
        if self.queries < 0:
            raise ValueError(f"queries={self.queries} is negative; use 0 for a share of the rows.")
        for name, smallest in (("rows", 1 if self.queries else 2), ("features", 1)):
            low, high = getattr(self, name)
            if not smallest <= low <= high:
                raise ValueError(f"{name}={(low, high)} is no range; use {smallest} <= low <= high.")
        low_share, high_share = self.context_share
        if not 0 < low_share <= high_share < 1:
            raise ValueError(f"context_share={self.context_share} is no range of shares; use 0 < low <= high < 1.")
        if min(self.cells, self.n_shapes, self.row_step) < 1:
            raise ValueError(f"cells={self.cells}, n_shapes={self.n_shapes} and row_step={self.row_step} must be positive.")
        if self.max_cells is not None and self.max_cells < self.rows[0]:
            raise ValueError(
                f"max_cells={self.max_cells} has no room for tasks of {self.rows[0]} rows; use max_cells >= rows × tokens."
            )

    def draw(self, generator: torch.Generator, n_tokens: Callable[[int], int]) -> TaskShape:
        """One of the `n_shapes` shapes; `n_tokens` says how many tokens a network spends on a row of so many features.

        `generator` is a CPU generator, whatever device the tasks are drawn on.
        """
        number = int(torch.randint(self.n_shapes, (), generator=generator))
        return self.shape(number, n_tokens)

    def shape(self, number: int, n_tokens: Callable[[int], int]) -> TaskShape:
        """Shape with this number: a point of a Richtmyer sequence, multiples of √2 … √7 modulo 1, mapped to the ranges."""
        u_rows, u_features, u_share, u_round = ((0.5 + number * math.sqrt(prime)) % 1.0 for prime in (2, 3, 5, 7))
        # Log-uniform after adding 3, else one task in six would have a single feature.
        low, high = self.features
        n_features = _log_uniform(u_features, low + 3, high + 3) - 3
        max_cells = 2 * self.cells if self.max_cells is None else self.max_cells
        if self.queries:
            n_context = _log_uniform(u_rows, *self.rows)
            n_rows = n_context + self.queries
            return TaskShape(self._batch_size(n_rows * n_tokens(n_features), u_round), n_rows, n_features, n_context)
        n_rows = max(min(_log_uniform(u_rows, *self.rows), max_cells // n_tokens(n_features)), self.rows[0])
        if n_rows > self.row_step:
            n_rows -= n_rows % self.row_step
        low_share, high_share = self.context_share
        share = low_share + (high_share - low_share) * u_share
        if self.log_share:
            share = low_share * (high_share / low_share) ** u_share
        n_context = min(max(round(n_rows * share), 1), n_rows - 1)
        return TaskShape(self._batch_size(n_rows * n_tokens(n_features), u_round), n_rows, n_features, n_context)

    def _batch_size(self, cells: int, u: float) -> int:
        """Tasks of so many cells in a batch. Random rounding: tasks that fill 60 % of it do not always come alone."""
        return max(1, math.floor(self.cells / cells + 0.5 * u))


def _log_uniform(u: float, low: int, high: int) -> int:
    return min(int(math.exp(math.log(low) + u * (math.log(high + 1) - math.log(low)))), high)
