"""What a Bayesian optimiser meets: functions worth minimising, uneven searches, evaluations that fail or stop early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from priors.bnn import BNNPrior
from priors.distributions import LogNormal
from priors.draw import Draw, standardise
from priors.hebo import HEBOPrior
from priors.signomial import SignomialPrior
from priors.task import Status, TaskBatch, TaskShape, check_generator


class CubeFunctions(Protocol):
    """Random functions on the unit cube."""

    def values(self, x: Tensor, draw: Draw) -> Tensor:
        """Values (B, R) of a function a task at x (B, R, F)."""
        ...


_NO_NOISE = 1e-6
_SMOOTH = LogNormal(0.0, 0.8)
FUNCTIONS: tuple[tuple[float, CubeFunctions], ...] = (
    (0.2, HEBOPrior(noise=_NO_NOISE, warp_std=0.5)),
    (0.2, HEBOPrior(_SMOOTH, noise=_NO_NOISE, kernel="matern52", grows_with_dimension=True, warp_std=0.3)),
    (0.2, HEBOPrior(_SMOOTH, noise=_NO_NOISE, kernel="rbf", grows_with_dimension=True)),
    (0.1, BNNPrior.bo()),
    (0.3, SignomialPrior()),
)


@dataclass(frozen=True)
class OptimizationPrior:
    """Functions on the unit cube, at points as an optimiser chooses them.

    Of ten functions four are smooth Gaussian processes, half of them with input warps; two follow HEBO+, one is a Bayesian
    neural network and three are signomials. In a third of the tasks a quadratic bowl or a plane is added.

    Points are uniform, but in six tasks of ten a part of them crowds around one to three centres, in three of ten some
    lie on the faces of the cube, and in four of ten some columns are binary, of 3 – 10 levels (at (i + ½) / k), or a group
    of 3 – 5 indicates one of several choices. Targets are bent monotonically in a quarter of the tasks; half have noise,
    of 0.3 % to 60 % of their standard deviation; in a tenth they are then cut to 0 and 1, up to noise of 0.02, as satisfied
    and violated.

    Parameters
    ----------
    functions : sequence of (weight, functions)
        What `values(x, draw)` is asked of.
    failures : float
        Share of the tasks in which rows fail: those where a random function, half of the times correlated with the target,
        is largest; up to 2 – 40 % of the rows, none if that is less than one.
    bounds : float
        Share of the tasks in which a context row is known with a probability of 5 – 40 % to lie above, or in three of ten
        such tasks below, a bound only.

    Notes
    -----
    Our own design. The first two rows of a context always have values. Of rows that fail only those of the context say so:
    query rows all have the value that the function has there. Without failures and bounds `status` is None, so that
    networks that know nothing of it can learn from the tasks too.

    Examples
    --------
    >>> from priors import OptimizationPrior, TaskShape
    >>> tasks = OptimizationPrior(failures=1.0).sample(TaskShape(4, 40, 3, 30), generator=torch.Generator().manual_seed(0))
    >>> tasks.y[:, :30].isnan().any(1).tolist()
    [True, True, True, True]
    """

    functions: tuple[tuple[float, CubeFunctions], ...] = FUNCTIONS
    failures: float = 0.2
    bounds: float = 0.15

    def __post_init__(self) -> None:
        for name in ("failures", "bounds"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is no share of tasks; use a number from 0 to 1.")
        object.__setattr__(self, "functions", tuple(self.functions))
        if not self.functions:
            raise ValueError("functions is empty; pass at least one pair (weight, functions).")
        for position, (weight, functions) in enumerate(self.functions):
            if not weight > 0:
                raise ValueError(f"the weight at position {position} is {weight!r}; use a positive weight.")
            if not callable(getattr(functions, "values", None)):
                raise TypeError(f"functions at position {position} are {functions!r}, which has no method values(x, draw).")

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = _draw_points(shape, draw)
        y = self._draw_targets(x, draw)
        if self.failures == self.bounds == 0:
            return TaskBatch(x=x, y=y, n_context=shape.n_context)
        context, status = self._draw_status(x, y, shape.n_context, draw)
        y = torch.cat([context, y[:, shape.n_context :]], dim=1)
        return TaskBatch(x=x, y=y, n_context=shape.n_context, status=status)

    def _draw_functions(self, x: Tensor, draw: Draw) -> Tensor:  # (B, R, F); (B, R), standardised
        which = draw.choice(len(x), weights=[weight for weight, _ in self.functions])
        # One synchronisation, as in `Mixture`: the sizes of the parts must be known to shape their tensors.
        counts = torch.bincount(which, minlength=len(self.functions)).tolist()
        y = x.new_zeros(x.shape[:2])
        for (_, functions), chosen in zip(self.functions, which.argsort(stable=True).split(counts), strict=True):
            if len(chosen):
                y[chosen] = functions.values(x[chosen], draw)
        return standardise(y)

    def _draw_targets(self, x: Tensor, draw: Draw) -> Tensor:
        """Targets (B, R) at points x (B, R, F)."""
        tasks, rows, n_features = x.shape
        y = self._draw_functions(x, draw)
        centred = x - draw.uniform(tasks, 1, n_features)
        weight = draw.exponential(tasks, 1, n_features) * draw.chance(tasks, 1, n_features, p=0.7)
        sign = draw.chance(tasks, 1, n_features, p=0.5).float() * 2 - 1
        trend = torch.where(draw.chance(tasks, 1, p=0.5), (weight * centred.square()).sum(2), (sign * weight * x).sum(2))
        size = draw.chance(tasks, 1, p=0.33) * draw.log_uniform(tasks, 1, low=0.2, high=5.0)
        y = standardise(y + size * standardise(trend))
        strength = draw.log_uniform(tasks, 1, low=0.2, high=1.2) * (draw.chance(tasks, 1, p=0.5).float() * 2 - 1)
        bent = standardise(torch.expm1((strength * y).clamp(-6, 6)) / strength)
        y = torch.where(draw.chance(tasks, 1, p=0.25), bent, y)
        noise = draw.log_uniform(tasks, 1, low=0.003, high=0.6) * draw.chance(tasks, 1, p=0.5)
        y = y + noise * draw.normal(tasks, rows)
        threshold = y.gather(1, draw.integers(tasks, 1, low=0, high=rows - 1))
        # Exact values would be won by infinitely narrow densities.
        sides = (y > threshold) + 0.02 * draw.normal(tasks, rows)
        return torch.where(draw.chance(tasks, 1, p=0.1), sides, y)

    def _draw_status(self, x: Tensor, y: Tensor, n_context: int, draw: Draw) -> tuple[Tensor, Tensor]:
        """Targets and status of the context rows. The first two rows of a context always have values."""
        tasks, context = len(x), y[:, :n_context]
        status = torch.zeros(tasks, n_context, dtype=torch.int64, device=y.device)
        may_change = torch.arange(n_context, device=y.device) >= 2
        failing = draw.chance(tasks, p=self.failures).nonzero()[:, 0]
        if len(failing) and n_context > 2:
            z = standardise(y[failing])
            share_of_target = draw.uniform(len(failing), 1) * draw.chance(len(failing), 1, p=0.5)
            risk = share_of_target * z + (1 - share_of_target.square()).sqrt() * self._draw_functions(x[failing], draw)
            share = draw.uniform(len(failing), 1, low=0.02, high=0.4)
            limit = risk.sort(1).values.gather(1, (risk.shape[1] * (1 - share)).long())
            status[failing] = torch.where((risk[:, :n_context] > limit) & may_change, int(Status.FAILED), 0)
        bounded = draw.chance(tasks, 1, p=self.bounds) & draw.chance(
            tasks, n_context, p=draw.uniform(tasks, 1, low=0.05, high=0.4)
        )
        kind = torch.where(draw.chance(tasks, 1, p=0.7), int(Status.AT_LEAST), int(Status.AT_MOST)).expand_as(status)
        status = torch.where(bounded & may_change & (status == Status.VALUE), kind, status)
        distance = draw.exponential(tasks, n_context) * draw.log_uniform(tasks, 1, low=0.1, high=1.0)
        context = torch.where(status == Status.AT_LEAST, context - distance, context)
        context = torch.where(status == Status.AT_MOST, context + distance, context)
        return context.masked_fill(status == Status.FAILED, torch.nan), status


def _draw_points(shape: TaskShape, draw: Draw) -> Tensor:
    """Points (B, R, F) of the unit cube."""
    tasks, rows, n_features = size = (shape.batch_size, shape.n_rows, shape.n_features)
    x = draw.uniform(*size)
    centres = draw.uniform(tasks, 3, n_features)
    n_centres = draw.integers(tasks, 1, low=1, high=3)
    which = draw.integers(tasks, rows, low=0, high=2) % n_centres
    distance = draw.log_uniform(tasks, 1, 1, low=0.01, high=0.3) * draw.normal(*size)
    near = centres.gather(1, which.unsqueeze(2).expand(size)) + distance
    crowded = draw.chance(tasks, 1, 1, p=0.6) & draw.chance(tasks, rows, 1, p=draw.uniform(tasks, 1, 1, low=0.1, high=0.8))
    x = torch.where(crowded, near, x)
    on_face = draw.chance(tasks, 1, 1, p=0.3) & draw.chance(*size, p=draw.uniform(tasks, 1, n_features, high=0.3))
    x = torch.where(on_face, x.round(), x).clamp(0.0, 1.0)
    return _draw_levels(x, draw)


def _draw_levels(x: Tensor, draw: Draw) -> Tensor:  # (B, R, F) twice
    """Round random columns to levels, and let a group of neighbouring columns say which of several choices is taken."""
    tasks, _, n_features = x.shape
    n_levels = torch.where(draw.chance(tasks, 1, n_features, p=0.4), 2, draw.integers(tasks, 1, n_features, low=3, high=10))
    level = (x * n_levels).long().clamp_max(n_levels - 1)
    coded = torch.where(n_levels == 2, level.float(), (level + 0.5) / n_levels)
    has_levels = draw.chance(tasks, 1, 1, p=0.4)
    is_coded = has_levels & draw.chance(tasks, 1, n_features, p=draw.uniform(tasks, 1, 1))
    x_coded = torch.where(is_coded, coded, x)
    # One of several choices: the largest of a group of neighbouring columns is 1, the others 0.
    first = draw.integers(tasks, 1, 1, low=0, high=max(n_features - 3, 0))
    column = torch.arange(n_features, device=x.device)
    group = (column >= first) & (column < first + draw.integers(tasks, 1, 1, low=3, high=5))
    chosen = column == x.masked_fill(~group, -1.0).argmax(2, keepdim=True)
    in_group = group & has_levels & draw.chance(tasks, 1, 1, p=0.4) & (group.sum(2, keepdim=True) >= 3)
    return torch.where(in_group, chosen.float(), x_coded)
