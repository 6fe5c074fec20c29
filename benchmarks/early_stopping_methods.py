"""Where early stopping ends recorded runs: forecasts of all of them at all cut-offs, and the methods that are compared."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from curve_data import CurveSet
from tqdm import tqdm

from estimators.early_stopping import CurveStopper, StoppingRule, later_steps
from estimators.learning_curves import LearningCurveExtrapolator
from pfn import PFN

COARSE = (0.1, 0.2, 0.4, 0.8)           # cut-offs as shares of the horizon
DELTAS = (0.01, 0.02, 0.05, 0.1, 0.2)
N_LEVELS = 16                           # quantiles for expected gains
N_THRESHOLDS = 16


# Forecasts of every run of a set at every cut-off. Values are goodness: losses have their sign changed.

@dataclass(frozen=True)
class Forecasts:
    """What is expected of n runs at c cut-offs.

    Parameters
    ----------
    cutoffs : array of shape (c,)
    optimistic : array of shape (c, n, len(DELTAS))
        What the most promising later step exceeds with probability delta: a run is hopeless if this is below the best value.
    gains : array of shape (c, n, k)
        The largest expected gain of a later step over each of the thresholds.
    thresholds : array of shape (k,)
    misfit : array of shape (c, n)
        p-values of what has been seen.
    """

    cutoffs: np.ndarray
    optimistic: np.ndarray
    gains: np.ndarray
    thresholds: np.ndarray
    misfit: np.ndarray


def goodness(curves: CurveSet) -> np.ndarray:
    return -curves.values if curves.minimize else curves.values


def forecast(curves: CurveSet, model: PFN, prior: str) -> Forecasts:
    values, (n, m) = goodness(curves), curves.values.shape
    sign = -1 if curves.minimize else 1
    cutoffs = np.unique(np.concatenate([np.arange(2, min(12, m)), np.arange(12, m, max(1, m // 25)), coarse(m)]))
    finals = np.sort(values[np.isfinite(values[:, -1]), -1])
    thresholds = np.unique(np.concatenate([finals[-6:], np.quantile(finals, np.linspace(0, 1, N_THRESHOLDS - 6))]))
    middles = (np.arange(N_LEVELS) + 0.5) / N_LEVELS
    shape = len(cutoffs), n
    optimistic, gains = np.full((*shape, len(DELTAS)), np.nan), np.full((*shape, len(thresholds)), np.nan)
    misfit = np.full(shape, np.nan)
    for row, cutoff in enumerate(tqdm(cutoffs, desc=curves.name, disable=None)):
        alive = np.flatnonzero(np.isfinite(values[:, :cutoff]).all(1))
        curve = LearningCurveExtrapolator(curves.minimize, curves.bounds, m, prior=prior, model=model)
        curve.fit(curves.steps[:cutoff], curves.values[alive, :cutoff])
        distribution = curve.predict_distribution(later_steps(cutoff, m))
        levels = np.concatenate([[1 - delta for delta in DELTAS], middles])
        quantiles = sign * distribution.quantile(levels if sign > 0 else 1 - levels)     # (n_alive, n_later, n_levels)
        optimistic[row, alive] = quantiles[..., : len(DELTAS)].max(1)
        for column, threshold in enumerate(thresholds):
            gains[row, alive, column] = np.maximum(quantiles[..., len(DELTAS) :] - threshold, 0).mean(-1).max(1)
        misfit[row, alive] = curve.misfit() if cutoff >= 4 else 1.0
    return Forecasts(cutoffs, optimistic, gains, thresholds, misfit)


def coarse(m: int) -> np.ndarray:
    return np.unique(np.maximum(np.round(np.array(COARSE) * m), 2)).astype(int)


def check(curves: CurveSet, forecasts: Forecasts, model: PFN, prior: str, n: int = 20) -> None:
    """That `CurveStopper` decides what the tables say, for random runs, cut-offs and best values."""
    rng, values = np.random.default_rng(0), goodness(curves)
    sign, m = -1 if curves.minimize else 1, values.shape[1]
    for _ in range(n):
        row, run, column = (rng.integers(size) for size in forecasts.optimistic.shape)
        best = rng.choice(forecasts.thresholds)
        cutoff, limit = forecasts.cutoffs[row], forecasts.optimistic[row, run, column]
        if cutoff < 4 or math.isnan(limit) or abs(limit - best) < 1e-6 * abs(best) or best < values[run, :cutoff].max():
            continue
        stopper = CurveStopper(
            m, StoppingRule(DELTAS[column]), best=sign * best, minimize=curves.minimize, bounds=curves.bounds, check_every=1,
            prior=prior, model=model,
        )
        expected = limit <= best and forecasts.misfit[row, run] >= stopper.rule.min_fit
        stops = stopper.should_stop(curves.values[run, :cutoff])
        assert stops == expected, (curves.name, run, cutoff, stopper.last_decision_)


class Method:
    """No stopping. `end` says after how many steps a run ends and whether its value counts, given what was before it:
    the complete runs, and the best of their final values.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.m = values, values.shape[1]
        broken = ~np.isfinite(values)
        self.ends = np.where(broken.any(1), broken.argmax(1) + 1, self.m)                # where a run diverges

    def begin(self) -> None:
        """A new order."""

    def end(self, run: int, complete: list[int], best: float) -> tuple[int, bool]:
        return int(self.ends[run]), bool(np.isfinite(self.values[run, -1]))

    def cut(self, run: int, steps: np.ndarray) -> tuple[int, bool]:
        """Ends at the first of these steps."""
        steps = steps[steps < self.ends[run]]
        return (int(steps[0]), False) if len(steps) else Method.end(self, run, [], 0.0)


