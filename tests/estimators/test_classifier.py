import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from estimators import PFNClassifier
from pfn import PFN, PFNConfig, load_pretrained


@parametrize_with_checks([PFNClassifier(n_estimators=2)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def mixed():
    """120 rows of every column type, with gaps; the class depends on a number, a string and a category."""
    rng = np.random.default_rng(0)
    n = 120
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=n),
            "count": pd.array(rng.integers(0, 9, n), dtype="Int64"),
            "flag": rng.random(n) < 0.5,
            "colour": rng.choice(["red", "green", "blue"], n),
            "grade": pd.Categorical(rng.choice(["a", "b", "c"], n), categories=["c", "b", "a", "never"]),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 1000, n), unit="D"),
            "empty": np.nan,
        }
    )
    y = np.where((frame["size"] > 0) ^ (frame["colour"] == "red").to_numpy(), "yes", "no")
    frame.loc[::7, "size"] = np.nan
    frame.loc[::11, "count"] = pd.NA
    frame.loc[::13, "colour"] = None
    frame.loc[3, "when"] = pd.NaT
    return frame, y


@pytest.mark.parametrize(
    ("load", "auc", "loss"), [(load_breast_cancer, 0.985, 0.16), (load_wine, 0.99, 0.2), (load_iris, 0.985, 0.2)]
)
def test_bundled_weights_classify_real_data(load, auc, loss):
    X, y = load(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.5, random_state=0, stratify=y)
    p = PFNClassifier(random_state=0).fit(X, y).predict_proba(X_test)
    score = roc_auc_score(y_test, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(y_test, p, multi_class="ovo")
    assert score > auc
    assert log_loss(y_test, p) < loss


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
class TestInvariance:
    """Nothing that ought not to matter does; to 1e-5, and to the last bit where the arithmetic allows."""

    @pytest.fixture
    def data(self):
        X, y = load_wine(return_X_y=True)
        X[::9, 2] = np.nan
        return X[::2], y[::2], X[1::2]

    def fit(self, X, y, precision):
        return PFNClassifier(random_state=0, precision=precision).fit(X, y)

    def test_row_alone_equals_row_in_a_batch(self, data, precision):
        X, y, X_test = data
        clf = self.fit(X, y, precision)
        together = clf.predict_proba(X_test)
        alone = np.vstack([clf.predict_proba(X_test[i : i + 1]) for i in range(0, len(X_test), 8)])
        np.testing.assert_allclose(alone, together[::8], atol=1e-5, rtol=0)

    def test_order_of_queries_permutes_the_answers(self, data, precision):
        X, y, X_test = data
        clf, order = self.fit(X, y, precision), np.random.default_rng(0).permutation(len(X_test))
        np.testing.assert_allclose(clf.predict_proba(X_test[order]), clf.predict_proba(X_test)[order], atol=1e-5, rtol=0)

    def test_order_of_context_rows_changes_nothing(self, data, precision):
        X, y, X_test = data
        order = np.random.default_rng(0).permutation(len(X))
        shuffled = self.fit(X[order], y[order], precision).predict_proba(X_test)
        np.testing.assert_array_equal(shuffled, self.fit(X, y, precision).predict_proba(X_test))

    def test_renaming_the_classes_changes_nothing(self, data, precision):
        X, y, X_test = data
        names = np.array(["zebra", "ant", "mole"])
        renamed = self.fit(X, names[y], precision)
        assert renamed.classes_.tolist() == ["ant", "mole", "zebra"]
        expected = self.fit(X, y, precision).predict_proba(X_test)
        np.testing.assert_array_equal(renamed.predict_proba(X_test), expected[:, [1, 2, 0]])

    def test_units_change_nothing(self, data, precision):
        X, y, X_test = data
        scaled = self.fit(1e3 * X + 1e6, y, precision).predict_proba(1e3 * X_test + 1e6)
        tolerance = 1e-3 if precision == "float32" else 0.05         # rounding of the cells, then of the layers
        np.testing.assert_allclose(scaled, self.fit(X, y, precision).predict_proba(X_test), atol=tolerance, rtol=0)


def test_scores_of_other_kinds_agree_with_the_probabilities():
    X, y = load_iris(return_X_y=True)
    clf = PFNClassifier(n_estimators=1, random_state=0).fit(X[::2], y[::2])
    np.testing.assert_allclose(np.exp(clf.predict_log_proba(X)), clf.predict_proba(X))
    np.testing.assert_array_equal(clf.decision_function(X), clf.predict_log_proba(X))
    binary = PFNClassifier(n_estimators=1, random_state=0).fit(X[::2], y[::2] == 1)
    p = binary.predict_proba(X)[:, 1]
    np.testing.assert_allclose(binary.decision_function(X), np.log(p / (1 - p)), atol=1e-6)
    assert np.isfinite(PFNClassifier(1, temperature=1e-3).fit(X, y).predict_log_proba(X)).all()


def test_precisions_agree():
    X, y = load_iris(return_X_y=True)
    classifiers = [PFNClassifier(random_state=0, precision=precision) for precision in ("float32", "bfloat16")]
    p = [clf.fit(X[::2], y[::2]).predict_proba(X[1::2]) for clf in classifiers]
    assert np.abs(p[0] - p[1]).mean() < 0.01


def test_mixed_columns_with_gaps(mixed):
    frame, y = mixed
    clf = PFNClassifier(random_state=0).fit(frame[:80], y[:80])
    assert clf.feature_names_in_.tolist() == list(frame.columns)
    assert clf.classes_.tolist() == ["no", "yes"]
    p = clf.predict_proba(frame[80:])
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1.0)
    assert clf.score(frame[80:], y[80:]) > 0.6


