"""What makes a candidate good: settings of the search, the value to beat, and the score of a posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from estimators.acquisition import (
    capped_log_feasibility,
    confidence_bound,
    constrained_log_ei,
    log_expected_hypervolume_improvement,
    log_expected_improvement,
    log_feasibility,
    log_probability_of_improvement,
    penalised_log_ei,
)
from estimators.hypervolume import non_dominated_boxes, pareto_front, reference_point
from estimators.outcomes import OUTCOME_TRANSFORMS
from estimators.surrogate import Surrogate
from pfn import BarPosterior

ACQUISITIONS = ("log_ei", "pi", "ucb", "thompson")
CONSTRAINT_HANDLING = ("cei", "cei+", "penalty")


@dataclass(frozen=True)
class SearchSettings:
    """How the next trial is chosen.

    Parameters
    ----------
    acquisition : {"log_ei", "pi", "ucb", "thompson"}
        Of a single objective: log expected improvement, probability of improvement, the 5 % quantile, or the best of a
        joint draw from the posterior. With several objectives it is the log expected hypervolume improvement, unless it is
        "thompson": then the draw of best mean rank.
    constraint_handling : {"cei", "cei+", "penalty"}
        The log probability that constraints hold is added; added only where a constraint is likelier violated than not;
        or, with one objective, the squares of expected violations are subtracted from it.
    outcome_transform : {"power", "rank", "none"}
        What the network sees of objectives and constraints: Yeo–Johnson (or ranks, where that leaves outliers), normal
        scores of ranks, or their values. With "power", outcomes that a polynomial follows stay as they are.
    noisy : bool or "auto"
        Whether equal parameters may give different values. Then the value to beat is the smallest predicted mean among
        the trials, and not the smallest value, which was lucky, and trials may be repeated. Without noise predictions
        agree with what was observed. "auto": if some did differ, which takes trials that were repeated, and those you must
        tell; say True if you know.
    n_candidates : int
        Scored before the best are refined. It is divided by the number of outputs (objectives, constraints, failure), but
        not below 150.
    max_context : int
        Trials that the network sees at once; it was trained on up to 230. Of more it sees the best, a quarter, and a spread
        over the others.
    local : bool
        Whether a second context, the 2·columns + 6 trials closest to the best one, their surroundings stretched to the whole
        cube, answers for candidates there.
    """

    acquisition: str = "log_ei"
    constraint_handling: str = "cei"
    outcome_transform: str = "power"
    noisy: bool | str = "auto"
    n_candidates: int = 1000
    max_context: int = 200
    local: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (("acquisition", ACQUISITIONS), ("constraint_handling", CONSTRAINT_HANDLING),
                              ("outcome_transform", OUTCOME_TRANSFORMS), ("noisy", (True, False, "auto")),
                              ("local", (True, False))):
            value = getattr(self, name)                             # 1 equals True, but is no answer
            if not isinstance(value, bool | str) or value not in allowed:
                raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(map(repr, allowed))}.")
        for name, least in (("n_candidates", 10), ("max_context", 10)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r} is no integer >= {least}.")


class Goal:
    """The value to beat, and how good it would be to evaluate a candidate.

    Before there is a feasible trial, candidates score the log probability that all constraints hold (with "penalty": as
    always).

    Parameters
    ----------
    surrogate : Surrogate
    settings : SearchSettings
    noisy : bool
        Whether the value to beat is a predicted mean.
    """

    def __init__(self, surrogate: Surrogate, settings: SearchSettings, *, noisy: bool) -> None:
        self.n_objectives, self.knows_failure, self.settings = surrogate.n_objectives, surrogate.knows_failure, settings
        k, usable, z = surrogate.n_objectives, surrogate.has_value, surrogate.z[: surrogate.n_objectives]
        if noisy:
            z = surrogate.predict(surrogate.whole, torch.from_numpy(surrogate.x)).mean[:k].double().numpy()
        penalty = np.square(np.maximum(np.nan_to_num(surrogate.z[k:], nan=0.0), 0.0)).sum(0)
        self.best_penalised = float((z[0] + penalty)[usable & np.isfinite(surrogate.violation)].min(initial=math.inf))
        feasible = usable & (surrogate.violation == 0)
        self.best = float(z[0][feasible].min()) if feasible.any() else None
        self.boxes = None
        if k > 1 and feasible.any():
            values = z[:, feasible].T
            self.boxes = non_dominated_boxes(pareto_front(values), reference_point(values))

    def score(self, posterior: BarPosterior) -> Tensor:
        """Score (Q,) of the posterior (n_outputs, Q) of transformed outcomes; the larger the better.

        That a trial does not fail counts twice: a failure says nothing about the objective. With the optimum at the edge
        of a region that crashes, half as many trials crashed (two parameters, four seeds).
        """
        score = self._score(posterior)
        return score + log_feasibility(part(posterior, slice(-1, None))) if self.knows_failure else score

    def _score(self, posterior: BarPosterior) -> Tensor:
        k, settings = self.n_objectives, self.settings
        objective, constraints = part(posterior, 0), part(posterior, slice(k, None))
        has_constraints = len(constraints.log_mass) > 0
        if k == 1 and has_constraints and settings.constraint_handling == "penalty":
            return penalised_log_ei(objective, constraints, self.best_penalised)
        if self.best is None:
            return log_feasibility(constraints)
        if k == 1 and has_constraints and settings.acquisition == "log_ei":
            return constrained_log_ei(objective, constraints, self.best, capped=settings.constraint_handling == "cei+")
        if k > 1 and self.boxes is not None:
            score = log_expected_hypervolume_improvement([part(posterior, i) for i in range(k)], self.boxes)
        elif settings.acquisition == "pi":
            score = log_probability_of_improvement(objective, self.best)
        elif settings.acquisition == "ucb":
            score = confidence_bound(objective)
        else:
            score = log_expected_improvement(objective, self.best)
        if not has_constraints:
            return score
        return score + (capped_log_feasibility if settings.constraint_handling == "cei+" else log_feasibility)(constraints)


def part(posterior: BarPosterior, outputs: int | slice) -> BarPosterior:
    """Some of the outputs of a posterior (n_outputs, Q)."""
    return BarPosterior(posterior.borders[outputs], posterior.log_mass[outputs])
