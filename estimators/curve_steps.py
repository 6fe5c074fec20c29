"""Observed learning curves as they are passed to `fit`, and the map from their steps to those of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from pfn.curves import MAX_STEPS

_FEWEST_STEPS = 10          # the shortest horizon of training
_LARGEST = 1e100            # differences and squares of larger numbers overflow


def read_curves(steps: Any, values: Any) -> tuple[list[np.ndarray], list[np.ndarray], bool]:
    """Distinct ascending steps and their mean values, each a list of arrays, and whether it was one curve, not a list.

    Raises
    ------
    TypeError, ValueError
        If these are no numbers, or their shapes do not fit; the message names the curve and the position.
    """
    is_single = not _is_nested(values)
    if is_single:
        if _is_nested(steps):
            raise ValueError(f"steps has shape {np.shape(steps)}, but values are those of one curve; pass 1-D steps.")
        own_values, own_steps = [values], [steps]
    else:
        own_values = list(np.asarray(values)) if isinstance(values, pd.DataFrame) else list(values)
        nested = list(np.asarray(steps)) if isinstance(steps, pd.DataFrame) else steps
        own_steps = list(nested) if _is_nested(steps) else [steps] * len(own_values)
        if not own_values:
            raise ValueError("values holds no curve; pass at least one.")
        if len(own_steps) != len(own_values):
            raise ValueError(f"steps are those of {len(own_steps)} curves, values of {len(own_values)}; pass one for each.")
    curves = [
        _clean(one_steps, one_values, "" if is_single else f" of curve {number}")
        for number, (one_steps, one_values) in enumerate(zip(own_steps, own_values, strict=True))
    ]
    return [t for t, _ in curves], [y for _, y in curves], is_single


def read_requests(steps: Any, n_curves: int) -> np.ndarray:
    """Steps to be predicted, (n_steps,) or (n_curves, n_steps), as (n_curves, n_steps)."""
    if isinstance(steps, Real) or getattr(steps, "ndim", None) == 0:
        raise ValueError(f"steps={steps!r} is no array; for a single step pass [{steps!r}].")
    if _is_nested(steps):
        rows = [as_numbers("steps", row) for row in (np.asarray(steps) if isinstance(steps, pd.DataFrame) else steps)]
        lengths = {len(row) for row in rows}
        if len(rows) != n_curves or len(lengths) != 1:
            raise ValueError(
                f"steps has {len(rows)} rows of lengths {sorted(lengths)} for {n_curves} fitted curves; pass (n_steps,), or "
                "(n_curves, n_steps): a row of the same length for each."
            )
        wanted = np.stack(rows)
    else:
        wanted = np.broadcast_to(as_numbers("steps", steps), (n_curves, len(steps)))
    wrong = ~(np.abs(wanted) < _LARGEST)
    if wrong.any():
        raise ValueError(f"steps has {wanted[wrong][0]:g}; steps to predict are finite numbers.")
    return wanted


def as_numbers(name: str, values: Any) -> np.ndarray:
    """A 1-D sequence as float64; None and pandas' NA become NaN."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; pass a 1-D sequence of numbers for each curve.")
    if array.dtype == object:
        array = np.asarray([np.nan if pd.isna(value) else value for value in array.tolist()])
    if array.size and array.dtype.kind not in "biuf":
        raise TypeError(f"{name} holds {array.tolist()[0]!r}, which is no real number; convert it, for example by float().")
    return array.astype(np.float64)


def _is_nested(values: Any) -> bool:
    """Whether these are several curves: a table, or a sequence of sequences."""
    if isinstance(values, (pd.DataFrame, pd.Series)):
        return isinstance(values, pd.DataFrame)
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.ndim > 1
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise TypeError(f"{values!r} is no sequence of numbers; pass a list or an array.")
    return len(values) > 0 and hasattr(values[0], "__len__") and not isinstance(values[0], str) and np.ndim(values[0]) > 0


