"""Configurations that could be started: points of a space, quasi-random and near the best ones, or those of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from estimators.space import SearchSpace
from estimators.trials import checked_params

Key = tuple[int, ...]
_SPARE = 64                                                         # initial points, in place of those that are taken
_SCALES = (0.2, 0.05, 0.01)                                         # of steps from the best configurations
_N_BEST = 5
_N_TRIES = 10


class Candidates:
    """Configurations of a study that were not started yet.

    Parameters
    ----------
    space : SearchSpace
    listed : sequence of mappings, optional
        All that can be started; None: every point of the space.
    n : int
        How many `draw` gives, at most.
    """

    def __init__(self, space: SearchSpace, listed: Sequence[Mapping[str, Any]] | None, n: int) -> None:
        self.space, self.n = space, n
        self.listed: list[dict[str, Any]] | None = None
        if listed is not None:
            if isinstance(listed, Mapping | str) or not isinstance(listed, Sequence) or len(listed) == 0:
                raise ValueError(f"candidates={listed!r} is no list of configurations; pass one mapping at least, or None.")
            self.listed = [checked_params(space, params) for params in listed]
            self._rows = space.encode(self.listed)
            self._params = dict(zip(space.keys(self._rows), self.listed, strict=True))

    def __contains__(self, key: Key) -> bool:
        return self.listed is None or key in self._params

    def params(self, row: np.ndarray) -> dict[str, Any]:  # (n_columns,)
        if self.listed is None:
            return self.space.decode(row[None])[0]
        return dict(self._params[self.space.keys(row[None])[0]])

    def initial(self, taken: set[Key], seed: int) -> np.ndarray:
        """The first of a fixed sequence that is not taken, (1, n_columns), or (0, n_columns) if there is none."""
        rng = np.random.default_rng(seed)
        rows = self.space.sample(len(taken) + _SPARE, rng) if self.listed is None else rng.permutation(self._rows)
        free = self._free(rows, taken)[:1]
        return free if len(free) else self.draw(taken, rows[:0], rng)[:1]

    def draw(self, taken: set[Key], best: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rows (at most n, n_columns) that are not taken; of a space, a third are near the `best` (k, n_columns)."""
        if self.listed is not None:
            free = self._free(self._rows, taken)
            return free if len(free) <= self.n else free[np.sort(rng.permutation(len(free))[: self.n])]
        if len(taken) >= self.space.n_points:
            return best[:0]
        centres = best[:_N_BEST]
        n_near = self.n // 3 if len(centres) else 0
        repeated = np.resize(centres, (n_near // len(_SCALES), self.space.n_columns))
        near = [self.space.neighbours(repeated, scale, rng) for scale in _SCALES if n_near]
        for _ in range(_N_TRIES):                                   # of a small space, few points may be left
            free = self._free(np.concatenate([self.space.sample(self.n - n_near, rng), *near]), taken)
            if len(free):
                break
        return free

    def _free(self, rows: np.ndarray, taken: set[Key]) -> np.ndarray:
        """Those that are not taken, once each."""
        seen, kept = set(taken), []
        for position, key in enumerate(self.space.keys(rows)):
            if key not in seen:
                seen.add(key)
                kept.append(position)
        return rows[kept]
