"""Extrapolation of learning curves: one or thousands of them, ragged, in any units of steps and values."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from estimators.base import load_shared
from estimators.curve_distribution import CurveDistribution
from estimators.curve_forecasts import ask, read_in_blocks
from estimators.curve_metric import CurveMetric
from estimators.curve_misfit import misfit
from estimators.curve_steps import StepScale, read_curves, read_requests
from estimators.distribution import checked_probabilities
from estimators.inference import resolve_device
from estimators.persistence import Persistence
from pfn import PFN
from pfn.curves import N_CURVE_FEATURES, ObservedCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PRIORS = {"auto": 0.5, "released": 0.0, "extended": 1.0}
_QUERIES = 256              # steps of a curve that share a forward pass
_KEPT_ROWS = 8192           # contexts of so many observed values are kept between calls


class LearningCurveExtrapolator(Persistence):
    """How learning curves go on: posterior predictive distributions of all later values in one forward pass.

    Parameters
    ----------
    minimize : bool, default=False
        Whether small values are good, as of a loss.
    bounds : (float, float) or None, default=(0, 1)
        Between which the metric can lie; either may be infinite. Predictions stay between them. None: values are in the
        network's units already, from about 0 (bad) to 1 (good; the other way round with `minimize`), and their noise may
        leave these.
    horizon : float, optional
        Last step of a complete curve, in the units of the steps. None: of each curve the last step that has been observed
        or is asked for, so that answers depend on what else is asked.
    expected : (float, float), optional
        With an infinite bound: between which values curves are expected to lie. By default this is derived from what has
        been seen of each curve, see Notes.
    prior : {"auto", "released", "extended"}, default="auto"
        What to assume of curves: the prior that LC-PFN was published with, one with more families, events and kinds of
        noise, or that either may hold.
    model : str, path or PFN, default="learning-curve"
    device : str, default="auto"
        "auto" takes a CUDA device if there is one; else "cpu", "cuda", "cuda:1", …

    Attributes
    ----------
    n_curves_ : int
    steps_, values_ : lists of ndarray
        What was observed of each curve, in the order of the steps.
    metric_ : CurveMetric
        How values are normalised, soft bounds included.

    Notes
    -----
    Steps may have any spacing: the network's step 1 is a curve's first step or its smallest gap, and there are 200 at most.
    If observed steps lie more densely than a 200th of the horizon, the network sees the nearest to each 200th. Steps before
    the network's first are answered like it. Curves of fewer than ten steps are stretched to ten.

    Values are normalised linearly if both bounds are finite, else by a sigmoid [1]_. If a metric improves towards a bound,
    as a loss does, most of the unit interval belongs to values between that bound and the first value of the curve; if it
    improves away from a bound, to values up to twice as far from it as the last ones; without bounds, to improvements by
    twice what has been gained so far, and by the size of the first value at least.

    No prediction depends on which other curves are fitted. At a step that has been observed, the answer is that of a
    repetition. With one value or none, it is little more than the prior.

    References
    ----------
    .. [1] S. Adriaensen et al., "Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks",
       NeurIPS 2023.

    Examples
    --------
    >>> accuracy = [0.31, 0.42, 0.5, 0.55, 0.58, 0.61, 0.62, 0.64, 0.65, 0.65]
    >>> curve = LearningCurveExtrapolator(horizon=50).fit(range(1, 11), accuracy)
    >>> low, median, high = curve.predict([50], quantiles=[0.05, 0.5, 0.95])[0]
    >>> bool(0.3 < low < median < high < 0.95)
    True
    >>> bool(curve.prob_better(0.4, [50])[0] > 0.9)
    True

    Many curves at once, here of a loss, one of which has begun only:

    >>> loss = [[2.3, 1.6, 1.3, 1.15, 1.1, 1.05], [2.2]]
    >>> curves = LearningCurveExtrapolator(minimize=True, bounds=(0, float("inf")), horizon=30)
    >>> curves.fit([[1, 2, 3, 4, 5, 6], [1]], loss).predict([10, 20, 30]).shape
    (2, 3)
    """

    def __init__(
        self,
        minimize: bool = False,
        bounds: tuple[float, float] | None = (0, 1),
        horizon: float | None = None,
        *,
        expected: tuple[float, float] | None = None,
        prior: str = "auto",
        model: str | os.PathLike[str] | PFN = "learning-curve",
        device: str | torch.device = "auto",
    ) -> None:
        self.minimize = minimize
        self.bounds = bounds
        self.horizon = horizon
        self.expected = expected
        self.prior = prior
        self.model = model
        self.device = device

    def fit(self, steps: Any, values: Any) -> LearningCurveExtrapolator:
        """Store what has been observed; no weight is trained.

        Parameters
        ----------
        steps : array-like of shape (n_observed,), or for many curves a list of such, or (n_curves, n_observed)
            Numbers in any order; the values of a step that occurs twice are averaged. One array can serve many curves.
        values : array-like of shape (n_observed,), or for many curves a list of such, or (n_curves, n_observed)
            NaN for what has not been observed. Curves of one value or none are allowed.

        Returns
        -------
        LearningCurveExtrapolator
            The fitted estimator.

        Raises
        ------
        TypeError, ValueError
            If a parameter is wrong, something is no finite number, lengths differ, a value lies outside the bounds or a step
            beyond the horizon.
        """
        self._check_parameters()
        own_steps, own_values, is_single = read_curves(steps, values)
        metric = CurveMetric.of(own_values, bool(self.minimize), self.bounds, self.expected)
        low, high = metric.bounds
        for number, (t, y) in enumerate(zip(own_steps, own_values, strict=True)):
            where, wrong = "" if is_single else f" of curve {number}", np.flatnonzero((y < low) | (y > high))
            if len(wrong):
                raise ValueError(
                    f"values{where} has {y[wrong[0]]:g} at step {t[wrong[0]]:g}, outside bounds={self.bounds}; correct it, "
                    "or pass the metric's bounds, for example bounds=(0, math.inf) for a loss."
                )
            if self.horizon is not None and len(t) and t[-1] > _just_above(self.horizon):
                raise ValueError(
                    f"steps{where} has {t[-1]:g}, beyond horizon={self.horizon}; pass the last step of a complete curve."
                )
        network = self._original()
        config = network.config
        if config.task != "regression" or config.scaling != "prior" or config.row_features != N_CURVE_FEATURES:
            raise ValueError(f"model={self.model!r} does not read learning curves; use 'learning-curve'.")
        self._set_network(network)
        self.n_curves_, self.steps_, self.values_, self._is_single = len(own_steps), own_steps, own_values, is_single
        self._metric = astuple(metric)
        return self

    def predict(self, steps: Any, quantiles: Any = None) -> np.ndarray:
        """Median of what will be observed at these steps, or quantiles.

        Parameters
        ----------
        steps : array-like of shape (n_steps,) or (n_curves, n_steps)
            The same for all curves, or a row for each; any steps up to the horizon.
        quantiles : sequence of float, optional
            Probabilities in [0, 1]; returns these quantiles in place of the median.

        Returns
        -------
        ndarray of shape (n_steps,), or (n_curves, n_steps) if a list of curves was fitted; with `quantiles` a last axis more
            In the units of the values.

        Raises
        ------
        ValueError
            If a step lies beyond the horizon or before the beginning of a curve.
        """
        check_is_fitted(self)
        wanted = read_requests(steps, self.n_curves_)
        q = checked_probabilities([0.5] if quantiles is None else quantiles)
        found = np.empty((*wanted.shape, len(q)))
        for rows, columns, distribution in self._forecasts(wanted):
            found[rows, columns] = distribution.quantile(q)
        return self._shaped(found[..., 0] if quantiles is None else found)

    def predict_distribution(self, steps: Any) -> CurveDistribution:
        """Posterior predictive distributions at these steps, noise included; `steps` as in `predict`.

        They take n_curves × n_steps × 640 numbers of four bytes.

        Returns
        -------
        CurveDistribution
            With `mean`, `median`, `std` and methods `log_prob`, `cdf`, `survival`, `quantile` and `sample`, in the units of
            the values, for each step of each curve.
        """
        check_is_fitted(self)
        wanted = read_requests(steps, self.n_curves_)
        log_mass = torch.empty(*wanted.shape, self.model_.config.n_outputs)
        location, scale = np.zeros(self.n_curves_), np.ones(self.n_curves_)
        for rows, columns, part in self._forecasts(wanted):
            log_mass[rows, columns], location[rows], scale[rows] = part.log_mass, part.location, part.scale
        borders = self.model_.borders.double().cpu()
        return CurveDistribution(log_mass, borders, location, scale, self.metric_, self._is_single)

    def prob_better(self, threshold: Any, steps: Any) -> np.ndarray:
        """Probability that a value is better than `threshold`: larger, or smaller with `minimize`.

        Parameters
        ----------
        threshold : float, or array-like that broadcasts to the result
            An array of length n_curves has one for each curve.
        steps : array-like
            As in `predict`.

        Returns
        -------
        ndarray of shape (n_steps,), or (n_curves, n_steps) if a list of curves was fitted
            For every step on its own, noise included.
        """
        check_is_fitted(self)
        wanted = read_requests(steps, self.n_curves_)
        limit = np.asarray(threshold, dtype=np.float64)
        if np.isnan(limit).any():
            raise ValueError(f"threshold={threshold!r} holds NaN; pass numbers.")
        try:
            per_curve = not self._is_single and limit.shape == (self.n_curves_,)
            limit = np.broadcast_to(limit[:, None] if per_curve else limit, wanted.shape)
        except ValueError:
            raise ValueError(
                f"threshold has shape {limit.shape}, which fits neither the number of curves, {self.n_curves_}, nor the "
                f"result, {self._shaped(wanted).shape}."
            ) from None
        found = np.empty(wanted.shape)
        for rows, columns, distribution in self._forecasts(wanted):
            better = distribution.cdf if self.metric_.sign < 0 else distribution.survival
            found[rows, columns] = better(limit[rows, columns])
        return self._shaped(found)

    def misfit(self) -> float | np.ndarray:
        """How likely what has been seen of a curve, or more unlikely, is under the prior: small where it explains it badly.

        See `estimators.curve_misfit`. Of curves that obey the prior, at most one in a hundred gets less than 0.01. A curve
        that oscillates quickly does, and so does one that suddenly falls or jumps under the released prior; the extended one
        knows such events and finds them rare at most.

        Returns
        -------
        float, or ndarray of shape (n_curves,) if a list of curves was fitted
            In (0, 1]; 1 for curves of fewer than four values.
        """
        check_is_fitted(self)
        scale = StepScale.of(self.steps_, self._horizons(np.empty((self.n_curves_, 0))))
        found = misfit(self.model_, *self._shown(scale), scale.network_horizon, _PRIORS[self.prior])
        return float(found[0]) if self._is_single else found

    def plot(
        self, steps: Any = None, *, curves: Sequence[int] | None = None, levels: tuple[float, ...] = (0.5, 0.9),
        ax: Axes | None = None,
    ) -> Axes:
        """Observed values, medians and central intervals; see `estimators.plots.plot_curves`."""
        from estimators.plots import plot_curves  # imports this module, and Optuna

        return plot_curves(self, steps, curves=curves, levels=levels, ax=ax)

    @property
    def metric_(self) -> CurveMetric:
        """How values are normalised."""
        check_is_fitted(self)
        return CurveMetric(*self._metric)

    def _check_parameters(self) -> None:
        if not isinstance(self.minimize, (bool, np.bool_)):
            raise TypeError(f"minimize={self.minimize!r} is no bool; use True if small values are good.")
        if self.prior not in _PRIORS:
            raise ValueError(f"prior={self.prior!r} is unknown; use one of {', '.join(map(repr, _PRIORS))}.")
        if self.horizon is not None and not (isinstance(self.horizon, Real) and math.isfinite(self.horizon)):
            raise ValueError(f"horizon={self.horizon!r} is no finite number; pass the last step of a whole curve, or None.")
        if self.bounds is not None:
            _check_pair("bounds", self.bounds)
        if self.expected is not None:
            _check_pair("expected", self.expected)
            low, high = (-math.inf, math.inf) if self.bounds is None else self.bounds
            if self.bounds is None or (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(f"expected={self.expected} is for infinite bounds, not for bounds={self.bounds}; use None.")
            if not low <= self.expected[0] < self.expected[1] <= high or not all(map(math.isfinite, self.expected)):
                raise ValueError(f"expected={self.expected} must be finite and lie within bounds={self.bounds}.")

    def _source(self) -> str | os.PathLike[str] | PFN:
        return self.model

    def _original(self) -> PFN:
        return self.model if isinstance(self.model, PFN) else load_shared(self.model)

    def _set_network(self, network: PFN) -> None:
        device = resolve_device(self.device)
        self.model_ = network if network.borders.device == device else copy.deepcopy(network).to(device)
        self._contexts: dict[bytes, list[tuple[np.ndarray, ObservedCurves]]] = {}

    def _forecasts(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, slice, CurveDistribution]]:
        """Distributions at steps (n_curves, n_steps) in blocks: numbers of curves, columns, and what is known of these."""
        scale = StepScale.of(self.steps_, self._horizons(wanted))
        t, metric = scale.apply(wanted), self.metric_
        for rows, observed in self._observed(scale):
            for start in range(0, wanted.shape[1], _QUERIES):
                columns = slice(start, start + _QUERIES)
                yield rows, columns, ask(observed, t[rows, columns], metric.rows(rows))

    def _horizons(self, wanted: np.ndarray) -> np.ndarray:
        """The last step of each curve (n_curves,), given that steps (n_curves, n_steps) are asked for."""
        if self.horizon is None:
            last = np.array([t[-1] if len(t) else -np.inf for t in self.steps_])
            return np.maximum(last, wanted.max(1, initial=-np.inf))
        if wanted.size and wanted.max() > _just_above(self.horizon):
            raise ValueError(f"steps has {wanted.max():g}, beyond horizon={self.horizon}; fit with a larger horizon.")
        return np.full(self.n_curves_, float(self.horizon))

    def _shown(self, scale: StepScale) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Steps and values of each curve as the network is shown them."""
        lengths = [len(y) for y in self.values_]
        flat = self.metric_.rows(np.repeat(np.arange(self.n_curves_), lengths)).forward(np.concatenate(self.values_))
        steps, values = [], []
        for number, g in enumerate(np.split(flat, np.cumsum(lengths[:-1]))):
            kept, t = scale.observed(number, self.steps_[number])
            steps.append(t)
            values.append(g[kept])
        return steps, values

    def _observed(self, scale: StepScale) -> Iterator[tuple[np.ndarray, ObservedCurves]]:
        """The curves as the network has read them, in blocks. Few are kept, for the next call with the same horizons."""
        key = self.prior.encode() + scale.horizon.tobytes()
        if key in self._contexts:
            yield from self._contexts[key]
            return
        steps, values = self._shown(scale)
        blocks = read_in_blocks(self.model_, steps, values, scale.network_horizon, _PRIORS[self.prior])
        if sum(map(len, steps)) > _KEPT_ROWS:
            yield from blocks
            return
        self._contexts = {key: list(blocks)}
        yield from self._contexts[key]

    def _shaped(self, found: np.ndarray) -> np.ndarray:
        return found[0] if self._is_single else found


def _just_above(horizon: float) -> float:
    """Steps up to here are within the horizon: 3 × 0.1 is more than 0.3."""
    return horizon + 1e-9 * abs(horizon)


def _check_pair(name: str, pair: Any) -> None:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(end, Real) for end in pair):
        raise TypeError(f"{name}={pair!r} is no pair of numbers; pass for example (0, 1), or (0, math.inf).")
    if not pair[0] < pair[1]:
        raise ValueError(f"{name}={pair!r} is no range; pass the smaller number first.")
