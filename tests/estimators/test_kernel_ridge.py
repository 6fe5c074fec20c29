from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge as Reference

from estimators import PFNClassifier, PFNRegressor
from estimators.kernel_ridge import KernelRidge
from pfn import load_pretrained


def smooth_table(n=120, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    y = np.column_stack([np.sin(x[:, 0]) + x[:, 1] * x[:, 2], np.cos(x[:, 1])]) + noise * rng.normal(size=(n, 2))
    return x, y, np.ones(n, dtype=np.float32)


def weighted_table():
    x, y, _ = smooth_table()
    weight = np.random.default_rng(1).integers(1, 5, size=120)
    return x, y, (weight / weight.mean()).astype(np.float32)


def linear_table(n=60, noise=0.01):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 10)).astype(np.float32)
    y = x @ rng.normal(size=(10, 1))
    return x, y / y.std() + noise * rng.normal(size=(n, 1)), np.ones(n, dtype=np.float32)


def reference(made, x, y, weight):
    """scikit-learn's predictor from these rows, with the kernel and the penalty that were chosen."""
    def kernel(a, b):
        if np.isinf(made.squared_lengthscale):
            return a @ b.T / a.shape[1] + 1.0
        return np.exp(-0.5 * np.square(a[:, None] - b).sum(2) / made.squared_lengthscale) + 1.0

    def standardised(x):
        return ((x - made.location.numpy()) / made.scale.numpy()).clip(-4, 4)

    points, mean = standardised(x), made.mean.numpy()
    fitted = Reference(alpha=made.penalty, kernel="precomputed").fit(
        kernel(points, points), y - mean, sample_weight=weight.astype(float))
    return lambda new: mean + fitted.predict(kernel(standardised(new), points))


@pytest.mark.parametrize("table", [smooth_table(), weighted_table(), linear_table()], ids=["smooth", "weighted", "linear"])
def test_equals_scikit_learn(table):
    """Predictions for new rows are those of a fit on all rows, the columns are those of fits on nine tenths of them."""
    x, y, weight = table
    made, columns = KernelRidge.fit(x, y, weight)
    assert columns.shape == y.shape
    new = np.random.default_rng(2).normal(size=(7, x.shape[1])).astype(np.float32)
    np.testing.assert_allclose(made(torch.from_numpy(new)), reference(made, x, y, weight)(new), rtol=1e-4, atol=1e-5)
    for fold in range(10):
        own = np.arange(len(x)) % 10 == fold
        others = reference(made, x[~own], y[~own], weight[~own])
        np.testing.assert_allclose(columns[own], others(x[own]), rtol=1e-4, atol=1e-4)


def test_leave_one_out_errors_choose():
    """Brute force over all rows, lengthscales and penalties finds nothing better."""
    x, y, weight = smooth_table(n=40, noise=0.2)
    made, _ = KernelRidge.fit(x, y, weight)

    def left_out(squared_lengthscale, penalty):
        like = replace(made, squared_lengthscale=squared_lengthscale, penalty=penalty)
        rows = [np.arange(40) != row for row in range(40)]
        return sum(np.square(reference(like, x[rest], y[rest], weight[rest])(x[~rest]) - y[~rest]).sum() for rest in rows)

    least = left_out(made.squared_lengthscale, made.penalty)
    for squared_lengthscale in (np.inf, 4 * made.squared_lengthscale, made.squared_lengthscale / 5):
        for penalty in np.logspace(-7, 1, 9):
            assert left_out(squared_lengthscale, penalty) > 0.999 * least


def test_linear_functions_are_recognised():
    x, y, weight = linear_table()
    made, columns = KernelRidge.fit(x, y, weight)
    assert np.isinf(made.squared_lengthscale)
    assert np.std(columns - y) < 0.02


def test_a_row_has_no_influence_on_its_own_cell():
    """Else the network would read the target from the column."""
    x, y, weight = smooth_table()
    other = y.copy()
    other[17] += 0.02
    before, columns = KernelRidge.fit(x, y, weight)
    after, others = KernelRidge.fit(x, other, weight)
    assert (before.squared_lengthscale, before.penalty) == (after.squared_lengthscale, after.penalty)
    np.testing.assert_allclose(columns[17], others[17], atol=1e-5)
    assert np.abs(columns - others).max() > 1e-3                         # on others it has


