"""How a member of the regressor's ensemble sees the targets: as they are, or as normal scores of their ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor


@dataclass(frozen=True)
class TargetWarp:
    """A strictly increasing, piecewise linear map between targets and what a network sees of them.

    Beyond its ends the map goes on with the slope of the line through both ends.

    Parameters
    ----------
    targets, scores : ndarray of shape (n_knots,), n_knots >= 2
        Strictly increasing.
    """

    targets: np.ndarray
    scores: np.ndarray

    @classmethod
    def normal_scores(cls, y: np.ndarray, weight: np.ndarray | None = None) -> TargetWarp | None:
        """Φ⁻¹ of the middle ranks at quantiles of `y` (n,), ten rows apart; None if they are all equal.

        A knot at every row would make the density of y as rough as the gaps between neighbouring rows: that alone costs
        0.58 nats a row (Euler's constant), ten rows a knot 0.05. A row of weight w is w rows.
        """
        order = np.argsort(y, kind="stable")
        ordered = y[order].astype(np.float64)
        count = np.cumsum(np.ones(len(y)) if weight is None else weight[order].astype(np.float64))
        total = count[-1]
        position = np.linspace(0.0, max(total - 1.0, 0.0), int(min(max(total // 10 + 1, 2), 64)))
        near = (np.searchsorted(count, np.floor(position) + step, side="right") for step in (0, 1))
        below, above = (ordered[number.clip(max=len(y) - 1)] for number in near)
        knots = np.unique(below + (position % 1.0) * (above - below))             # np.quantile of the copies
        # Rounding may leave neighbours that differ in the last bit; between them there is no room for borders.
        knots = knots[np.append(True, np.diff(knots) > 1e-12 * (knots[-1] - knots[0]))]
        if len(knots) < 2:
            return None
        ends = (np.searchsorted(ordered, knots, side=side) for side in ("left", "right"))
        middle = sum(np.append(0.0, count)[end] for end in ends) / (2 * total)
        return cls(knots, norm.ppf(middle.clip(0.5 / total, 1.0 - 0.5 / total)))

    def forward(self, y: np.ndarray) -> np.ndarray:
        """Scores of targets y (any shape)."""
        return _interpolate(y, self.targets, self.scores)

    def inverse(self, score: Tensor) -> Tensor:
        """Targets of scores, float64 (any shape)."""
        return torch.from_numpy(_interpolate(score.numpy(), self.scores, self.targets))


def _interpolate(x: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    slope = (values[-1] - values[0]) / (knots[-1] - knots[0])
    outside = np.minimum(x - knots[0], 0.0) + np.maximum(x - knots[-1], 0.0)
    return np.interp(x, knots, values) + slope * outside