def test_object_arrays_are_read_like_frames(mixed):
    frame, y = mixed
    frame = frame[["size", "flag", "colour"]]
    expected = PFNClassifier(random_state=0).fit(frame[:80], y[:80]).predict_proba(frame[80:])
    array = frame.to_numpy(dtype=object)
    np.testing.assert_array_equal(PFNClassifier(random_state=0).fit(array[:80], y[:80]).predict_proba(array[80:]), expected)


def test_lists_of_numbers_and_strings():
    rows = [[1.5, "a"], [2.5, "b"], [None, "a"], [9.0, "b"]]
    clf = PFNClassifier(n_estimators=1, random_state=0).fit(rows, [0, 1, 0, 1])
    assert clf._encoder.categories_ == {1: {"a": 0, "b": 1}}
    assert np.isfinite(clf.predict_proba([[2.0, None]])).all()


def test_input_is_not_modified(mixed):
    frame, y = mixed
    before, labels = frame.copy(deep=True), y.copy()
    PFNClassifier(n_estimators=2).fit(frame, y).predict(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert (y == labels).all()


def test_unseen_category_counts_as_missing(mixed):
    frame, y = mixed
    clf = PFNClassifier(random_state=0).fit(frame, y)
    unseen, missing = frame[:3].copy(), frame[:3].copy()
    unseen["colour"], missing["colour"] = "ultraviolet", None
    np.testing.assert_array_equal(clf.predict_proba(unseen), clf.predict_proba(missing))


def test_columns_in_another_order_are_an_error(mixed):
    frame, y = mixed
    clf = PFNClassifier(n_estimators=1).fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        clf.predict(frame[frame.columns[::-1]])


def test_same_seed_same_answer_and_more_members_change_little():
    X, y = load_iris(return_X_y=True)
    p = [PFNClassifier(n, random_state=7).fit(X[::2], y[::2]).predict_proba(X[1::2]) for n in (1, 1, 8)]
    np.testing.assert_array_equal(p[0], p[1])
    assert (p[0].argmax(1) == p[2].argmax(1)).mean() > 0.9


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_handful_of_rows(n):
    X, y = load_iris(return_X_y=True)
    rows = [0, 50, 100, 1, 51][:n]
    p = PFNClassifier(random_state=0).fit(X[rows], y[rows]).predict_proba(X)
    assert p.shape == (150, min(n, 3))
    assert np.isfinite(p).all()


def test_long_and_wide_tables_are_subsampled():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(700, 120))
    y = (X[:, 0] > 0) + 2 * (rng.random(700) < 0.01)
    clf = PFNClassifier(n_estimators=2, context="subsample", max_context=100, random_state=0).fit(X, y)
    for view in clf._views:
        rows = view.cells[0].rows
        assert len(rows) == 100
        assert len(view.columns) == clf.model_.card.envelope.max_features
        assert set(clf._table.y[rows]) == set(range(4))              # rare classes are kept
    assert set(np.concatenate([view.columns for view in clf._views])) >= set(range(120))
    assert clf.predict_proba(X[:5]).shape == (5, 4)


