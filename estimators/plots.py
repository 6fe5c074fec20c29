"""Pictures of predictive distributions and of optimisation; for classifiers scikit-learn's displays do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from estimators.bayesian_optimizer import BayesianOptimizer
from estimators.learning_curves import LearningCurveExtrapolator
from estimators.regressor import PFNRegressor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_bands(
    regressor: PFNRegressor, X: Any, along: int | str = 0, *, levels: tuple[float, ...] = (0.5, 0.9), ax: Axes | None = None
) -> Axes:
    """Median and central intervals of the predictive distribution along one column.

    Parameters
    ----------
    regressor : PFNRegressor
        Fitted, with one output.
    X : array-like or DataFrame of shape (n, n_features)
        Rows to predict, as a rule equal but for the column `along`; they are drawn in the order of that column.
    along : int or str, default=0
        Number or, in a frame, name of the column on the x-axis.
    levels : tuple of float, default=(0.5, 0.9)
        Probabilities of the intervals, in (0, 1).
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing: `pip install pfnkit[plot]`.
    ValueError
        If a level is no probability or the column does not exist.

    Examples
    --------
    >>> x = np.linspace(0, 1, 30)[:, None]
    >>> reg = PFNRegressor(n_estimators=1).fit(x, np.sin(6 * x[:, 0]))
    >>> ax = plot_bands(reg, np.linspace(-0.5, 1.5, 50)[:, None])
    """
    _check_levels(levels)
    frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    if along not in frame.columns and not (isinstance(along, int) and 0 <= along < frame.shape[1]):
        raise ValueError(f"along={along!r} is no column of X; it has {list(frame.columns)[:10]}.")
    position = frame[along].to_numpy() if along in frame.columns else frame.iloc[:, int(along)].to_numpy()
    order = np.argsort(position, kind="stable")
    distribution = regressor.predict_distribution(X)
    ax = _axes(ax)
    for level in sorted(levels, reverse=True):
        low, high = distribution.quantile([(1 - level) / 2, (1 + level) / 2])[order].T
        ax.fill_between(position[order], low, high, color="tab:blue", alpha=0.2, lw=0, label=f"{level:.0%} interval")
    ax.plot(position[order], distribution.median[order], color="tab:blue", label="median")
    ax.set_xlabel(str(along) if isinstance(along, str) else f"column {along}")
    ax.legend()
    return ax


def plot_trace(optimizer: BayesianOptimizer, *, ax: Axes | None = None) -> Axes:
    """Values of all trials in their order, and the best feasible one so far.

    Parameters
    ----------
    optimizer : BayesianOptimizer
        With one objective. Red lines are failed trials, crosses those that violate a constraint or were stopped early.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default. The range of values is that of the feasible trials, if there are any.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there are several objectives.
    """
    if len(optimizer.directions) > 1:
        raise ValueError("a trace is of one objective; plot the values of optimizer.pareto_trials_ against each other.")
    ax = _axes(ax)
    number = np.arange(1, len(optimizer.trials_) + 1)
    value = np.array([np.nan if t.value is None else t.value for t in optimizer.trials_], dtype=np.float64)
    feasible = np.array([t.is_feasible for t in optimizer.trials_], dtype=bool)
    failed = np.isnan(value)
    best_of = np.fmin if optimizer.directions[0] == "minimize" else np.fmax
    best = best_of.accumulate(np.where(feasible, value, np.nan)) if len(value) else value
    ax.plot(number[feasible], value[feasible], "o", ms=4, color="tab:blue", label="feasible")
    others = ~feasible & ~failed
    ax.plot(number[others], value[others], "x", ms=5, color="tab:gray", label="infeasible or stopped early")
    ax.step(number, best, where="post", color="tab:orange", label="best so far")
    if feasible.any():
        low, high = value[feasible].min(), value[feasible].max()
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        ax.set_ylim(low - margin, high + margin)
    for x in number[failed]:
        ax.axvline(x, color="tab:red", alpha=0.3, lw=1)
    ax.set_xlabel("trial (red lines: failed)" if failed.any() else "trial")
    ax.set_ylabel("value")
    ax.legend()
    return ax


def plot_slice(
    optimizer: BayesianOptimizer, name: str, *, at: dict[str, Any] | None = None, levels: tuple[float, ...] = (0.5, 0.9),
    ax: Axes | None = None,
) -> Axes:
    """What the network believes about the first objective along one numerical parameter, with the others held fixed.

    Parameters
    ----------
    optimizer : BayesianOptimizer
        Two or more trials have values.
    name : str
        The parameter on the x-axis.
    at : dict, optional
        Values of the others; by default those of the best feasible trial. Needed if there is none, or several objectives.
    levels : tuple of float, default=(0.5, 0.9)
        Probabilities of the intervals, in (0, 1).
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        If there are constraints or failed trials, the probability of a feasible trial is drawn on a second axis.

    Raises
    ------
    ValueError
        If a level is no probability, or `name` no parameter with several numbers.
    NotFittedError
        With fewer than two values of each objective and constraint, or without a feasible trial and without `at`.
    """
    distribution = optimizer.space.distributions.get(name)
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise ValueError(f"name={name!r} is no numerical parameter of the space, which has {list(optimizer.space.names)}.")
    _check_levels(levels)
    if name not in optimizer.space.column_names:
        raise ValueError(f"name={name!r} has a single value; choose a parameter that varies.")
    if at is None and (len(optimizer.directions) > 1 or not optimizer.pareto_trials_):
        raise NotFittedError("there is no single best trial to cut through; pass values of the others as at={...}.")
    base = optimizer.best_params_ if at is None else dict(at)
    rows = np.repeat(optimizer.space.encode([base]), 101, axis=0)
    rows[:, optimizer.space.column_names.index(name)] = np.linspace(0, 1, len(rows))
    points = optimizer.space.decode(rows)
    position = [point[name] for point in points]
    ax = _axes(ax)
    for level in sorted(levels, reverse=True):
        low, high = optimizer.predict(points, [(1 - level) / 2, (1 + level) / 2]).T
        ax.fill_between(position, low, high, color="tab:blue", alpha=0.2, lw=0, label=f"{level:.0%} interval")
    ax.plot(position, optimizer.predict(points), color="tab:blue", label="median")
    if distribution.log:
        ax.set_xscale("log")
    if optimizer.n_constraints or any(trial.value is None for trial in optimizer.trials_):
        beside = ax.twinx()
        beside.plot(position, optimizer.predict_feasible(points), color="tab:green", ls="--")
        beside.set_ylim(0, 1.02)
        beside.set_ylabel("probability of being feasible", color="tab:green")
    ax.set_xlabel(name)
    ax.set_ylabel("value")
    ax.legend()
    return ax


def plot_curves(
    extrapolator: LearningCurveExtrapolator, steps: Any = None, *, curves: Sequence[int] | None = None,
    levels: tuple[float, ...] = (0.5, 0.9), ax: Axes | None = None,
) -> Axes:
    """Learning curves as far as they have been observed, and medians and central intervals of how they go on.

    Parameters
    ----------
    extrapolator : LearningCurveExtrapolator
        Fitted.
    steps : array-like of shape (n_steps,), optional
        Where to predict. By default 100 steps from where the shortest of the drawn curves ends to the horizon; without a
        horizon, to twice where the longest ends.
    curves : sequence of int, optional
        Numbers of the curves to draw; all by default.
    levels : tuple of float, default=(0.5, 0.9)
        Probabilities of the intervals, in (0, 1).
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing: `pip install pfnkit[plot]`.
    ValueError
        If a level is no probability, a curve does not exist, or `steps` are none that can be predicted.

    Examples
    --------
    >>> curve = LearningCurveExtrapolator(horizon=50).fit([1, 2, 3, 4, 5], [0.31, 0.42, 0.5, 0.55, 0.58])
    >>> ax = plot_curves(curve)
    """
    _check_levels(levels)
    check_is_fitted(extrapolator)
    numbers = list(range(extrapolator.n_curves_)) if curves is None else list(curves)
    for number in numbers:
        if not 0 <= number < extrapolator.n_curves_:
            raise ValueError(f"curves has {number}, but the fitted curves are 0 … {extrapolator.n_curves_ - 1}.")
    observed = [extrapolator.steps_[number] for number in numbers]
    if steps is None:
        last = [t[-1] for t in observed if len(t)] or [0.0]
        end = 2 * max(max(last), 1.0) if extrapolator.horizon is None else extrapolator.horizon
        steps = np.linspace(min(last), end, 100)
    steps = np.sort(np.asarray(steps, dtype=np.float64))
    bounds = sorted({q for level in levels for q in ((1 - level) / 2, (1 + level) / 2)} | {0.5})
    found = extrapolator.predict(steps, bounds).reshape(-1, len(steps), len(bounds))
    ax = _axes(ax)
    for position, number in enumerate(numbers):
        color, is_first = f"C{position % 10}", position == 0
        ax.plot(observed[position], extrapolator.values_[number], ".", color=color, label="observed" if is_first else None)
        for level in sorted(levels, reverse=True):
            low, high = (found[number, :, bounds.index((1 + sign * level) / 2)] for sign in (-1, 1))
            label = f"{level:.0%} interval" if is_first else None
            ax.fill_between(steps, low, high, color=color, alpha=0.2, lw=0, label=label)
        ax.plot(steps, found[number, :, bounds.index(0.5)], color=color, label="median" if is_first else None)
    ax.set_xlabel("step")
    ax.set_ylabel("value")
    ax.legend()
    return ax


def _check_levels(levels: tuple[float, ...]) -> None:
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"levels={levels} holds {level}, which is no probability between 0 and 1.")


def _axes(ax: Axes | None) -> Axes:
    """These, or those of a new figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with: pip install pfnkit[plot]") from error
    return Figure(figsize=(6, 4), layout="constrained").add_subplot() if ax is None else ax
