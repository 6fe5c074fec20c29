"""The loop around a `BayesianOptimizer`, for functions that can be called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from scipy.optimize import OptimizeResult
from tqdm import tqdm

from estimators.bayesian_optimizer import BayesianOptimizer
from estimators.trials import checked_params


def minimize(
    func: Callable[[dict[str, Any]], Any],
    space: Mapping[str, BaseDistribution],
    n_trials: int,
    *,
    n_constraints: int = 0,
    initial_points: Sequence[Mapping[str, Any]] = (),
    catch: type[Exception] | tuple[type[Exception], ...] = (),
    callback: Callable[[BayesianOptimizer], Any] | None = None,
    progress: bool | None = None,
    random_state: int | np.random.RandomState | None = None,
    **options: Any,
) -> OptimizeResult:
    """Minimise a function of parameters with a `BayesianOptimizer`.

    Parameters
    ----------
    func : callable
        From a dict of parameters to the value, or to (value, constraints) if `n_constraints` is not 0. None or a value that
        is not finite is a failed trial.
    space : mapping from str to optuna.distributions.BaseDistribution
    n_trials : int
        Evaluations of `func`, those of initial points included.
    n_constraints : int
        Outcomes, besides the value, that must not exceed 0.
    initial_points : sequence of mappings
        Evaluated first, as far as `n_trials` reaches.
    catch : exception type or tuple of them
        Exceptions of `func` that count as failed trials; others end the run.
    callback : callable, optional
        Called with the optimiser after each trial; returning True ends the run.
    progress : bool, optional
        Show a progress bar; None shows it on a terminal.
    random_state : int, RandomState or None
    **options
        Keyword-only parameters of `BayesianOptimizer`: `n_initial`, `model`, `settings`, `prior`.

    Returns
    -------
    scipy.optimize.OptimizeResult
        `x`, the best feasible parameters as a dict, and `fun`, their value, both None if there are none; `success`, whether
        there are; `nfev`, `message`, `trials`, `trace` (nfev,), the best feasible value after each trial, inf before
        there is one, and `optimizer`, with which to go on.

    Examples
    --------
    >>> from optuna.distributions import FloatDistribution, IntDistribution
    >>> space = {"x": FloatDistribution(0.01, 100, log=True), "n": IntDistribution(1, 5)}
    >>> result = minimize(lambda p: abs(p["x"] - 1) + (p["n"] - 2) ** 2, space, 20, random_state=0)
    >>> result.x["n"]
    2
    """
    if not callable(func):
        raise TypeError(f"func={func!r} cannot be called; pass a function of a dict of parameters.")
    if not isinstance(n_trials, int | np.integer) or isinstance(n_trials, bool) or n_trials < 1:
        raise ValueError(f"n_trials={n_trials!r} is no number of trials; use n_trials >= 1.")
    if "direction" in options:
        raise TypeError("minimize has no direction; return the negative of what to maximise, or use BayesianOptimizer.")
    optimizer = BayesianOptimizer(space, "minimize", n_constraints, random_state, **options)
    first = [checked_params(optimizer.space, point) for point in initial_points]
    best, trace, stopped = math.inf, [], False
    with tqdm(range(n_trials), desc="minimize", disable=None if progress is None else not progress) as bar:
        for number in bar:
            params = first[number] if number < len(first) else optimizer.ask()[0]
            try:
                outcome = func(dict(params))
            except catch:
                outcome = None
            value, constraints = _split(outcome) if n_constraints and outcome is not None else (outcome, None)
            optimizer.tell(params, value, constraints)
            trial = optimizer.trials_[-1]
            best = min(best, float(trial.value)) if trial.is_feasible else best  # type: ignore[arg-type]
            trace.append(best)
            bar.set_postfix(best=best)
            answer = None if callback is None else callback(optimizer)
            if isinstance(answer, bool | np.bool_) and answer:
                stopped = True
                break
    success = math.isfinite(best)
    message = "stopped by the callback" if stopped else f"{n_trials} trials evaluated"
    return OptimizeResult(
        x=optimizer.best_params_ if success else None, fun=best if success else None, success=success,
        message=message if success else f"{message}, none of them feasible", nfev=len(trace), trace=np.array(trace),
        trials=list(optimizer.trials_), optimizer=optimizer,
    )


def _split(outcome: Any) -> tuple[Any, Any]:
    if isinstance(outcome, float | np.floating) and math.isnan(outcome):          # a failure, whose constraints nobody knows
        return None, None
    try:
        value, constraints = outcome
    except (TypeError, ValueError):
        raise TypeError(
            f"func returned {outcome!r}; with n_constraints > 0 it must return (value, constraints), or None if it failed."
        ) from None
    return value, constraints
