"""What the freeze-thaw network believes about later steps of runs, begun or not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pfn import PFN, BarDistribution, BarPosterior, load_pretrained
from pfn.freeze_thaw import N_ROW_FEATURES, TaskScale, part_means, row_features
from pfn.network import EncodedContext

MAX_RUNS = 150                      # of a context in training


@dataclass(frozen=True)
class RunTable:
    """Runs in the encoding of a `SearchSpace`, a row each; as many columns of values as the longest needs."""

    x: np.ndarray                   # (n, n_columns), in [0, 1]
    share: np.ndarray               # (n, m), steps as shares of the horizon, increasing; NaN behind the last one
    y: np.ndarray                   # (n, m), larger is better, mostly in [0, 1]; NaN behind the last one

    @classmethod
    def of(cls, x: np.ndarray, curves: list[tuple[np.ndarray, np.ndarray]]) -> RunTable:
        """From pairs of shares and values of any lengths; rows of x beyond them have not begun."""
        table = np.full((2, len(x), max([1, *(len(share) for share, _ in curves)])), np.nan)
        for row, (share, y) in enumerate(curves):
            table[:, row, : len(share)] = share, y
        return cls(x, table[0], table[1])

    @property
    def n_seen(self) -> np.ndarray:  # (n,)
        return (~np.isnan(self.y)).sum(1)

    @property
    def reached(self) -> np.ndarray:  # (n,)
        """Share of the horizon up to which each run is known; 0 if it has not begun."""
        return np.fmax.reduce(self.share, axis=1, initial=0.0)

    @property
    def last(self) -> np.ndarray:  # (n,)
        """The last value of each run, or NaN."""
        return self.y[np.arange(len(self.y)), np.maximum(self.n_seen - 1, 0)]

    @property
    def best(self) -> np.ndarray:  # (n,)
        """The largest value of each run, or -inf."""
        return np.fmax.reduce(self.y, axis=1, initial=-np.inf)

    def continued(self, rows: np.ndarray, share: np.ndarray, y: np.ndarray) -> RunTable:
        """The same with one more value of some rows, each of which occurs once."""
        wide = np.full((2, len(self.y), self.y.shape[1] + 1), np.nan)
        wide[:, :, :-1] = self.share, self.y
        wide[:, rows, self.n_seen[rows]] = share, y
        return RunTable(self.x, wide[0], wide[1])


class FreezeThawSurrogate:
    """Posteriors of values at later steps. Runs with values are encoded once; any number of questions follow.

    Parameters
    ----------
    model : PFN
        See `load_freeze_thaw_network`.
    runs : RunTable
        With one value at least.
    columns : ndarray of int
        Those of the parameters that the network sees, at most 10.
    max_runs : int
        Of more runs with values the context has the best half, and others whose parameters are far from each other.
    """

    def __init__(self, model: PFN, runs: RunTable, columns: np.ndarray, max_runs: int = MAX_RUNS) -> None:
        self.model, self.runs, self.columns = model, runs, columns
        seen = ~np.isnan(runs.y)
        # Plus 0: `share` is 1 where there is no value, and must lie in some part.
        self._means = part_means(_float(np.where(seen, runs.share, 1.0)), _float(runs.y), torch.from_numpy(seen))
        self.rows = self._context_rows(max_runs)
        self.scale = TaskScale.of(self._means[self.rows].unsqueeze(0))

    def _context_rows(self, max_runs: int) -> np.ndarray:
        begun = np.flatnonzero(self.runs.n_seen)
        if len(begun) <= max_runs:
            return begun
        order = begun[np.argsort(-self.runs.best[begun], kind="stable")]
        chosen, rest = list(order[: max_runs // 2]), order[max_runs // 2 :]
        x = self.runs.x[rest]
        distance = np.min([np.square(x - self.runs.x[row]).sum(1) for row in chosen], axis=0)
        while len(chosen) < max_runs:
            farthest = int(np.argmax(distance))
            chosen.append(rest[farthest])
            distance = np.minimum(distance, np.square(x - x[farthest]).sum(1))
            distance[farthest] = -1.0                               # below those of other rows of the same point
        return np.sort(np.array(chosen))

    def posterior(self, rows: np.ndarray, share: np.ndarray) -> BarPosterior:
        """Of the values that rows (n,) have at shares (n,) of the horizon, later than what is known of them."""
        with torch.no_grad():
            logits = self.model.decode(self._context, self._features(rows, share))[0]
            target = self.model.scale_of_targets(torch.zeros(1, 1))
            posterior = BarDistribution(self.model.borders.float()).posterior(logits.float())
            spread, level = self.scale.spread[0], self.scale.level[0]                    # (1,) each
            return posterior.affine(target.std[0, 0] * spread, target.mean[0, 0] * spread + level)

    @cached_property
    def _context(self) -> EncodedContext:
        y = self.scale.apply(_float(self.runs.last[self.rows]).unsqueeze(0))
        with torch.no_grad():
            return self.model.encode_context(self._features(self.rows, self.runs.reached[self.rows]), y)

    def _features(self, rows: np.ndarray, asked: np.ndarray) -> Tensor:  # (1, n, 30)
        runs = self.runs
        x, last, reached = (_float(part[rows]).unsqueeze(0) for part in (runs.x[:, self.columns], runs.last, runs.reached))
        return row_features(x, self._means[rows].unsqueeze(0), last, reached, _float(asked).unsqueeze(0), self.scale)


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def load_freeze_thaw_network(model: str | os.PathLike[str] | PFN) -> PFN:
    """A network that reads freeze-thaw tasks, from its name or path if it is none yet.

    Raises
    ------
    ValueError
        If it reads other tasks, or is not on the CPU.
    """
    network = model if isinstance(model, PFN) else load_pretrained(model)
    config = network.config
    if config.task != "regression" or config.scaling != "prior" or config.row_features != N_ROW_FEATURES:
        raise ValueError(
            f"{'this network' if isinstance(model, PFN) else f'model={model!r}'} is for task={config.task!r} with "
            f"scaling={config.scaling!r} and row_features={config.row_features}; pass a regression network with "
            f"scaling='prior' and row_features={N_ROW_FEATURES}, such as 'freeze-thaw'."
        )
    if network.borders.device.type != "cpu":
        raise ValueError(f"this network is on {network.borders.device}, but the curves are on the CPU; pass model.cpu().")
    return network
