"""What test_hostile_inputs.py passes to the PFN estimators does TabR no harm either, and what only TabR is asked."""

import copy

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning, NotFittedError
from test_hostile_inputs import (
    BAD_TABLES,
    BAD_TARGETS,
    IDLE,
    LABEL,
    LABELS,
    SIGNAL,
    TABLES,
    TARGETS,
    TWO,
    UNITS,
    N,
    beside_signal,
    classifier,
)

from estimators import TabRClassifier, TabRRegressor

FAST = {"n_estimators": 1, "embedding": "periodic", "n_frequencies": 4, "embedding_width": 4, "width": 32, "dropout": 0.0,
        "context_size": 16, "context_dropout": 0.0, "learning_rate": 1e-2, "max_epochs": 20, "validation_fraction": 0.0,
        "random_state": 0}
BOTH = pytest.mark.parametrize("make", [TabRClassifier, TabRRegressor])


def assert_classifies(X, y=LABEL, accuracy=0.9, **changes):
    """Probabilities are probabilities, classes are those of y, and most of the answers are right."""
    clf = TabRClassifier(**FAST | changes).fit(X, y)
    p, predicted = clf.predict_proba(X), clf.predict(X)
    assert p.shape == (len(y), len(np.unique(y)))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(predicted, clf.classes_[p.argmax(1)])
    assert np.mean(predicted == np.asarray(y)) >= accuracy
    return p


def assert_regresses(X, y=SIGNAL, error=0.4, **changes):
    """Predictions are within a share of the targets' spread, RMSE."""
    predicted, y = TabRRegressor(**FAST | changes).fit(X, y).predict(X), np.asarray(y, dtype=np.float64)
    assert predicted.shape == y.shape
    unit = np.abs(y - y.mean()).max()
    assert np.sqrt(np.mean(((predicted - y) / unit) ** 2)) <= error


@pytest.mark.parametrize("column", IDLE.values(), ids=IDLE)
def test_idle_column_does_no_harm(column):
    X = beside_signal(column)
    assert_classifies(X)
    assert_regresses(X)


@pytest.mark.parametrize("column", UNITS.values(), ids=UNITS)
def test_signal_is_seen_in_any_unit(column):
    X = pd.DataFrame({"only": column})
    assert_classifies(X)
    assert_regresses(X, error=0.7)


@pytest.mark.parametrize("X", TABLES.values(), ids=TABLES)
def test_table_is_read(X):
    assert_classifies(X, accuracy=0.8)


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
def test_labels_of_any_type(y):
    assert_classifies(TWO, y, accuracy=0.85 if len(np.unique(y)) < 10 else 0.3)


@pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS)
def test_targets_of_any_scale(y):
    assert_regresses(TWO, y, error=0.5)


