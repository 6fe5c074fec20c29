"""Runs that can be stopped and continued: their curves so far, what to run next, and the checks of what users tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PartialCurve:
    """What is known of one configuration.

    Parameters
    ----------
    number : int
        Its position among the configurations of a study.
    params : dict
    steps : tuple of int
        Increasing; empty if nothing has been told.
    values : tuple of float
        One a step.
    crashed : int, optional
        The step, after all others, at which the run failed.
    """

    number: int
    params: dict[str, Any]
    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    crashed: int | None = None

    @property
    def reached(self) -> int:
        """The last step with a value, 0 before the first."""
        return self.steps[-1] if self.steps else 0

    def has_reached(self, step: int) -> bool:
        """Whether it has a value at this step or a later one, or has failed: there is nothing to wait for."""
        return self.crashed is not None or self.reached >= step

    def told(self, steps: Any, values: Any, horizon: int, bounds: tuple[float, float]) -> PartialCurve:
        """The curve with more values; those of steps that it has are replaced.

        Raises
        ------
        ValueError, TypeError
            If a step or value does not fit.
        """
        pairs = _checked_pairs(steps, values, horizon, bounds)
        failed = [step for step, value in pairs.items() if value is None] + ([] if self.crashed is None else [self.crashed])
        known = dict(zip(self.steps, self.values, strict=True)) | {s: v for s, v in pairs.items() if v is not None}
        crashed = min(failed, default=None)
        if crashed is not None and max(known, default=0) >= crashed:
            raise ValueError(
                f"configuration {self.number} failed at step {crashed}, but has a value at step {max(known)}; tell values "
                "of steps before the failure only, or the restarted run as new parameters."
            )
        order = tuple(sorted(known))
        return replace(self, steps=order, values=tuple(known[step] for step in order), crashed=crashed)


@dataclass(frozen=True)
class Suggestion:
    """What to run next.

    Parameters
    ----------
    number : int
        Of the configuration: the same whenever it is continued.
    params : dict
    step : int
        Train up to here; from scratch if nothing of it has been told, else from the last step told.
    """

    number: int
    params: dict[str, Any]
    step: int


def _checked_pairs(steps: Any, values: Any, horizon: int, bounds: tuple[float, float]) -> dict[int, float | None]:
    """Values by step, None where the run failed."""
    if isinstance(steps, Mapping | set) or isinstance(values, Mapping | set):
        raise TypeError("step and value are numbers, or sequences of equal length.")
    single = np.ndim(steps) == 0
    if single != (np.ndim(values) == 0) or np.ndim(steps) > 1 or np.ndim(values) > 1:
        raise ValueError(f"step={steps!r} and value={values!r} do not match; give two numbers, or two flat sequences.")
    all_steps, all_values = ([steps], [values]) if single else (list(steps), list(values))
    if len(all_steps) != len(all_values):
        raise ValueError(f"step has {len(all_steps)} numbers and value {len(all_values)}; give a value for each step.")
    pairs: dict[int, float | None] = {}
    for step, value in zip(all_steps, all_values, strict=True):
        known = checked_step(step, horizon)
        if known in pairs:
            raise ValueError(f"step {known} is given twice; give each step once.")
        pairs[known] = _checked_value(value, bounds)
    return pairs


def checked_steps(steps: Any, horizon: int) -> np.ndarray:
    """One step, or a flat sequence of them, as an array."""
    if np.ndim(steps) > 1 or np.size(steps) == 0:
        raise ValueError(f"steps={steps!r} are no steps; pass an integer from 1 to horizon={horizon}, or a list of them.")
    return np.array([checked_step(step, horizon) for step in np.atleast_1d(steps).tolist()])


def checked_step(step: Any, horizon: int) -> int:
    """An integer in 1 … horizon."""
    is_number = isinstance(step, int | float | np.integer | np.floating) and not isinstance(step, bool)
    if not is_number or not 1 <= step <= horizon or step != int(step):
        raise ValueError(f"step={step!r} is no step; use an integer from 1 to horizon={horizon}.")
    return int(step)


def _checked_value(value: Any, bounds: tuple[float, float]) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"value={value!r} is a {type(value).__name__}; give a number, or None if the run failed.") from None
    if not math.isfinite(number):
        return None
    if not bounds[0] <= number <= bounds[1]:
        raise ValueError(f"value={number!r} lies outside bounds={bounds}; pass bounds that contain all possible values.")
    return number
