"""Transformations of observed outcomes to what a network predicts best, with exact inverses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.stats import norm, rankdata
from torch import Tensor

from estimators.targets import TargetWarp
from pfn import BarPosterior
from pfn.bar_transform import TransformedPosterior

OUTCOME_TRANSFORMS = ("power", "rank", "none")
_POWERS = np.linspace(0.0, 2.0, 41)
_UNCHANGED, _LEAST_GAIN = 20, 2.0                                   # λ = 1, kept unless another is so many nats better
_FEWEST = 5                                                         # observations from which a power is estimated
_FARTHEST = 1e6                                                     # from the threshold or the median, in their units
_TINY = 1e-290                                                      # slopes between smaller knots are no floats


class OutcomeTransform(Protocol):
    """A strictly increasing map of the real line onto itself."""

    def forward(self, y: np.ndarray) -> np.ndarray:
        """Of observations, NaN where there is none."""
        ...

    def posterior(self, z: BarPosterior) -> TransformedPosterior | BarPosterior:
        """The posterior of outcomes that belongs to a posterior of transformed ones: density, cdf and quantiles exact."""
        ...


@dataclass(frozen=True)
class PowerTransform:
    r"""Yeo–Johnson of (y - location) / scale, with 0 ↦ 0.

    For u ≥ 0: ((1 + u)^λ - 1) / λ, ln(1 + u) at λ = 0; for u < 0: -((1 - u)^(2-λ) - 1) / (2 - λ), -ln(1 - u) at λ = 2 [1].
    Powers stay in [0, 2], where this is a bijection of the real line, so that every prediction can be transformed back.

    References
    ----------
    .. [1] I.-K. Yeo and R. A. Johnson, "A new family of power transformations", Biometrika 87, 2000.
    """

    location: float
    scale: float
    power: float

    @classmethod
    def fit(cls, y: np.ndarray, *, keeps_zero: bool = False) -> PowerTransform:
        """Maximum-likelihood power for observations y (n,) without NaN, after centring and scaling by median and quartiles.

        It is 1 unless another is 2 nats better. With `keeps_zero` observations are scaled only: 0, the threshold of a
        constraint, stays 0.
        """
        location = 0.0 if keeps_zero else float(np.median(y))
        low, high = np.quantile(y - location, [0.25, 0.75])
        spread = max(-low, high) if keeps_zero else high - low
        scale = next((float(s) for s in (spread, np.std(y), np.abs(y).max()) if s > 0 and np.isfinite(s)), 1.0)
        u = (y - location) / scale
        if len(y) < _FEWEST or np.ptp(u) == 0:
            return cls(location, scale, 1.0)
        z = np.stack([_yeo_johnson(u, power) for power in _POWERS])
        log_slope = (np.sign(u) * np.log1p(np.abs(u))).sum()
        fit = -0.5 * len(y) * np.log(z.var(1).clip(1e-300)) + (_POWERS - 1) * log_slope
        fit = np.nan_to_num(fit, nan=-np.inf)                       # of powers that are too large to be computed
        best = int(np.argmax(fit))
        return cls(location, scale, float(_POWERS[best]) if fit[best] > fit[_UNCHANGED] + _LEAST_GAIN else 1.0)

    def forward(self, y: np.ndarray) -> np.ndarray:
        return _yeo_johnson((y - self.location) / self.scale, self.power)

    def posterior(self, z: BarPosterior) -> TransformedPosterior:
        return TransformedPosterior(z, self._to_outcome, self._from_outcome)

    def _to_outcome(self, z: Tensor) -> Tensor:
        power, z = self.power, z.double()
        up, down = z.clamp_min(0.0), (-z).clamp_min(0.0)
        above = torch.expm1(up) if power == 0 else torch.expm1(torch.log1p(power * up) / power)
        rest = 2 - power
        below = torch.expm1(down) if rest == 0 else torch.expm1(torch.log1p(rest * down) / rest)
        return self.location + self.scale * (above - below)

    def _from_outcome(self, y: Tensor) -> Tensor:
        u = (y.double() - self.location) / self.scale
        up, down = torch.log1p(u.clamp_min(0.0)), torch.log1p((-u).clamp_min(0.0))
        power, rest = self.power, 2 - self.power
        above = up if power == 0 else torch.expm1(power * up) / power
        return above - (down if rest == 0 else torch.expm1(rest * down) / rest)


def _yeo_johnson(u: np.ndarray, power: float) -> np.ndarray:
    up, down = np.log1p(np.maximum(u, 0.0)), np.log1p(np.maximum(-u, 0.0))
    above = up if power == 0 else np.expm1(power * up) / power
    return above - (down if power == 2 else np.expm1((2 - power) * down) / (2 - power))


@dataclass(frozen=True)
class RankTransform:
    """Normal scores of ranks, linear between the observed values.

    Of a constraint 0, the threshold, is ranked among the values, and the scores are shifted to keep it at 0. (On the line
    through the ends, where other values beyond the observed ones lie, 1e12 among them would leave nothing between 0 and 1.)
    """

    warp: TargetWarp
    shift: float = 0.0

    @classmethod
    def fit(cls, y: np.ndarray, *, keeps_zero: bool = False) -> RankTransform:
        """From observations y (n,) without NaN; equal ones share their middle rank."""
        y = np.where(np.abs(y) < _TINY, 0.0, y)
        y = np.append(y, 0.0) if keeps_zero else y
        targets, first = np.unique(y, return_index=True)
        scores = norm.ppf((rankdata(y)[first] - 0.5) / len(y))
        if len(targets) == 1:
            targets, scores = targets[0] + np.array([0.0, max(abs(targets[0]), 1.0)]), np.array([0.0, 1.0])
        warp = TargetWarp(targets, scores)
        return cls(warp, float(warp.forward(np.zeros(1))[0]) if keeps_zero else 0.0)

    def forward(self, y: np.ndarray) -> np.ndarray:
        return self.warp.forward(y) - self.shift

    def posterior(self, z: BarPosterior) -> TransformedPosterior:
        targets, scores = (torch.from_numpy(v) for v in (self.warp.targets, self.warp.scores))
        return TransformedPosterior(
            z, lambda v: _piecewise(v.double() + self.shift, scores, targets),
            lambda y: _piecewise(y.double(), targets, scores) - self.shift,
        )


def _piecewise(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Differentiable interpolation; beyond the ends with the slope of the line through both."""
    left = (torch.searchsorted(knots, x.detach().contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
    slopes = values.diff() / knots.diff()
    inside = values[left] + slopes[left] * (x.clamp(knots[0], knots[-1]) - knots[left])
    slope = (values[-1] - values[0]) / (knots[-1] - knots[0])
    return inside + slope * ((x - knots[0]).clamp_max(0.0) + (x - knots[-1]).clamp_min(0.0))


@dataclass(frozen=True)
class Identity:
    """Outcomes as they are, where none was observed."""

    def forward(self, y: np.ndarray) -> np.ndarray:
        return y

    def posterior(self, z: BarPosterior) -> BarPosterior:
        return z


def without_infinities(table: np.ndarray) -> np.ndarray:  # (n, k)
    """Infinities replaced by the largest finite magnitude of their column, with their sign; by 1 where that is 0."""
    largest = np.abs(np.where(np.isfinite(table), table, 0.0)).max(0, initial=0.0)
    largest = np.where(largest > 0, largest, 1.0)
    return np.clip(table, -largest, largest)


def fit_transform(y: np.ndarray, kind: str, *, keeps_zero: bool = False) -> OutcomeTransform:
    """The transformation of this kind for observations y (n,), NaN where there is none; "none" is an affine one.

    A power that leaves values further than 5 standard deviations out, or so far that float32 would not tell the others
    apart, gives way to ranks.
    """
    if kind not in OUTCOME_TRANSFORMS:
        raise ValueError(f"outcome_transform={kind!r} is unknown; use one of {', '.join(map(repr, OUTCOME_TRANSFORMS))}.")
    seen = y[~np.isnan(y)]
    if not len(seen):
        return Identity()
    if kind == "none":                                              # in units that float32 holds
        location = 0.0 if keeps_zero else float(np.median(seen))
        return PowerTransform(location, float(np.abs(seen - location).max()) or 1.0, 1.0)
    if kind == "power":
        with np.errstate(over="ignore", invalid="ignore"):
            power = PowerTransform.fit(seen, keeps_zero=keeps_zero)
            z = power.forward(seen)
            if np.abs(z).max() < _FARTHEST and np.abs(z - z.mean()).max() <= 5 * max(float(z.std()), 1e-300):
                return power
    return RankTransform.fit(seen, keeps_zero=keeps_zero)
