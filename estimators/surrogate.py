"""What the network believes about objectives and constraints anywhere in the unit cube, given the trials so far."""

from __future__ import annotations

import math
import os
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from estimators.interpolation import Interpolation
from estimators.outcomes import OutcomeTransform, fit_transform, without_infinities
from estimators.trend import Trends
from pfn import PFN, BarDistribution, BarPosterior, load_pretrained
from pfn.network import EncodedContext
from priors import Status

_NARROWEST = 3e-4               # scale of what a trend leaves, in standard deviations of the output
_FAILURE = 0.5                  # failure is an output like a constraint: 1 - this where a trial failed, else -this
_LARGEST = 1e300                # differences of larger outcomes are no floats


@dataclass(frozen=True)
class History:
    """Finished trials in the encoding of a `SearchSpace`, and points that are being evaluated."""

    x: np.ndarray               # (n, n_columns), in [0, 1]
    values: np.ndarray          # (n, n_objectives), to be minimised; NaN: failed
    constraints: np.ndarray     # (n, n_constraints), satisfied at <= 0; NaN: unknown, and then the trial is not feasible
    is_bound: np.ndarray        # (n,), bool: the true values are no smaller than these
    pending: np.ndarray         # (p, n_columns)

    @property
    def failed(self) -> np.ndarray:                                 # (n,), bool
        return ~np.isfinite(self.values).all(1)


@dataclass(frozen=True)
class Box:
    """A part of the cube that a network sees as its whole cube."""

    low: np.ndarray             # (n_columns,)
    high: np.ndarray

    @classmethod
    def whole(cls, n_columns: int) -> Box:
        return cls(np.zeros(n_columns), np.ones(n_columns))

    @classmethod
    def around(cls, centre: np.ndarray, x: np.ndarray, n_rows: int, fixed: np.ndarray) -> Box | None:
        """The smallest cube within the cube that is centred here and holds `n_rows` rows of x; None if it is not small.

        It spans the whole range of columns that are `fixed`.
        """
        distance = np.sort(np.abs(x - centre)[:, ~fixed].max(1, initial=0.0))
        radius = max(float(distance[min(n_rows, len(x)) - 1]), 1e-6)
        if radius > 0.4 or n_rows >= len(x) or fixed.all():
            return None
        low, high = np.clip(centre - radius, 0, 1), np.clip(centre + radius, 0, 1)
        return cls(np.where(fixed, 0.0, low), np.where(fixed, 1.0, high))

    def contains(self, x: np.ndarray) -> np.ndarray:                # (..., n_columns) -> (...)
        return np.asarray(((x >= self.low - 1e-12) & (x <= self.high + 1e-12)).all(-1))


@dataclass(frozen=True)
class View:
    """The network's memory of a part of the trials, one context for each output."""

    box: Box
    columns: np.ndarray
    context: EncodedContext | None
    location: Tensor            # (n_outputs, 1)
    scale: Tensor
    trends: Trends | None       # what was subtracted from the outputs before the network saw them
    asked: Tensor               # (n_outputs,), bool: which outputs the network predicts; the others are polynomials
    interpolation: Interpolation | None = None


