"""Polynomials are found where there are some, and nowhere else."""

import numpy as np
import pytest
import torch

from estimators.trend import Trends

RNG = np.random.default_rng(0)


def fit(x, *outputs):
    z = np.stack(outputs)
    return Trends.fit(x, z, ~np.isnan(z))


@pytest.mark.parametrize(
    ("n_features", "n", "function"),
    [
        (3, 10, lambda x: 4.0 - 2 * x[:, 0] + x[:, 2]),
        (18, 40, lambda x: x @ np.arange(18.0)),                                        # all linear terms
        (8, 40, lambda x: x[:, 0] * x[:, 5] - 3 * x[:, 3] + 1e6),                       # a few of 165 terms
        (4, 30, lambda x: 0.6 * x[:, 0] * x[:, 2] * x[:, 3] + 1.8 * x[:, 1] * x[:, 2] ** 2),
        (11, 50, lambda x: 1.2 - 0.3 * x[:, 1] * x[:, 3] - 0.005 * x[:, 1] * x[:, 9]),
    ],
)
def test_polynomials_are_found_to_the_last_digits(n_features, n, function):
    x, new = RNG.random((n, n_features)), RNG.random((100, n_features))
    trends = fit(x, function(x))
    assert trends is not None
    assert trends.is_exact.tolist() == [True]
    scale = np.ptp(function(new))
    np.testing.assert_allclose(trends(torch.from_numpy(new))[0].numpy(), function(new), atol=1e-6 * scale)


@pytest.mark.parametrize("n", [5, 12, 25, 50, 150])
@pytest.mark.parametrize("n_features", [1, 4, 10])
def test_other_functions_and_noise_have_none(n_features, n):
    x = RNG.random((n, n_features))
    wavy = np.sin(12 * x).sum(1)
    noisy = x.sum(1) + 0.1 * RNG.normal(size=n)
    steps = (x.sum(1) > n_features / 2).astype(float)
    assert fit(x, wavy, noisy, steps, RNG.normal(size=n)) is None


def test_products_are_found_among_crowded_points():
    """As an optimiser leaves them: near one another and on faces, so that terms are nearly collinear."""
    x = np.concatenate([RNG.random((14, 8)), 0.4 + 0.1 * RNG.normal(size=(14, 8))]).clip(0, 1)
    x[14:, :3] = x[14:, :3].round()
    y = -x[:, 0] * x[:, 5] + 0.8 * x[:, 3] + 0.1 * x[:, 0]
    trends = fit(x, y)
    assert trends is not None
    assert trends.is_exact.tolist() == [True]
    new = RNG.random((50, 8))
    expected = -new[:, 0] * new[:, 5] + 0.8 * new[:, 3] + 0.1 * new[:, 0]
    np.testing.assert_allclose(trends(torch.from_numpy(new))[0].numpy(), expected, atol=1e-6)


def test_a_nearly_linear_output_has_a_trend_and_leaves_the_rest_to_the_network():
    x = RNG.random((40, 3))
    y = x @ [1.0, 2.0, 3.0] + 0.01 * np.sin(20 * x[:, 0])
    trends = fit(x, y)
    assert trends.has_trend.tolist() == [True]
    assert trends.is_exact.tolist() == [False]
    assert np.abs(y - trends(torch.from_numpy(x))[0].numpy()).max() < 0.03


def test_only_known_values_count_and_outputs_are_told_apart():
    x = RNG.random((30, 2))
    y = 1 + x[:, 0]
    z = np.stack([y, np.sin(15 * x[:, 0])])
    z[0, :10] = np.where(np.arange(10) % 2, np.nan, 1e9)
    known = np.ones((2, 30), dtype=bool)
    known[0, :10] = False
    trends = Trends.fit(x, z, known)
    assert trends.has_trend.tolist() == [True, False]
    predicted = trends(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(predicted, [y, np.zeros(30)], atol=1e-9)


def test_constants_few_rows_and_collinear_columns():
    x = RNG.random((20, 2))
    assert fit(x, np.full(20, 3.0)) is None
    assert fit(x[:2], np.array([1.0, 2.0])) is None
    assert Trends.fit(x, np.full((1, 20), np.nan), np.zeros((1, 20), dtype=bool)) is None
    choices = np.eye(3)[RNG.integers(3, size=20)]                                       # one of three: columns add up to 1
    trends = fit(np.concatenate([x, choices], 1), x[:, 0] + choices @ [1.0, 2.0, 5.0])
    again = np.concatenate([x, choices], 1)
    np.testing.assert_allclose(trends(torch.from_numpy(again))[0].numpy(), x[:, 0] + choices @ [1.0, 2.0, 5.0], atol=1e-9)


def test_gradients_are_those_of_the_polynomial():
    x = RNG.random((20, 2))
    trends = fit(x, x[:, 0] * x[:, 1])
    point = torch.tensor([[0.3, 0.8]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(trends(point).sum(), point)
    torch.testing.assert_close(gradient, torch.tensor([[0.8, 0.3]], dtype=torch.float64), atol=1e-6, rtol=0)
