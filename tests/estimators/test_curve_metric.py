import math

import numpy as np
import pytest
from scipy.special import expit

from estimators.curve_metric import CurveMetric, soft_bounds

LOSS = np.array([2.3, 1.7, 1.2, 1.1, 0.9])
CASES = {
    "accuracy": ([LOSS / 3, LOSS / 4], False, (0, 1), None),
    "error": ([LOSS / 3], True, (0, 1), None),
    "percent": ([LOSS], False, (-20, 100.0), None),
    "loss": ([LOSS, 100 * LOSS], True, (0, math.inf), None),
    "expected loss": ([LOSS], True, (0, math.inf), (0.5, 3.0)),
    "reward": ([LOSS], False, (-math.inf, math.inf), None),
    "throughput": ([LOSS[::-1]], False, (0.0, math.inf), None),
    "R²": ([1 - LOSS, -LOSS], False, (-math.inf, 1), None),
    "regret below": ([-LOSS[::-1]], True, (-math.inf, 0.0), None),
    "log-likelihood": ([-LOSS[::-1]], True, (-math.inf, math.inf), (-9, 3)),
    "open": ([LOSS / 3], False, None, None),
    "open error": ([LOSS / 3], True, None, None),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    values, minimize, bounds, expected = CASES[request.param]
    metric = CurveMetric.of(values, minimize, bounds, expected)
    return metric, np.stack(values)


def test_inverse_undoes_forward(case):
    metric, y = case
    np.testing.assert_allclose(metric.inverse(metric.forward(y)), y, rtol=1e-12, atol=1e-13)
    g = np.linspace(0.001, 0.999, 201) * np.ones((len(y), 1))
    np.testing.assert_allclose(metric.forward(metric.inverse(g)), g, rtol=1e-10)


def test_better_values_come_higher(case):
    metric, y = case
    g = metric.forward(np.sort(y, axis=1))
    assert (np.diff(g, axis=1) * metric.sign > 0).all()
    low, high = metric.range
    assert (g > low).all()
    assert (g < high).all()


def test_bounds_are_the_ends_of_the_range(case):
    metric, y = case
    if metric.is_open:
        assert metric.bounds == (-math.inf, math.inf) == metric.range
        return
    worst, best = metric.bounds[:: metric.sign]
    n = len(y)
    np.testing.assert_array_equal(metric.inverse(np.tile([0.0, 1.0], (n, 1))), np.tile([worst, best], (n, 1)))
    np.testing.assert_array_equal(metric.forward(np.tile([worst, best], (n, 1))), np.tile([0.0, 1.0], (n, 1)))


def test_slope_is_the_derivative(case):
    metric, y = case
    step = 1e-6 * np.abs(y)
    slope = np.abs(metric.forward(y + step) - metric.forward(y - step)) / (2 * step)
    np.testing.assert_allclose(np.exp(metric.log_slope(y)), slope, rtol=1e-7)


def test_finite_bounds_are_linear_and_mirrored_exactly():
    accuracy = np.random.default_rng(0).uniform(size=(1, 50))
    up = CurveMetric.of([accuracy[0]], False, (0, 1), None)
    down = CurveMetric.of([1 - accuracy[0]], True, (0, 1), None)
    np.testing.assert_array_equal(up.forward(accuracy), accuracy)
    np.testing.assert_array_equal(down.forward(1 - accuracy), 1 - (1 - accuracy))
    percent = CurveMetric.of([accuracy[0]], False, (0, 100), None)
    np.testing.assert_allclose(percent.forward(100 * accuracy), accuracy)
    np.testing.assert_allclose(percent.log_slope(accuracy), -math.log(100))


def test_mirrored_metrics_are_the_same_sigmoid():
    up = CurveMetric.of([-LOSS], False, (-math.inf, 0), None)
    down = CurveMetric.of([LOSS], True, (0, math.inf), None)
    np.testing.assert_array_equal(up.forward(-LOSS[None]), down.forward(LOSS[None]))
    np.testing.assert_array_equal(up.log_slope(-LOSS[None]), down.log_slope(LOSS[None]))


def test_loss_is_normalised_as_by_lc_pfn():
    """The authors' code: c σ(u) + d with u = 2 (y - l) / (s - l) - 1, hard bounds to 0 and 1, and one minus that."""
    metric = CurveMetric.of([LOSS], True, (0, math.inf), None)
    y = np.array([[0.0, 0.5, 2.3, 10.0]])
    floor = expit(-1.0)
    np.testing.assert_allclose(metric.forward(y), 1 - (expit(2 * y / 2.3 - 1) - floor) / (1 - floor), rtol=1e-12)


def test_every_curve_has_its_own_map():
    together = CurveMetric.of([LOSS, 7 * LOSS, LOSS + 1], True, (0, math.inf), None)
    for number, y in enumerate([LOSS, 7 * LOSS, LOSS + 1]):
        alone = CurveMetric.of([y], True, (0, math.inf), None)
        np.testing.assert_array_equal(together.rows([number]).forward(y[None]), alone.forward(y[None]))
    multiple, plain = together.rows([1]).forward(7 * LOSS[None]), together.rows([0]).forward(LOSS[None])
    np.testing.assert_allclose(multiple, plain, rtol=1e-12)


INF = math.inf


@pytest.mark.parametrize(("v", "low", "high", "expected"), [
    ([-2.3, -1.7, -1.2], -INF, 0.0, (-2.3, 0.0)),                       # a loss: from the first value to the bound
    ([-2.3, -1.7, -4.0, -5.0, -6.0], -INF, 0.0, (-5.0, 0.0)),           # that gets worse: from where it is now
    ([-500.0, -1.7, -1.2], -INF, 0.0, (-1.7, 0.0)),                     # its first value is far out
    ([-1e-4, -1.7, -1.2], -INF, 0.0, (-1.2, 0.0)),
    ([-2.0], -INF, 0.0, (-2.0, 0.0)),
    ([0.0], -INF, 0.0, (-1.0, 0.0)),
    ([], -INF, 0.0, (-1.0, 0.0)),
    ([0.0, 0.0, 0.0, -5.0], -INF, 0.0, (-5.0, 0.0)),
    ([0.5, 1.0, 3.0, 4.0, 5.0], 0.0, INF, (0.0, 8.0)),                  # twice as far as now
    ([7.0], 5.0, INF, (5.0, 9.0)),
    ([], 5.0, INF, (5.0, 7.0)),
    ([-3.0], -INF, INF, (-3.0, 0.0)),                                   # by the size of the first value
    ([3.0], -INF, INF, (3.0, 6.0)),
    ([1.0, 4.0, 5.0, 6.0], -INF, INF, (1.0, 9.0)),                      # by twice what has been gained
    ([1.0, -4.0, -5.0, -6.0], -INF, INF, (1.0, 13.0)),
    ([0.0, 0.0], -INF, INF, (0.0, 1.0)),
    ([], -INF, INF, (0.0, 1.0)),
])
def test_soft_bounds_by_hand(v, low, high, expected):
    assert soft_bounds(np.array(v), low, high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bounds", [(-INF, 0.0), (0.0, INF), (-INF, INF)])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_soft_bounds_scale_with_the_curve(bounds, n):
    v = np.abs(np.random.default_rng(n).normal(size=n)) * (-1 if bounds[1] == 0 else 1)
    scaled = np.array(soft_bounds(1000 * v, *bounds))
    np.testing.assert_allclose(scaled, 1000 * np.array(soft_bounds(v, *bounds)))


def test_losses_that_explode_are_still_told_apart():
    metric = CurveMetric.of([np.array([1.0, 2.0])], True, (0, math.inf), None)
    y = np.array([[10.0, 50.0, 200.0]])
    np.testing.assert_allclose(metric.inverse(metric.forward(y)), y, rtol=1e-9)
    assert np.isfinite(metric.log_slope(np.array([[1e6]]))).all()
