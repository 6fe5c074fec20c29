from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import check_estimator

from estimators.density import PFNDensity
from pfn import PFN, Envelope, ModelCard, PFNConfig, save_checkpoint

SIZE = {"embed_dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 16, "n_thinking_rows": 2}


@pytest.fixture(scope="module")
def untrained():
    """Networks for tests that ask nothing of the predictions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"regressor": PFN(PFNConfig(task="regression", n_outputs=32, **SIZE)).eval(),
                "classifier": PFN(PFNConfig(task="classification", n_outputs=10, **SIZE)).eval()}


MEAN, COVARIANCE = np.array([0.0, 100.0]), np.array([[1.0, 16.0], [16.0, 400.0]])         # correlation 0.8


@pytest.fixture(scope="module")
def gaussian():
    X = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, size=600)
    return PFNDensity(random_state=0).fit(X[:300]), X[300:]


@pytest.fixture
def mixed():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "count": rng.integers(0, 9, 30),
            "size": rng.normal(size=30),
            "flag": rng.random(30) < 0.3,
            "colour": pd.Categorical(rng.choice(["red", "green"], 30), categories=["red", "green", "never"]),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(30), unit="D"),
        }
    )


def test_scikit_learn_conventions(tmp_path, untrained):
    for name, network in untrained.items():
        save_checkpoint(network, tmp_path / name, ModelCard(network.config, "none", Envelope(100, 10, 10)))
    check_estimator(PFNDensity(n_orders=2, **{name: tmp_path / name for name in untrained}), on_skip=None)


def test_log_density_of_a_normal_distribution(gaussian):
    density, X = gaussian
    exact = multivariate_normal(MEAN, COVARIANCE).logpdf(X)
    estimate = density.score_samples(X)
    assert estimate.mean() == pytest.approx(exact.mean(), abs=0.2)
    assert np.corrcoef(estimate, exact)[0, 1] > 0.85
    assert density.score(X) == estimate.mean()


def test_missing_cells_leave_the_marginal_density(gaussian):
    density, X = gaussian
    one, nothing = X.copy(), np.full((2, 2), np.nan)
    one[:, 1] = np.nan
    assert density.score(one) == pytest.approx(norm(0, 1).logpdf(X[:, 0]).mean(), abs=0.2)
    np.testing.assert_array_equal(density.score_samples(nothing), 0.0)


def test_samples_of_a_normal_distribution(gaussian):
    density, _ = gaussian
    X = density.sample(1000)
    low, middle, high = np.quantile(X, [0.16, 0.5, 0.84], axis=0)
    np.testing.assert_allclose((middle - MEAN) / COVARIANCE.diagonal() ** 0.5, 0, atol=0.25)
    np.testing.assert_allclose((high - low) / 2, COVARIANCE.diagonal() ** 0.5, rtol=0.2)
    ranks = X.argsort(0).argsort(0)
    assert np.corrcoef(ranks.T)[0, 1] == pytest.approx(6 / np.pi * np.arcsin(0.8 / 2), abs=0.12)


def test_categories_sum_to_one(untrained):
    """Over all pairs, a category that was never seen included."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.choice(["x", "y"], 20), "b": rng.choice(["p", "q", "r"], 20)})
    density = PFNDensity(random_state=0, **untrained).fit(frame)
    assert len(density._orders) == 2
    pairs = pd.DataFrame(list(product(["x", "y", "new"], ["p", "q", "r", "new"])), columns=["a", "b"])
    assert np.exp(density.score_samples(pairs)).sum() == pytest.approx(1.0)


def test_a_number_and_a_category_integrate_to_one(untrained):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": 5 + rng.normal(size=20), "b": rng.choice(["p", "q"], 20)})
    density = PFNDensity(random_state=0, **untrained).fit(frame)
    grid = np.linspace(-35, 45, 8001)
    joint = [density.score_samples(pd.DataFrame({"a": grid, "b": label})) for label in ("p", "q", "new")]
    assert np.exp(joint).sum() * 0.01 == pytest.approx(1.0, abs=0.01)


def test_the_mixture_of_orders(untrained):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 2))
    density = PFNDensity(random_state=0, **untrained).fit(X)
    each = []
    for order in ([0, 1], [1, 0]):
        density._orders = [order]
        each.append(density.score_samples(X))
    density._orders = [[0, 1], [1, 0]]
    np.testing.assert_allclose(density.score_samples(X), logsumexp(each, axis=0) - np.log(2))


