import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import check_estimator

from estimators import PFNRegressor
from pfn import PFN, PFNConfig, PretrainConfig, TaskSizes, pretrain, save_checkpoint
from priors import FunctionPrior

TINY = PFNConfig(task="regression", n_outputs=64, embed_dim=32, n_heads=2, n_layers=2, hidden_dim=32, n_thinking_rows=2)


@FunctionPrior
def one_slope(x, draw):
    """y = ± x of one column, the others are distractors; y is standardised anyway."""
    tasks, rows, n_features = x.shape
    column = draw.integers(tasks, 1, 1, low=0, high=n_features - 1).expand(-1, rows, -1)
    sign = 2 * draw.integers(tasks, 1, low=0, high=1) - 1
    return sign * x.gather(2, column).squeeze(2) + 0.1 * draw.normal(tasks, rows)


@pytest.fixture(scope="module")
def network():
    """Some seconds of training: enough to find the one column that matters."""
    torch.set_num_threads(1)
    prior = FunctionPrior(one_slope.function, features="normal")
    sizes = TaskSizes(rows=(32, 64), features=(1, 2), cells=512, n_shapes=4, row_step=8)
    config = PretrainConfig(prior, TINY, sizes, n_steps=250, warmup_steps=20, decay_steps=100, batches_per_step=1,
                            learning_rate=6e-3, ema_decay=0.95, precision="float32")
    return pretrain(config, progress=False)


@pytest.fixture(scope="module")
def untrained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PFN(TINY).eval()


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = 50.0 - 3.0 * X[:, 0] + 0.3 * rng.normal(size=60)
    X[::9, 1] = np.nan
    return X[:40], y[:40], X[40:], y[40:]


def fit(model, X, y, **arguments):
    return PFNRegressor(model=model, random_state=0, precision="float32", **arguments).fit(X, y)


def test_it_regresses(network, data):
    X, y, X_test, y_test = data
    X, X_test = np.nan_to_num(X), np.nan_to_num(X_test)                       # its prior knows no gaps
    reg = fit(network, X, y)
    assert reg.score(X_test, y_test) > 0.8
    normal = -0.5 * np.log(2 * np.pi * y.var()) - 0.5
    assert reg.predict_distribution(X_test).log_prob(y_test).mean() > normal + 0.5


def test_scikit_learn_conventions():
    check_estimator(PFNRegressor(n_estimators=1), on_skip=None)


def test_bundled_weights_regress_real_data():
    X, X_test, y, y_test = train_test_split(*load_diabetes(return_X_y=True), test_size=0.5, random_state=0)
    posterior = PFNRegressor(random_state=0).fit(X, y).predict_distribution(X_test)
    ridge = Ridge().fit(X, y).predict(X_test)
    assert np.mean((posterior.mean - y_test) ** 2) < 1.02 * np.mean((ridge - y_test) ** 2)
    assert -posterior.log_prob(y_test).mean() - np.log(y.std()) < 1.15                    # a normal distribution: 1.42
    low, high = posterior.quantile([0.05, 0.95]).T
    assert 0.83 < np.mean((low <= y_test) & (y_test <= high)) < 0.96                      # 221 rows: 3.5 standard deviations


def test_bundled_weights_know_a_line():
    """What every user tries first."""
    X = np.linspace(0, 1, 40)[:, None]
    reg = PFNRegressor(random_state=0).fit(X, 3 * X[:, 0] + 1)
    np.testing.assert_allclose(reg.predict([[0.21], [0.48], [0.77]]), [1.63, 2.44, 3.31], atol=0.1)


