"""Optuna's studies with a pretrained network as the surrogate."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from estimators.conditional_space import ConditionalSpace
from estimators.curve_pruner import LearningCurvePruner
from estimators.goal import SearchSettings
from estimators.optuna_history import CONSTRAINTS, FINISHED, PROPOSED, read_history, taken_points, weighted
from estimators.proposals import propose
from estimators.space import SearchSpace
from estimators.surrogate import History, load_network
from pfn import PFN

__all__ = ["LearningCurvePruner", "PFNSampler"]

_DESIGN, _INDEPENDENT, _PROPOSAL = 1, 2, 3                          # streams of random numbers
_SPARE = 32                                                         # points of the design that may be taken already
_ATTEMPTS = 5                                                       # until a point is one's own
_MOST_OBJECTIVES = 3


class PFNSampler(BaseSampler):
    """Bayesian optimisation in Optuna without fitting a surrogate: a pretrained network reads the study's trials.

    One or several objectives, constraints, conditional and mixed spaces, parallel trials, several processes on one storage.
    Failed trials are learnt from: regions that crash are avoided. Everything that the sampler knows is in the study.

    Parameters
    ----------
    seed : int or None, default=None
        With the trial's number it decides a proposal, so workers with the same seed do not propose the same points.
    constraints_func : callable or None, default=None
        Takes a `FrozenTrial` and returns a sequence of floats, each satisfied at ≤ 0. It is called after trials that
        completed or were pruned. With Optuna 5, `trial.set_constraint` in the objective does the same without it.
    n_startup_trials : int, default=10
        Finished trials (completed, pruned or failed) before the network is asked; until then points are quasi-random.
    independent_sampler : BaseSampler or None, default=None
        For parameters that the study has not seen yet. None draws them at random.
    model : str, path or PFN, default="bayesopt"
        Bundled weights, a checkpoint of your own, or a network, for the unit cube; loaded when the first proposal is made.
    settings : SearchSettings or None, default=None
        Acquisition function, handling of constraints, transformation of outcomes, noise.

    Notes
    -----
    *Conditional parameters.* The space is every parameter seen so far, with its latest range. Which choice or integer
    decides whether a parameter is asked for is learnt from the complete trials. Trials with a value outside the latest range
    of a parameter are not read.

    *Several workers.* Start the same script several times with one storage (`JournalStorage`, SQLite, PostgreSQL, MySQL).
    Points that others are evaluating count as pending; should two workers choose the same one at once, both choose again.

    *Pruned trials* are read as no better than their last intermediate value, and as failed if they have none.

    *Limits* are those of `BayesianOptimizer`: of more than 18 columns (a choice of three or more has one for each) each
    proposal looks at a random 18, of more than 200 trials at the best and a spread over the others. Use
    ``settings=SearchSettings(noisy=True)`` if equal parameters may give different values.

    *Many objectives.* Up to three maximise the expected hypervolume improvement; more are weighted at random for each
    trial, as ParEGO does [1]_.

    References
    ----------
    .. [1] J. Knowles, "ParEGO: a hybrid algorithm with on-line landscape approximation for expensive multiobjective
       optimization problems", IEEE Transactions on Evolutionary Computation 10, 2006.

    Examples
    --------
    >>> import optuna
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> def objective(trial):
    ...     x = trial.suggest_float("x", -5, 5)
    ...     kind = trial.suggest_categorical("kind", ["near", "far"])
    ...     return (x - 1) ** 2 + (kind == "far")
    >>> study = optuna.create_study(sampler=PFNSampler(seed=0))
    >>> study.optimize(objective, n_trials=20)
    >>> study.best_params["kind"], study.best_value < 0.5
    ('near', True)
    """

    def __init__(
        self,
        seed: int | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
        *,
        n_startup_trials: int = 10,
        independent_sampler: BaseSampler | None = None,
        model: str | os.PathLike[str] | PFN = "bayesopt",
        settings: SearchSettings | None = None,
    ) -> None:
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be at least 0 or None, got {seed}.")
        if n_startup_trials < 0:
            raise ValueError(f"n_startup_trials must be at least 0, got {n_startup_trials}.")
        if settings is not None and not isinstance(settings, SearchSettings):
            raise TypeError(f"settings={settings!r} is no SearchSettings; use SearchSettings(acquisition=...).")
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._constraints_func = constraints_func
        self._n_startup_trials = n_startup_trials
        self._independent_sampler = independent_sampler
        self._model = model
        self._settings = SearchSettings() if settings is None else settings
        self._network: PFN | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_network", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _network=None, _lock=threading.Lock())

    def reseed_rng(self) -> None:
        """Nothing to do for this sampler: another trial means other random numbers."""
        if self._independent_sampler is not None:
            self._independent_sampler.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter of the finished trials, with its latest distribution."""
        latest: dict[str, BaseDistribution] = {}
        for one in study.get_trials(deepcopy=False, states=FINISHED):
            latest.update(one.distributions)
        return {name: latest[name] for name in sorted(latest) if not latest[name].single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a point of the space; other workers see at once that it is taken."""
        if not search_space:
            return {}
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        space = ConditionalSpace(search_space, [one.params for one in complete])
        with self._lock:                                            # threads of one study see each other's points
            history = read_history(study, trial, space)
            for attempt in range(_ATTEMPTS):
                row = self._row(space, history, trial.number, attempt)
                params = space.decode(row)[0]
                internal = {name: float(search_space[name].to_internal_repr(value)) for name, value in params.items()}
                study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, internal)
                # Another process may have taken the point since we looked. Whoever wrote last sees it; both may, and retry.
                known, history = history, read_history(study, trial, space)
                if not set(space.keys(row)) & (taken_points(space, history) - taken_points(space, known)):
                    break
        return params

    def _row(self, space: SearchSpace, history: History, number: int, attempt: int) -> np.ndarray:
        """One point, (1, n_columns)."""
        if len(history.x) < max(self._n_startup_trials, 1):
            rows = space.sample(number + 1 + _SPARE, self._rng(_DESIGN))[number:]
            taken = taken_points(space, history)
            return rows[[next((i for i, key in enumerate(space.keys(rows)) if key not in taken), 0)]]
        rng = self._rng(_PROPOSAL, number, attempt)
        if history.values.shape[1] > _MOST_OBJECTIVES:
            history = weighted(history, rng)
        if self._network is None:
            self._network = load_network(self._model)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return propose(space, history, 1, model=self._network, settings=self._settings, generator=generator)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *stream])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter that the study has not seen, or whose range has changed."""
        if self._independent_sampler is not None:
            return self._independent_sampler.sample_independent(study, trial, param_name, param_distribution)
        space = SearchSpace({param_name: param_distribution})
        rng = self._rng(_INDEPENDENT, trial.number, zlib.crc32(param_name.encode()))
        return space.decode(space.sample(1, rng))[0][param_name]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Hand on to the independent sampler."""
        if self._independent_sampler is not None:
            self._independent_sampler.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Store what `constraints_func` returns, where Optuna looks for it."""
        if self._constraints_func is not None and state in (TrialState.COMPLETE, TrialState.PRUNED):
            constraints = [float(value) for value in self._constraints_func(trial)]
            if np.isnan(constraints).any():
                raise ValueError(
                    f"constraints_func returned {constraints} for trial {trial.number}; NaN says nothing: return inf for a "
                    "constraint that is violated, or let the trial fail."
                )
            study._storage.set_trial_system_attr(trial._trial_id, CONSTRAINTS, constraints)
        if self._independent_sampler is not None:
            self._independent_sampler.after_trial(study, trial, state, values)
