from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge as Reference

from estimators import PFNClassifier, PFNRegressor
from estimators.indicators import Points
from estimators.kernel_ridge import KernelRidge, Step, _Regression
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


def kernel(a, b, squared_lengthscale):
    if np.isinf(squared_lengthscale):
        return a @ b.T + 1.0
    return np.exp(-0.5 * np.square(a[:, None] - b).sum(2) / squared_lengthscale) + 1.0


def regressed(points, target, weight, step):
    """scikit-learn's regression with this kernel and penalty."""
    return Reference(alpha=step.penalty, kernel="precomputed").fit(
        kernel(points, points, step.squared_lengthscale), target, sample_weight=weight)


def scaled(relevance, z, weight):
    """So that the mean squared distance of two rows, drawn by weight, is 1."""
    share = weight / weight.sum()
    return relevance / np.sqrt(share @ np.square((z[:, None] - z) * relevance).sum(2) @ share)


def by_hand(z, target, weight, steps):
    """Predictor of the last step; relevances from automatic derivatives of the predictors before it."""
    relevance = scaled(np.ones(z.shape[1]), z, weight)
    for step in steps[:-1]:
        coefficients = regressed(z * relevance, target, weight, step).dual_coef_
        at = torch.from_numpy(z).requires_grad_()
        factor, points = torch.from_numpy(relevance), torch.from_numpy(z * relevance)
        if np.isinf(step.squared_lengthscale):
            values = (at * factor) @ points.mT
        else:
            squared = ((at * factor).unsqueeze(1) - points).square().sum(2)
            values = (-0.5 * squared / step.squared_lengthscale).exp()
        squares = sum(torch.autograd.grad((values @ one).sum(), at, retain_graph=True)[0].square()
                      for one in torch.from_numpy(coefficients).mT)
        relevance = scaled(np.sqrt(weight @ squares.numpy()), z, weight)
    last = regressed(z * relevance, target, weight, steps[-1])
    return lambda new: last.predict(kernel(new * relevance, z * relevance, steps[-1].squared_lengthscale))


@pytest.mark.parametrize("table", [smooth_table(), weighted_table(), linear_table()], ids=["smooth", "weighted", "linear"])
def test_equals_scikit_learn(table):
    """Predictions for new rows are those of a fit on all rows, the columns are those of fits on nine tenths of them."""
    x, y, weight = table
    made, columns = KernelRidge.fit(x, y, weight)
    assert columns.shape == y.shape
    weight = weight.astype(np.float64) / weight.mean(dtype=np.float64)
    mean = weight @ y / weight.sum()
    z = made.coordinates(torch.from_numpy(x)).numpy()
    root = torch.from_numpy(np.sqrt(weight)).unsqueeze(1)
    _, steps = _Regression(torch.from_numpy(z), root * torch.from_numpy(y - mean), root).search()
    assert steps[-1] == (made.squared_lengthscale, made.penalty)
    new = torch.from_numpy(np.random.default_rng(2).normal(size=(7, x.shape[1])).astype(np.float32))
    expected = by_hand(z, y - mean, weight, steps)(made.coordinates(new).numpy())
    np.testing.assert_allclose(made(new).numpy() - mean, expected, rtol=1e-4, atol=1e-4)
    for fold in range(10):
        own = np.arange(len(x)) % 10 == fold
        others = by_hand(z[~own], y[~own] - mean, weight[~own], steps)
        np.testing.assert_allclose(columns[own] - mean, others(z[own]), rtol=1e-4, atol=1e-4)


def test_leave_one_out_errors_choose():
    """Brute force over all rows, lengthscales and penalties finds nothing better."""
    x, y, weight = smooth_table(n=40, noise=0.2)
    z, y, weight = x.astype(np.float64), y - y.mean(0), weight.astype(np.float64)
    rows = _Regression(torch.from_numpy(z), torch.from_numpy(y), torch.ones(40, 1, dtype=torch.float64))
    relevance = scaled(np.ones(3), z, weight)
    lengthscales = (np.inf, 8.0, 2.0, 0.5, 0.1)
    error, step = rows._best_step(torch.from_numpy(relevance), lengthscales)

    def left_out(step):
        rest = [np.arange(40) != row for row in range(40)]
        return sum(np.square(regressed(z[some] * relevance, y[some], weight[some], step).predict(
            kernel(z[~some] * relevance, z[some] * relevance, step.squared_lengthscale)) - y[~some]).sum() for some in rest)

    np.testing.assert_allclose(left_out(step), error, rtol=1e-6)
    for squared_lengthscale in lengthscales:
        for penalty in np.logspace(-7, 1, 9):
            assert left_out(Step(squared_lengthscale, penalty)) > 0.999 * error


