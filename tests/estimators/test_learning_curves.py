import math
import pickle
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from estimators import LearningCurveExtrapolator
from estimators.curve_misfit import p_of_alternation, p_of_surprise
from estimators.curve_steps import StepScale
from estimators.plots import plot_curves
from pfn import PFN, BarDistribution, PFNConfig, save_checkpoint
from pfn.checkpoint import Envelope, ModelCard
from pfn.curves import ObservedCurves
from pfn.recipes import learning_curve
from priors import TaskShape

matplotlib.use("Agg")

ACCURACY = np.array([0.31, 0.42, 0.5, 0.55, 0.58, 0.61, 0.62, 0.64, 0.65, 0.65])
STEPS = np.arange(1, 11)
LOSS = [np.array([2.3, 1.6, 1.3, 1.15, 1.1]), np.array([7.0]), np.array([]), np.array([0.5, 0.4, 0.45, 0.3])]
LOSS_STEPS = [np.arange(1, len(y) + 1) for y in LOSS]
Q = [0.05, 0.25, 0.5, 0.75, 0.95]


@pytest.fixture(scope="module")
def network():
    """A network of the kind that guesses."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = replace(learning_curve().model, embed_dim=32, n_layers=2, n_heads=2, hidden_dim=64, n_outputs=64)
        model = PFN(small).eval().requires_grad_(False)
        torch.nn.init.normal_(model.decoder[-1].weight, std=0.5)
        torch.nn.init.normal_(model.normal.weight, std=0.05)
    model.target_scaling.copy_(torch.tensor([-0.1, 0.9]))
    return model


@pytest.fixture(scope="module")
def make(network):
    def make(**arguments):
        return LearningCurveExtrapolator(**({"model": network} | arguments))

    return make


METRICS = {
    "accuracy": ({}, [ACCURACY, ACCURACY[:3]]),
    "error": ({"minimize": True}, [1 - ACCURACY, 1 - ACCURACY[:3]]),
    "percent": ({"bounds": (0, 100)}, [100 * ACCURACY, 100 * ACCURACY[:3]]),
    "loss": ({"minimize": True, "bounds": (0, math.inf)}, [LOSS[0], LOSS[3]]),
    "expected loss": ({"minimize": True, "bounds": (0, math.inf), "expected": (0.2, 2.5)}, [LOSS[0], LOSS[3]]),
    "reward": ({"bounds": (-math.inf, math.inf)}, [-LOSS[0], 100 * ACCURACY]),
    "R²": ({"bounds": (-math.inf, 1)}, [1 - LOSS[0], ACCURACY]),
    "open": ({"bounds": None}, [ACCURACY, 0.6 + ACCURACY]),
    "at the bounds": ({}, [np.ones(8), np.zeros(8)]),
}


@pytest.fixture(params=METRICS, ids=str)
def fitted(request, make):
    arguments, values = METRICS[request.param]
    return make(horizon=40, **arguments).fit([np.arange(1, len(y) + 1) for y in values], values)


# Shapes


def test_one_curve_has_no_axis_for_curves(make):
    one = make(horizon=20).fit(STEPS, ACCURACY)
    assert one.predict([11, 20]).shape == (2,)
    assert one.predict([11, 20], quantiles=Q).shape == (2, 5)
    assert one.prob_better(0.5, [11, 20]).shape == (2,)
    distribution = one.predict_distribution([11, 20])
    assert distribution.mean.shape == distribution.std.shape == distribution.median.shape == distribution.shape == (2,)
    assert distribution.quantile(Q).shape == (2, 5)
    assert distribution.sample(7, random_state=0).shape == (2, 7)
    assert distribution.log_prob(0.5).shape == distribution.cdf([0.5, 0.6]).shape == (2,)
    assert distribution.log_prob(np.full((2, 3), 0.5)).shape == (2, 3)
    assert repr(distribution) == "CurveDistribution of 1 curve at 2 steps"
    assert isinstance(one.misfit(), float)
    assert one.predict([]).shape == one.predict_distribution([]).mean.shape == (0,)


def test_a_list_of_curves_has_one(make):
    many = make(horizon=20, minimize=True, bounds=(0, math.inf)).fit(LOSS_STEPS, LOSS)
    assert many.predict([11, 20]).shape == (4, 2)
    assert many.predict([11, 20], quantiles=Q).shape == (4, 2, 5)
    assert many.misfit().shape == (4,)
    distribution = many.predict_distribution([11, 20, 3])
    assert distribution.mean.shape == distribution.shape == (4, 3)
    assert distribution.quantile(Q).shape == (4, 3, 5)
    assert distribution.sample(7, random_state=0).shape == (4, 3, 7)
    assert distribution.cdf(np.ones((4, 3))).shape == distribution.cdf([1, 2, 3]).shape == (4, 3)
    assert distribution.log_prob(np.ones((4, 3, 2))).shape == (4, 3, 2)
    assert make(horizon=20).fit([STEPS], [ACCURACY]).predict([11]).shape == (1, 1)


def test_inputs_of_every_kind_say_the_same(make):
    curves = [ACCURACY, ACCURACY[::-1]]
    expected = make(horizon=30).fit([STEPS, STEPS], curves).predict([20])
    table = np.stack(curves)
    for steps, values in [
        (STEPS, curves), (STEPS, table), (STEPS.tolist(), table.tolist()), (np.stack([STEPS, STEPS]), table),
        (pd.Series(STEPS), pd.DataFrame(table)), ((STEPS, STEPS), tuple(curves)), (range(1, 11), torch.tensor(table)),
        (STEPS, table.astype(object)), ([pd.Series(STEPS)] * 2, [pd.Series(y) for y in curves]),
    ]:
        np.testing.assert_array_equal(make(horizon=30).fit(steps, values).predict([20]), expected)
    one = make(horizon=30).fit(STEPS, ACCURACY).predict([20])
    for steps, values in [
        (pd.Series(STEPS), pd.Series(ACCURACY)), (tuple(STEPS), list(ACCURACY)), (STEPS, ACCURACY.astype(object)),
    ]:
        np.testing.assert_array_equal(make(horizon=30).fit(steps, values).predict(pd.Series([20])), one)


# What is observed


def test_order_does_not_matter(make):
    order = np.random.default_rng(0).permutation(10)
    first, second = make(horizon=20).fit(STEPS, ACCURACY), make(horizon=20).fit(STEPS[order], ACCURACY[order])
    np.testing.assert_array_equal(first.predict([15]), second.predict([15]))
    np.testing.assert_array_equal(second.steps_[0], STEPS)
    np.testing.assert_array_equal(second.values_[0], ACCURACY)


def test_nan_is_not_observed(make):
    gaps = ACCURACY.copy()
    gaps[[2, 5, 9]] = np.nan
    kept = np.flatnonzero(~np.isnan(gaps))
    expected = make(horizon=20).fit(STEPS[kept], ACCURACY[kept]).predict([15])
    np.testing.assert_array_equal(make(horizon=20).fit(STEPS, gaps).predict([15]), expected)
    unknown_steps = np.where(np.isnan(gaps), np.nan, STEPS)
    np.testing.assert_array_equal(make(horizon=20).fit(unknown_steps, gaps).predict([15]), expected)
    with_none = [None if np.isnan(y) else y for y in gaps]
    np.testing.assert_array_equal(make(horizon=20).fit(STEPS, with_none).predict([15]), expected)
    ragged = make(horizon=20).fit(STEPS, np.stack([gaps, ACCURACY, np.full(10, np.nan)]))
    np.testing.assert_array_equal(ragged.predict([15])[0], expected)
    assert [len(y) for y in ragged.values_] == [7, 10, 0]


def test_values_of_a_step_that_occurs_twice_are_averaged(make):
    twice = make().fit([3, 1, 2, 3, 3], [0.4, 0.1, 0.2, 0.6, 0.8])
    np.testing.assert_array_equal(twice.steps_[0], [1, 2, 3])
    np.testing.assert_allclose(twice.values_[0], [0.1, 0.2, 0.6])


def test_inputs_stay_as_they_are(make):
    steps, values = [STEPS[::-1].copy(), STEPS.copy()], [ACCURACY.copy(), ACCURACY.copy()]
    make().fit(steps, values).predict([12])
    np.testing.assert_array_equal(steps, [STEPS[::-1], STEPS])
    np.testing.assert_array_equal(values, [ACCURACY, ACCURACY])


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [0.4], [0.5, 0.5], [0.0] * 9, [1.0] * 9], ids=str)
def test_curves_that_say_little_or_nothing(make, values):
    curve = make(horizon=30).fit(np.arange(1, len(values) + 1), values)
    q = curve.predict([1, 10, 30], quantiles=Q)
    assert np.isfinite(q).all()
    assert (np.diff(q, axis=1) > 0).all()
    assert (q >= 0).all()
    assert (q <= 1).all()
    assert curve.misfit() <= 1.0
    distribution = curve.predict_distribution([10, 30])
    assert np.isfinite(distribution.log_prob(np.array([[0.0, 0.3, 1.0]] * 2))).all()


def test_all_curves_of_which_nothing_is_known_are_alike(make):
    many = make(horizon=30).fit([[], [1.0], STEPS, []], [[], [np.nan], ACCURACY, []])
    found = many.predict([5, 30], quantiles=Q)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[3])
    np.testing.assert_array_equal(found[0], make(horizon=30).fit([], []).predict([5, 30], quantiles=Q))


@pytest.mark.parametrize("horizon", [40, None])
def test_a_curve_alone_is_predicted_like_the_same_among_others(make, horizon):
    rng = np.random.default_rng(0)
    values = [rng.uniform(size=n) for n in (5, 17, 1, 0, 8, 8, 30, 9, 16, 2)] + [rng.uniform(size=11)] * 40
    steps = [np.sort(rng.choice(40, len(y), replace=False)) + 1.0 for y in values]
    together = make(horizon=horizon).fit(steps, values)
    wanted = [3, 40, 17.5]
    found, misfit = together.predict(wanted, quantiles=Q), together.misfit()
    better = together.prob_better(0.5, wanted)
    for number in range(11):
        alone = make(horizon=horizon).fit(steps[number], values[number])
        np.testing.assert_allclose(alone.predict(wanted, quantiles=Q), found[number], rtol=1e-6)
        np.testing.assert_allclose(alone.prob_better(0.5, wanted), better[number], rtol=1e-5)
        np.testing.assert_allclose(alone.misfit(), misfit[number], rtol=1e-4)


def test_predictions_do_not_depend_on_what_else_is_asked(make):
    curve = make(horizon=400).fit(STEPS, ACCURACY)
    steps = np.arange(1, 401)
    together = curve.predict(steps)
    np.testing.assert_allclose(curve.predict(steps[[0, 100, 299, 399]]), together[[0, 100, 299, 399]], rtol=1e-6)
    np.testing.assert_allclose(curve.predict(steps[::-1]), together[::-1], rtol=1e-6)


def test_every_curve_may_have_steps_of_its_own(make):
    many = make(horizon=40).fit([STEPS, STEPS], [ACCURACY, ACCURACY[::-1]])
    found = many.predict([[12, 30], [20, 40]])
    np.testing.assert_allclose(found[0], many.predict([12, 30])[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], many.predict([20, 40])[1], rtol=1e-6)


def test_curves_are_read_once(make, monkeypatch):
    reads = []
    read = ObservedCurves.read.__func__
    monkeypatch.setattr(ObservedCurves, "read", classmethod(lambda cls, *a: (reads.append(1), read(cls, *a))[1]))
    curve = make(horizon=40).fit(STEPS, ACCURACY)
    first = curve.predict([12])
    np.testing.assert_array_equal(curve.predict([12, 30])[:1], first)
    curve.prob_better(0.5, [20])
    assert len(reads) == 1
    curve.fit(STEPS, ACCURACY[::-1])
    assert curve.predict([12]) != first
    assert len(reads) == 2


# Steps


def test_integers_up_to_200_are_the_steps_of_the_network():
    for horizon in (10, 37, 100, 200):
        scale = StepScale.of([np.arange(1.0, 6)], np.array([float(horizon)]))
        steps = np.arange(1.0, horizon + 1)
        np.testing.assert_array_equal(scale.apply(steps[None])[0], steps)
        assert scale.network_horizon == horizon


@pytest.mark.parametrize(("steps", "horizon", "t", "network_horizon"), [
    ([1, 2, 3], 1000, [1, 1, 1], 200),                  # a 200th of the horizon is the unit
    ([14, 28, 56], 1400, [1, 2, 4], 100),
    ([0, 1, 2], 99, [1, 2, 3], 100),                    # counted from 0
    ([0, 10, 20], 990, [1, 2, 3], 100),
    ([-3, 0, 3], 30, [1, 2, 3], 12),
    ([100, 110, 120], 1000, [10, 11, 12], 100),         # the gap is smaller than the first step
    ([5, 100, 200], 500, [1, 20, 40], 100),             # the first step is smaller than the gap
    ([1, 2, 3], 5, [2, 4, 6], 10),                      # stretched
    ([0.01, 0.02], 1.0, [1, 2], 100),
    ([7], 70, [1], 10),
    ([0], 99, [1], 100),
    ([], 50, [], 50),
    ([], 0.5, [], 10),
    ([], 5000, [], 200),
])
def test_real_steps_by_hand(steps, horizon, t, network_horizon):
    steps = np.array(steps, dtype=float)
    scale = StepScale.of([steps], np.array([float(horizon)]))
    np.testing.assert_allclose(scale.apply(steps[None])[0], t)
    np.testing.assert_allclose(scale.network_horizon, network_horizon)


@pytest.mark.parametrize(("factor", "offset"), [(14, 0), (0.001, 0), (1, -1), (50, -50), (3, -1000)])
def test_units_and_origin_of_steps_do_not_matter(make, factor, offset):
    wanted = np.array([5, 20, 100])
    expected = make(horizon=100).fit(STEPS, ACCURACY).predict(wanted, quantiles=Q)
    other = make(horizon=100 * factor + offset).fit(STEPS * factor + offset, ACCURACY)
    found = other.predict(wanted * factor + offset, quantiles=Q)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_steps_before_the_first_are_answered_like_it(make):
    curve = make(horizon=1000).fit(10 * STEPS, ACCURACY)
    np.testing.assert_array_equal(curve.predict([0, 3, 9.9]), curve.predict([10, 10, 10]))


def test_of_densely_observed_steps_the_network_sees_the_nearest_to_its_own():
    steps = np.arange(1.0, 1001)
    scale = StepScale.of([steps], np.array([1000.0]))
    kept, t = scale.observed(0, steps)
    np.testing.assert_array_equal(steps[kept], np.arange(5, 1001, 5))
    np.testing.assert_allclose(t, np.arange(1, 201))
    scale = StepScale.of([steps[:7]], np.array([1000.0]))
    np.testing.assert_array_equal(steps[scale.observed(0, steps[:7])[0]], [5])
    sparse = np.array([1.0, 1.5, 3.0, 9.0])
    kept, t = StepScale.of([sparse], np.array([20.0])).observed(0, sparse)
    np.testing.assert_array_equal(kept, [0, 1, 2, 3])
    np.testing.assert_allclose(t, sparse / 0.5)


def test_long_curves_are_read(make):
    y = np.random.default_rng(0).uniform(size=(2, 3000))
    assert np.isfinite(make(horizon=6000).fit(np.arange(1, 3001), y).predict([3001, 6000])).all()


def test_without_a_horizon_it_is_the_last_step_observed_or_asked_for(make):
    steps, values = [STEPS, STEPS[:4]], [ACCURACY, ACCURACY[:4]]
    free = make().fit(steps, values)
    np.testing.assert_array_equal(free.predict([12, 25]), make(horizon=25).fit(steps, values).predict([12, 25]))
    np.testing.assert_array_equal(free.predict([5])[0], make(horizon=10).fit(steps, values).predict([5])[0])
    np.testing.assert_array_equal(free.predict([5])[1], make(horizon=5).fit(steps[1], values[1]).predict([5]))
    assert not np.array_equal(free.predict([12]), free.predict([12, 25])[:, :1])


def test_the_horizon_is_not_missed_by_rounding(make):
    curve = make(horizon=0.3).fit([0.1, 0.2, 3 * 0.1], ACCURACY[:3])
    assert np.isfinite(curve.predict([3 * 0.1])).all()


# Distributions


def test_density_integrates_to_one_between_the_bounds(fitted):
    """Trapezoids between 50,000 quantiles, which are a little wrong at the edge of every bar."""
    distribution = fitted.predict_distribution([15, 40])
    y = distribution.quantile(np.linspace(1e-7, 1 - 1e-7, 50_000))
    mass = np.trapezoid(np.exp(distribution.log_prob(y)), y, axis=-1)
    np.testing.assert_allclose(mass, 1, atol=4e-3)


def test_quantile_inverts_the_cdf(fitted):
    distribution = fitted.predict_distribution([1, 15, 40])
    q = np.linspace(0.001, 0.999, 41)
    y = distribution.quantile(q)
    assert (np.diff(y, axis=-1) > 0).all()
    np.testing.assert_allclose(distribution.cdf(y), np.broadcast_to(q, y.shape), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(distribution.survival(y), 1 - np.broadcast_to(q, y.shape), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(distribution.median, distribution.quantile([0.5])[..., 0])
    np.testing.assert_allclose(fitted.predict([1, 15, 40], quantiles=q), y, rtol=1e-9)
    np.testing.assert_allclose(fitted.predict([1, 15, 40]), distribution.median, rtol=1e-9)


def test_density_is_the_slope_of_the_cdf(fitted):
    distribution = fitted.predict_distribution([15, 40])
    low, high = distribution.quantile([0.3, 0.3 + 1e-5]).transpose(2, 0, 1)
    slope = (distribution.cdf(high) - distribution.cdf(low)) / (high - low)
    np.testing.assert_allclose(np.exp(distribution.log_prob((low + high) / 2)), slope, rtol=1e-3)


def test_moments_are_those_of_the_quantiles(fitted):
    """∫ Q(u) du and ∫ Q(u)² du, with nodes that crowd at the ends."""
    distribution = fitted.predict_distribution([15, 40])
    x = (np.arange(4000) + 0.5) / 4000
    y, weight = distribution.quantile(x**2 * (3 - 2 * x)), 6 * x * (1 - x) / 4000
    mean = (y * weight).sum(-1)
    std = np.sqrt((np.square(y - mean[..., None]) * weight).sum(-1))
    np.testing.assert_allclose(distribution.mean, mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(distribution.std, std, rtol=1e-3)


def test_draws_follow_the_distribution(fitted):
    distribution = fitted.predict_distribution([15, 40])
    draws = distribution.sample(4000, random_state=0)
    tolerance = 4 * distribution.std / 4000**0.5
    assert (np.abs(draws.mean(-1) - distribution.mean) < tolerance).all()
    np.testing.assert_array_equal(draws, distribution.sample(4000, random_state=0))
    assert not np.array_equal(draws, distribution.sample(4000, random_state=1))


def test_all_mass_lies_within_the_bounds(fitted):
    low, high = (-math.inf, math.inf) if fitted.bounds is None else fitted.bounds
    distribution = fitted.predict_distribution([15, 40])
    np.testing.assert_array_equal(distribution.quantile([0, 1]), np.broadcast_to([low, high], (2, 2, 2)))
    for bound, outside in ((low, -1), (high, 1)):
        assert (distribution.cdf(bound) == (outside > 0)).all()
        assert (distribution.survival(bound) == (outside < 0)).all()
        if math.isfinite(bound):
            assert np.isfinite(distribution.log_prob(bound)).all()
            assert (distribution.log_prob(bound + outside * 1e-9 * max(1, abs(bound))) == -math.inf).all()
            assert (distribution.cdf(bound + outside) == (outside > 0)).all()
        else:
            assert (distribution.log_prob(bound) == -math.inf).all()


def test_open_bounds_leave_the_network_alone(make, network):
    """The bars of the network itself, moved and stretched."""
    steps = torch.arange(1.0, 11)[None]
    observed = ObservedCurves.read(network, steps, torch.tensor(ACCURACY)[None].float(), torch.ones(1, 10, dtype=torch.bool),
                                   torch.full((1, 1), 40.0), torch.full((1, 1), 0.5))
    bars = observed.bar_scale
    posterior = BarDistribution(network.borders.double()).posterior(observed.logits(torch.tensor([[15.0, 40.0]])).double())
    posterior = posterior.affine(bars.spread, bars.level)
    found = make(bounds=None, horizon=40).fit(STEPS, ACCURACY).predict_distribution([15, 40])
    np.testing.assert_allclose(found.mean, posterior.mean[0], rtol=1e-5)
    np.testing.assert_allclose(found.std, posterior.variance.sqrt()[0], rtol=1e-4)
    np.testing.assert_allclose(found.log_prob(1.02), posterior.log_prob(1.02)[0], rtol=1e-3)
    assert (found.quantile([1e-4]) < 0).any() or (found.quantile([1 - 1e-4]) > 1).any()


def test_nan_stays_nan(make):
    distribution = make(horizon=40).fit(STEPS, ACCURACY).predict_distribution([15, 40])
    for method in (distribution.log_prob, distribution.cdf, distribution.survival):
        found = method([np.nan, 0.5])
        assert np.isnan(found[0])
        assert np.isfinite(found[1])


# Directions


@pytest.mark.parametrize("bounds", [(0, 1), None])
def test_minimising_mirrors_maximising(make, bounds):
    up = make(horizon=30, bounds=bounds).fit(STEPS, ACCURACY)
    down = make(horizon=30, bounds=bounds, minimize=True).fit(STEPS, 1 - ACCURACY)
    steps, q = [2, 15, 30], np.array(Q)
    np.testing.assert_allclose(down.predict(steps), 1 - up.predict(steps), rtol=1e-6)
    np.testing.assert_allclose(down.predict(steps, 1 - q), 1 - up.predict(steps, q), rtol=1e-6)
    np.testing.assert_allclose(down.prob_better(0.3, steps), up.prob_better(0.7, steps), rtol=1e-5)
    above, below = up.predict_distribution(steps), down.predict_distribution(steps)
    np.testing.assert_allclose(below.mean, 1 - above.mean, rtol=1e-6)
    np.testing.assert_allclose(below.std, above.std, rtol=1e-5)
    np.testing.assert_allclose(below.log_prob(0.3), above.log_prob(0.7), rtol=1e-4)
    np.testing.assert_allclose(down.misfit(), up.misfit(), rtol=1e-3)


def test_a_negative_loss_mirrors_the_loss(make):
    down = make(horizon=30, bounds=(0, math.inf), minimize=True).fit(LOSS_STEPS, LOSS)
    up = make(horizon=30, bounds=(-math.inf, 0)).fit(LOSS_STEPS, [-y for y in LOSS])
    np.testing.assert_allclose(down.predict([20, 30]), -up.predict([20, 30]), rtol=1e-9)
    np.testing.assert_allclose(down.prob_better(0.4, [20]), up.prob_better(-0.4, [20]), rtol=1e-9)


def test_multiples_of_a_loss_get_multiples_of_the_prediction(make):
    arguments = {"horizon": 30, "bounds": (0, math.inf), "minimize": True}
    expected = make(**arguments).fit(LOSS_STEPS[0], LOSS[0]).predict([20, 30], Q)
    found = make(**arguments).fit(LOSS_STEPS[0], 1e4 * LOSS[0]).predict([20, 30], Q)
    np.testing.assert_allclose(found, 1e4 * expected, rtol=1e-5)


def test_probability_of_better_is_a_share_of_the_distribution(fitted):
    steps = [15, 40]
    distribution = fitted.predict_distribution(steps)
    y = distribution.quantile([0.2])[..., 0]
    expected = distribution.cdf(y) if fitted.minimize else 1 - distribution.cdf(y)
    np.testing.assert_allclose(fitted.prob_better(y, steps), expected, rtol=1e-6)
    thresholds = np.sort(distribution.quantile([0.01, 0.3, 0.7, 0.99]).ravel())
    found = np.stack([fitted.prob_better(t, steps) for t in thresholds])
    assert (np.diff(found, axis=0) * (1 if fitted.minimize else -1) >= 0).all()
    np.testing.assert_array_equal(fitted.prob_better(math.inf, steps), np.full((2, 2), float(fitted.minimize)))


def test_thresholds_are_one_for_all_or_for_each_curve_or_each_step(make):
    many = make(horizon=40).fit([STEPS] * 2, [ACCURACY, ACCURACY[::-1]])
    one_each = many.prob_better([0.4, 0.6], [20, 30, 40])
    np.testing.assert_array_equal(one_each[0], many.prob_better(0.4, [20, 30, 40])[0])
    np.testing.assert_array_equal(one_each[1], many.prob_better(0.6, [20, 30, 40])[1])
    np.testing.assert_array_equal(many.prob_better([0.4, 0.6], [20, 30])[0], many.prob_better(0.4, [20, 30])[0])
    by_step = many.prob_better([0.4, 0.5, 0.6], [20, 30, 40])
    np.testing.assert_array_equal(by_step[:, 2], many.prob_better(0.6, [20, 30, 40])[:, 2])
    np.testing.assert_array_equal(many.prob_better(np.full((2, 1), 0.5), [20, 30]), many.prob_better(0.5, [20, 30]))
    one = make(horizon=40).fit(STEPS, ACCURACY)
    np.testing.assert_array_equal(one.prob_better([0.4, 0.6], [20, 30])[0], one.prob_better(0.4, [20, 30])[0])


# Errors

FIT_ERRORS = [
    ({}, [1, 2], [0.5, 1.2], ValueError, r"values has 1.2 at step 2, outside bounds=\(0, 1\)"),
    ({}, [[1], [1, 2]], [[0.5], [0.5, -3]], ValueError, r"values of curve 1 has -3 at step 2"),
    ({"bounds": (0, math.inf)}, [1, 2], [0.5, -1], ValueError, "values has -1 at step 2"),
    ({}, [1, 2], [0.5, math.inf], ValueError, "values has inf; leave that value out"),
    ({}, [1, math.inf], [0.5, 0.6], ValueError, "steps has inf; give every value a finite step"),
    ({}, [1, np.nan], [0.5, 0.6], ValueError, "steps has nan"),
    ({"bounds": None}, [1], [1e200], ValueError, "values has 1e\\+200"),
    ({}, [1, 2, 3], [0.5, 0.6], ValueError, "steps has 3 entries, values 2"),
    ({}, [1, 2, 3], [[0.5, 0.6], [0.5, 0.6, 0.7]], ValueError, "steps of curve 0 has 3 entries, values of curve 0 2"),
    ({}, [[1, 2]], [[0.5, 0.6], [0.5, 0.6]], ValueError, "steps are those of 1 curves, values of 2"),
    ({}, [[1, 2]], [0.5, 0.6], ValueError, "values are those of one curve"),
    ({}, [], np.empty((0, 3)), ValueError, "values holds no curve"),
    ({}, [1, 2], ["0.5", "0.6"], TypeError, "values holds '0.5'"),
    ({}, ["a", "b"], [0.5, 0.6], TypeError, "steps holds 'a'"),
    ({}, [1, 2], [0.5, 1j], TypeError, "values holds"),
    ({}, [1, 2], "0.5", TypeError, "'0.5' is no sequence"),
    ({}, [1, 2], 0.5, TypeError, "0.5 is no sequence"),
    ({}, 1, [0.5], TypeError, "1 is no sequence"),
    ({}, [1], [[[0.5]]], ValueError, r"values of curve 0 has shape \(1, 1\)"),
    ({"horizon": 5}, STEPS, ACCURACY, ValueError, "steps has 10, beyond horizon=5"),
    ({"horizon": math.inf}, STEPS, ACCURACY, ValueError, "horizon=inf is no finite number"),
    ({"horizon": "ten"}, STEPS, ACCURACY, ValueError, "horizon='ten' is no finite number"),
    ({"bounds": (1, 0)}, STEPS, ACCURACY, ValueError, r"bounds=\(1, 0\) is no range"),
    ({"bounds": (0, math.nan)}, STEPS, ACCURACY, ValueError, r"bounds=\(0, nan\) is no range"),
    ({"bounds": (0, None)}, STEPS, ACCURACY, TypeError, r"bounds=\(0, None\) is no pair of numbers"),
    ({"bounds": 1}, STEPS, ACCURACY, TypeError, "bounds=1 is no pair of numbers"),
    ({"expected": (0, 1)}, STEPS, ACCURACY, ValueError, r"expected=\(0, 1\) is for infinite bounds"),
    ({"bounds": (0, math.inf), "expected": (-1, 1)}, STEPS, ACCURACY, ValueError, r"expected=\(-1, 1\) must be fin"),
    ({"bounds": (0, math.inf), "expected": (0, math.inf)}, STEPS, ACCURACY, ValueError, r"expected=\(0, inf\) must be"),
    ({"prior": "other"}, STEPS, ACCURACY, ValueError, "prior='other' is unknown"),
    ({"minimize": "yes"}, STEPS, ACCURACY, TypeError, "minimize='yes' is no bool"),
    ({"device": "abacus"}, STEPS, ACCURACY, ValueError, "device='abacus' is unknown"),
    ({"model": PFN(PFNConfig(task="regression", embed_dim=8, n_heads=1, n_layers=1, n_outputs=8))}, STEPS, ACCURACY,
     ValueError, "does not read learning curves"),
    ({"model": "no-such"}, STEPS, ACCURACY, FileNotFoundError, "no-such"),
]


@pytest.mark.parametrize(("arguments", "steps", "values", "error", "message"), FIT_ERRORS)
def test_what_cannot_be_fitted_is_an_error(make, arguments, steps, values, error, message):
    with pytest.raises(error, match=message):
        make(**arguments).fit(steps, values)


@pytest.mark.parametrize(("steps", "message"), [
    ([41], "steps has 41, beyond horizon=40"),
    ([-1, 5], "steps has -1, but curve 0 begins after 0"),
    ([np.nan], "steps has nan"),
    ([math.inf], "steps has inf"),
    (20, r"steps=20 is no array; for a single step pass \[20\]"),
    ([[5], [6], [7]], "steps has 3 rows"),
    ([[5], [6, 7]], "lengths"),
])
def test_what_cannot_be_predicted_is_an_error(make, steps, message):
    many = make(horizon=40).fit([STEPS] * 2, [ACCURACY] * 2)
    with pytest.raises(ValueError, match=message):
        many.predict(steps)


def test_wrong_quantiles_thresholds_and_values_are_errors(make):
    many = make(horizon=40).fit([STEPS] * 2, [ACCURACY] * 2)
    with pytest.raises(ValueError, match=r"quantiles must lie in \[0, 1\], got 95 .* did you mean 0.95"):
        many.predict([20], quantiles=[0.5, 95])
    with pytest.raises(ValueError, match="quantiles have shape"):
        many.predict([20], quantiles=0.5)
    with pytest.raises(ValueError, match=r"threshold has shape \(3,\)"):
        many.prob_better([0.1, 0.2, 0.3], [20])
    with pytest.raises(ValueError, match="holds NaN"):
        many.prob_better(np.nan, [20])
    with pytest.raises(ValueError, match=r"y has shape \(3, 1\), the distributions \(2, 1\)"):
        many.predict_distribution([20]).cdf(np.zeros((3, 1)))


def test_an_error_leaves_the_fit_as_it_was(make):
    curve = make(horizon=40).fit(STEPS, ACCURACY)
    before = curve.predict([20])
    with pytest.raises(ValueError, match="outside bounds"):
        curve.fit(STEPS, ACCURACY + 1)
    np.testing.assert_array_equal(curve.predict([20]), before)


def test_unfitted_estimators_say_so(make):
    curve = make()
    for call in (
        lambda: curve.predict([1]), lambda: curve.predict_distribution([1]), lambda: curve.prob_better(0.5, [1]),
        curve.misfit, curve.plot, lambda: curve.metric_,
    ):
        with pytest.raises(NotFittedError):
            call()


# As an estimator


def test_parameters_are_stored_and_cloned(make):
    curve = make(horizon=40, minimize=True, bounds=(0, math.inf), expected=(0, 3), prior="released")
    other = clone(curve)
    for name in ("horizon", "minimize", "bounds", "expected", "prior", "device"):
        assert other.get_params()[name] == curve.get_params()[name]
    assert "horizon=40" in repr(LearningCurveExtrapolator(horizon=40))
    assert repr(LearningCurveExtrapolator()) == "LearningCurveExtrapolator()"
    assert curve.set_params(horizon=50).horizon == 50


def test_fitted_estimators_survive_a_pickle(make):
    curves = make(horizon=40, minimize=True, bounds=(0, math.inf)).fit(LOSS_STEPS, LOSS)
    expected = curves.predict([20])
    other = pickle.loads(pickle.dumps(curves))
    np.testing.assert_array_equal(other.predict([20]), expected)
    np.testing.assert_array_equal(clone(other).fit(LOSS_STEPS, LOSS).predict([20]), expected)


def test_the_network_can_come_from_a_file(make, network, tmp_path):
    path = tmp_path / "curves.safetensors"
    save_checkpoint(network, path, ModelCard(network.config, "curves", Envelope(200, 12)))
    curve = make(model=path, horizon=40).fit(STEPS, ACCURACY)
    expected = make(horizon=40).fit(STEPS, ACCURACY).predict([20])
    np.testing.assert_array_equal(curve.predict([20]), expected)
    saved, pickled = tmp_path / "fitted.safetensors", pickle.dumps(curve)
    curve.save(saved)
    path.unlink()
    np.testing.assert_array_equal(pickle.loads(pickled).predict([20]), expected)
    np.testing.assert_array_equal(LearningCurveExtrapolator.load(saved).predict([20]), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_devices_agree(make):
    expected = make(horizon=40, device="cpu").fit(STEPS, ACCURACY).predict([20], Q)
    np.testing.assert_allclose(make(horizon=40, device="cuda").fit(STEPS, ACCURACY).predict([20], Q), expected, atol=1e-2)


# Misfit


def tails(*pieces):
    return [np.stack([np.array(piece), 1 - np.array(piece)]) for piece in pieces]


def test_surprise_is_bonferronis_bound():
    assert p_of_surprise(tails([0.5, 0.4], [0.3, 0.001, 0.6])) == pytest.approx(2 * 2 * 0.001 * 3)
    assert p_of_surprise(tails([0.5], [0.4, 0.6])) == 1.0
    assert p_of_surprise(tails([0.9999])) == pytest.approx(2e-4)


def test_alternation_is_found_at_any_lag_and_offsets_are_not():
    rng = np.random.default_rng(0)
    t = np.arange(20)
    for period in (2, 4, 6, 8, 12):
        swings = ndtr(1.2 * np.sin(2 * np.pi * t / period + 0.5) + 0.2 * rng.normal(size=(2, 20)))
        assert p_of_alternation(tails(*swings)) < 1e-4, period
    assert p_of_alternation(tails(ndtr(1 + 0.3 * rng.normal(size=20)), ndtr(-2 + 0.3 * rng.normal(size=20)))) > 0.5
    assert p_of_alternation(tails([0.1, 0.9, 0.1, 0.9])) == 1.0         # too few pairs
    assert p_of_alternation(tails([0.5] * 20)) == 1.0


def test_alternation_of_white_noise_is_calibrated():
    rng = np.random.default_rng(0)
    p = np.array([p_of_alternation(tails(*rng.uniform(size=(3, 10)))) for _ in range(2000)])
    assert (p < 0.05).mean() < 0.05 + 4 * (0.05 * 0.95 / 2000) ** 0.5
    assert (p < 0.05).mean() > 0.02


def test_short_curves_are_no_misfit(make):
    values = [[], [0.9], [0.9, 0.1], [0.9, 0.1, 0.9]]
    np.testing.assert_array_equal(make(horizon=40).fit([list(range(1, len(y) + 1)) for y in values], values).misfit(), 1.0)


# Pictures


def test_plot_shows_what_was_observed_and_the_quantiles(make):
    many = make(horizon=40).fit([STEPS, STEPS[:4]], [ACCURACY, ACCURACY[:4]])
    ax = many.plot([20, 12, 40], curves=[1], levels=(0.9,))
    observed, median = ax.lines
    np.testing.assert_array_equal(observed.get_data(), [STEPS[:4], ACCURACY[:4]])
    np.testing.assert_array_equal(median.get_xdata(), [12, 20, 40])
    np.testing.assert_allclose(median.get_ydata(), many.predict([12, 20, 40])[1])
    drawn = ax.collections[0].get_paths()[0].vertices[:, 1]
    band = many.predict([12, 20, 40], quantiles=[0.05, 0.95])[1]
    assert drawn.min() == pytest.approx(band[:, 0].min())
    assert drawn.max() == pytest.approx(band[:, 1].max())


def test_plot_runs_from_the_shortest_curve_to_the_horizon(make):
    ax = plot_curves(make(horizon=40).fit([STEPS, STEPS[:4]], [ACCURACY, ACCURACY[:4]]))
    assert len(ax.lines) == 4
    assert ax.lines[1].get_xdata()[[0, -1]].tolist() == [4, 40]
    assert plot_curves(make().fit(STEPS, ACCURACY)).lines[1].get_xdata()[-1] == 20
    assert plot_curves(make(horizon=30).fit([], [])).lines[1].get_xdata()[-1] == 30


@pytest.mark.parametrize(("arguments", "message"), [({"curves": [2]}, "curves has 2, but the fitted curves are 0 … 1"),
                                                    ({"levels": (90,)}, r"levels=\(90,\) holds 90"),
                                                    ({"steps": [50]}, "steps has 50, beyond horizon=40")])
def test_plot_errors(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(horizon=40).fit([STEPS] * 2, [ACCURACY] * 2).plot(**arguments)


# With the weights of the package


@pytest.fixture(scope="module")
def prior_curves():
    """(400, 60), half of them of each prior."""
    prior = learning_curve().prior
    generator = torch.Generator().manual_seed(1)
    halves = [one.sample(TaskShape(200, 60, 1, 20), generator=generator).y for one in (prior.released, prior.extended)]
    return torch.cat(halves).double().numpy()


def test_bundled_intervals_cover_curves_of_the_prior(prior_curves):
    seen = np.arange(1, 21)
    wanted = np.arange(21, 61, 3)
    curves = LearningCurveExtrapolator(bounds=None, horizon=60).fit(seen, prior_curves[:, :20])
    low, high = np.moveaxis(curves.predict(wanted, quantiles=[0.05, 0.95]), 2, 0)
    y = prior_curves[:, wanted - 1]
    inside = ((low < y) & (y < high)).mean(1)
    assert abs(inside.mean() - 0.9) < 4 * inside.std() / len(inside) ** 0.5 + 0.02
    better = curves.prob_better(prior_curves[:, 19], [60])[:, 0]
    outcome = prior_curves[:, 59] > prior_curves[:, 19]
    assert abs(better.mean() - outcome.mean()) < 0.08
    assert ((better - outcome) ** 2).mean() < 0.2


def test_bundled_predictions_beat_the_last_value(prior_curves):
    curves = LearningCurveExtrapolator(bounds=None, horizon=60).fit(np.arange(1, 21), prior_curves[:, :20])
    distribution = curves.predict_distribution([30, 60])
    y = prior_curves[:, [29, 59]]
    noise = np.maximum(np.diff(prior_curves[:, :20], axis=1).std(1), 1e-3)[:, None]
    last = norm.logpdf(y, prior_curves[:, 19:20], noise)
    assert distribution.log_prob(y).mean() > last.mean() + 0.5
    assert np.abs(distribution.median - y).mean() < np.abs(prior_curves[:, 19:20] - y).mean()


@pytest.mark.parametrize("n", [8, 30])
def test_bundled_misfit_rarely_condemns_curves_of_the_prior(prior_curves, n):
    p = LearningCurveExtrapolator(bounds=None, horizon=60).fit(np.arange(1, n + 1), prior_curves[::2, :n]).misfit()
    assert (p < 0.01).mean() < 0.01 + 4 * (0.01 / len(p)) ** 0.5
    assert (p == 1).mean() < 0.9


def test_bundled_misfit_condemns_falls_and_oscillations():
    rng = np.random.default_rng(0)
    t = np.arange(1, 41)
    fine = 0.8 - 0.5 * t**-0.7 + 0.01 * rng.normal(size=40)
    curves = [fine, np.where(t > 25, 0.2, fine), np.where(t > 12, fine - 0.5, fine).clip(0, 1),
              (fine - 0.3 + 0.25 * np.sin(2 * np.pi * t / 4 + 1)).clip(0, 1), fine - 0.2 * (t % 2)]
    p = LearningCurveExtrapolator(horizon=100, prior="released").fit(t, curves).misfit()
    assert p[0] > 0.05
    assert (p[1:] < 0.01).all()


def test_bundled_predictions_follow_the_prior_that_is_asked_for(prior_curves):
    """Each prior is told better by the network that assumes it."""
    scores = {}
    for prior in ("released", "extended", "auto"):
        curves = LearningCurveExtrapolator(bounds=None, horizon=60, prior=prior).fit(np.arange(1, 21), prior_curves[:, :20])
        scores[prior] = curves.predict_distribution(np.arange(21, 61, 3)).log_prob(prior_curves[:, 20:60:3]).mean(1)
    released, extended = slice(0, 200), slice(200, 400)
    assert scores["released"][released].mean() > scores["extended"][released].mean()
    assert scores["extended"][extended].mean() > scores["released"][extended].mean()
    assert scores["auto"].mean() > max(scores["released"].mean(), scores["extended"].mean())