class TestDistribution:
    @pytest.fixture
    def distribution(self, network, data):
        X, y, X_test, _ = data
        return fit(network, X, y).predict_distribution(X_test)

    def test_shapes(self, distribution, data):
        y_test = data[3]
        assert len(distribution) == 20
        for value in (distribution.mean, distribution.std, distribution.log_prob(y_test), distribution.cdf(y_test)):
            assert value.shape == (20,)
            assert value.dtype == np.float64
        grid = np.tile([45.0, 50.0, 55.0], (20, 1))
        assert distribution.log_prob(grid).shape == distribution.cdf(grid).shape == (20, 3)
        np.testing.assert_allclose(distribution.cdf(grid)[:, 1], distribution.cdf(np.full(20, 50.0)))
        np.testing.assert_allclose(distribution.log_prob(grid)[:, 1], distribution.log_prob(np.full(20, 50.0)))
        assert distribution.quantile([0.1, 0.9]).shape == (20, 2)
        assert distribution.sample(7, random_state=0).shape == (20, 7)

    def test_density_integrates_to_the_cdf_and_to_the_moments(self, distribution):
        """In the units of y: trapezoids on a fine grid, which bars of width > 0.01 allow."""
        grid = np.linspace(-50, 150, 200_001)
        density = np.exp(distribution.log_prob(np.tile(grid, (20, 1))))
        mass = density * (grid[1] - grid[0])
        np.testing.assert_allclose(mass.sum(1), 1.0, atol=2e-3)
        np.testing.assert_allclose(mass @ grid, distribution.mean, atol=0.15)
        np.testing.assert_allclose(mass[:, :100_001].sum(1), distribution.cdf(np.full(20, 50.0)), atol=3e-3)
        variance = (mass * (grid - distribution.mean[:, None]) ** 2).sum(1)
        np.testing.assert_allclose(np.sqrt(variance), distribution.std, rtol=0.01)

    def test_quantile_inverts_cdf(self, distribution):
        q = np.array([0.01, 0.3, 0.5, 0.99])
        np.testing.assert_allclose(distribution.cdf(distribution.quantile(q)), np.tile(q, (20, 1)), atol=1e-9)

    def test_samples_follow_the_distribution(self, distribution):
        draws = distribution.sample(4000, random_state=1)
        np.testing.assert_array_equal(draws, distribution.sample(4000, random_state=1))
        error = np.abs(draws.mean(1) - distribution.mean)
        assert (error < 4.5 * distribution.std / 4000**0.5).all()

    def test_wrong_arguments_are_named(self, distribution):
        with pytest.raises(ValueError, match=r"quantiles must lie in \[0, 1\], got 95 at position 1; did you mean 0.95\?"):
            distribution.quantile([0.5, 95])
        with pytest.raises(ValueError, match=r"got -0.5 at position 0"):
            distribution.quantile([-0.5])
        with pytest.raises(ValueError, match=r"pass a list such as"):
            distribution.quantile(0.5)
        with pytest.raises(ValueError, match=r"y has shape \(3,\); pass \(20,\) or \(20, k\)"):
            distribution.log_prob([1.0, 2.0, 3.0])


def test_predict_returns_mean_std_or_quantiles(network, data):
    X, y, X_test, _ = data
    reg = fit(network, X, y)
    distribution = reg.predict_distribution(X_test)
    np.testing.assert_array_equal(reg.predict(X_test), distribution.mean)
    mean, std = reg.predict(X_test, return_std=True)
    np.testing.assert_array_equal(mean, distribution.mean)
    np.testing.assert_array_equal(std, distribution.std)
    np.testing.assert_array_equal(reg.predict(X_test, quantiles=[0.2, 0.8]), distribution.quantile([0.2, 0.8]))
    with pytest.raises(ValueError, match="return_std=True together with quantiles is ambiguous"):
        reg.predict(X_test, return_std=True, quantiles=[0.5])


class TestInvariance:
    def test_units_of_y(self, network, data):
        X, y, X_test, y_test = data
        one, other = fit(network, X, y), fit(network, X, 1e3 * y - 7e6)
        np.testing.assert_allclose(other.predict(X_test), 1e3 * one.predict(X_test) - 7e6, atol=1e-4 * 1e3 * y.std())
        a, b = one.predict_distribution(X_test), other.predict_distribution(X_test)
        np.testing.assert_allclose(b.std, 1e3 * a.std, rtol=1e-4)
        np.testing.assert_allclose(b.log_prob(1e3 * y_test - 7e6), a.log_prob(y_test) - np.log(1e3), atol=1e-3)

    def test_units_of_x(self, network, data):
        X, y, X_test, _ = data
        scaled = fit(network, 1e3 * X + 1e6, y).predict(1e3 * X_test + 1e6)
        np.testing.assert_allclose(scaled, fit(network, X, y).predict(X_test), atol=1e-3 * y.std())

    def test_order_of_context_rows(self, network, data):
        X, y, X_test, _ = data
        order = np.random.default_rng(0).permutation(len(X))
        np.testing.assert_array_equal(fit(network, X[order], y[order]).predict(X_test), fit(network, X, y).predict(X_test))

    def test_other_rows_of_the_call(self, network, data):
        X, y, X_test, _ = data
        reg = fit(network, X, y)
        alone = np.concatenate([reg.predict(X_test[i : i + 1]) for i in range(len(X_test))])
        np.testing.assert_allclose(alone, reg.predict(X_test), atol=1e-6 * y.std(), rtol=0)

    def test_same_seed_same_answer(self, network, data):
        X, y, X_test, _ = data
        np.testing.assert_array_equal(fit(network, X, y).predict(X_test), fit(network, X, y).predict(X_test))


