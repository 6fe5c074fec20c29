"""Decisions against forecasts with known probabilities; the loop around partial_fit against scikit-learn alone."""

import copy
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from curve_forecasters import GaussianDistribution, GaussianForecaster, fresh
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LinearRegression, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier

import estimators.early_stopping
from estimators.early_stopping import (
    CurveStopper,
    StoppingRule,
    as_curve,
    expected_gain,
    is_due,
    later_steps,
    partial_fit_with_stopping,
    plausible_bounds,
)


@pytest.fixture
def forecaster(monkeypatch):
    """What the stopper takes for the network."""
    made = fresh()
    monkeypatch.setattr(estimators.early_stopping, "LearningCurveExtrapolator", made)
    monkeypatch.setattr(estimators.early_stopping, "load_shared", lambda model: model)
    return made


def table(probabilities, misfit=1.0, minimize=False, mean=0.0):
    """A forecast with these probabilities at its later steps, where it knows the mean to a hair."""
    return SimpleNamespace(
        prob_better=lambda threshold, steps: np.resize(probabilities, len(steps)), misfit=lambda: misfit, minimize=minimize,
        predict_distribution=lambda steps: GaussianDistribution(np.full(len(steps), mean), 1e-4),
    )


# Rules

@pytest.mark.parametrize(("probabilities", "stops"), [([0.05, 0.01], True), ([0.01, 0.051], False), ([0.06, 0.0], False)])
def test_every_later_step_must_be_hopeless(probabilities, stops):
    decision = StoppingRule(delta=0.05).decide(table(probabilities), 0.9, 8, 10)
    assert decision.stop is stops
    assert bool(decision) is stops
    assert decision.probability == max(probabilities)
    assert decision.step == 9 + int(np.argmax(probabilities))


def test_probabilities_are_asked_for_all_later_steps():
    asked = []
    curve = table([0.0])
    curve.prob_better = lambda threshold, steps: asked.append((threshold, steps)) or np.zeros(len(steps))
    StoppingRule().decide(curve, 0.7, 3, 6)
    assert asked[0][0] == 0.7
    assert asked[0][1].tolist() == [4, 5, 6]


@pytest.mark.parametrize(("misfit", "stops"), [(0.0099, False), (0.01, True)])
def test_a_curve_that_the_prior_cannot_explain_goes_on(misfit, stops):
    decision = StoppingRule().decide(table([0.0], misfit), 0.9, 5, 10)
    assert decision.stop is stops
    assert decision.misfit == misfit
    assert ("cannot explain" in decision.reason) is not stops


def test_misfit_is_only_computed_for_curves_that_would_be_stopped():
    curve = table([0.5])
    curve.misfit = lambda: pytest.fail("needless")
    assert math.isnan(StoppingRule().decide(curve, 0.9, 5, 10).misfit)


@pytest.mark.parametrize(("minimize", "mean"), [(False, 0.92), (True, 0.88)])
def test_expected_gain_weighs_the_steps_that_are_left(minimize, mean):
    """A gain of 0.02 at every later step: the first one costs least."""
    curve = table([0.9], minimize=minimize, mean=mean)
    for cost, tolerance, stops in [(0.0, 0.019, False), (0.0, 0.021, True), (0.005, 0.0149, False), (0.005, 0.0151, True)]:
        decision = StoppingRule(delta=0.0, tolerance=tolerance, cost_per_step=cost).decide(curve, 0.9, 5, 20)
        assert decision.stop is stops
        assert decision.gain == pytest.approx(0.02 - cost, abs=1e-5)


def test_either_criterion_suffices():
    likely_and_useless, unlikely_and_useful = table([0.9], mean=0.9), table([0.01], mean=5.0)
    rule = StoppingRule(delta=0.05, tolerance=0.001)
    assert rule.decide(likely_and_useless, 0.9, 5, 20).stop
    assert rule.decide(unlikely_and_useful, 0.9, 5, 20).stop
    assert not StoppingRule(delta=0.05).decide(likely_and_useless, 0.9, 5, 20).stop


