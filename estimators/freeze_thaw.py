"""Freeze-thaw optimisation: of many training runs, which to start, which to continue, which to leave alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

from estimators.curve_distribution import CurveDistribution
from estimators.freeze_thaw_candidates import Candidates
from estimators.freeze_thaw_runs import PartialCurve, Suggestion, checked_step, checked_steps
from estimators.freeze_thaw_study import Study, mfpi_random, shared_metric
from estimators.freeze_thaw_surrogate import load_freeze_thaw_network
from estimators.space import SearchSpace
from estimators.trials import SIGNS, checked_params
from pfn import PFN
from pfn.files import CONTENT_ERRORS, checked_counts, read_json, write_json
from pfn.freeze_thaw import MAX_PARAMS

Run = int | Suggestion | Mapping[str, Any]

_FORMAT = 1
_SETTINGS = "horizon", "direction", "bounds", "expected", "steps_per_ask", "n_initial"


class FreezeThawOptimizer:
    """Find good parameters of a training procedure whose runs can be paused and continued.

    At each step one run goes on, or a new one begins: that with the largest probability to exceed the best value so far, by
    a random margin, within a random number of further steps ("MFPI-random", [1]_). A prior-data fitted network reads all
    partial curves and their parameters, and predicts later values of any of them in one forward pass.

    Parameters
    ----------
    space : mapping from str to optuna.distributions.BaseDistribution
        Float, integer and categorical distributions, with `log` and `step`.
    horizon : int
        Steps of a complete run, for example epochs.
    direction : {"minimize", "maximize"}
    bounds : (float, float)
        Between which all values lie; they may be infinite: (0, inf) for a loss.
    random_state : int, RandomState or None
    expected : (float, float), optional
        If a bound is infinite: between which values are to be told apart best. None: what the curves so far suggest, for
        a loss the median of their first values and 0, see `estimators.curve_metric.soft_bounds`.
    candidates : sequence of mappings, optional
        All configurations that can be started, each with a value for each parameter. None: every point of the space.
    steps_per_ask : int
        How many steps a run is to make before the next decision.
    n_initial : int
        Configurations that are begun before the network is asked.
    n_candidates : int
        New configurations that are considered at each step.
    model : str, path or PFN
        Bundled name or checkpoint of a network for freeze-thaw tasks. It is loaded by the first `ask` that needs it.

    Attributes
    ----------
    curves_ : list of PartialCurve
        What has been told of each configuration, by number; empty for those that were asked for only.
    pending_ : list of Suggestion
        Asked for and not yet told. Remove those that were given up.
    best_params_, best_value_ : dict, float
        Of the best value at any step; NotFittedError while there is none. Keep a checkpoint of it.

    Notes
    -----
    Pending runs are not asked for again; they count as if they had reached the step asked for, with the value that is
    expected there. A run that failed is never continued, and counts as if it had kept the worst value of all.

    The network was trained on up to 150 runs of up to 10 columns (a choice of three or more has a column for each) and up
    to 100 steps. Of more runs it sees the best half, and others whose parameters are far from each other; of more columns
    a random choice at each step, which a warning says.

    References
    ----------
    .. [1] H. Rakotoarison et al., "In-Context Freeze-Thaw Bayesian Optimization for Hyperparameter Optimization", ICML 2024.

    Examples
    --------
    >>> from math import log10
    >>> from optuna.distributions import FloatDistribution
    >>> def error(rate, step):                          # of a procedure that learns fastest at the rate 0.01
    ...     return 0.9 * 0.8 ** (step / (1 + (log10(rate) + 2) ** 2))
    >>> space = {"rate": FloatDistribution(1e-4, 1.0, log=True)}
    >>> optimizer = FreezeThawOptimizer(space, horizon=20, random_state=0)
    >>> for _ in range(60):
    ...     for run in optimizer.ask():
    ...         optimizer.tell(run.number, run.step, error(run.params["rate"], run.step))
    >>> optimizer.best_value_ < 0.02
    True
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        horizon: int,
        direction: str = "minimize",
        bounds: tuple[float, float] = (0, 1),
        random_state: int | np.random.RandomState | None = None,
        *,
        expected: tuple[float, float] | None = None,
        candidates: Sequence[Mapping[str, Any]] | None = None,
        steps_per_ask: int = 1,
        n_initial: int = 1,
        n_candidates: int = 300,
        model: str | os.PathLike[str] | PFN = "freeze-thaw",
    ) -> None:
        self.space = SearchSpace(space)
        if not isinstance(direction, str) or direction not in SIGNS:
            raise ValueError(f"direction={direction!r} is unknown; use 'minimize' or 'maximize'.")
        self.direction = direction
        self.horizon, self.steps_per_ask = _count("horizon", horizon), _count("steps_per_ask", steps_per_ask)
        self.n_initial, n_candidates = _count("n_initial", n_initial), _count("n_candidates", n_candidates)
        self.bounds = _interval("bounds", bounds)
        self.expected = None if expected is None else _interval("expected", expected)
        if self.expected is not None:
            if np.isfinite(self.bounds).all():
                raise ValueError(f"expected={expected!r} is for an infinite bound, not for bounds={bounds!r}; use None.")
            low, high = self.expected
            if not (np.isfinite(self.expected).all() and self.bounds[0] <= low < high <= self.bounds[1]):
                raise ValueError(f"expected={expected!r} must be finite and lie within bounds={bounds!r}.")
        self.candidates = Candidates(self.space, candidates, n_candidates)
        self.model = model
        self.curves_: list[PartialCurve] = []
        self.pending_: list[Suggestion] = []
        self._seed = int(check_random_state(random_state).randint(2**31))
        self._n_asked = 0
        self._network: PFN | None = None

    # Ask and tell

    def ask(self, n: int = 1) -> list[Suggestion]:
        """The next `n` runs, to be made at the same time; they are pending until they are told.

        Fewer if there is nothing else to run: every configuration of a finite space, or of the candidates, is then complete,
        failed or pending. Deterministic given `random_state` and everything asked and told before.
        """
        n = _count("n", n)
        curves, pending = list(self.curves_), list(self.pending_)
        if self.space.n_columns > MAX_PARAMS:
            warnings.warn(
                f"the space has {self.space.n_columns} columns and the network reads {MAX_PARAMS}: each step looks at a "
                "random choice of them. Fix or merge parameters for better suggestions.", UserWarning, stacklevel=2,
            )
        for number in range(self._n_asked, self._n_asked + n):
            curve = self._chosen(curves, pending, np.random.default_rng([self._seed, number]))
            if curve is None:
                break
            if curve.number == len(curves):
                curves.append(curve)
            pending.append(Suggestion(curve.number, curve.params, min(curve.reached + self.steps_per_ask, self.horizon)))
        found = pending[len(self.pending_) :]
        self.curves_, self.pending_ = curves, pending
        self._n_asked += len(found)
        return [replace(one, params=dict(one.params)) for one in found]

    def tell(self, run: Run, step: Any, value: Any) -> None:
        """Record values of a run, whether they were asked for or not, in any order.

        Parameters
        ----------
        run : int, Suggestion, or mapping
            Number of a configuration, what `ask` returned, or a value for each parameter.
        step : int, or sequence of int
            1 to `horizon`. A step that is told again replaces what was told.
        value : float or None, or a sequence with one for each step
            None, NaN and infinite values say that the run failed at that step. A run remains pending until it has reached
            the step that was asked for, or failed.

        Raises
        ------
        ValueError, TypeError
            If a configuration, step or value does not fit, or if there were values at or after a failure; then nothing is
            recorded.
        """
        curve = self._curve(run).told(step, value, self.horizon, self.bounds)
        self.curves_[curve.number : curve.number + 1] = [curve]
        self.pending_ = [one for one in self.pending_ if one.number != curve.number or not curve.has_reached(one.step)]

    def _curve(self, run: Run) -> PartialCurve:
        """The curve of a run, empty if its parameters are new."""
        if isinstance(run, Suggestion):
            run = run.number
        if isinstance(run, Mapping):
            new = PartialCurve(len(self.curves_), checked_params(self.space, run))
            *keys, key = self.space.keys(self._encoded([*self.curves_, new]))
            if key in keys:
                return self.curves_[keys.index(key)]
            if key not in self.candidates:
                raise ValueError(f"run={new.params!r} is none of the candidates; tell of those, or pass candidates=None.")
            return new
        if not isinstance(run, int | np.integer) or isinstance(run, bool) or not 0 <= run < len(self.curves_):
            raise ValueError(
                f"run={run!r} is no configuration; use a number below {len(self.curves_)}, or parameters by name."
            )
        return self.curves_[int(run)]

    def _chosen(
        self, curves: list[PartialCurve], pending: list[Suggestion], rng: np.random.Generator
    ) -> PartialCurve | None:
        """The curve that goes on, perhaps a new one; None if there is nothing to do."""
        busy = {one.number: one.step for one in pending}
        paused = [one for one in curves if one.number not in busy and not one.has_reached(self.horizon)]
        taken = set(self.space.keys(self._encoded(curves)))
        known = any(one.values for one in curves)
        if len(curves) < self.n_initial or not known:
            for row in self.candidates.initial(taken, self._seed):
                return PartialCurve(len(curves), self.candidates.params(row))
        if not known:
            return paused[0] if paused else None
        study = self._study(curves)
        new = self.candidates.draw(taken, study.x[study.order], rng)
        if not paused and not len(new):
            return None
        n = self.space.n_columns
        columns = np.arange(n) if n <= MAX_PARAMS else np.sort(rng.permutation(n)[:MAX_PARAMS])
        surrogate = study.surrogate(self._loaded(), columns, new, busy)
        rows = np.array([*(one.number for one in paused), *range(len(curves), len(curves) + len(new))])
        reached = np.array([*(one.reached for one in paused), *[0] * len(new)])
        chosen = mfpi_random(surrogate, rows, reached, study.best, self.horizon, rng)
        if chosen < len(paused):
            return paused[chosen]
        return PartialCurve(len(curves), self.candidates.params(new[chosen - len(paused)]))

    # What is known

    @property
    def best_curve_(self) -> PartialCurve:
        """That with the best value at any step."""
        begun = [one for one in self.curves_ if one.values]
        if not begun:
            raise NotFittedError(f"none of the {len(self.curves_)} configurations has a value; ask, and tell some.")
        return min(begun, key=lambda one: min(SIGNS[self.direction] * value for value in one.values))

    @property
    def best_params_(self) -> dict[str, Any]:
        """Parameters of the best curve."""
        return dict(self.best_curve_.params)

    @property
    def best_value_(self) -> float:
        """Best value at any step."""
        return (min if self.direction == "minimize" else max)(self.best_curve_.values)

    def predict(self, runs: Run | Sequence[Run], steps: Any, quantiles: Sequence[float] | None = None) -> np.ndarray:
        """Values at steps of runs, begun or not; in a space of too many columns, judged by the first 10.

        Parameters
        ----------
        runs : int, Suggestion, mapping, or a sequence of them
            Number of a configuration, what `ask` returned, or a value for each parameter.
        steps : int, or sequence of int
            1 to `horizon`.
        quantiles : sequence of float, optional
            Probabilities; without them the median.

        Returns
        -------
        ndarray of shape (n_steps,), or (n_runs, n_steps) for a sequence of runs; with quantiles (..., n_quantiles)
            Within the bounds. Up to the last step told it is what was told, interpolated linearly; NaN from a failure on.

        Raises
        ------
        NotFittedError
            Before the first value.
        """
        curves, single = self._listed(runs)
        at = checked_steps(steps, self.horizon)
        q = np.array([0.5]) if quantiles is None else np.asarray(quantiles, dtype=np.float64)
        found, ask = np.empty((len(curves), len(at), len(q))), self._forecaster(curves)
        for position, curve in enumerate(curves):
            known = np.interp(at, curve.steps or [0], curve.values or [0.0], right=np.nan)
            found[position], later = known[:, None], at > curve.reached
            if curve.crashed is None and later.any():
                found[position, later] = ask(np.array([position]), at[later]).quantile(q)[0]
        found = found[..., 0] if quantiles is None else found
        return found[0] if single else found

    def predict_distribution(self, runs: Run | Sequence[Run], steps: Any) -> CurveDistribution:
        """Distributions at steps that are later than what has been told of the runs, of which none has failed.

        The arguments are those of `predict`.
        """
        curves, single = self._listed(runs)
        at = checked_steps(steps, self.horizon)
        for curve in curves:
            if curve.crashed is not None:
                raise ValueError(f"configuration {curve.number} failed at step {curve.crashed}; leave it out.")
            if at.min() <= curve.reached:
                raise ValueError(f"steps={steps!r} are not all later than step {curve.reached}, which configuration "
                                 f"{curve.number} has reached; ask for later ones, or use predict.")
        return replace(self._forecaster(curves)(np.arange(len(curves)), at), is_single=single)

    def _listed(self, runs: Any) -> tuple[list[PartialCurve], bool]:
        """Curves, empty ones where parameters are new, and whether there was no list."""
        if not any(one.values for one in self.curves_):
            raise NotFittedError("predictions need a value of one run at least; ask and tell first.")
        single = isinstance(runs, int | np.integer | Suggestion | Mapping)
        if not single and (isinstance(runs, str) or not isinstance(runs, Sequence | np.ndarray) or len(runs) == 0):
            raise TypeError(f"runs={runs!r} names no configuration; pass a number, parameters, or a list of them.")
        return [self._curve(one) for one in ([runs] if single else runs)], single

    def _forecaster(self, curves: list[PartialCurve]) -> Callable[[np.ndarray, np.ndarray], CurveDistribution]:
        """From positions among these curves, and later steps, to distributions."""
        study, n = self._study(self.curves_), len(self.curves_)
        new = np.array([position for position, one in enumerate(curves) if one.number == n], dtype=int)
        rows = np.array([one.number for one in curves])
        rows[new] += np.arange(len(new))
        columns = np.arange(self.space.n_columns)[:MAX_PARAMS]
        surrogate = study.surrogate(self._loaded(), columns, self._encoded(curves)[new])
        return lambda positions, steps: study.distribution(surrogate, rows[positions], steps)

    def _study(self, curves: Sequence[PartialCurve]) -> Study:
        metric = shared_metric(curves, self.direction == "minimize", self.bounds, self.expected)
        return Study(self._encoded(curves), curves, metric, self.horizon)

    def _encoded(self, curves: Sequence[PartialCurve]) -> np.ndarray:  # (n, n_columns)
        return self.space.encode([one.params for one in curves])

    # State

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write space, settings, curves and pending runs as JSON, in one step; the network is not part of it."""
        state = {
            "format": _FORMAT,
            "space": {name: distribution_to_json(one) for name, one in self.space.distributions.items()},
            "settings": {name: getattr(self, name) for name in _SETTINGS} | {
                "candidates": self.candidates.listed, "n_candidates": self.candidates.n},
            "seed": self._seed, "n_asked": self._n_asked, "curves": [asdict(one) for one in self.curves_],
            "pending": [[one.number, one.step] for one in self.pending_],
        }
        write_json(path, state)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, model: str | os.PathLike[str] | PFN = "freeze-thaw"
    ) -> FreezeThawOptimizer:
        """An optimiser that goes on as the saved one would have.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file was not written by `save`.
        """
        try:
            state = read_json(path)
            if state["format"] != _FORMAT:
                raise ValueError(f"format {state['format']}")
            checked_counts({name: state["settings"][name] for name in ("n_initial", "n_candidates")}
                           | {"n_asked": state["n_asked"]})
            checked_counts({"seed": state["seed"]}, 2**31 - 1)
            space = {name: json_to_distribution(one) for name, one in state["space"].items()}
            optimizer = cls(space, **state["settings"], model=model)
            for number, one in enumerate(state["curves"]):
                curve = PartialCurve(number, checked_params(optimizer.space, one["params"]))
                curve = curve.told(one["steps"], one["values"], optimizer.horizon, optimizer.bounds)
                failed = one["crashed"]
                optimizer.curves_.append(
                    curve if failed is None else curve.told(failed, None, optimizer.horizon, optimizer.bounds))
            optimizer.pending_ = [Suggestion(number, optimizer.curves_[number].params, checked_step(step, optimizer.horizon))
                                  for number, step in state["pending"]]
            optimizer._seed, optimizer._n_asked = int(state["seed"]), int(state["n_asked"])
        except CONTENT_ERRORS as error:
            raise ValueError(f"{os.fspath(path)!r} was not written by this version's save ({error!r:.500}).") from error
        return optimizer

    def _loaded(self) -> PFN:
        if self._network is None:
            self._network = load_freeze_thaw_network(self.model)
        return self._network


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} is no count; use an integer >= 1.")
    return int(value)


def _interval(name: str, ends: Any) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={ends!r} is no interval; pass two numbers (low, high).") from None
    if not low < high:
        raise ValueError(f"{name}={ends!r} is no interval; use low < high.")
    return low, high