def test_in_a_pipeline_and_a_grid_search():
    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), PFNClassifier(random_state=0)), {"pfnclassifier__n_estimators": [1, 2]}, cv=2
    )
    assert search.fit(X, y).best_score_ > 0.9
    assert cross_val_score(PFNClassifier(1, random_state=0), X, y, cv=2).mean() > 0.9


def test_pickle_of_a_fitted_estimator_predicts_the_same():
    X, y = load_iris(return_X_y=True)
    clf = PFNClassifier(random_state=0).fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), clf.predict_proba(X))


def test_a_network_of_ones_own_is_left_as_it_is():
    model = load_pretrained("classifier")
    clf = PFNClassifier(model=model, precision="bfloat16", n_estimators=1).fit([[0.0], [1.0]], [0, 1])
    assert next(model.parameters()).dtype == torch.float32
    assert clf.predict([[0.9]]).shape == (1,)
    assert clone(clf).model is not clf.model_


X2 = np.arange(24.0).reshape(12, 2)


@pytest.mark.parametrize(
    ("arguments", "X", "y", "error", "message"),
    [
        ({}, X2, np.linspace(0, 1, 12), ValueError, "Unknown label type: continuous"),
        ({}, X2, None, ValueError, "requires y to be passed, but the target y is None"),
        ({}, X2, [0, 1], ValueError, "inconsistent numbers of samples"),
        ({}, X2, [np.nan] + [1.0] * 11, ValueError, "y contains NaN"),
        ({}, np.where(X2 > 20, np.inf, X2), [0, 1] * 6, ValueError, "contains infinity"),
        ({}, pd.DataFrame({"a": ["x"] * 12, "b": [np.inf] * 12}), [0, 1] * 6, ValueError, "contains infinity: row 0"),
        ({}, sparse.csr_matrix(X2), [0, 1] * 6, TypeError, "[Ss]parse"),
        ({}, X2 + 1j, [0, 1] * 6, ValueError, "Complex data not supported"),
        ({}, X2[:, :0], [0, 1] * 6, ValueError, r"0 feature\(s\)"),
        ({}, X2[:, 0], [0, 1] * 6, ValueError, "Expected 2D array, got 1D array"),
        ({"n_estimators": 0}, X2, [0, 1] * 6, ValueError, "n_estimators=0 is not a positive integer"),
        ({"context": "global"}, X2, [0, 1] * 6, ValueError, "context='global' is unknown; use one of 'auto', 'full'"),
        ({"memory_limit": 0}, X2, [0, 1] * 6, ValueError, "memory_limit=0 is no positive number of GiB"),
        ({"max_context": 1.5}, X2, [0, 1] * 6, ValueError, "max_context=1.5 is not a positive integer"),
        ({"temperature": 0.0}, X2, [0, 1] * 6, ValueError, "temperature=0.0 is neither 'auto' nor a positive number"),
        ({"precision": "float16"}, X2, [0, 1] * 6, ValueError, "precision='float16' is unknown"),
        ({"device": "abacus"}, X2, [0, 1] * 6, ValueError, "device='abacus' is unknown to torch"),
        ({"model": "no-such-weights"}, X2, [0, 1] * 6, FileNotFoundError, "no bundled weights are called"),
    ],
)
def test_bad_input_is_named(arguments, X, y, error, message):
    with pytest.raises(error, match=message):
        PFNClassifier(**arguments).fit(X, y)


def test_a_regression_network_is_refused():
    model = PFN(PFNConfig(task="regression", n_outputs=8, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32))
    with pytest.raises(ValueError, match="is a regression network; use one that classifies"):
        PFNClassifier(model=model).fit(X2, [0, 1] * 6)


def test_numbers_in_fit_and_text_in_predict_is_an_error():
    clf = PFNClassifier(n_estimators=1).fit(pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), [0, 1])
    with pytest.raises(ValueError, match="column 'a' held numbers in fit but now holds 'text'"):
        clf.predict(pd.DataFrame({"a": ["text"], "b": ["x"]}))
