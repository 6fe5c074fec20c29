"""Whether a learning curve is worth continuing, decided by what the network expects of its later steps."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.utils import _safe_indexing, check_random_state

from estimators.base import load_shared
from estimators.curve_distribution import CurveDistribution
from estimators.learning_curves import LearningCurveExtrapolator
from pfn import PFN

__all__ = ["CurveStopper", "StoppingDecision", "StoppingRule", "partial_fit_with_stopping"]

LARGEST = 1e100                                                     # what a forecast can be made from
_N_LATER = 24                                                       # later steps that are looked at
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)              # on (-1, 1)
_LEAST = 1e-7


@dataclass(frozen=True)
class StoppingDecision:
    """What a rule decided, and why.

    Parameters
    ----------
    stop : bool
    reason : str
        In words.
    threshold : float
        The value that later steps have to beat.
    probability, step : float
        The largest probability that a later step is better than the threshold, and that step. NaN if not asked for.
    gain : float
        The largest expected improvement on the threshold less the cost, in units of the metric. NaN if not asked for.
    misfit : float
        p-value of the curve so far under the prior; computed only where the rule would stop, else NaN.
    """

    stop: bool
    reason: str
    threshold: float = math.nan
    probability: float = math.nan
    step: float = math.nan
    gain: float = math.nan
    misfit: float = math.nan

    def __bool__(self) -> bool:
        return self.stop


@dataclass(frozen=True)
class StoppingRule:
    """When a curve is hopeless. Of two criteria either suffices.

    Parameters
    ----------
    delta : float, default=0.05
        Hopeless if at every later step the probability of a value better than the best is at most `delta` [1]_.
    tolerance : float or None, default=None
        Hopeless if at every later step t the expected improvement E[max(y_t - best, 0)] (of losses: E[max(best - y_t, 0)])
        less `cost_per_step` · (t - last step) is at most `tolerance`, in units of the metric. None: not looked at. With
        ``delta=0`` this criterion decides alone.
    cost_per_step : float, default=0.0
        What one more step costs, in units of the metric.
    min_observations : int, default=4
        Curves with fewer values go on.
    min_fit : float, default=0.01
        Curves that the prior cannot explain go on: those with a misfit p-value below this.

    Notes
    -----
    The probability that *some* later step is better is larger than that of the best single step, as noise gives a curve
    many chances. `delta` bounds the latter, as in [1]_.

    References
    ----------
    .. [1] S. Adriaensen et al., "Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks",
       NeurIPS 2023, section 5.3.
    """

    delta: float = 0.05
    tolerance: float | None = None
    cost_per_step: float = 0.0
    min_observations: int = 4
    min_fit: float = 0.01

    def __post_init__(self) -> None:
        for name in ("delta", "min_fit"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be a probability in [0, 1), got {getattr(self, name)}; 0.05 is usual.")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, in units of the metric, or None, got {self.tolerance}.")
        if not self.cost_per_step >= 0:
            raise ValueError(f"cost_per_step must be at least 0, in units of the metric, got {self.cost_per_step}.")
        if self.min_observations < 1:
            raise ValueError(f"min_observations must be at least 1, got {self.min_observations}.")

    def decide(self, curve: LearningCurveExtrapolator, threshold: float, last: float, horizon: float) -> StoppingDecision:
        """Whether the one curve that `curve` was fitted to, up to the step `last`, should end there.

        Parameters
        ----------
        curve : LearningCurveExtrapolator
            Fitted to one curve.
        threshold : float
            The value to beat.
        last, horizon : float
            The last step seen and the last step possible.
        """
        if last >= horizon:
            return StoppingDecision(False, "the horizon is reached", threshold)
        later = later_steps(last, horizon)
        probability = np.asarray(curve.prob_better(threshold, later))
        peak, gain = int(probability.argmax()), math.nan
        hopeless = probability[peak] <= self.delta
        if self.tolerance is not None:
            expected = expected_gain(curve.predict_distribution(later), threshold, curve.minimize)
            gain = float((expected - self.cost_per_step * (later - last)).max())
            hopeless = hopeless or gain <= self.tolerance
        misfit = math.nan
        if not hopeless:
            reason = "may still become better"
        else:
            misfit = float(curve.misfit())
            reason = "hopeless" if misfit >= self.min_fit else "the prior cannot explain this curve"
        stop = reason == "hopeless"
        return StoppingDecision(stop, reason, threshold, float(probability[peak]), float(later[peak]), gain, misfit)


def later_steps(last: float, horizon: float) -> np.ndarray:
    """The steps last + 1 … horizon, or 24 of them that include both ends."""
    n_left = math.ceil(horizon - last)
    if n_left <= _N_LATER:
        return np.minimum(last + 1.0 + np.arange(n_left), horizon)
    return np.linspace(last + 1.0, horizon, _N_LATER)


def expected_gain(distribution: CurveDistribution, best: float, minimize: bool) -> np.ndarray:
    """E[max(y - best, 0)], or E[max(best - y, 0)] of losses, (n_steps,), in units of y.

    It is the integral of P(y > v) over v > best; a quadrature from `best` to the quantile at which 1e-7 is left.
    """
    end = distribution.quantile([_LEAST if minimize else 1 - _LEAST])                # (n_steps, 1)
    half = np.maximum(best - end if minimize else end - best, 0.0) / 2
    v = best + (-half if minimize else half) * (1 + _NODES)                          # (n_steps, n_nodes)
    return (half * (distribution.cdf(v) if minimize else distribution.survival(v))) @ _WEIGHTS


def plausible_bounds(values: Sequence[float] | np.ndarray, minimize: bool) -> tuple[float, float]:
    """Bounds of a metric, from values of it: (0, 1) as of accuracies where that is possible, (0, inf) as of losses, …"""
    values = np.asarray(values, dtype=np.float64)
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    if minimize:
        return (0.0, math.inf) if low >= 0 else (-math.inf, math.inf)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return (-math.inf, 0.0) if high <= 0 else (-math.inf, math.inf)


class CurveStopper:
    """Says of one training after another whether to go on: ``stopper.should_stop(history)``.

    Stops when no later step is expected to be better than the best value so far, that of the curve itself or `best`.

    Parameters
    ----------
    horizon : float
        The last step of a complete training.
    rule : StoppingRule, default=StoppingRule()
        What counts as hopeless.
    best : float or None, default=None
        Best value of other trainings, which this one has to beat as well. May be assigned to later.
    min_gain : float, default=0.0
        Improvements up to this do not count, in units of the metric.
    minimize : bool, default=False
        Whether smaller values are better.
    bounds : (float, float) or None, default=None
        Values that the metric can take. None: (0, 1) if larger is better and the values lie there, (0, inf) if smaller is
        better and no value is negative, (-inf, 0) if larger is better and no value is positive, else none.
    check_every : float or None, default=None
        Steps between two forecasts. None: a twentieth of the horizon.
    prior : {"auto", "released", "extended"}, default="auto"
        As in `LearningCurveExtrapolator`.
    model : str, path or PFN, default="learning-curve"
        Bundled weights, a checkpoint of your own, or a network; loaded when the first forecast is made.

    Attributes
    ----------
    last_decision_ : StoppingDecision
        Of the last call of `should_stop`.

    Examples
    --------
    >>> stopper = CurveStopper(horizon=100, best=0.9)
    >>> accuracies = [0.30, 0.41, 0.46, 0.50]
    >>> stopper.should_stop(accuracies)
    False
    >>> stopper.last_decision_.reason
    'between two checks'
    """

    def __init__(
        self,
        horizon: float,
        rule: StoppingRule | None = None,
        *,
        best: float | None = None,
        min_gain: float = 0.0,
        minimize: bool = False,
        bounds: tuple[float, float] | None = None,
        check_every: float | None = None,
        prior: str = "auto",
        model: str | os.PathLike[str] | PFN = "learning-curve",
    ) -> None:
        if not 0 < horizon < math.inf:
            raise ValueError(f"horizon must be a positive number of steps, got {horizon}.")
        if rule is not None and not isinstance(rule, StoppingRule):
            raise TypeError(f"rule={rule!r} is no StoppingRule; use StoppingRule(delta=...).")
        if not min_gain >= 0:
            raise ValueError(f"min_gain must be at least 0, in units of the metric, got {min_gain}.")
        if check_every is not None and not check_every > 0:
            raise ValueError(f"check_every must be a positive number of steps or None, got {check_every}.")
        self.horizon = horizon
        self.rule = StoppingRule() if rule is None else rule
        self.best = best
        self.min_gain = min_gain
        self.minimize = minimize
        self.bounds = bounds
        self.check_every = check_every
        self.prior = prior
        self.model = model
        self._network: PFN | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_network": None}

    def should_stop(self, history: Sequence[float] | Sequence[tuple[float, float]] | np.ndarray) -> bool:
        """Whether the training with this history should end now.

        Parameters
        ----------
        history : sequence of float, or of (step, value)
            Values of all steps so far; without steps they are 1, 2, 3, … Values that are not finite are left out.

        Returns
        -------
        bool
        """
        self.last_decision_ = self._decide(*as_curve(history))
        return self.last_decision_.stop

    def _decide(self, steps: np.ndarray, values: np.ndarray) -> StoppingDecision:
        known = np.abs(values) < LARGEST                            # False where it is NaN
        if known.sum() < self.rule.min_observations:
            return StoppingDecision(False, f"fewer than {self.rule.min_observations} values")
        if not is_due(steps, self.horizon / 20 if self.check_every is None else self.check_every):
            return StoppingDecision(False, "between two checks")
        last, steps, values = steps.max(), steps[known], values[known]
        if last >= self.horizon:
            return StoppingDecision(False, "the horizon is reached")
        better = min if self.minimize else max
        threshold = float(better(values))
        if self.best is not None:
            threshold = better(threshold, self.best)
        threshold += -self.min_gain if self.minimize else self.min_gain
        if self._network is None:
            self._network = self.model if isinstance(self.model, PFN) else load_shared(self.model)
        bounds = plausible_bounds(values, self.minimize) if self.bounds is None else self.bounds
        curve = LearningCurveExtrapolator(self.minimize, bounds, self.horizon, prior=self.prior, model=self._network)
        return self.rule.decide(curve.fit(steps, values), threshold, last, self.horizon)


def as_curve(history: Any) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values (n,) of a history, of values or of (step, value)."""
    history = np.asarray(history, dtype=np.float64)
    if history.ndim == 1:
        return np.arange(1.0, len(history) + 1), history
    if history.ndim != 2 or history.shape[1] != 2:
        raise ValueError(f"history has shape {history.shape}; pass values [0.1, 0.2] or pairs [(step, value), ...].")
    return history[:, 0], history[:, 1]