@pytest.mark.parametrize("seed", range(5))
def test_no_column_where_it_explains_little(seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(100, 4)).astype(np.float32), np.ones(100, dtype=np.float32)
    assert KernelRidge.fit(x, rng.normal(size=(100, 1)), weight) is None
    assert KernelRidge.fit(x[:19], x[:19, :1], weight[:19]) is None      # too few rows
    half = x[:, :1] / x[:, :1].std() + rng.normal(size=(100, 1))         # five tenths
    assert KernelRidge.fit(x, half, weight) is None


def test_long_tables_are_thinned_out():
    """Rows that were not taken get the prediction for a new row."""
    x, y, weight = smooth_table(n=2500)
    made, columns = KernelRidge.fit(x, y, weight)
    assert len(made.points) == 1000
    same = (columns == made(torch.from_numpy(x)).numpy()).all(1)
    assert same.sum() == 1500
    assert np.corrcoef(columns[same, 0], y[same, 0])[0, 1] > 0.98


def test_gaps_constants_outliers_and_duplicates():
    x, y, weight = smooth_table()
    x = np.column_stack([x, np.full(120, 7.0), np.full(120, np.nan), np.repeat([0.0, 1e30], [119, 1])]).astype(np.float32)
    x[::11, 0] = np.nan
    made, columns = KernelRidge.fit(x, y, weight)
    assert np.isfinite(columns).all()
    assert made(torch.full((2, 6), torch.nan)).isfinite().all()
    repeated = np.repeat(np.float32([[0.0], [1.0]]), 30, axis=0)
    made, columns = KernelRidge.fit(repeated, repeated + np.linspace(0, 0.1, 60)[:, None], weight[:60])
    assert np.isfinite(columns).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_weights_of_any_size(scale):
    x, y, weight = weighted_table()
    _, columns = KernelRidge.fit(x, y, weight)
    _, others = KernelRidge.fit(x, y, (scale * weight).astype(np.float32))
    np.testing.assert_allclose(columns, others, rtol=1e-3, atol=1e-4)
    mixed = np.where(np.arange(120) < 3, np.float32(scale), weight)
    found = KernelRidge.fit(x, y, mixed)
    assert (found is None) == (scale > 1)                                # three rows decide, or have no say
    assert found is None or np.abs(found[1]).max() < 10


def test_predictions_are_differentiable():
    x, y, weight = smooth_table()
    made, _ = KernelRidge.fit(x, y, weight)
    points = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    one = 1e-4 * torch.eye(3, dtype=torch.float64)[0]
    (gradient,) = torch.autograd.grad(made(points)[:, 0].sum(), points)
    numeric = (made(points + one)[:, 0].double() - made(points - one)[:, 0].double()) / 2e-4
    torch.testing.assert_close(gradient[:, 0], numeric, rtol=0.02, atol=0.01)