def _clean(steps: Any, values: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    t, y = as_numbers(f"steps{where}", steps), as_numbers(f"values{where}", values)
    if len(t) != len(y):
        raise ValueError(f"steps{where} has {len(t)} entries, values{where} {len(y)}; pass a step for each value.")
    seen = ~np.isnan(y)
    t, y = t[seen], y[seen]
    for name, array in (("steps", t), ("values", y)):
        wrong = ~(np.abs(array) < _LARGEST)
        if wrong.any():
            remedy = "leave that value out, or pass NaN" if name == "values" else "give every value a finite step"
            raise ValueError(f"{name}{where} has {array[wrong][0]:g}; {remedy}.")
    distinct, inverse, count = np.unique(t, return_inverse=True, return_counts=True)
    if len(distinct) == len(t):
        order = np.argsort(t)
        return t[order], y[order]
    return distinct, np.bincount(inverse, weights=y) / count


@dataclass(frozen=True)
class StepScale:
    """Steps of n curves as the network knows them: from 1 to at most 200, the first being the unit.

    A curve's unit is its first step or, if that is smaller, the smallest gap between observed steps; it is never less than
    a 200th nor more than a tenth of the horizon, which are the limits of training. Curves whose first step is not positive,
    as when epochs are counted from 0, are shifted so that it becomes the smallest gap. A single observed step is its own
    unit if it is positive; else, and where nothing has been observed, the unit is 1.

    Parameters
    ----------
    shift, gap, horizon : ndarray of shape (n,)
        In steps of the user; `horizon` is the last step of each curve, shifted.
    """

    shift: np.ndarray
    gap: np.ndarray
    horizon: np.ndarray

    @classmethod
    def of(cls, steps: Sequence[np.ndarray], horizon: np.ndarray) -> StepScale:
        """From the observed steps of each curve, ascending, and the horizons (n,)."""
        shift, gap = np.zeros(len(steps)), np.ones(len(steps))
        for number, t in enumerate(steps):
            if not len(t):
                continue
            smallest = np.diff(t).min() if len(t) > 1 else t[0] if t[0] > 0 else 1.0
            if t[0] <= 0:
                shift[number] = smallest - t[0]
            gap[number] = min(t[0] + shift[number], smallest)
        return cls(shift, gap, np.maximum(horizon + shift, gap))

    @property
    def unit(self) -> np.ndarray:
        return np.minimum(np.maximum(self.gap, self.horizon / MAX_STEPS), self.horizon / _FEWEST_STEPS)

    @property
    def network_horizon(self) -> np.ndarray:
        """The horizons in steps of the network, 10 … 200."""
        return self.horizon / self.unit

    def apply(self, steps: np.ndarray) -> np.ndarray:
        """Steps (n, k) in those of the network; what comes before the first of these counts as the first.

        Raises
        ------
        ValueError
            If a step lies before the beginning of its curve.
        """
        shifted = steps + self.shift[:, None]
        wrong = np.argwhere(shifted < 0)
        if len(wrong):
            number, position = wrong[0]
            raise ValueError(
                f"steps has {steps[number, position]:g}, but curve {number} begins after {0.0 - self.shift[number]:g}; "
                "ask for later steps."
            )
        return np.maximum(shifted / self.unit[:, None], 1.0)

    def observed(self, number: int, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of a curve's observed steps (k,) the network is shown, as indices, and these in its own steps.

        All of them, unless they lie more densely than the 200 steps that it can tell apart: then the nearest to each.
        An average would have less noise than what is to be predicted.
        """
        unit = self.unit[number]
        t = (steps + self.shift[number]) / unit
        kept = np.arange(len(t))
        if unit > self.gap[number] * (1 + 1e-9):
            cell = np.maximum(np.floor(t + 0.5), 1.0)
            order = np.lexsort((np.abs(t - cell), cell))
            kept = order[np.unique(cell[order], return_index=True)[1]]
        return kept, np.maximum(t[kept], 1.0)