@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize("best", [-1.0, 0.0, 0.7, 2.0, 5.0])
def test_expected_gain_agrees_with_the_closed_form_of_a_gaussian(best, minimize):
    mean, std = np.array([0.0, 0.3]), 0.5
    z = (mean - best) / std * (-1 if minimize else 1)
    exact = std * (z * scipy.stats.norm.cdf(z) + scipy.stats.norm.pdf(z))
    assert expected_gain(GaussianDistribution(mean, std), best, minimize) == pytest.approx(exact, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(("last", "horizon"), [(1, 2), (3, 27), (3, 28), (10, 1000), (0, 200), (2.5, 4.0), (100, 50_000)])
def test_later_steps_are_few_and_contain_both_ends(last, horizon):
    steps = later_steps(last, horizon)
    assert steps[0] == min(last + 1, horizon)
    assert steps[-1] == horizon
    assert len(steps) <= 24
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize(
    ("values", "minimize", "bounds"),
    [
        ([0.0, 1.0], False, (0, 1)), ([0.2, 1.3], False, (-math.inf, math.inf)), ([-0.1, 0.4], False, (-math.inf, math.inf)),
        ([-3.0, -0.2], False, (-math.inf, 0)), ([0.2, 0.9], True, (0, math.inf)), ([7.0], True, (0, math.inf)),
        ([-1.0, 3.0], True, (-math.inf, math.inf)), ([], False, (0, 1)), ([], True, (0, math.inf)),
    ],
)
def test_bounds_are_those_of_the_metric_that_the_values_look_like(values, minimize, bounds):
    assert plausible_bounds(values, minimize) == bounds


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"delta": 5}, "delta must be a probability.*got 5"), ({"delta": -0.1}, "got -0.1"), ({"min_fit": 1.0}, "min_fit"),
        ({"tolerance": -1e-3}, "tolerance.*-0.001"), ({"cost_per_step": -1}, "cost_per_step.*-1"),
        ({"min_observations": 0}, "min_observations.*got 0"), ({"delta": math.nan}, "delta"),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        StoppingRule(**settings)


# The stopper

FLAT = GaussianForecaster.curve(0.5, range(1, 11))


def test_stops_at_the_step_where_the_probability_falls_below_delta(forecaster):
    """One standard deviation is 0.01, so the best must be 0.0164 above the last step's mean for P = 0.05."""
    final = GaussianForecaster.curve(0.5, 40)
    for distance, stops in [(0.0160, False), (0.0169, True)]:
        stopper = CurveStopper(40, best=final + distance)
        assert stopper.should_stop(FLAT) is stops
        assert stopper.last_decision_.probability == pytest.approx(scipy.stats.norm.sf(distance / 0.01))
        assert stopper.last_decision_.step == 40


def test_losses_are_better_when_smaller(forecaster):
    rising = -GaussianForecaster.curve(0.5, range(1, 11))                    # falls to -0.5
    assert CurveStopper(40, minimize=True, best=-0.6).should_stop(rising)
    assert not CurveStopper(40, minimize=True, best=-0.4).should_stop(rising)
    assert forecaster.last.minimize
    assert forecaster.last.bounds == (-math.inf, math.inf)


@pytest.mark.parametrize("minimize", [False, True])
def test_has_to_beat_its_own_best_value_when_there_is_no_other(forecaster, minimize):
    sign = -1 if minimize else 1
    values = sign * np.array([0.1, 0.3, 0.45, 0.2])
    stopper = CurveStopper(100, minimize=minimize, min_gain=0.05)
    stopper.should_stop([*values, sign * 0.2])
    assert stopper.last_decision_.threshold == pytest.approx(sign * 0.5)
    stopper.best = sign * 0.3                                                # its own is better
    stopper.should_stop([*values, sign * 0.2])
    assert stopper.last_decision_.threshold == pytest.approx(sign * 0.5)
    stopper.best = sign * 0.6
    stopper.should_stop([*values, sign * 0.2])
    assert stopper.last_decision_.threshold == pytest.approx(sign * 0.65)


def test_a_plateau_ends_a_training_that_is_compared_with_nothing(forecaster):
    plateau = GaussianForecaster.curve(0.5, range(1, 101))
    stopper, n_steps = CurveStopper(100, min_gain=0.03), 1
    while not stopper.should_stop(plateau[:n_steps]):
        n_steps += 1
    # The ceiling is 0.5, so 0.03 + 0.5 (1 - 0.9^n) must exceed it by 1.645 · 0.01: n > 34.2; asked every 5 steps.
    assert n_steps == 35


