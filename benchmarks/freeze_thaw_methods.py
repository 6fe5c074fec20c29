"""Ways to spend epochs on recorded runs: complete runs, halving, stopping, and freeze-thaw, all on the same tables."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable

import numpy as np
from curve_data import CurveSet
from optuna.distributions import FloatDistribution

from estimators import FreezeThawOptimizer
from pfn import load_pretrained

ETA = 3                                                             # of the halvings
STEPS = 50                                                          # decisions in a complete run
Array = np.ndarray


class Spent(Exception):
    """No epochs are left."""


class Replay:
    """Recorded runs that are paused and continued, until `budget` epochs are spent; a run that fails costs that epoch.

    Parameters
    ----------
    curves : CurveSet
    budget : int
    """

    def __init__(self, curves: CurveSet, budget: int) -> None:
        self.curves, self.budget = curves, budget
        self.cost = np.where(curves.minimize, 1.0, -1.0) * curves.values            # (n, m), smaller is better
        self.n, self.horizon = self.cost.shape
        self.reached = np.zeros(self.n, dtype=int)
        self.failed = np.zeros(self.n, dtype=bool)
        self.trace: list[float] = []                                # best cost after each epoch; inf before the first

    @property
    def best(self) -> float:
        return self.trace[-1] if self.trace else math.inf

    def run(self, number: int, step: int) -> Array:
        """Costs of a run from where it was up to this step, or to the NaN with which it fails."""
        new = []
        while self.reached[number] < step and not self.failed[number]:
            if len(self.trace) >= self.budget:
                raise Spent
            value = self.cost[number, self.reached[number]]
            self.reached[number] += 1
            self.failed[number] = np.isnan(value)
            self.trace.append(float(np.fmin(self.best, value)))
            new.append(value)
        return np.array(new)

    def so_far(self, number: int) -> Array:
        """Costs of a run."""
        known = self.cost[number, : self.reached[number]]
        return known[np.isfinite(known)]

    def score(self, number: int) -> float:
        """What halving compares: the cost at the last step, inf if it failed."""
        return math.inf if self.failed[number] else float(self.cost[number, self.reached[number] - 1])


def complete_runs(replay: Replay, rng: np.random.Generator) -> None:
    """Random search."""
    for number in rng.permutation(replay.n):
        replay.run(number, replay.horizon)


def random_continuation(replay: Replay, rng: np.random.Generator) -> None:
    """At each decision a new run, or one of those that were begun, with equal probability of either kind."""
    new, begun = list(rng.permutation(replay.n)), []
    while new or begun:
        if new and (not begun or rng.random() < 0.5):
            begun.append(new.pop())
            number = begun[-1]
        else:
            number = begun[rng.integers(len(begun))]
        replay.run(number, min(replay.reached[number] + per_ask(replay), replay.horizon))
        if replay.failed[number] or replay.reached[number] == replay.horizon:
            begun.remove(number)


def rungs(replay: Replay) -> list[int]:
    """Steps of a run at which it is compared, the horizon last, each about three times the one before."""
    n = int(math.log(replay.horizon, ETA))
    return [math.ceil(replay.horizon / ETA**k) for k in range(n, -1, -1)]


def hyperband(replay: Replay, rng: np.random.Generator) -> None:
    """Successive halving with more and fewer runs in turn [L. Li et al., JMLR 2018]; those promoted continue."""
    order, steps = iter(rng.permutation(replay.n)), rungs(replay)
    most = len(steps) - 1
    while True:
        for first in range(most + 1):
            size = math.ceil((most + 1) / (most - first + 1) * ETA ** (most - first))
            halving(replay, [number for number, _ in zip(order, range(size), strict=False)], steps[first:])


def successive_halving(replay: Replay, rng: np.random.Generator) -> None:
    """Its bracket with the most runs, over and over."""
    order, steps = iter(rng.permutation(replay.n)), rungs(replay)
    while True:
        halving(replay, [number for number, _ in zip(order, range(ETA ** (len(steps) - 1)), strict=False)], steps)


def halving(replay: Replay, numbers: list[int], steps: list[int]) -> None:
    if not numbers:
        raise Spent                                                 # all configurations have been seen
    for step in steps:
        for number in numbers:
            replay.run(number, step)
        numbers = sorted(numbers, key=replay.score)[: max(len(numbers) // ETA, 1)]


def asha(replay: Replay, rng: np.random.Generator) -> None:
    """Asynchronous halving [L. Li et al., MLSys 2020] with one worker: promote one of a rung's best third, or start one."""
    order, steps = iter(rng.permutation(replay.n)), rungs(replay)
    at: list[dict[int, float]] = [{} for _ in steps]                # scores by run
    while True:
        for level in range(len(steps) - 2, -1, -1):
            best = sorted(at[level], key=at[level].__getitem__)[: len(at[level]) // ETA]
            promoted = [number for number in best if number not in at[level + 1] and not replay.failed[number]]
            if promoted:
                number, target = promoted[0], level + 1
                break
        else:
            number, target = next(order, None), 0
            if number is None:
                raise Spent
        replay.run(number, steps[target])
        at[target][number] = replay.score(number)


def early_stopping(replay: Replay, rng: np.random.Generator) -> None:
    """Random search whose runs are stopped by the published rule for single curves, see `StoppingRule`."""
    from estimators import LearningCurveExtrapolator
    from estimators.early_stopping import StoppingRule

    rule, curves, best = StoppingRule(), replay.curves, math.inf
    sign = 1.0 if curves.minimize else -1.0
    extrapolator = LearningCurveExtrapolator(curves.minimize, curves.bounds, replay.horizon, model=network("learning-curve"))
    for number in rng.permutation(replay.n):
        stopped = False
        while replay.reached[number] < replay.horizon and not replay.failed[number] and not stopped:
            replay.run(number, min(replay.reached[number] + per_ask(replay), replay.horizon))
            y = sign * replay.so_far(number)
            if math.isfinite(best) and len(y) >= rule.min_observations and not replay.failed[number]:
                extrapolator.fit(np.arange(1, len(y) + 1), y)
                stopped = rule.decide(extrapolator, sign * best, len(y), replay.horizon).stop
        if not stopped:
            best = min(best, replay.so_far(number).min(initial=math.inf))


def freeze_thaw(replay: Replay, rng: np.random.Generator, model: str = "freeze-thaw", **options: object) -> None:
    """`FreezeThawOptimizer` with the recorded configurations as candidates."""
    curves, sign = replay.curves, 1.0 if replay.curves.minimize else -1.0
    low, high = curves.hyperparameters.min(0), curves.hyperparameters.max(0)
    space = {name: FloatDistribution(a, b) for name, a, b in zip(curves.names, low.tolist(), high.tolist(), strict=True)}
    candidates = [dict(zip(curves.names, row, strict=True)) for row in curves.hyperparameters.tolist()]
    number_of = {tuple(one.values()): number for number, one in enumerate(candidates)}
    optimizer = FreezeThawOptimizer(
        space, replay.horizon, "minimize" if curves.minimize else "maximize", curves.bounds, int(rng.integers(2**31)),
        **{"candidates": candidates, "steps_per_ask": per_ask(replay), "model": network(model)} | options,
    )
    while asked := optimizer.ask():
        (one,) = asked
        number = number_of[tuple(one.params.values())]
        first = replay.reached[number] + 1
        values = sign * replay.run(number, one.step)
        optimizer.tell(one, list(range(first, first + len(values))), values.tolist())


def per_ask(replay: Replay) -> int:
    """Epochs between two decisions."""
    return max(1, replay.horizon // STEPS)


@functools.cache
def network(name: str):
    return load_pretrained(name)


Method = Callable[[Replay, np.random.Generator], None]
METHODS: dict[str, Method] = {
    "freeze-thaw": freeze_thaw, "random search": complete_runs, "random continuation": random_continuation,
    "successive halving": successive_halving, "Hyperband": hyperband, "ASHA": asha, "early stopping": early_stopping,
}


def play(method: str, curves: CurveSet, n_runs: int, seed: int, **options: object) -> dict[str, object]:
    """Best cost after each epoch of so many complete runs, CPU seconds for as many decisions, and runs begun."""
    replay = Replay(curves, n_runs * curves.values.shape[1])
    start = time.process_time()
    with contextlib.suppress(Spent):
        METHODS[method](replay, np.random.default_rng(seed), **options)
    seconds = time.process_time() - start
    trace = np.append(replay.trace, np.full(replay.budget - len(replay.trace), replay.best))
    return {"best": trace.tolist(), "seconds": seconds, "runs": int((replay.reached > 0).sum())}