def is_due(steps: np.ndarray, every: float) -> bool:
    """Whether the last of the steps is the first one after a multiple of `every`."""
    last = steps.max()
    before = steps[steps < last].max(initial=0.0)
    return math.floor(last / every) > math.floor(before / every)


def partial_fit_with_stopping(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    X_valid: Any,
    y_valid: Any,
    *,
    n_epochs: int,
    stopper: CurveStopper | None = None,
    scoring: str | Callable[..., float] | None = None,
    classes: Any = None,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[BaseEstimator, np.ndarray]:
    """Train by `partial_fit`, one call an epoch, until the validation score is not expected to become better.

    Parameters
    ----------
    estimator : estimator with `partial_fit`
        It is cloned, so it stays as it is.
    X, y : array-like of shape (n, n_features) and (n,)
        Training rows; each epoch sees them in another order.
    X_valid, y_valid : array-like
        Validation rows, scored after each epoch.
    n_epochs : int
        At most so many.
    stopper : CurveStopper or None, default=None
        With ``minimize=False``, as scores are better when larger. None: ``CurveStopper(n_epochs)``.
    scoring : str, callable or None, default=None
        As in scikit-learn; None is the score of the estimator.
    classes : array-like or None, default=None
        Of a classifier; None: those in `y`.
    random_state : int, RandomState or None
        For the order of rows.

    Returns
    -------
    best : estimator
        As it was after the epoch with the best score.
    scores : ndarray of shape (n_epochs_done,)

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import SGDClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> best, scores = partial_fit_with_stopping(SGDClassifier(random_state=0), X[::2], y[::2], X[1::2], y[1::2],
    ...                                          n_epochs=3, random_state=0)
    >>> bool(best.score(X[1::2], y[1::2]) == max(scores)), len(scores)
    (True, 3)
    """
    if not hasattr(estimator, "partial_fit"):
        raise TypeError(f"estimator={estimator!r} has no partial_fit; use SGDClassifier or MLPRegressor, for example.")
    if n_epochs < 1:
        raise ValueError(f"n_epochs must be at least 1, got {n_epochs}.")
    stopper = CurveStopper(n_epochs) if stopper is None else stopper
    if stopper.minimize:
        raise ValueError("stopper has minimize=True, but scores are better when larger; use minimize=False.")
    rng, score = check_random_state(random_state), check_scoring(estimator, scoring=scoring)
    first: dict[str, Any] = {}
    if is_classifier(estimator):
        first["classes"] = np.unique(y) if classes is None else classes
    current, best, scores = clone(estimator), None, []
    for epoch in range(n_epochs):
        order = rng.permutation(len(y))
        current.partial_fit(_safe_indexing(X, order), _safe_indexing(y, order), **(first if epoch == 0 else {}))
        scores.append(float(score(current, X_valid, y_valid)))
        if best is None or scores[-1] > np.nanmax(scores[:-1], initial=-math.inf):
            best = copy.deepcopy(current)
        if stopper.should_stop(scores):
            break
    return best, np.array(scores)