class Surrogate:
    """Predictions of all outputs: objectives, then constraints, then failure if some trials have failed, but not all.

    Each output is transformed, standardised and read by the network as a task of its own; all share a forward pass. Around
    the network there are two corrections: a polynomial that an output follows almost exactly is subtracted before and added
    after it (`Trends`), and predictions of outcomes without noise are made to agree with the observed ones
    (`Interpolation`).

    Parameters
    ----------
    model : PFN
        A regression network with `scaling="cube"`.
    history : History
    outcome_transform : {"power", "rank", "none"}
    max_context : int
        Of more trials the network sees the best quarter and a space-filling rest.
    columns : ndarray of int
        Those that the network sees, at most its `row_features`.
    is_noisy : bool
        Whether outcomes have noise; else predictions agree with them.
    """

    def __init__(
        self, model: PFN, history: History, *, outcome_transform: str = "power", max_context: int = 200,
        columns: np.ndarray | None = None, is_noisy: bool = False,
    ) -> None:
        self.model, self.history, self.max_context, self.is_noisy = model, history, max_context, is_noisy
        self.columns = np.arange(history.x.shape[1]) if columns is None else columns
        self.n_objectives, n_constraints = history.values.shape[1], history.constraints.shape[1]
        values = np.where(np.isfinite(history.values), history.values, np.nan)
        outcomes = np.concatenate([values, without_infinities(history.constraints)], axis=1).clip(-_LARGEST, _LARGEST)
        zero = [False] * self.n_objectives + [True] * n_constraints
        # What is a polynomial as it is would be none after a power.
        known = ~np.isnan(outcomes.T)
        known[: self.n_objectives] &= ~history.is_bound
        trends = Trends.fit(history.x[:, self.columns], outcomes.T, known)
        has_trend = np.zeros(outcomes.shape[1], dtype=bool) if trends is None else trends.has_trend
        self.transforms: list[OutcomeTransform] = [
            fit_transform(y, "none" if outcome_transform == "power" and follows else outcome_transform, keeps_zero=keeps)
            for y, keeps, follows in zip(outcomes.T, zero, has_trend, strict=True)
        ]
        self.z = np.stack([t.forward(y) for t, y in zip(self.transforms, outcomes.T, strict=True)])        # (k, n)
        self.status = np.where(np.isnan(self.z), int(Status.FAILED), int(Status.VALUE))
        bounds = history.is_bound & (self.status[: self.n_objectives] == Status.VALUE)
        self.status[: self.n_objectives][bounds] = int(Status.AT_LEAST)
        failed = history.failed
        self.knows_failure = bool(failed.any() and not failed.all())
        if self.knows_failure:
            self.z = np.concatenate([self.z, failed[None].astype(float) - _FAILURE])
            self.status = np.concatenate([self.status, np.zeros((1, len(failed)), dtype=self.status.dtype)])
        self.x = history.x

    @property
    def has_values(self) -> bool:
        """Whether each output has two values at least, so that there is something to standardise."""
        return bool(((self.status == Status.VALUE).sum(1) >= 2).all())

    @torch.no_grad()
    def believing(self, x: np.ndarray) -> Surrogate:
        """The same after evaluations at x (p, n_columns) with the outcomes that are expected there."""
        return self._extended(x, self.predict(self.whole, torch.from_numpy(x)).mean)

    @torch.no_grad()
    def imagining(self, x: np.ndarray, generator: torch.Generator) -> Surrogate:
        """The same after evaluations at x (p, n_columns) with outcomes drawn from the posterior of each."""
        return self._extended(x, self.predict(self.whole, torch.from_numpy(x)).sample(1, generator=generator)[..., 0])

    def _extended(self, x: np.ndarray, z: Tensor) -> Surrogate:
        other = copy(self)
        other.__dict__.pop("whole", None)
        other.x = np.concatenate([self.x, x])
        other.z = np.concatenate([self.z, z.double().numpy()], axis=1)
        other.status = np.concatenate([self.status, np.full(z.shape, int(Status.VALUE))], axis=1)
        return other

    @cached_property
    def whole(self) -> View:
        """The view of the whole cube."""
        return self.view(Box.whole(self.x.shape[1]), self._spread_rows())

    def view(self, box: Box, rows: np.ndarray) -> View:
        """What the network makes of these rows, with `box` stretched to its cube."""
        x, z, status = self._inputs(box, torch.from_numpy(self.x[rows])), self.z[:, rows], self.status[:, rows]
        trends = Trends.fit(x[0].double().numpy(), z, status == Status.VALUE)
        y = torch.from_numpy(z if trends is None else z - trends(x[0]).numpy()).float()
        asked = torch.ones(len(y), dtype=torch.bool) if trends is None else torch.from_numpy(~trends.is_exact)
        context, scaling = None, self.model.scale_of_targets(y, status=torch.from_numpy(status))
        location, scale = scaling.mean[:, :, 0], scaling.std[:, :, 0]
        if trends is not None:
            # Narrower bars would vanish between float32 numbers of the size of the trend.
            scale = torch.maximum(scale, _NARROWEST * torch.from_numpy(np.nanstd(z, axis=1, keepdims=True)).float())
        if asked.any():
            with torch.no_grad():
                context = self.model.encode_context(
                    x.expand(int(asked.sum()), -1, -1), y[asked], status=torch.from_numpy(status)[asked]
                )
        view = View(box, self.columns, context, location, scale, trends, asked)
        if context is None or self.is_noisy:
            return view
        with torch.no_grad():
            raw = self._network_says(view, x[0])
        known = torch.from_numpy(status == Status.VALUE) & asked.unsqueeze(1)
        return replace(view, interpolation=Interpolation(x[0], torch.where(known, y - raw.mean, 0.0), raw.variance))

    def local(self, centre: np.ndarray, n_rows: int, fixed: np.ndarray) -> View | None:
        """The view of a small cube around a point of (n_columns,) with so many rows; None if there is none."""
        box = Box.around(centre, self.x, n_rows, fixed)
        if box is None:
            return None
        rows = np.flatnonzero(box.contains(self.x))
        if len(rows) > self.max_context:
            rows = rows[np.argsort(np.abs(self.x[rows] - centre).max(1), kind="stable")[: self.max_context]]
        enough = ((self.status[:, rows] == Status.VALUE).sum(1) >= 3).all()
        return self.view(box, np.sort(rows)) if enough else None

    def predict(self, view: View, x: Tensor) -> BarPosterior:  # (Q, n_columns)
        """Posterior (n_outputs, Q) of transformed outcomes."""
        queries = self._inputs(view.box, x)[0]
        posterior = self._network_says(view, queries)
        if view.interpolation is not None:
            posterior = view.interpolation(posterior, queries)
        return posterior if view.trends is None else posterior.affine(1.0, view.trends(queries).float())

    def _network_says(self, view: View, queries: Tensor) -> BarPosterior:
        """Of queries (Q, columns) in the view's box: posterior (n_outputs, Q) of what trends leave."""
        borders = self.model.borders.float()
        log_mass = self._normal_mass.expand(len(view.location), len(queries), -1)
        if view.context is not None:
            logits = self.model.decode(view.context, queries.expand(int(view.asked.sum()), -1, -1))
            predicted = BarDistribution(borders).posterior(logits.float()).log_mass
            log_mass = log_mass.clone().index_copy(0, view.asked.nonzero()[:, 0], predicted)
        return BarPosterior(borders, log_mass).affine(view.scale, view.location)

    @cached_property
    def _normal_mass(self) -> Tensor:  # (n_bars,)
        """Log masses of a standard normal: what is not known of a polynomial, in units of the narrowest scale."""
        below = torch.special.ndtr(self.model.borders.double()[1:-1])
        mass = torch.cat([below[:1], below.diff(), 1 - below[-1:]]).clamp_min(1e-30)
        return (mass / mass.sum()).log().float()

    def _inputs(self, box: Box, x: Tensor) -> Tensor:  # (rows, n_columns); (1, rows, columns), float32
        low, high = torch.from_numpy(box.low), torch.from_numpy(box.high)
        return ((x.double() - low) / (high - low))[:, self.columns].float().unsqueeze(0)

    def _spread_rows(self) -> np.ndarray:
        """All rows, or the best quarter and those that are far from each other."""
        n = len(self.x)
        if n <= self.max_context:
            return np.arange(n)
        best = order_of_trials(self.z[: self.n_objectives], self.violation)[: self.max_context // 4]
        chosen = list(best)
        distance = np.min([np.square(self.x - self.x[row]).sum(1) for row in chosen], axis=0)
        distance[chosen] = -1.0                                     # below those of other rows of the same points
        while len(chosen) < self.max_context:
            chosen.append(int(np.argmax(distance)))
            distance = np.minimum(distance, np.square(self.x - self.x[chosen[-1]]).sum(1))
            distance[chosen[-1]] = -1.0
        return np.sort(np.array(chosen))

    @property
    def has_value(self) -> np.ndarray:  # (n,), bool
        """Which rows have a value, and no mere bound, of every objective."""
        return (self.status[: self.n_objectives] == Status.VALUE).all(0)

    @property
    def violation(self) -> np.ndarray:  # (n,)
        """Sum of the transformed constraints' excess over 0; inf for failures and where a constraint is unknown."""
        return np.where((self.status == Status.FAILED).any(0), math.inf, np.maximum(self.z[self.n_objectives :], 0.0).sum(0))


def order_of_trials(z: np.ndarray, violation: np.ndarray) -> np.ndarray:  # (n_objectives, n), (n,) -> (n,)
    """Indices from best to worst: feasible ones by the mean rank of their objectives, then by violation."""
    rank = np.argsort(np.argsort(np.nan_to_num(z, nan=math.inf), axis=1, kind="stable"), axis=1).mean(0)
    return np.lexsort((rank, violation))


def load_network(model: str | os.PathLike[str] | PFN) -> PFN:
    """A network that can be a surrogate, from its name or path if it is none yet.

    Raises
    ------
    ValueError
        If it reads other tasks, or is not on the CPU.
    """
    network = model if isinstance(model, PFN) else load_pretrained(model)
    config = network.config
    if config.task != "regression" or config.scaling != "cube" or not config.target_status:
        raise ValueError(
            f"{'this network' if isinstance(model, PFN) else f'model={model!r}'} is for task={config.task!r} with "
            f"scaling={config.scaling!r} and target_status={config.target_status}; pass a regression network with "
            "scaling='cube' and target_status=True, such as 'bayesopt'."
        )
    if network.borders.device.type != "cpu":
        raise ValueError(f"this network is on {network.borders.device}, but the trials are on the CPU; pass model.cpu().")
    return network
