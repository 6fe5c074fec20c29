"""Problems for Bayesian optimisation, to be minimised: engineering design, synthetic functions, tuning of models.

A problem's parameters are Optuna distributions and its constraints are satisfied at most at 0. Every kind of parameter has a
place in the unit cube, from which all methods get the same initial points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import bo_engineering as engineering
import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = NDArray[np.float64]
Params = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """`function` maps a dict of parameters (arrays of n values, or one) to the objective and to a list of constraints.

    `best_value` is the best known feasible one; None where only runs tell it. `best_x` attains it.
    """

    name: str
    space: Mapping[str, BaseDistribution]
    function: Callable[[Params], tuple[Any, Any]]
    n_constraints: int = 0
    best_value: float | None = None
    best_x: tuple[float, ...] | None = None
    note: str = ""

    @property
    def bounds(self) -> Array:
        """(d, 2); of numbers only."""
        return np.array([(d.low, d.high) for d in self.space.values()])  # type: ignore[attr-defined]

    def evaluate(self, x: Array) -> tuple[Array, Array]:
        """Values (n,) and constraints (n, m) at rows `x` (n, d) of numbers."""
        values, constraints = self.function(dict(zip(self.space, np.asarray(x, dtype=np.float64).T, strict=True)))
        return values, np.stack(constraints, axis=-1) if self.n_constraints else np.empty((len(values), 0))

    def evaluate_params(self, params: Params) -> tuple[float, list[float]]:
        """Value and constraints of one point."""
        value, constraints = self.function({name: params[name] for name in self.space})
        return np.asarray(value).item(), [np.asarray(c).item() for c in constraints]

    def from_unit(self, u: Array) -> Params:
        """Parameters at a point of the unit cube: cells of equal width for steps and choices, logarithms if `log`."""
        return {name: _from_unit(d, float(v)) for (name, d), v in zip(self.space.items(), u, strict=True)}

    def to_unit(self, params: Params) -> Array:
        """Inverse of `from_unit`, at the centres of cells."""
        return np.array([_to_unit(d, params[name]) for name, d in self.space.items()])

    def initial_points(self, n: int, seed: int) -> list[Params]:
        """The first points of a scrambled Sobol sequence."""
        from scipy.stats import qmc

        points = qmc.Sobol(len(self.space), rng=np.random.default_rng(seed)).random_base2(int(np.ceil(np.log2(n))))
        return [self.from_unit(u) for u in points[:n]]


def _ends(distribution: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Ends of the line that the unit interval is mapped to; half a step outside of the range if there are steps."""
    half = (distribution.step or 0.0) / 2
    low, high = distribution.low - half, distribution.high + half
    return (float(np.log(low)), float(np.log(high))) if distribution.log else (low, high)


def _from_unit(distribution: BaseDistribution, u: float) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        n = len(distribution.choices)
        return distribution.choices[min(int(u * n), n - 1)]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high = _ends(distribution)
    value = low + u * (high - low)
    value = float(np.exp(value)) if distribution.log else value
    if distribution.step is not None:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else value


