"""The curves of a study as the network reads them: what it believes of any run, and which run it would go on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from estimators.curve_distribution import CurveDistribution
from estimators.curve_metric import CurveMetric, soft_bounds
from estimators.freeze_thaw_runs import PartialCurve
from estimators.freeze_thaw_surrogate import FreezeThawSurrogate, RunTable
from pfn import PFN
from pfn.freeze_thaw import PARTS


@dataclass(frozen=True)
class Study:
    """Curves of which one has a value at least, with their encoded parameters.

    Parameters
    ----------
    x : ndarray of shape (n, n_columns)
    curves : sequence of PartialCurve
    metric : CurveMetric
        A single map, which all curves share.
    horizon : int
    """

    x: np.ndarray
    curves: Sequence[PartialCurve]
    metric: CurveMetric
    horizon: int

    @cached_property
    def goodness(self) -> list[np.ndarray]:
        """Values of each curve as the network reads them, larger is better, in [0, 1]."""
        return [self.metric.forward(np.array([one.values], dtype=np.float64))[0] for one in self.curves]

    @property
    def best(self) -> float:
        """The largest of all."""
        return float(max(y.max(initial=-np.inf) for y in self.goodness))

    @property
    def order(self) -> np.ndarray:  # (n,)
        """Numbers of the curves from the best to the worst; without values last."""
        return np.argsort([-y.max(initial=-np.inf) for y in self.goodness], kind="stable")

    def surrogate(
        self,
        model: PFN,
        columns: np.ndarray,                        # of x, which the network sees
        new: np.ndarray,                            # (k, n_columns), not begun: rows n, …, n + k - 1 of its table
        pending: Mapping[int, int] | None = None,   # steps by number: runs that count as if they had reached them
    ) -> FreezeThawSurrogate:
        """The network with these curves for its context. A run that failed keeps the worst value of all to the horizon."""
        worst, runs = min(y.min(initial=np.inf) for y in self.goodness), []
        for curve, y in zip(self.curves, self.goodness, strict=True):
            share = np.array(curve.steps, dtype=np.float64) / self.horizon
            if curve.crashed is not None:
                first = curve.crashed / self.horizon
                lost = np.array([first, *(end for end in PARTS if end > first)])
                share, y = np.concatenate([share, lost]), np.concatenate([y, np.full(len(lost), worst)])
            runs.append((share, y))
        table = RunTable.of(np.concatenate([self.x, new]), runs)
        surrogate = FreezeThawSurrogate(model, table, columns)
        # What was told meanwhile, or failed, is no longer expected.
        ahead = [number for number, step in (pending or {}).items() if step / self.horizon > table.reached[number]]
        if not ahead:
            return surrogate
        rows, share = np.array(ahead), np.array([(pending or {})[number] for number in ahead]) / self.horizon
        expected = surrogate.posterior(rows, share).mean.double().numpy().clip(0.0, 1.0)
        return FreezeThawSurrogate(model, table.continued(rows, share, expected), columns)

    def distribution(self, surrogate: FreezeThawSurrogate, rows: np.ndarray, steps: np.ndarray) -> CurveDistribution:
        """Of rows (r,) of its table at steps (s,), later than those that they have reached."""
        posterior = surrogate.posterior(rows.repeat(len(steps)), np.tile(steps / self.horizon, len(rows)))
        log_mass = posterior.log_mass.double().view(len(rows), len(steps), -1)
        return CurveDistribution(log_mass, posterior.borders[0].double(), np.zeros(len(rows)), np.ones(len(rows)),
                                 self.metric.rows(np.zeros(len(rows), dtype=int)))


def shared_metric(
    curves: Sequence[PartialCurve], minimize: bool, bounds: tuple[float, float], expected: tuple[float, float] | None
) -> CurveMetric:
    """One map for all curves, of which one has a value at least.

    Where bounds are infinite and nothing is expected: with the median of the lower soft bounds that curves have on their
    own, such as the loss at the first step, and the best of their upper ones.
    """
    if expected is None and not np.isfinite(bounds).all():
        sign = -1.0 if minimize else 1.0
        low, high = sorted(sign * bound for bound in bounds)
        soft = np.array([soft_bounds(sign * np.array(one.values), low, high) for one in curves if one.values])
        ends = sorted(sign * bound for bound in (np.median(soft[:, 0]), soft[:, 1].max()))
        expected = float(ends[0]), float(ends[1])
    return CurveMetric.of([np.empty(0)], minimize, bounds, expected)


def mfpi_random(
    surrogate: FreezeThawSurrogate,
    rows: np.ndarray,       # (n,), of the surrogate's table
    reached: np.ndarray,    # (n,), their last steps
    best: float,            # the largest value so far, as the network reads it
    horizon: int,
    rng: np.random.Generator,
) -> int:                   # position in `rows`
    """The run with the largest P(value at step min(reached + h, horizon) > best + margin · (1 - best)).

    h ~ U{1, …, horizon} and margin = 10^U(-4, -1) are drawn anew at each call: MFPI-random, [1]_.

    References
    ----------
    .. [1] H. Rakotoarison et al., "In-Context Freeze-Thaw Bayesian Optimization for Hyperparameter Optimization", ICML 2024.
    """
    ahead = rng.integers(1, horizon + 1)
    threshold = best + 10.0 ** rng.uniform(-4.0, -1.0) * (1.0 - best)
    posterior = surrogate.posterior(rows, np.minimum(reached + ahead, horizon) / horizon)
    return int(posterior.log_probability_of_improvement(threshold).argmax())
