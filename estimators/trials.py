"""Finished evaluations: what a user tells, checked, and what the network reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from estimators.space import SearchSpace
from estimators.surrogate import History

SIGNS = {"minimize": 1.0, "maximize": -1.0}                         # of a direction's values in a `History`


@dataclass(frozen=True)
class Trial:
    """One finished evaluation.

    Parameters
    ----------
    params : dict
    value : float, tuple of floats with several objectives, or None if it failed
    constraints : tuple of float
        Satisfied at <= 0, NaN where unknown; empty if there are none, or if they are unknown because the trial failed.
    is_bound : bool
        Whether the evaluation was stopped early and the true value is worse than, or as good as, `value`.
    """

    params: dict[str, Any]
    value: float | tuple[float, ...] | None
    constraints: tuple[float, ...] = ()
    is_bound: bool = False

    @property
    def is_feasible(self) -> bool:
        """Whether it has a final value and is known to satisfy all constraints."""
        return self.value is not None and not self.is_bound and all(g <= 0 for g in self.constraints)


def checked_params(space: SearchSpace, params: Any) -> dict[str, Any]:
    """The parameters in the order of the space and in the types that its distributions give, if they fit."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params={params!r} is a {type(params).__name__}; pass a mapping from names to values.")
    space.encode([params])                                          # raises if a name or a value does not fit
    missing = [name for name in space.names if name not in params]
    if missing:
        raise ValueError(f"params={dict(params)!r} lacks {missing}; give every parameter of the space a value.")
    return {
        name: one.to_external_repr(one.to_internal_repr(params[name])) for name, one in space.distributions.items()
    }


def checked_value(value: Any, n_objectives: int) -> float | tuple[float, ...] | None:
    """One number, a tuple of several, or None for a failure."""
    if value is None:
        return None
    values = np.atleast_1d(_numbers("value", value, "use None for a failed trial"))
    if values.shape != (n_objectives,):
        raise ValueError(
            f"value={value!r} has shape {values.shape}, but there are {n_objectives} objectives; give one number for each."
            if n_objectives > 1 else f"value={value!r} has shape {values.shape}; give one number for the one objective."
        )
    if not np.isfinite(values).all():
        return None
    return float(values[0]) if n_objectives == 1 else tuple(values.tolist())


def checked_constraints(constraints: Any, n_constraints: int, *, failed: bool) -> tuple[float, ...]:
    """One number for each constraint; of a failure they may be left out."""
    if constraints is None and (failed or n_constraints == 0):
        return ()
    numbers = _numbers("constraints", () if constraints is None else constraints, "use NaN for an unknown one").reshape(-1)
    if len(numbers) != n_constraints:
        raise ValueError(
            f"constraints={constraints!r} has {len(numbers)} numbers, but n_constraints={n_constraints}; "
            "give one for each constraint, at most 0 where it is satisfied."
        )
    return tuple(numbers.tolist())


def _numbers(name: str, values: Any, advice: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind in "biufO":                             # neither text nor dates nor complex numbers
            return array.astype(np.float64)
        reason = f"its type is {array.dtype}"
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = str(error)
    raise TypeError(f"{name}={values!r} is not made of numbers ({reason}); {advice}.")


def history_of(
    trials: Sequence[Trial], space: SearchSpace, directions: Sequence[str], n_constraints: int, pending: np.ndarray
) -> History:
    """The trials as the network reads them, with pending points (p, n_columns)."""
    n, k = len(trials), len(directions)
    values = [[math.nan] * k if trial.value is None else np.atleast_1d(trial.value) for trial in trials]
    constraints = [trial.constraints or [math.nan] * n_constraints for trial in trials]
    return History(
        x=space.encode([trial.params for trial in trials]),
        values=np.array([SIGNS[one] for one in directions]) * np.array(values, dtype=np.float64).reshape(n, k),
        constraints=np.array(constraints, dtype=np.float64).reshape(n, n_constraints),
        is_bound=np.array([trial.is_bound for trial in trials], dtype=bool),
        pending=pending,
    )
