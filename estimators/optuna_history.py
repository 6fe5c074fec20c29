"""Optuna's studies as the network reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from estimators.conditional_space import ConditionalSpace
from estimators.outcomes import without_infinities
from estimators.space import SearchSpace
from estimators.surrogate import History

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
# Attributes of trials: ours, parameters that were proposed and may not be asked for yet; Optuna's, of a constraints_func.
PROPOSED, CONSTRAINTS = "pfnkit:proposed", "constraints"


def _is_inside(space: ConditionalSpace, params: Mapping[str, Any]) -> bool:
    """Whether the parameters make a point, all within their ranges."""
    known = space.restrict(params)
    return bool(known) and space.required <= known.keys() and space.contains(known)


def _announced(trial: FrozenTrial, space: SearchSpace) -> dict[str, Any]:
    """Parameters of a running trial: proposed ones that it has not asked for yet, enqueued ones, asked ones."""
    proposed = {
        name: space.distributions[name].to_external_repr(number)
        for name, number in trial.system_attrs.get(PROPOSED, {}).items()
        if name in space.distributions
    }
    return proposed | trial.system_attrs.get("fixed_params", {}) | trial.params


def recorded_constraints(trial: FrozenTrial) -> dict[str, float]:
    if hasattr(trial, "constraints"):                               # Optuna 5, with those of set_constraint
        return dict(trial.constraints)
    return {str(i): value for i, value in enumerate(trial.system_attrs.get(CONSTRAINTS) or ())}


def read_history(study: Study, current: FrozenTrial, space: ConditionalSpace) -> History:
    """The study as the network reads it."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.number != current.number]
    finished = [t for t in trials if t.state in FINISHED and _is_inside(space, t.params)]
    taken = [_announced(t, space) for t in trials if t.state == TrialState.RUNNING]
    signs = np.array([-1.0 if one == StudyDirection.MAXIMIZE else 1.0 for one in study.directions])
    values = np.full((len(finished), len(signs)), np.nan)
    for i, trial in enumerate(finished):
        if trial.state == TrialState.COMPLETE:
            values[i] = signs * trial.values
        elif trial.state == TrialState.PRUNED and len(signs) == 1 and trial.last_step is not None:
            values[i] = signs * trial.intermediate_values[trial.last_step]
    values[~(values < np.inf).all(1)] = np.nan                      # as bad as it gets in any objective: a failure
    least = np.where(np.isfinite(values), values, np.inf).min(0, initial=np.inf)
    named = [recorded_constraints(t) for t in finished]
    counts = Counter(name for one in named for name in one)
    names = sorted(name for name, count in counts.items() if count > 1)     # one value cannot be standardised
    constraints = np.array([[one.get(name, np.nan) for name in names] for one in named]).reshape(len(named), len(names))
    return History(
        x=space.encode([space.restrict(t.params) for t in finished]),
        values=np.maximum(values, np.where(np.isfinite(least), least, 0.0)),
        constraints=without_infinities(constraints),
        is_bound=np.array([t.state == TrialState.PRUNED for t in finished], dtype=bool) & ~np.isnan(values[:, 0]),
        pending=space.encode([space.restrict(params) for params in taken if _is_inside(space, params)]),
    )


def taken_points(space: SearchSpace, history: History) -> set[tuple[int, ...]]:
    """Keys of points that need no other evaluation."""
    return set(space.keys(history.x)) | set(space.keys(history.pending))


def weighted(history: History, rng: np.random.Generator) -> History:
    """One objective made of many: ParEGO's augmented Chebyshev norm, with random weights, of objectives scaled to [0, 1]."""
    values = history.values
    known = values[~np.isnan(values).any(1)]
    low = known.min(0, initial=np.inf)
    span = known.max(0, initial=-np.inf) - low
    terms = rng.dirichlet(np.ones(values.shape[1])) * (values - low) / np.where(span > 0, span, 1.0)
    scalar = terms.max(1) + 0.05 * terms.sum(1)
    return History(history.x, scalar[:, None], history.constraints, history.is_bound, history.pending)