def test_histories_with_and_without_steps_agree(forecaster):
    stopper = CurveStopper(40, best=0.9, check_every=1)
    pairs = list(zip(range(1, 11), FLAT, strict=True))
    decisions = []
    for history in (list(FLAT), FLAT, pairs, np.array(pairs), tuple(map(tuple, pairs))):
        stopper.should_stop(history)
        decisions.append((stopper.last_decision_, forecaster.last.steps.tolist(), forecaster.last.values.tolist()))
    assert all(one == decisions[0] for one in decisions)


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf, 1e200])
def test_values_that_are_not_finite_are_left_out(forecaster, hole):
    values = FLAT.copy()
    values[[2, 9]] = hole
    CurveStopper(40, best=0.9, check_every=1).should_stop(values)
    assert forecaster.last.steps.tolist() == [1, 2, 4, 5, 6, 7, 8, 9]
    stopper = CurveStopper(40, best=0.9, check_every=1)
    assert not stopper.should_stop([hole] * 20 + [0.1, 0.1, 0.1])
    assert stopper.last_decision_.reason == "fewer than 4 values"
    assert stopper.should_stop([hole] * 20 + [0.1, 0.1, 0.1, 0.1])


def test_forecasts_are_made_when_they_are_due_only(forecaster):
    stopper = CurveStopper(100)
    for n_steps in range(1, 101):
        stopper.should_stop(np.linspace(0, 1, 100)[:n_steps])
    assert forecaster.asked == 19                                            # 5, 10, … 95: 100 is the horizon
    assert stopper.last_decision_.reason == "the horizon is reached"


@pytest.mark.parametrize(
    ("steps", "every", "due"),
    [([1, 2, 3, 4, 5], 5, True), ([1, 2, 3, 4], 5, False), ([4, 7], 5, True), ([5, 7], 5, False), ([30], 20, True),
     ([0, 1], 1, True), ([10], 20, False), ([0.25, 0.5], 0.5, True), ([7, 3, 5, 4], 5, False)],
)
def test_a_check_is_due_at_the_first_step_past_a_multiple(steps, every, due):
    assert is_due(np.array(steps, dtype=float), every) is due


def test_given_bounds_and_prior_reach_the_forecaster(forecaster):
    network = object()
    CurveStopper(50, bounds=(-1, 2), prior="released", model=network, check_every=1).should_stop([0.1] * 6)
    assert (forecaster.last.bounds, forecaster.last.prior, forecaster.last.model) == ((-1, 2), "released", network)
    assert forecaster.last.horizon == 50


def test_nothing_is_stopped_for_want_of_values_or_steps(forecaster):
    stopper = CurveStopper(10, best=0.9)
    for history in ([], [0.1], [0.1] * 3, [(1, 0.1)], [0.1] * 10, [0.1] * 12):
        assert stopper.should_stop(history) is False
    assert forecaster.asked == 0


def test_copies_decide_the_same(forecaster):
    stopper = CurveStopper(40, StoppingRule(delta=0.2), best=0.9, model="learning-curve")
    for other in (copy.deepcopy(stopper), pickle.loads(pickle.dumps(stopper))):
        assert other.should_stop(FLAT) == stopper.should_stop(FLAT)
        assert other.last_decision_ == stopper.last_decision_


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"horizon": 0}, ValueError, "horizon.*got 0"), ({"horizon": math.inf}, ValueError, "horizon.*inf"),
        ({"horizon": 9, "rule": "regret"}, TypeError, "'regret'"),
        ({"horizon": 9, "min_gain": -1}, ValueError, "min_gain.*-1"),
        ({"horizon": 9, "check_every": 0}, ValueError, "check_every.*got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        CurveStopper(**arguments)


def test_a_history_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        as_curve([[1, 2, 3], [4, 5, 6]])


def test_the_network_stops_what_stagnates_and_not_what_rises():
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.004, size=40)
    stagnating, rising = 0.3 + noise, 0.9 - 0.6 * 0.95 ** np.arange(40) + noise
    assert CurveStopper(100, best=0.85).should_stop(stagnating)
    assert not CurveStopper(100, best=0.85).should_stop(rising)
    losses = CurveStopper(100, best=0.1, minimize=True)
    assert losses.should_stop(2.3 + noise)
    assert not losses.should_stop(2.3 * 0.93 ** np.arange(40) + noise)