def _to_unit(distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.choices.index(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high = _ends(distribution)
    return ((float(np.log(value)) if distribution.log else value) - low) / (high - low)


def _continuous(name: str, formula: engineering.Formula, lows: Any, highs: Any, n_constraints: int, best_value: float | None,
                best_x: tuple[float, ...] | None = None, note: str = "") -> Problem:
    d = max(np.size(lows), np.size(highs))
    bounds = zip(np.broadcast_to(lows, d), np.broadcast_to(highs, d), strict=True)
    space = {f"x{i + 1}": FloatDistribution(float(low), float(high)) for i, (low, high) in enumerate(bounds)}
    return Problem(name, space, lambda params: formula(*map(np.atleast_1d, params.values())), n_constraints, best_value,
                   best_x, note)


BEST_X: dict[str, tuple[float, ...]] = {                            # found by SLSQP from up to 400 random starts
    "keane-bump": (3.160326, 3.122177, 3.084676, 3.047277, 3.009437, 2.970544, 2.929816, 0.5137439, 0.5053968, 0.4977645,
                   0.490722, 0.4841758, 0.4780542, 0.4723008, 0.4668704, 0.461726, 0.4568371, 0.4521779),
    "concrete-beam": (6.47052164, 33.4974991, 8.37437478),
    "spring": (0.0516890592, 0.356717693, 11.2889685),
    "pressure-vessel": (0.792376265, 0.391672, 41.0557655, 190.0),
    "welded-beam": (0.244368985, 6.21860631, 8.29147124, 0.244368985),
    "speed-reducer": (3.5, 0.7, 17.0, 7.3, 7.3, 2.9, 5.28651792),
    "heat-exchanger": (579.306682, 1359.97067, 5109.97067, 182.017699, 295.601173, 217.982301, 286.416526, 395.601173),
    "heat-exchanger-as-coded": (100.0, 2231.45593, 5981.45593, 121.428677, 260.741763, 278.571323, 260.686914, 360.741763),
    "cantilever": (3.05772831, 2.81326649, 2.5235863, 2.20455569, 1.74975701, 61.1545663, 56.2653298, 50.471726, 44.0911138,
                   34.9951402),
    "car": (0.5, 1.11636559, 0.5, 1.30219719, 0.5, 1.5, 0.5, 0.345, 0.241198653, -19.5615299, 0.0),
}


def engineering_problems() -> dict[str, Problem]:
    """Fifteen problems in 17 instances, and two as the suite of [1]_ in `bo_engineering` codes them."""
    heat_bounds = (100, 1000, 1000, *[10] * 5), (10_000, 10_900, 10_900, *[1000] * 5)
    cantilever_bounds = [1] * 5 + [30] * 5, [5] * 5 + [65] * 5
    jlh2_x1 = np.sqrt(10) - 5                                       # where the constraint meets x2 = 0
    problems = [
        _continuous("jlh1", engineering.jlh1, [0, 0], [1, 1], 1, 0.03125, (0.375, 0.375), "exact"),
        _continuous("jlh2", engineering.jlh2, [-5, -5], [0, 5], 1, np.cos(2 * jlh2_x1) + np.sin(jlh2_x1), (jlh2_x1, 0.0)),
        _continuous("gkxwc1", engineering.gkxwc1, [0, 0], [6, 6], 1, -2.0, (1.5 * np.pi, 0.0), "exact"),
        _continuous("gkxwc2", engineering.gkxwc2, [0, 0], [6, 6], 1, np.arcsin(0.95) - 1,
                    (1.5 * np.pi, np.arcsin(0.95)), "exact"),
        *(_continuous(f"ackley-{d}", engineering.ackley, [-5] * d, [10] * d, 2, 0.0, (0.0,) * d, "exact")
          for d in (2, 6, 10)),
        _continuous("keane-bump", engineering.keane_bump, [0] * 18, [10] * 18, 2, -0.7971139, note="best found"),
        _continuous("three-bar-truss", engineering.three_bar_truss, [0, 0], [1, 1], 3, 263.8958434,
                    ((3 + np.sqrt(3)) / 6, 1 / np.sqrt(6))),
        _continuous("concrete-beam", engineering.reinforced_concrete_beam, [0.2, 28, 5], [15, 40, 10], 2, 358.5457034),
        _continuous("spring", engineering.compression_spring, [0.05, 0.25, 2], [1, 1.3, 15], 4, 0.0126652328),
        _continuous("pressure-vessel", engineering.pressure_vessel, [0.0625, 0.0625, 10, 0], [6.1875, 6.1875, 200, 190], 4,
                    5910.0637),
        _continuous("welded-beam", engineering.welded_beam, [0.125, 0.1, 0.1, 0.1], [10, 15, 10, 10], 5, 2.3811342),
        _continuous("speed-reducer", engineering.speed_reducer, [2.6, 0.7, 17, 7.3, 7.3, 2.9, 5],
                    [3.6, 0.8, 28, 8.3, 8.3, 3.9, 5.5], 9, 2885.1793),
        _continuous("heat-exchanger", partial(engineering.heat_exchanger, factor=1250), *heat_bounds, 6, 7049.2480),
        _continuous("cantilever", partial(engineering.cantilever_beam, corrected=True), *cantilever_bounds, 11, 63108.748),
        _continuous("car", engineering.car_side_impact, [0.5, 0.45, *[0.5] * 5, 0.192, 0.192, -20, -20],
                    [1.5, 1.35, *[1.5] * 5, 0.345, 0.345, 0, 0], 10, 22.8429692),
        _continuous("heat-exchanger-as-coded", partial(engineering.heat_exchanger, factor=125), *heat_bounds, 6, 8312.9119),
        _continuous("cantilever-as-coded", partial(engineering.cantilever_beam, corrected=False), *cantilever_bounds, 11,
                    None, note="no point is feasible"),
    ]
    return {p.name: replace(p, best_x=BEST_X.get(p.name, p.best_x)) for p in problems}


def synthetic_problems() -> dict[str, Problem]:
    """BoTorch's test functions without constraints; Ackley's box is moved, so that the optimum is not its centre."""
    import torch
    from botorch.test_functions import synthetic

    functions = {
        "branin": synthetic.Branin(), "hartmann-6": synthetic.Hartmann(6), "rosenbrock-4": synthetic.Rosenbrock(4),
        "levy-4": synthetic.Levy(4), "michalewicz-5": synthetic.Michalewicz(5), "six-hump-camel": synthetic.SixHumpCamel(),
        "styblinski-tang-4": synthetic.StyblinskiTang(4), "ackley-5": synthetic.Ackley(5, bounds=[(-5.0, 10.0)] * 5),
    }

    def formula(function: Any) -> engineering.Formula:
        return lambda *x: (function(torch.tensor(np.stack(x, -1)).double()).numpy(), [])

    return {name: _continuous(name, formula(f), *np.array(f._bounds).T, 0, float(f.optimal_value))
            for name, f in functions.items()}


def tuning_problems() -> dict[str, Problem]:
    """Hyper-parameters of scikit-learn models; a configuration is trained once in a process."""
    from bo_tuning import TASKS

    def remember(train: Callable[[Params], float]) -> Callable[[Params], tuple[float, list[float]]]:
        known: dict[tuple[Any, ...], float] = {}

        def function(params: Params) -> tuple[float, list[float]]:
            key = tuple(params.values())
            if key not in known:
                known[key] = train(params)
            return known[key], []
        return function

    return {name: Problem(name, space, remember(train)) for name, (train, space) in TASKS.items()}


SUITES: dict[str, Callable[[], dict[str, Problem]]] = {
    "engineering": engineering_problems, "synthetic": synthetic_problems, "tuning": tuning_problems}
