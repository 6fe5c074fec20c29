import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from estimators.imputer import PFNImputer
from pfn import PFN, Envelope, ModelCard, PFNConfig, save_checkpoint

SIZE = {"embed_dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 16, "n_thinking_rows": 2}


@pytest.fixture(scope="module")
def untrained():
    """Networks for tests that ask nothing of the predictions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"regressor": PFN(PFNConfig(task="regression", n_outputs=32, **SIZE)).eval(),
                "classifier": PFN(PFNConfig(task="classification", n_outputs=10, **SIZE)).eval()}


COVARIANCE = np.array([[1.0, 0.8, 0.5], [0.8, 1.0, 0.3], [0.5, 0.3, 1.0]])
MEAN = np.array([0.0, 10.0, -5.0])


@pytest.fixture(scope="module")
def gaussian():
    """300 rows of three normal columns; the second is missing in 60 rows, the first as well in the last 30 of these."""
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal(MEAN, COVARIANCE, size=300)
    gappy = X.copy()
    gappy[:60, 1] = np.nan
    gappy[30:60, 0] = np.nan
    return X, gappy


@pytest.fixture(scope="module")
def imputer(gaussian):
    return PFNImputer(random_state=0).fit(gaussian[1])


def conditional(missing, known, X):
    """Mean (n, …) and covariance of the missing columns of a normal distribution given the known ones."""
    weights = np.linalg.solve(COVARIANCE[np.ix_(known, known)], COVARIANCE[np.ix_(known, missing)])
    covariance = COVARIANCE[np.ix_(missing, missing)] - COVARIANCE[np.ix_(missing, known)] @ weights
    return MEAN[missing] + (X[:, known] - MEAN[known]) @ weights, covariance


@pytest.fixture
def mixed():
    rng = np.random.default_rng(0)
    size = rng.normal(size=40)
    frame = pd.DataFrame(
        {
            "size": size,
            "count": pd.array(np.round(10 + 5 * size), dtype="Int64"),
            "flag": pd.array(size > 0, dtype="boolean"),
            "colour": np.where(size > 0, "red", "green"),
            "grade": pd.Categorical(np.where(size > 0, "high", "low"), categories=["low", "high", "never"], ordered=True),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(40), unit="D"),
        },
        index=np.arange(100, 140),
    )
    for j, name in enumerate(frame.columns):
        frame.loc[100 + 3 * j : 102 + 3 * j, name] = None
    return frame


def test_scikit_learn_conventions(tmp_path, untrained):
    for name, network in untrained.items():
        save_checkpoint(network, tmp_path / name, ModelCard(network.config, "none", Envelope(100, 10, 10)))
    check_estimator(PFNImputer(**{name: tmp_path / name for name in untrained}), on_skip=None)


def test_estimates_are_near_the_conditional_means(gaussian, imputer):
    X, gappy = gaussian
    filled = imputer.transform(gappy)
    mean, covariance = conditional([1], [0, 2], X[:30])
    assert np.sqrt(np.mean((filled[:30, [1]] - mean) ** 2)) < 0.3 * covariance[0, 0] ** 0.5
    mean, covariance = conditional([0, 1], [2], X[30:60])
    assert (np.sqrt(np.mean((filled[30:60, :2] - mean) ** 2, axis=0)) < 0.3 * np.diag(covariance) ** 0.5).all()


def test_draws_have_the_conditional_spread_and_correlation(gaussian, imputer):
    """By quantiles and ranks, as a few draws come from the heavy tails of the bar distribution."""
    X, gappy = gaussian
    draws = np.array(imputer.sample(gappy, n_imputations=40))                             # (40, 300, 3)
    np.testing.assert_array_equal(draws[0][60:], X[60:])
    low, high = np.quantile(draws[:, :30, 1], [0.16, 0.84], axis=0)                       # between imputations
    _, covariance = conditional([1], [0, 2], X[:30])
    assert np.mean(high - low) / 2 == pytest.approx(covariance[0, 0] ** 0.5, rel=0.2)
    mean, covariance = conditional([0, 1], [2], X[30:60])
    residuals = (draws[:, 30:60, :2] - mean).reshape(-1, 2)
    spread = np.diff(np.quantile(residuals, [0.16, 0.84], axis=0), axis=0)[0] / 2
    np.testing.assert_allclose(spread, np.diag(covariance) ** 0.5, rtol=0.25)
    correlation = covariance[0, 1] / np.prod(np.diag(covariance)) ** 0.5                  # 0.78
    assert spearmanr(residuals).statistic == pytest.approx(6 / np.pi * np.arcsin(correlation / 2), abs=0.15)


def test_a_second_pass_uses_what_columns_say_about_each_other():
    """y = a + b + c, of which half the rows lack a cell."""
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(200, 3))
    X = np.column_stack([parts, parts.sum(1)])
    gappy = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    error = [np.mean((PFNImputer(n_passes=n, random_state=0).fit_transform(gappy) - X) ** 2) for n in (1, 2)]
    assert error[1] < error[0]


def test_observed_cells_stay_and_the_input_is_not_modified(untrained):
    rng = np.random.default_rng(0)
    X = np.where(rng.random((30, 4)) < 0.2, np.nan, rng.normal(size=(30, 4)) * [1, 1e9, 1e-9, 1])
    before = X.copy()
    imputer = PFNImputer(**untrained).fit(X)
    for filled in (imputer.transform(X), *imputer.sample(X, n_imputations=2)):
        np.testing.assert_array_equal(np.where(np.isnan(before), np.nan, filled), before)
        assert np.isfinite(filled).all()
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(imputer.transform(X[:0:-1])[::-1], imputer.transform(X)[1:])
    np.testing.assert_array_equal(imputer.transform(X[3:4]), imputer.transform(X)[3:4])


@pytest.mark.parametrize("n_passes", [1, 2, 3])
def test_fit_transform_is_fit_and_transform(untrained, n_passes):
    rng = np.random.default_rng(0)
    X = np.where(rng.random((30, 4)) < 0.2, np.nan, rng.normal(size=(30, 4)))
    imputer = PFNImputer(n_passes=n_passes, random_state=0, **untrained)
    expected = imputer.fit(X).transform(X)
    np.testing.assert_array_equal(imputer.fit_transform(X), expected)


def test_columns_that_only_miss_values_later(untrained):
    rng = np.random.default_rng(0)
    imputer = PFNImputer(random_state=0, **untrained).fit(rng.normal(size=(30, 3)))
    assert np.isfinite(imputer.transform([[1.0, np.nan, 2.0], [np.nan, np.nan, np.nan]])).all()


def test_seeds_decide(untrained):
    rng = np.random.default_rng(0)
    X = np.where(rng.random((30, 4)) < 0.2, np.nan, rng.normal(size=(30, 4)))
    imputer = PFNImputer(random_state=0, **untrained).fit(X)
    again = clone(imputer).fit(X)
    np.testing.assert_array_equal(imputer.transform(X), again.transform(X))
    np.testing.assert_array_equal(imputer.sample(X, 2), again.sample(X, 2))
    assert not np.array_equal(*imputer.sample(X, 2))
    other = clone(imputer).set_params(random_state=1).fit(X)
    assert not np.array_equal(imputer.sample(X, 1), other.sample(X, 1))
    loaded = pickle.loads(pickle.dumps(imputer))
    np.testing.assert_array_equal(loaded.sample(X, 2), imputer.sample(X, 2))


def test_frames_of_every_type(mixed):
    imputer = PFNImputer(n_estimators=1, random_state=0).fit(mixed)
    missing = mixed.isna()
    for filled in (imputer.transform(mixed), imputer.sample(mixed, n_imputations=1)[0]):
        assert filled.dtypes.equals(mixed.dtypes)
        assert filled.index.equals(mixed.index)
        assert not filled.isna().any(axis=None)
        pd.testing.assert_frame_equal(filled.mask(missing), mixed.mask(missing))
    filled = imputer.transform(mixed)
    complete = mixed["size"].to_numpy()
    for name, gaps, big in (("flag", slice(6, 9), True), ("colour", slice(9, 12), "red"), ("grade", slice(12, 15), "high")):
        assert ((filled[name] == big).to_numpy()[gaps] == (complete[gaps] > 0)).all(), name
    np.testing.assert_allclose(filled["count"].iloc[3:6].astype(float), 10 + 5 * complete[3:6], atol=2.5)


def test_objects_in_objects_out(mixed, untrained):
    array = mixed[["size", "colour"]].to_numpy(dtype=object)
    imputer = PFNImputer(random_state=0, **untrained)
    filled = imputer.fit_transform(array)
    assert isinstance(filled, np.ndarray)
    assert filled.dtype == object
    assert set(filled[:, 1]) == {"red", "green"}
    assert not pd.isna(imputer.sample(array, 1)[0]).any()


def test_set_output_and_names(mixed, untrained):
    imputer = PFNImputer(random_state=0, **untrained)
    numbers = mixed[["size", "count"]]
    assert isinstance(imputer.fit_transform(numbers), np.ndarray)
    frame = imputer.set_output(transform="pandas").fit_transform(numbers)
    assert list(frame.columns) == list(imputer.get_feature_names_out()) == ["size", "count"]
    assert frame.index.equals(mixed.index)
    assert isinstance(imputer.sample(numbers, 1)[0], pd.DataFrame)
    assert imputer.fit_transform(mixed).dtypes.equals(mixed.dtypes)


def test_declared_categories_are_classified():
    X, y = load_iris(return_X_y=True)
    table = np.column_stack([X, 10.0 * y])[::3]
    table[::4, 4] = np.nan
    filled = PFNImputer(categorical_features=[4], random_state=0).fit_transform(table)
    assert set(filled[:, 4]) == {0.0, 10.0, 20.0}
    assert np.mean(filled[::4, 4] == 10 * y[::3][::4]) > 0.85


def test_columns_without_a_value_or_with_one(untrained):
    frame = pd.DataFrame({"empty": np.full(6, np.nan), "same": [3.0, None] * 3, "once": [None] * 5 + ["x"],
                          "nothing": pd.Categorical([None] * 6, categories=["a"]), "size": np.arange(6.0)})
    filled = PFNImputer(**untrained).fit_transform(frame)
    assert (filled["empty"] == 0).all()
    assert (filled["same"] == 3).all()
    assert (filled["once"] == "x").all()
    assert filled["nothing"].isna().all()


def test_new_categories_stay(mixed, untrained):
    frame = mixed[["size", "colour"]]
    imputer = PFNImputer(random_state=0, **untrained).fit(frame)
    row = pd.DataFrame({"size": [np.nan], "colour": ["ultraviolet"]})
    filled = imputer.transform(row)
    assert filled["colour"].tolist() == ["ultraviolet"]
    assert np.isfinite(filled["size"]).all()


def test_in_a_pipeline(untrained):
    X, y = load_iris(return_X_y=True)
    X[::3, 0] = np.nan
    pipeline = make_pipeline(PFNImputer(random_state=0, **untrained), LogisticRegression(max_iter=1000))
    assert pipeline.fit(X, y).score(X, y) > 0.9


X2 = np.arange(24.0).reshape(12, 2)


@pytest.mark.parametrize(
    ("arguments", "X", "error", "message"),
    [
        ({"n_passes": 0}, X2, ValueError, "n_passes=0 is not a positive integer"),
        ({"n_estimators": 0}, X2, ValueError, "n_estimators=0 is not a positive integer"),
        ({"device": "abacus"}, X2, ValueError, "device='abacus' is unknown to torch"),
        ({"regressor": "no-such-weights"}, X2, FileNotFoundError, "no bundled weights are called"),
        ({"regressor": "classifier"}, X2, ValueError, "model='classifier' is a classification network"),
        ({"categorical_features": ["a"]}, X2, ValueError, "categorical_features has 'a', but X has the 2 columns"),
        ({}, np.where(X2 > 20, np.inf, X2), ValueError, "contains infinity"),
        ({}, X2[:, 0], ValueError, "Expected 2D array, got 1D array"),
    ],
)
def test_bad_input_is_named(arguments, X, error, message):
    with pytest.raises(error, match=message):
        PFNImputer(**arguments).fit(X)


def test_bad_input_to_a_fitted_imputer_is_named(mixed, untrained):
    frame = mixed[["size", "colour"]]
    imputer = PFNImputer(**untrained).fit(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        imputer.transform(frame[["colour", "size"]])
    with pytest.raises(ValueError, match="column 'size' held numbers in fit but now holds 'big'"):
        imputer.transform(frame.assign(size="big"))
    with pytest.raises(ValueError, match="n_imputations=0 is not a positive integer"):
        imputer.sample(frame, n_imputations=0)
