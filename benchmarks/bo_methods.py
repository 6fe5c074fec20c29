"""Methods of Bayesian optimisation on one interface: the same initial points, then one suggestion after the other.

A method is a class with `suggest() -> params` and `observe(params, value, constraints)`. What both take is its time per
suggestion; evaluating the problem is not counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from bo_problems import Array, Params, Problem
from optuna.distributions import CategoricalDistribution
from paired import clock


@dataclass(frozen=True)
class Run:
    """Evaluations in order."""

    values: list[float]
    constraints: list[list[float]]
    seconds: list[float]                                            # of each suggestion after the initial points


class Method(Protocol):
    def suggest(self) -> Params: ...

    def observe(self, params: Params, value: float, constraints: list[float]) -> None: ...


class RandomSearch:
    """Uniform in the unit cube."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem, self.rng = problem, np.random.default_rng([seed, 1])

    def suggest(self) -> Params:
        return self.problem.from_unit(self.rng.random(len(self.problem.space)))

    def observe(self, params: Params, value: float, constraints: list[float]) -> None:
        """Nothing is learned."""


class OptunaSampler:
    """A sampler with its defaults, which leave the first 10 trials to chance: these are the initial points."""

    def __init__(self, problem: Problem, seed: int, sampler: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=seed))
        self.space, self.trial = dict(problem.space), None

    def suggest(self) -> Params:
        self.trial = self.study.ask(self.space)
        return dict(self.trial.params)

    def observe(self, params: Params, value: float, constraints: list[float]) -> None:
        if self.trial is None:
            self.study.enqueue_trial(params)
            self.trial = self.study.ask(self.space)
        for i, constraint in enumerate(constraints):
            self.trial.set_constraint(str(i), constraint)
        self.study.tell(self.trial, value)
        self.trial = None


