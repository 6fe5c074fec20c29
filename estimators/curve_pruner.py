"""Optuna's pruning by extrapolated learning curves."""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from estimators.base import load_shared
from estimators.early_stopping import LARGEST, StoppingDecision, StoppingRule, is_due, plausible_bounds
from estimators.learning_curves import LearningCurveExtrapolator
from estimators.optuna_history import recorded_constraints
from pfn import PFN

_N_REMEMBERED = 1024                                                # decisions


@dataclass(frozen=True)
class _Finished:
    """What the complete trials of a study say: the value to beat, the last step, the range of what they reported."""

    threshold: float
    horizon: int
    low: float
    high: float


class LearningCurvePruner(BasePruner):
    """Prune trials whose learning curve is not expected to reach the best complete trial.

    A pretrained network forecasts the curve from its own values [1]_; other trials only say what is to be beaten. A trial is
    pruned if, at every later step up to the horizon, the probability of a value better than the best complete trial's is at
    most `delta`. Trials that are ahead go on, and so do curves that the network's prior cannot explain.

    Parameters
    ----------
    horizon : int or None, default=None
        The last step that a trial reports. None: the largest one that a complete trial has reported.
    delta : float, default=0.05
        Smaller values prune less.
    tolerance : float or None, default=None
        Prune, too, if the expected improvement on the best is at most this, in units of the objective; see `StoppingRule`.
    n_startup_trials : int, default=5
        Complete trials before the first trial is pruned.
    n_min_observations : int, default=4
        Values that a trial reports before it can be pruned.
    interval_steps : int, default=1
        Steps between two forecasts of a trial.
    bounds : (float, float) or None, default=None
        Values that the objective can take. None: (0, 1) if the study maximises and all values lie there; (0, inf) if it
        minimises and none is negative; (-inf, 0) if it maximises and none is positive; else none.
    prior : {"auto", "released", "extended"}, default="auto"
        As in `LearningCurveExtrapolator`.
    model : str, path or PFN, default="learning-curve"
        Bundled weights, a checkpoint of your own, or a network; loaded when the first forecast is made.

    Notes
    -----
    Steps may begin at 0, have gaps and come in any order. Values that are not finite are left out; a trial is pruned when
    the later half of its values, and no fewer than `n_min_observations`, are not: it has diverged.

    The best value is that of `study.best_value`, but no better than the best value that a complete trial has reported,
    in case objectives report something else than they return.

    Everything is read from the study, so several workers may share it. A study with several objectives cannot prune.

    References
    ----------
    .. [1] S. Adriaensen et al., "Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks",
       NeurIPS 2023.

    Examples
    --------
    >>> import optuna
    >>> def objective(trial):
    ...     rate = trial.suggest_float("rate", 0.01, 1.0, log=True)
    ...     for step in range(30):
    ...         accuracy = 0.9 * (1 - (1 + step) ** -rate)
    ...         trial.report(accuracy, step)
    ...         if trial.should_prune():
    ...             raise optuna.TrialPruned
    ...     return accuracy
    >>> study = optuna.create_study(direction="maximize", pruner=LearningCurvePruner())
    """

    def __init__(
        self,
        horizon: int | None = None,
        delta: float = 0.05,
        *,
        tolerance: float | None = None,
        n_startup_trials: int = 5,
        n_min_observations: int = 4,
        interval_steps: int = 1,
        bounds: tuple[float, float] | None = None,
        prior: str = "auto",
        model: str | os.PathLike[str] | PFN = "learning-curve",
    ) -> None:
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon must be at least 1 step or None, got {horizon}.")
        if n_startup_trials < 0:
            raise ValueError(f"n_startup_trials must be at least 0, got {n_startup_trials}.")
        if n_min_observations < 1:
            raise ValueError(f"n_min_observations must be at least 1, got {n_min_observations}.")
        if interval_steps < 1:
            raise ValueError(f"interval_steps must be at least 1, got {interval_steps}.")
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"bounds must be (low, high) with low < high, or None, got {bounds}.")
        self._rule = StoppingRule(delta, tolerance, min_observations=n_min_observations)
        self._horizon = horizon
        self._n_startup_trials = n_startup_trials
        self._interval_steps = interval_steps
        self._bounds = bounds
        self._prior = prior
        self._model = model
        self._forget()

    def _forget(self) -> None:
        self._network: PFN | None = None
        self._lock = threading.Lock()
        self._decisions: OrderedDict[Any, StoppingDecision] = OrderedDict()
        self._summary: tuple[Any, _Finished | None] = None, None

    def __getstate__(self) -> dict[str, Any]:
        forgotten = ("_network", "_lock", "_decisions", "_summary")
        return {name: value for name, value in vars(self).items() if name not in forgotten}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial should end; Optuna calls this in `trial.should_prune()`."""
        return self.decide(study, trial).stop

    def decide(self, study: Study, trial: FrozenTrial) -> StoppingDecision:
        """What `prune` answers, with the reasons. The same values of a trial get the same answer."""
        steps = np.array(sorted(trial.intermediate_values), dtype=np.float64)
        values = np.array([trial.intermediate_values[int(step)] for step in steps], dtype=np.float64)
        key = study.study_name, trial.number, steps.tobytes(), values.tobytes()
        with self._lock:                                            # threads of one study share the network
            if key not in self._decisions:
                self._decisions[key] = self._decide(study, steps, values)
                if len(self._decisions) > _N_REMEMBERED:
                    self._decisions.popitem(last=False)
            return self._decisions[key]

    def _decide(self, study: Study, steps: np.ndarray, values: np.ndarray) -> StoppingDecision:
        n_least = self._rule.min_observations
        if len(values) < n_least:
            return StoppingDecision(False, f"fewer than {n_least} values")
        finished = self._finished(study)
        if finished is None:
            return StoppingDecision(False, "too few complete trials")
        known = np.abs(values) < LARGEST                            # False where it is NaN
        if not known[-max(n_least, len(values) // 2) :].any():
            return StoppingDecision(True, "diverged", finished.threshold)
        last, steps, values = steps[-1], steps[known], values[known]
        if last >= finished.horizon:
            return StoppingDecision(False, "the horizon is reached", finished.threshold)
        if len(values) < n_least:
            return StoppingDecision(False, f"fewer than {n_least} values")
        if not is_due(steps, self._interval_steps):
            return StoppingDecision(False, "between two checks")
        minimize = study.direction == StudyDirection.MINIMIZE
        if values[-1] < finished.threshold if minimize else values[-1] > finished.threshold:
            return StoppingDecision(False, "ahead of the best", finished.threshold)
        if self._network is None:
            self._network = self._model if isinstance(self._model, PFN) else load_shared(self._model)
        bounds = self._known_bounds(values, finished, minimize)
        curve = LearningCurveExtrapolator(minimize, bounds, finished.horizon, prior=self._prior, model=self._network)
        return self._rule.decide(curve.fit(steps, values), finished.threshold, last, finished.horizon)

    def _known_bounds(self, values: np.ndarray, finished: _Finished, minimize: bool) -> tuple[float, float]:
        if self._bounds is not None:
            low, high = self._bounds
            wrong = values[(values < low) | (values > high)]
            if not len(wrong):
                return self._bounds
            warnings.warn(
                f"a trial reported {wrong[0]:g}, outside bounds={self._bounds}, which are ignored from now on; pass the "
                "bounds of what the objective reports.", stacklevel=6,
            )
            self._bounds = None
        return plausible_bounds([*values, finished.low, finished.high], minimize)

    def _finished(self, study: Study) -> _Finished | None:
        """Of the complete trials; None if there are too few. Computed anew when their number has changed."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        key = study.study_name, len(trials)
        if self._summary[0] != key:
            self._summary = key, self._read(trials, study.direction)
        return self._summary[1]

    def _read(self, trials: list[FrozenTrial], direction: StudyDirection) -> _Finished | None:
        reported = [one.intermediate_values for one in trials if one.intermediate_values]
        values = np.array([value for one in reported for value in one.values()], dtype=np.float64)
        values = values[np.abs(values) < LARGEST]
        feasible = [one.value for one in trials if one.value is not None
                    and all(value <= 0 for value in recorded_constraints(one).values())]
        if len(trials) < max(self._n_startup_trials, 1) or not len(values) or not feasible:
            return None
        low, high = float(values.min()), float(values.max())
        threshold = max(min(feasible), low) if direction == StudyDirection.MINIMIZE else min(max(feasible), high)
        horizon = max(max(one) for one in reported) if self._horizon is None else self._horizon
        return _Finished(threshold, horizon, low, high)