class TestInTheEstimators:
    def rows(self, n=150):
        rng = np.random.default_rng(3)
        X = rng.normal(size=(n, 10))
        return X, X @ rng.normal(size=10)

    def test_linear_functions_are_predicted_better_than_by_the_network_alone(self):
        X, y = self.rows()
        error = {n: np.std(PFNRegressor(n, random_state=0).fit(X[:100], y[:100]).predict(X[100:]) - y[100:]) for n in (1, 4)}
        assert error[4] < 0.6 * error[1]

    def test_digits_are_told_apart_better_than_by_the_network_alone(self):
        X, y = load_digits(return_X_y=True)
        here, there = (PFNClassifier(n, random_state=0).fit(X[:500], y[:500]) for n in (4, 1))
        assert len(here._ridge.mean) == 10
        assert there._ridge is None
        loss = [-one.predict_log_proba(X[500:800])[np.arange(300), y[500:800]].mean() for one in (here, there)]
        assert loss[0] < 0.8 * loss[1]

    def test_every_member_sees_the_columns(self):
        X, y = self.rows()
        fitted = PFNRegressor(random_state=0).fit(X, y)
        assert all(10 in view.columns for view in fitted._views)
        limit = fitted.model_.card.envelope.max_features
        wide = np.column_stack([X, np.random.default_rng(4).normal(scale=1e-3, size=(150, limit))])
        wide[:, 10:] += X[:, :1]                                         # columns that are nearly the same
        fitted = PFNRegressor(random_state=0).fit(wide, y)
        for view in fitted._views:
            assert len(view.columns) == limit
            assert wide.shape[1] in view.columns
            assert len(set(view.columns)) == limit

    def test_one_member_sees_the_table_as_it_is(self):
        X, y = self.rows()
        fitted = PFNRegressor(1, random_state=0).fit(X, y)
        assert fitted._ridge is None
        assert sorted(fitted._views[0].columns) == list(range(10))

    def test_invariances_hold(self):
        X, y = self.rows()
        here = PFNRegressor(random_state=0, precision="float32").fit(X[:100], y[:100])
        order = np.random.default_rng(5).permutation(100)
        there = PFNRegressor(random_state=0, precision="float32").fit(X[order], 1e6 * y[order] - 3e6)
        expected = here.predict(X[100:])
        np.testing.assert_allclose((there.predict(X[100:]) + 3e6) / 1e6, expected, atol=2e-3 * y.std())
        np.testing.assert_allclose(here.predict(X[100:101]), expected[:1], atol=1e-4 * y.std())

    def test_copies_are_weights(self):
        X, y = self.rows()
        copies = np.random.default_rng(6).integers(0, 4, size=100)
        by_weight = PFNRegressor(random_state=0).fit(X[:100], y[:100], copies)
        by_copy = PFNRegressor(random_state=0).fit(np.repeat(X[:100], copies, 0), np.repeat(y[:100], copies))
        assert by_weight._ridge is not None
        np.testing.assert_allclose(by_weight.predict(X[100:]), by_copy.predict(X[100:]), rtol=1e-6)

    def test_they_are_saved(self, tmp_path):
        X, y = self.rows()
        fitted = PFNRegressor(random_state=0).fit(X[:100], y[:100])
        fitted.save(tmp_path / "regressor.safetensors")
        again = PFNRegressor.load(tmp_path / "regressor.safetensors")
        assert again._ridge is not None
        np.testing.assert_array_equal(again.predict(X[100:]), fitted.predict(X[100:]))

    def test_gradients_go_through_them(self):
        X = np.random.default_rng(7).normal(size=(300, 2))
        X = X[np.abs(X[:, 0]) > 0.3][:200]
        fitted = PFNClassifier(3, temperature=1.0, precision="float32", random_state=0).fit(X, X[:, 0] > 0)
        assert fitted._ridge is not None
        points = np.array([[0.1, 0.2], [-0.15, -0.4]])
        query = torch.from_numpy(points).requires_grad_()
        (gradient,) = torch.autograd.grad(fitted.torch_predict_proba(query)[:, 1].sum(), query)
        step = np.array([5e-3, 0.0])
        numeric = (fitted.predict_proba(points + step) - fitted.predict_proba(points - step))[:, 1] / 1e-2
        assert np.abs(numeric).min() > 0.1
        np.testing.assert_allclose(gradient[:, 0], numeric, rtol=0.05)

    def test_many_classes_do_not_crowd_out_the_table(self):
        """Nor does one column, of a network that was trained on one or two."""
        rng = np.random.default_rng(8)
        y = rng.integers(40, size=400)
        X = np.column_stack([np.cos(y), np.sin(y)]) + 1e-3 * rng.normal(size=(400, 2))
        assert PFNClassifier(2, temperature=1.0, random_state=0).fit(X, y)._ridge is None
        fitted = PFNClassifier(2, temperature=1.0, random_state=0).fit(X, y % 10)
        assert fitted._ridge is not None
        few = load_pretrained("regressor")
        few.card = replace(few.card, envelope=replace(few.card.envelope, max_features=2))
        X, y = self.rows()
        assert PFNRegressor(model=few, random_state=0).fit(X[:, :1], X[:, 0])._ridge is None

    def test_networks_that_keep_units_see_none(self):
        X, _ = self.rows()
        assert PFNRegressor(model="gp").fit(X[:50, :1], X[:50, 0])._ridge is None