def test_units_shift_the_log_density(untrained):
    X = np.random.default_rng(0).normal(size=(30, 2))
    scores = [PFNDensity(random_state=0, **untrained).fit(scale * X).score_samples(scale * X) for scale in (1, 1000)]
    np.testing.assert_allclose(scores[0] - scores[1], 2 * np.log(1000), atol=0.1)


def test_outliers_score_low():
    """Wines of one grower against those of the two others, which were not in the fit."""
    X, y = load_wine(return_X_y=True)
    inliers = np.flatnonzero(y == 0)
    test = np.concatenate([inliers[1::2], np.flatnonzero(y != 0)[::2]])
    density = PFNDensity(n_orders=1, random_state=0).fit(X[inliers[::2]])
    assert roc_auc_score(y[test] != 0, -density.score_samples(X[test])) > 0.98


def test_frames_in_frames_out(mixed, untrained):
    density = PFNDensity(n_orders=2, random_state=0, **untrained).fit(mixed)
    assert np.isfinite(density.score_samples(mixed)).all()
    rows = density.sample(7)
    assert len(rows) == 7
    assert rows.dtypes.equals(mixed.dtypes)
    assert list(rows.columns) == list(mixed.columns)
    assert not rows.isna().any(axis=None)
    objects = PFNDensity(n_orders=1, **untrained).fit(mixed[["size", "colour"]].to_numpy(dtype=object)).sample(3)
    assert isinstance(objects, np.ndarray)
    assert objects.dtype == object


def test_new_values_are_unlikely(untrained):
    frame = pd.DataFrame({"same": [1.0] * 8, "colour": ["red"] * 8})
    density = PFNDensity(**untrained).fit(frame)
    score = density.score_samples(pd.DataFrame({"same": [1.0, 2.0, 1.0], "colour": ["red", "red", "blue"]}))
    np.testing.assert_allclose(score, np.log([0.81, 0.09, 0.09]))


def test_columns_without_a_value(untrained):
    X = np.column_stack([np.random.default_rng(0).normal(size=20), np.full(20, np.nan)])
    density = PFNDensity(random_state=0, **untrained).fit(X)
    with_value = np.column_stack([X[:, 0], np.ones(20)])
    np.testing.assert_allclose(density.score_samples(with_value), density.score_samples(X))
    assert np.isnan(density.sample(3)).sum(0).tolist() == [0, 3]


def test_seeds_decide(untrained):
    X = np.random.default_rng(0).normal(size=(20, 4))
    density = PFNDensity(random_state=0, **untrained).fit(X)
    again = clone(density).fit(X)
    np.testing.assert_array_equal(density.score_samples(X), again.score_samples(X))
    np.testing.assert_array_equal(density.sample(5), again.sample(5))
    assert not np.array_equal(density.sample(5), clone(density).set_params(random_state=1).fit(X).sample(5))


def test_rows_do_not_see_each_other(untrained):
    X = np.random.default_rng(0).normal(size=(20, 3))
    density = PFNDensity(random_state=0, **untrained).fit(X)
    np.testing.assert_array_equal(density.score_samples(X[4:5]), density.score_samples(X)[4:5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_orders": 0}, "n_orders=0 is not a positive integer"),
        ({"max_context": 0}, "max_context=0 is not a positive integer"),
        ({"categorical_features": [7]}, "categorical_features has 7, but X has the 2 columns"),
        ({"regressor": "classifier"}, "model='classifier' is a classification network"),
    ],
)
def test_bad_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PFNDensity(**arguments).fit(np.arange(24.0).reshape(12, 2))


def test_bad_input_is_named(mixed, untrained):
    density = PFNDensity(**untrained).fit(mixed)
    with pytest.raises(ValueError, match="n_samples=0 is not a positive integer"):
        density.sample(0)
    with pytest.raises(ValueError, match="feature names should match"):
        density.score_samples(mixed[mixed.columns[::-1]])