@pytest.mark.parametrize(("X", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
@BOTH
def test_bad_table_is_named(make, X, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**FAST).fit(X, LABEL if make is TabRClassifier else SIGNAL)


@pytest.mark.parametrize(("kind", "y", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_bad_target_is_named(kind, y, message):
    make = TabRClassifier if kind is classifier else TabRRegressor
    with pytest.raises((ValueError, TypeError), match=message.replace("PFN", "TabR")):
        make(**FAST).fit(TWO, y)


@BOTH
def test_column_vector_warns_and_works(make):
    y = LABEL if make is TabRClassifier else SIGNAL
    with pytest.warns(DataConversionWarning, match="column-vector y was passed"):
        estimator = make(**FAST).fit(TWO, y[:, None])
    np.testing.assert_array_equal(estimator.predict(TWO), make(**FAST).fit(TWO, y).predict(TWO))
    with pytest.warns(DataConversionWarning, match="column-vector y was passed"):
        estimator.add_candidates(TWO, y[:, None])


class TestDegenerateTables:
    def test_equal_rows_with_different_labels_share_the_probability(self):
        """Each sees all copies but one, which are nearly the same shares."""
        p = assert_classifies(np.ones((N, 2)), np.array([0, 0, 0, 1] * (N // 4)), accuracy=0.0, max_epochs=100)
        np.testing.assert_allclose(p, [[0.75, 0.25]] * N, atol=0.15)
        reg = TabRRegressor(**FAST | {"max_epochs": 100}).fit(np.ones((N, 2)), [0.0, 1.0] * (N // 2))
        np.testing.assert_allclose(reg.predict(np.ones((1, 2))), 0.5, atol=0.15)

    def test_few_distinct_rows(self):
        """A table of flags, a tenth of its labels wrong."""
        for n_columns in (1, 2, 3):
            rng = np.random.default_rng(0)
            X = rng.integers(0, 2, (600, n_columns)).astype(float)
            truth = X.sum(1) > n_columns / 2
            changes = FAST | {"max_epochs": 20, "validation_fraction": 0.2}
            clf = TabRClassifier(**changes).fit(X[:300], truth[:300] ^ (rng.random(300) < 0.1))
            assert clf.score(X[300:], truth[300:]) > 0.95

    def test_one_class(self):
        clf = TabRClassifier(**FAST).fit(TWO, np.full(N, 7))
        np.testing.assert_array_equal(clf.predict_proba(TWO), np.ones((N, 1)))
        np.testing.assert_array_equal(clf.predict(TWO), np.full(N, 7))
        np.testing.assert_allclose(clf.kneighbors(TWO)[0].sum(1), 1.0, atol=1e-5)

    def test_constant_target(self):
        np.testing.assert_allclose(TabRRegressor(**FAST).fit(TWO, np.full(N, 7.0)).predict(TWO), 7.0, atol=0.3)

    @pytest.mark.parametrize("fraction", [0.0, 0.5])
    def test_classes_with_one_row(self, fraction):
        y = np.r_[np.zeros(N - 3), 1, 2, 3].astype(int)
        p = assert_classifies(TWO, y, accuracy=0.8, validation_fraction=fraction)
        assert p.shape == (N, 4)

    @pytest.mark.parametrize("X", [np.ones((N, 3)), np.full((N, 2), np.nan), np.where(np.eye(N, 1), 1.0, np.nan)],
                             ids=["constant", "missing", "one cell"])
    @BOTH
    def test_tables_without_information(self, make, X):
        estimator = make(**FAST | {"max_epochs": 2, "validation_fraction": 0.2}).fit(X, np.arange(N) % 2)
        answer = estimator.predict_proba(X) if make is TabRClassifier else estimator.predict(X)
        assert np.isfinite(answer).all()

    @BOTH
    def test_copies_of_two_rows(self, make):
        """Two distinct rows, however often: too few for validation."""
        X, y = np.tile([[0.0, 1.0], [1.0, 0.0]], (50, 1)), np.tile([0, 1], 50)
        estimator = make(**FAST | {"max_epochs": 2, "validation_fraction": 0.2}).fit(X, y)
        assert len(estimator._rows) == 2
        assert set(estimator.kneighbors(X)[1].ravel()) == {0, 1}

    def test_more_levels_than_columns_for_them(self):
        X = pd.DataFrame({"signal": np.tile(SIGNAL, 10), "name": [f"name {i % 200}" for i in range(10 * N)]})
        clf = TabRClassifier(**FAST).fit(X, np.tile(LABEL, 10))
        assert clf.score(X, np.tile(LABEL, 10)) > 0.9
        assert np.isfinite(clf.predict_proba(X.assign(name="unseen"))).all()
        assert np.isfinite(clf.predict_proba(X.assign(name=None))).all()

    @pytest.mark.parametrize("declared", [[1], ["kind"], [False, True]], ids=str)
    def test_declared_categories(self, declared):
        """Codes whose order says nothing, which a category says exactly."""
        kind = np.random.default_rng(0).integers(0, 12, 300)
        frame = pd.DataFrame({"idle": np.arange(300) % 7, "kind": kind})
        y = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0])[kind]
        changes = FAST | {"categorical_features": declared, "context_dropout": 0.3}
        clf = TabRClassifier(**changes).fit(frame, y)
        assert clf.score(frame, y) == 1.0
        assert clf._table.levels_[1].tolist() == list(range(12))
        expected = TabRClassifier(**FAST | {"context_dropout": 0.3}).fit(frame.assign(kind=[f"{k:02}-" for k in kind]), y)
        np.testing.assert_array_equal(
            clf.predict_proba(frame), expected.predict_proba(frame.assign(kind=[f"{k:02}-" for k in kind]))
        )


class TestWeights:
    @pytest.mark.parametrize(("weight", "message"), [
        (np.zeros(N), "at least one non-zero|zero for every row"), (-np.ones(N), "[Nn]egative"),
        (np.ones(N - 1), "sample_weight"),
        (np.full(N, np.nan), "NaN"), (np.full(N, np.inf), "infinity"), (np.ones((N, 2)), "1D array"),
    ])
    @BOTH
    def test_bad_weights_are_named(self, make, weight, message):
        with pytest.raises(ValueError, match=message):
            make(**FAST).fit(TWO, LABEL if make is TabRClassifier else SIGNAL, sample_weight=weight)

    @pytest.mark.parametrize("heavy", [1e-300, 1e-60, 1e60, 1e300])
    @BOTH
    def test_weights_beyond_float32(self, make, heavy):
        weight = np.where(np.arange(N) == 5, heavy, 1.0)
        changes = FAST | {"batch_size": 4, "max_epochs": 3, "validation_fraction": 0.3}
        estimator = make(**changes).fit(TWO, LABEL if make is TabRClassifier else SIGNAL, sample_weight=weight)
        answer = estimator.predict_proba(TWO) if make is TabRClassifier else estimator.predict(TWO)
        assert np.isfinite(answer).all()

    def test_one_row_with_weight(self):
        clf = TabRClassifier(**FAST).fit(TWO, LABEL, sample_weight=np.eye(N)[3])
        assert clf.classes_.tolist() == [LABEL[3]]
        np.testing.assert_array_equal(clf.kneighbors(TWO), [np.ones((N, 1)), np.full((N, 1), 3)])


class TestValidationRows:
    @BOTH
    @pytest.mark.parametrize(("change", "message"), [
        ({"y_val": None}, "X_val and y_val belong together"), ({"X_val": None}, "X_val and y_val belong together"),
        ({"X_val": TWO[:3]}, "inconsistent numbers of samples"), ({"X_val": TWO[:, :1]}, "1 features"),
        ({"X_val": TWO[:0], "y_val": []}, r"0 sample\(s\)"), ({"y_val": [None] * N}, "contains NaN, None"),
        ({"y_val": ["neither"] * N}, "label 'neither' in row 0, which fit did not see|y is not numeric"),
    ], ids=str)
    def test_bad_ones_are_named(self, make, change, message):
        y = LABEL if make is TabRClassifier else SIGNAL
        with pytest.raises(ValueError, match=message):
            make(**FAST).fit(TWO, y, **{"X_val": TWO, "y_val": y} | change)

    def test_they_never_become_candidates(self):
        clf = TabRClassifier(**FAST).fit(TWO[:12], LABEL[:12], X_val=TWO[12:], y_val=LABEL[12:])
        assert clf.kneighbors(TWO)[1].max() == 11
        one = TabRClassifier(**FAST).fit(TWO, LABEL, X_val=TWO[:1], y_val=LABEL[:1])
        assert np.isfinite(one.predict_proba(TWO)).all()


@pytest.fixture(scope="module")
def fitted():
    frame = pd.DataFrame({"signal": SIGNAL, "kind": ["a", "b"] * (N // 2)})
    return TabRClassifier(**FAST | {"max_epochs": 2}).fit(frame, LABEL), frame


class TestQueries:
    @pytest.mark.parametrize("ask", ["predict", "predict_proba", "kneighbors"])
    def test_bad_queries_are_named(self, fitted, ask):
        clf, frame = fitted
        for X, message in ((frame[["signal"]], "feature names"), (frame[["kind", "signal"]], "feature names"),
                           (frame.assign(signal="x"), "held numbers in fit"), (frame.assign(signal=np.inf), "infinity")):
            with pytest.raises(ValueError, match=message):
                getattr(clf, ask)(X)
        with pytest.raises(NotFittedError):
            getattr(TabRClassifier(), ask)(frame)
        with pytest.raises(NotFittedError):
            TabRClassifier().add_candidates(frame, LABEL)

    def test_hostile_cells_of_queries(self, fitted):
        clf, frame = fitted
        for changes in ({"kind": "unseen"}, {"kind": None}, {"signal": np.nan}, {"signal": 1e308}, {"signal": -1e308},
                        {"signal": None}, {"kind": 3}):
            assert np.isfinite(clf.predict_proba(frame.assign(**changes))).all()
        shuffled = pd.DataFrame(frame.to_numpy(), columns=frame.columns, index=np.arange(N)[::-1])
        np.testing.assert_array_equal(clf.predict_proba(shuffled), clf.predict_proba(frame))

    def test_queries_and_table_are_not_changed(self, fitted):
        clf, frame = fitted
        before, estimator = frame.copy(), copy.deepcopy(clf)
        estimator.predict(frame)
        estimator.kneighbors(frame)
        estimator.add_candidates(frame, LABEL)
        pd.testing.assert_frame_equal(frame, before)
        X, y, weight = TWO.copy(), SIGNAL.copy(), np.arange(1.0, N + 1)
        for array in (X, y, weight):
            array.flags.writeable = False
        TabRRegressor(**FAST | {"max_epochs": 1}).fit(X, y, weight).add_candidates(X, y, weight)

    def test_fitting_again_forgets(self, fitted):
        clf, frame = fitted
        again = copy.deepcopy(clf).add_candidates(frame, LABEL)
        again.predict(frame)
        again.fit(frame, LABEL)
        np.testing.assert_array_equal(again.predict_proba(frame), clf.predict_proba(frame))
        again.fit(TWO[:, :1], np.arange(N) % 3)
        assert again.predict_proba(TWO[:, :1]).shape == (N, 3)