def test_members_are_mixed_with_equal_weight(network, data):
    X, y, X_test, y_test = data
    four = fit(network, X, y)
    members = []
    for view in four._views:
        one = fit(network, X, y)
        one._views = [view]
        members.append(one.predict_distribution(X_test).log_prob(y_test))
    expected = logsumexp(members, axis=0) - np.log(4)
    np.testing.assert_allclose(four.predict_distribution(X_test).log_prob(y_test), expected, atol=1e-9)


def test_long_tables_are_subsampled_and_members_agree(network):
    """Contexts of 60 of 600 rows have means and scales of their own; the answer is in the units of all."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(600, 2))
    y = 5.0 + X[:, 1] + 0.1 * rng.normal(size=600)
    reg = fit(network, X, y, context="subsample", max_context=60)
    assert all(len(view.cells[0].rows) == 60 for view in reg._views)
    distribution = reg.predict_distribution(X[:50])
    whole = fit(network, X, y).predict_distribution(X[:50])
    assert np.corrcoef(distribution.mean, whole.mean)[0, 1] > 0.98
    np.testing.assert_allclose(distribution.cdf(distribution.quantile([0.25]))[:, 0], 0.25, atol=1e-9)


def test_mixed_columns_gaps_and_frames(network):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=50), "colour": rng.choice(["red", "blue", None], 50)})
    frame.loc[::7, "size"] = np.nan
    reg = fit(network, frame[:40], np.arange(40))
    assert reg.feature_names_in_.tolist() == ["size", "colour"]
    assert np.isfinite(reg.predict(frame[40:])).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_rows(network, n):
    mean, std = fit(network, np.arange(n).reshape(-1, 1), np.full(n, 3.0) + np.arange(n)).predict([[0.5]], return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()


def test_constant_targets_are_predicted_near_the_constant(network):
    mean, std = fit(network, np.arange(9.0).reshape(-1, 1), np.full(9, 0.1)).predict([[0.5]], return_std=True)
    assert abs(mean[0] - 0.1) < 5
    assert std[0] > 0


def test_a_path_a_pickle_and_a_clone_predict_the_same(network, data, tmp_path):
    X, y, X_test, _ = data
    expected = fit(network, X, y).predict(X_test)
    path = tmp_path / "own.safetensors"
    save_checkpoint(network, path, network.card)
    np.testing.assert_array_equal(fit(path, X, y).predict(X_test), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fit(network, X, y))).predict(X_test), expected)
    np.testing.assert_array_equal(clone(fit(network, X, y)).fit(X, y).predict(X_test), expected)


def test_low_precision_keeps_the_borders(network, data):
    X, y, X_test, _ = data
    low = PFNRegressor(model=network, random_state=0, precision="bfloat16").fit(X, y)
    assert (low._borders == network.borders.double()).all()
    assert next(network.parameters()).dtype == torch.float32
    np.testing.assert_allclose(low.predict(X_test), fit(network, X, y).predict(X_test), atol=0.15 * y.std())


X2 = np.arange(24.0).reshape(12, 2)


@pytest.mark.parametrize(
    ("arguments", "X", "y", "error", "message"),
    [
        ({}, X2, None, ValueError, "requires y to be passed, but the target y is None"),
        ({}, X2, [1.0, 2.0], ValueError, "inconsistent numbers of samples"),
        ({}, X2, [np.nan] + [1.0] * 11, ValueError, "y contains NaN"),
        ({}, X2, [np.inf] + [1.0] * 11, ValueError, "y contains infinity"),
        ({}, X2, ["a", "b"] * 6, ValueError, "y is not numeric .*; use PFNClassifier"),
        ({}, np.where(X2 > 20, np.inf, X2), np.arange(12), ValueError, "contains infinity"),
        ({"n_estimators": 0}, X2, np.arange(12), ValueError, "n_estimators=0 is not a positive integer"),
        ({"precision": "float16"}, X2, np.arange(12), ValueError, "precision='float16' is unknown"),
        ({"device": "abacus"}, X2, np.arange(12), ValueError, "device='abacus' is unknown to torch"),
        ({"model": "no-such-weights"}, X2, np.arange(12), FileNotFoundError, "no bundled weights are called"),
        ({"model": "classifier"}, X2, np.arange(12), ValueError, "is a classification network; use one that regresses"),
    ],
)
def test_bad_input_is_named(untrained, arguments, X, y, error, message):
    with pytest.raises(error, match=message):
        PFNRegressor(**({"model": untrained} | arguments)).fit(X, y)