# Loops of partial_fit

def iris():
    X, y = load_iris(return_X_y=True)
    return X[::2], y[::2], X[1::2], y[1::2]


class StopAfter(CurveStopper):
    """Stops when there are n values."""

    def __init__(self, n):
        super().__init__(1000)
        self.n = n

    def should_stop(self, history):
        self.histories = [*getattr(self, "histories", []), list(history)]
        return len(history) >= self.n


def test_ends_when_the_stopper_says_so():
    model, stopper = SGDClassifier(random_state=0), StopAfter(7)
    _, scores = partial_fit_with_stopping(model, *iris(), n_epochs=30, stopper=stopper, random_state=0)
    assert len(scores) == 7
    assert stopper.histories == [scores[:n].tolist() for n in range(1, 8)]


def test_returns_the_estimator_of_the_first_best_epoch():
    X, y, X_valid, y_valid = iris()
    given = SGDClassifier(random_state=0)
    best, scores = partial_fit_with_stopping(
        given, X, y, X_valid, y_valid, n_epochs=20, stopper=StopAfter(20), random_state=3
    )
    assert best.score(X_valid, y_valid) == scores.max()
    assert best.t_ - 1 == len(X) * (scores.argmax() + 1)                     # rows that it has seen
    assert not hasattr(given, "coef_")


def test_trains_as_partial_fit_does_on_rows_in_a_random_order():
    X, y, X_valid, y_valid = iris()
    _, scores = partial_fit_with_stopping(
        SGDClassifier(random_state=0), X, y, X_valid, y_valid, n_epochs=5, stopper=StopAfter(5), random_state=1
    )
    rng, model = np.random.RandomState(1), SGDClassifier(random_state=0)
    expected = []
    for _ in range(5):
        order = rng.permutation(len(X))
        expected.append(model.partial_fit(X[order], y[order], classes=[0, 1, 2]).score(X_valid, y_valid))
    assert scores.tolist() == expected


def test_regressors_scorers_and_missing_classes():
    X, y, X_valid, y_valid = iris()
    model, scores = partial_fit_with_stopping(
        SGDRegressor(random_state=0), X[:, :3], X[:, 3], X_valid[:, :3], X_valid[:, 3], n_epochs=4, stopper=StopAfter(4),
        scoring="neg_mean_squared_error", random_state=0,
    )
    assert (scores < 0).all()
    assert scores.max() == pytest.approx(-np.mean((model.predict(X_valid[:, :3]) - X_valid[:, 3]) ** 2))
    two = y < 2
    model, _ = partial_fit_with_stopping(
        SGDClassifier(random_state=0), X[two], y[two], X_valid, y_valid, n_epochs=2, stopper=StopAfter(2), classes=[0, 1, 2],
        scoring=lambda model, X, y: float(model.t_), random_state=0,
    )
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.t_ == 2 * two.sum() + 1


def test_a_network_is_stopped_on_its_plateau(forecaster):
    forecaster.ratio = 0.5
    X, y = load_digits(return_X_y=True)
    X = X / 16
    network = MLPClassifier(hidden_layer_sizes=(32,), learning_rate_init=0.01, random_state=0)
    best, scores = partial_fit_with_stopping(
        network, X[:600], y[:600], X[600:1200], y[600:1200], n_epochs=60, stopper=CurveStopper(60, min_gain=0.02),
        random_state=0,
    )
    assert 4 < len(scores) < 40
    assert best.score(X[600:1200], y[600:1200]) == scores.max() > 0.8


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"estimator": LinearRegression()}, TypeError, "LinearRegression.*has no partial_fit"),
        ({"n_epochs": 0}, ValueError, "n_epochs.*got 0"),
        ({"stopper": CurveStopper(9, minimize=True)}, ValueError, "minimize=True"),
    ],
)
def test_loops_that_make_no_sense_are_refused(change, error, match):
    X, y, X_valid, y_valid = iris()
    arguments = {"estimator": SGDClassifier(), "n_epochs": 3} | change
    with pytest.raises(error, match=match):
        partial_fit_with_stopping(arguments.pop("estimator"), X, y, X_valid, y_valid, **arguments)