def test_columns_that_do_not_matter_are_found_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12)).astype(np.float32)
    y = (np.sin(2 * x[:, :1]) + x[:, 1:2] ** 2) / 1.6 + 0.05 * rng.normal(size=(300, 1))
    made, columns = KernelRidge.fit(x[:200], y[:200], np.ones(200, dtype=np.float32))
    assert made.relevance[:2].min() > 4 * made.relevance[2:].max()
    error = np.std(made(torch.from_numpy(x[200:])).numpy() - y[200:])
    assert error < 0.35
    assert np.std(columns - y[:200]) > 0.8 * error                       # an honest estimate of it


def category_table(n=200):
    """Codes whose order says nothing, beside a column that matters and one that does not."""
    rng = np.random.default_rng(0)
    code = rng.integers(8, size=n)
    x = np.column_stack([code, rng.normal(size=(n, 2))]).astype(np.float32)
    return x, np.array([0, 5, 1, 4, -3, 2, -4, 3.0])[code, None] + x[:, 1:2], np.ones(n, dtype=np.float32)


@pytest.mark.parametrize("categories", [(), (0,)], ids=["guessed", "given"])
def test_categories_are_told_apart(categories):
    x, y, weight = category_table()
    made, columns = KernelRidge.fit(x, y, weight, categories)
    assert made.coordinates.column.tolist() == [0] * 8
    assert np.std(columns - y) < 0.1 * np.std(y)
    unseen = made(torch.tensor([[9.0, 0.0, 0.0], [torch.nan, 0.0, 0.0]]))
    assert unseen.isfinite().all()


def test_points():
    x = np.float32([[1, 0.0], [1, 2.0], [2, 4.0], [2, np.nan], [3, 2.0], [3, 2.0], [5, 2.0]])
    weight = np.array([2.0, 1, 1, 1, 1, 1, 1])
    points = Points.of(x, weight, {0})
    assert points.level.tolist() == [1, 2, 3]                            # 5 occurs once
    np.testing.assert_allclose(points.share, [3 / 8, 2 / 8, 2 / 8])
    z = points(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(weight @ z[:, :1], 0.0, atol=1e-12)
    np.testing.assert_allclose(weight @ z[:, :1] ** 2, 8.0)
    indicated = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(z[:, 2:] + points.share.numpy(), indicated)
    assert z[3, 1] == 0.0                                                # missing
    assert points(torch.tensor([[1.0, 1e9]]))[0, 1] == 4.0


def test_what_looks_like_a_category():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=300), rng.integers(2, size=300), rng.integers(30, size=300), rng.integers(31, size=300)
    x, weight = np.column_stack(columns).astype(np.float32), np.ones(300)
    assert [set(one.column.tolist()) for one in Points.candidates(x, weight, ())] == [set(), {2}]
    assert [set(one.column.tolist()) for one in Points.candidates(x[:290], weight[:290], ())] == [set()]
    assert [set(one.column.tolist()) for one in Points.candidates(x, weight, {3})] == [{3}, {2, 3}]
    wide = rng.integers(3, size=(300, 1000)).astype(np.float32)
    assert len(list(Points.candidates(wide, weight, ()))) == 1


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

    def test_categories_come_from_the_table(self, tmp_path):
        x, y, _ = category_table()
        X = pd.DataFrame({"steel": [f"S{int(code)}" for code in x[:, 0]], "a": x[:, 1], "b": x[:, 2]})
        fitted = PFNRegressor(random_state=0).fit(X[:100], y[:100, 0])
        assert fitted._ridge.coordinates.column.tolist() == [0] * 8
        alone = PFNRegressor(1, random_state=0).fit(X[:100], y[:100, 0])
        errors = [np.std(one.predict(X[100:]) - y[100:, 0]) for one in (fitted, alone)]
        assert errors[0] < 0.6 * errors[1]
        fitted.save(tmp_path / "regressor.safetensors")
        again = PFNRegressor.load(tmp_path / "regressor.safetensors")
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