class Patience(Method):
    """Ends when the last k steps have brought nothing new, whatever other runs have reached; its last value counts."""

    def __init__(self, values: np.ndarray, k: int) -> None:
        super().__init__(values)
        self.stops = []
        for row in values:
            best, since, stop = -math.inf, 0, self.m
            for step, value in enumerate(row, 1):
                best, since = (value, 0) if value > best else (best, since + 1)
                if since > k:
                    stop = step
                    break
            self.stops.append(stop)

    def end(self, run: int, complete: list[int], best: float) -> tuple[int, bool]:
        end = min(self.ends[run], self.stops[run])
        return int(end), bool(np.isfinite(self.values[run, end - 1]))


class Median(Method):
    """Optuna's MedianPruner: the best value so far is worse than the median of the complete runs at the same step."""

    def __init__(self, values: np.ndarray, n_startup: int = 5) -> None:
        super().__init__(values)
        self.n_startup, self.so_far = n_startup, np.maximum.accumulate(values, 1)

    def end(self, run: int, complete: list[int], best: float) -> tuple[int, bool]:
        if len(complete) < self.n_startup:
            return super().end(run, complete, best)
        return self.cut(run, np.flatnonzero(self.so_far[run] < np.median(self.values[complete], 0)) + 1)


class Halving(Method):
    """Optuna's SuccessiveHalvingPruner with its defaults: at steps r, 4r, 16r, … only the best quarter of all goes on."""

    def begin(self) -> None:
        self.rungs: dict[int, list[float]] = {}

    def end(self, run: int, complete: list[int], best: float) -> tuple[int, bool]:
        if not complete:
            return super().end(run, complete, best)
        step = max(self.m // 100, 1)
        while step < self.ends[run]:
            seen = self.rungs.setdefault(step, [])
            seen.append(self.values[run, step - 1])
            if seen[-1] < sorted(seen, reverse=True)[max(len(seen) // 4, 1) - 1]:
                return step, False
            step *= 4
        return super().end(run, complete, best)


class Foresight(Method):
    """Ends after four steps unless it will be the best: what no method can surpass."""

    def end(self, run: int, complete: list[int], best: float) -> tuple[int, bool]:
        is_better = self.values[run, -1] > best
        return super().end(run, complete, best) if is_better else (int(min(4, self.ends[run])), False)


class Rule(Method):
    """The rules of `estimators.early_stopping`; `tolerance` is relative to the best value."""

    def __init__(
        self, values: np.ndarray, forecasts: Forecasts, delta: float = 0.05, tolerance: float | None = None,
        cutoffs: Sequence[int] | None = None, n_startup: int = 1, least: int = 4, min_fit: float = 0.01,
    ) -> None:
        super().__init__(values)
        self.forecasts, self.tolerance, self.n_startup = forecasts, tolerance, n_startup
        use = forecasts.cutoffs >= least if cutoffs is None else np.isin(forecasts.cutoffs, cutoffs)
        self.steps, self.fits = forecasts.cutoffs[use], forecasts.misfit[use] >= min_fit
        self.optimistic = forecasts.optimistic[use, :, DELTAS.index(delta)] if delta else np.full(self.fits.shape, np.inf)
        self.gains = forecasts.gains[use]

    def end(self, run: int, complete: list[int], best: float) -> tuple[int, bool]:
        if len(complete) < self.n_startup:
            return super().end(run, complete, best)
        hopeless = self.optimistic[:, run] <= best
        if self.tolerance is not None:
            gain = [np.interp(best, self.forecasts.thresholds, row) for row in self.gains[:, run]]
            hopeless |= np.array(gain) <= self.tolerance * abs(best)
        is_ahead = self.values[run, self.steps - 1] > best
        return self.cut(run, self.steps[hopeless & ~is_ahead & self.fits[:, run]])


def methods(curves: CurveSet, forecasts: Forecasts) -> dict[str, Method]:
    values = goodness(curves)
    found: dict[str, Method] = {"no stopping": Method(values), "perfect foresight": Foresight(values)}
    found |= {f"patience {k}": Patience(values, k) for k in (5, 10, 20)}
    found |= {"median": Median(values), "successive halving": Halving(values)}
    rule = functools.partial(Rule, values, forecasts)
    found |= {f"delta {delta:g}": rule(delta) for delta in DELTAS}
    found |= {
        "delta 0.05, coarse": rule(cutoffs=coarse(values.shape[1])), "delta 0.05, from 2 values": rule(least=2),
        "delta 0.05, five complete runs": rule(n_startup=5), "delta 0.05, misfit ignored": rule(min_fit=0.0),
    }
    return found | {f"delta 0.05 or gain {100 * share:g} %": rule(tolerance=share) for share in (0.001, 0.003)}