class BoTorch:
    """A Gaussian process for each outcome and the log of (constrained) expected improvement, on the unit cube.

    BoTorch's own defaults for the process (dimension-scaled log-normal prior of length-scales, standardised outcomes);
    inputs need no normalisation on the cube. The processes are fitted as one batch, from where the last fit ended. τ is
    the best feasible value; before there is one, the log probability of feasibility is maximised. Choices are one-hot and,
    like steps, rounded after the search.
    """

    n_restarts, n_raw = 8, 256

    def __init__(self, problem: Problem, seed: int) -> None:
        import torch

        self.problem, self.seed = problem, seed
        self.encoder = OneHot(problem)
        self.x: list[Array] = []
        self.y: list[list[float]] = []
        self.fitted: dict[str, Any] = {}                            # hyper-parameters
        torch.manual_seed(seed)                                     # BoTorch draws from the global generator

    def observe(self, params: Params, value: float, constraints: list[float]) -> None:
        self.x.append(self.encoder.encode(params))
        self.y.append([value, *constraints])

    def suggest(self) -> Params:
        import torch
        from botorch.acquisition import analytic
        from botorch.exceptions import ModelFittingError
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from botorch.models.transforms import Standardize
        from botorch.optim import optimize_acqf
        from gpytorch.mlls import ExactMarginalLogLikelihood

        x, y = torch.tensor(np.array(self.x)), torch.tensor(self.y, dtype=torch.float64)
        feasible = (y[:, 1:] <= 0).all(1)
        constraints = dict.fromkeys(range(1, y.shape[1]), (None, 0.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                         # fits that are repeated, rounding of the covariance
            model = SingleTaskGP(x, y, outcome_transform=Standardize(y.shape[1]))
            for name, parameter in model.named_parameters():
                parameter.data.copy_(self.fitted.get(name, parameter.data))
            with suppress(ModelFittingError):                       # keeps the hyper-parameters it began with
                fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            self.fitted = {name: parameter.data for name, parameter in model.named_parameters()}
            if not constraints:
                acquisition = analytic.LogExpectedImprovement(model, y.min(), maximize=False)
            elif feasible.any():
                acquisition = analytic.LogConstrainedExpectedImprovement(
                    model, y[feasible, 0].min(), 0, constraints, maximize=False)
            else:
                acquisition = analytic.LogProbabilityOfFeasibility(model, constraints)
            bounds = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, x.shape[1])
            best, _ = optimize_acqf(acquisition, bounds, q=1, num_restarts=self.n_restarts, raw_samples=self.n_raw)
        return self.encoder.decode(best[0].numpy())


class OneHot:
    """Coordinates of a problem's points in the unit cube, with one for each choice where there are three or more."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        counts = [len(d.choices) if isinstance(d, CategoricalDistribution) else 0 for d in problem.space.values()]
        self.widths = [n if n > 2 else 1 for n in counts]

    def encode(self, params: Params) -> Array:
        unit = self.problem.to_unit(params)
        return np.concatenate([np.eye(n)[int(u * n)] if n > 1 else [u] for u, n in zip(unit, self.widths, strict=True)])

    def decode(self, x: Array) -> Params:
        parts = np.split(x, np.cumsum(self.widths)[:-1])
        unit = [(part.argmax() + 0.5) / n if (n := len(part)) > 1 else part[0] for part in parts]
        return self.problem.from_unit(np.array(unit))


class OurOptimizer:
    """`estimators.BayesianOptimizer` with its defaults, through `ask` and `tell`."""

    def __init__(self, problem: Problem, seed: int) -> None:
        from estimators import BayesianOptimizer

        self.optimizer = BayesianOptimizer(
            dict(problem.space), direction="minimize", n_constraints=problem.n_constraints, random_state=seed)

    def suggest(self) -> Params:
        return self.optimizer.ask()[0]

    def observe(self, params: Params, value: float, constraints: list[float]) -> None:
        self.optimizer.tell(params, value, constraints=constraints or None)


METHODS: dict[str, Callable[[Problem, int], Method]] = {
    "random": RandomSearch,
    "tpe": lambda problem, seed: OptunaSampler(problem, seed, "TPESampler"),
    "gpsampler": lambda problem, seed: OptunaSampler(problem, seed, "GPSampler"),
    "botorch": BoTorch,
    "pfnkit": OurOptimizer,
}


def run_method(name: str, problem: Problem, n_evaluations: int, initial: list[Params], seed: int) -> Run:
    """`n_evaluations` evaluations, the initial points included."""
    if name == "differential-evolution":
        return run_differential_evolution(problem, n_evaluations, initial, seed)
    method = METHODS[name](problem, seed)
    values, constraints, seconds = [], [], []
    for i in range(n_evaluations):
        start = clock()
        params = method.suggest() if i >= len(initial) else initial[i]
        took = clock() - start
        outcome = problem.evaluate_params(params)
        start = clock()
        method.observe(params, *outcome)
        values.append(outcome[0])
        constraints.append(outcome[1])
        if i >= len(initial):
            seconds.append(took + clock() - start)
    return Run(values, constraints, seconds)


class EnoughError(Exception):
    """The evaluations are used up."""


def run_differential_evolution(problem: Problem, n_evaluations: int, initial: list[Params], seed: int) -> Run:
    """SciPy's `differential_evolution` on the unit cube, the initial points being its population, with its own constraints.

    It evaluates constraints before the objective; a point where either is evaluated is one evaluation, once.
    """
    from scipy.optimize import NonlinearConstraint, differential_evolution

    known: dict[tuple[Any, ...], tuple[float, list[float]]] = {}
    clocks: list[float] = []

    def look_up(u: Array) -> tuple[float, list[float]]:
        params = problem.from_unit(u)
        key = tuple(params.values())
        if key not in known:
            if len(known) == n_evaluations:
                raise EnoughError
            clocks.append(clock())
            known[key] = problem.evaluate_params(params)
            clocks.append(clock())
        return known[key]

    limits = ()
    if problem.n_constraints:
        limits = NonlinearConstraint(lambda u: np.array(look_up(u)[1]), -np.inf, 0.0)
    population = np.array([problem.to_unit(params) for params in initial])
    with suppress(EnoughError):
        differential_evolution(lambda u: look_up(u)[0], [(0.0, 1.0)] * len(problem.space), constraints=limits, tol=0.0,
                               maxiter=10_000, init=population, polish=False, rng=seed)
    values, constraints = zip(*known.values(), strict=True)
    waits = np.subtract(clocks[2::2], clocks[1:-1:2])
    return Run(list(values), list(constraints), list(waits[len(initial) - 1:]))
