"""TabRClassifier and TabRRegressor: scikit-learn's rules, and what must not matter does not."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator
from tabr_cases import BOTH, FAST, PAIR, N, said, target

from estimators import TabRClassifier, TabRRegressor


@pytest.mark.parametrize("make", [TabRClassifier, TabRRegressor])
def test_scikit_learn_is_content(make):
    check_estimator(make(n_estimators=1, embedding="none", width=32, context_size=32, learning_rate=1e-2, max_epochs=10),
                    on_skip=None)


class TestScikitLearn:
    @BOTH
    def test_clones_have_the_same_parameters(self, make, fitted):
        copied = clone(fitted[make])
        assert copied.get_params() == fitted[make].get_params()
        assert not hasattr(copied, "n_epochs_")
        assert clone(make()).set_params(width=8, dropout=0.1).get_params()["width"] == 8

    @BOTH
    def test_grid_search(self, make, frame):
        grid = GridSearchCV(make(**FAST), {"context_size": [2, 16]}, cv=2, error_score="raise")
        grid.fit(frame, target(make, frame))
        assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
        assert len(grid.predict(frame)) == N

    def test_classes_are_learnt(self):
        X, y = load_breast_cancer(return_X_y=True)
        clf = TabRClassifier(**FAST).fit(X[::2], np.array(["bad", "good"])[y[::2]])
        assert clf.classes_.tolist() == ["bad", "good"]
        p = clf.predict_proba(X[1::2])
        np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-12)
        np.testing.assert_array_equal(clf.predict(X[1::2]), clf.classes_[p.argmax(1)])
        assert clf.score(X[1::2], np.array(["bad", "good"])[y[1::2]]) > 0.93
        X, y = load_iris(return_X_y=True)
        assert TabRClassifier(**FAST).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.9

    def test_numbers_are_learnt_in_their_units(self):
        X, y = load_diabetes(return_X_y=True)
        reg = TabRRegressor(**FAST | {"max_epochs": 8}).fit(X[::2], y[::2])
        assert reg.score(X[1::2], y[1::2]) > 0.3
        moved = TabRRegressor(**FAST | {"max_epochs": 8}).fit(X[::2], 1024 * y[::2] - 2048)
        np.testing.assert_allclose(moved.predict(X), 1024 * reg.predict(X) - 2048, rtol=1e-3)

    @BOTH
    def test_a_progress_bar_counts_epochs(self, make, frame, capsys):
        make(**PAIR, progress=True).fit(frame, target(make, frame))
        shown = capsys.readouterr().err
        assert "network 1 of 2" in shown
        assert "network 2 of 2" in shown
        assert "4/4" in shown


@pytest.mark.parametrize("n", [1, 2, 5, 9, 10, 50, 97, 98])
@BOTH
def test_any_number_of_rows(make, n):
    rng = np.random.default_rng(n)
    X, y = rng.normal(size=(n, 3)), np.arange(n) % 3
    estimator = make(context_size=96, width=16, n_frequencies=2, max_epochs=2, random_state=0).fit(X, y)
    assert np.isfinite(said(estimator, rng.normal(size=(5, 3)))).all()
    weight, index = estimator.kneighbors(X)
    np.testing.assert_allclose(weight.sum(1), 1.0, atol=1e-5)
    assert index.shape[1] <= min(n, 2 * 96)
    assert (index < n).all()


class TestRandomness:
    @BOTH
    def test_seed_decides(self, make, frame, fitted):
        y = target(make, frame)
        same = make(**PAIR).fit(frame, y)
        np.testing.assert_array_equal(said(same, frame), said(fitted[make], frame))
        others = [make(**FAST | {"random_state": state}).fit(frame, y) for state in (1, None, None)]
        answers = [said(other, frame) for other in others]
        assert all((one != other).any() for i, one in enumerate(answers) for other in answers[:i])
        drawn = [make(**FAST | {"random_state": np.random.RandomState(5)}).fit(frame, y) for _ in range(2)]
        np.testing.assert_array_equal(*(said(one, frame) for one in drawn))

    @BOTH
    def test_global_states_stay(self, make, frame):
        np.random.seed(3)
        torch.manual_seed(3)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()
        estimator = make(**FAST).fit(frame, target(make, frame))
        said(estimator, frame)
        estimator.kneighbors(frame)
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])
        assert torch.equal(torch.get_rng_state(), before[1])

    def test_members_differ(self, frame, fitted):
        clf = fitted[TabRClassifier]
        alone = []
        for network in clf._networks:
            one = copy.copy(clf)
            one._networks, one._kept = [network], {}
            alone.append(one.predict_proba(frame))
        assert np.abs(alone[0] - alone[1]).max() > 0.01
        np.testing.assert_allclose(clf.predict_proba(frame), np.mean(alone, axis=0), atol=1e-12)
        assert len(clf.n_epochs_) == len(clf.validation_scores_) == 2


class TestInvariance:
    """To the last bit."""

    @pytest.mark.parametrize("context_size", [1, 16, 50, 96])
    @BOTH
    def test_a_row_alone_is_the_row_in_a_batch(self, make, frame, context_size):
        estimator = make(**FAST | {"context_size": context_size}).fit(frame, target(make, frame))
        queries = pd.concat([frame] * 3, ignore_index=True)         # 360, more than two blocks
        queries["weight"] += np.linspace(0, 1, len(queries))
        together = said(estimator, queries)
        alone = np.concatenate([said(estimator, queries.iloc[row : row + 1]) for row in range(0, 360, 29)])
        np.testing.assert_array_equal(alone, together[::29])
        order = np.random.default_rng(0).permutation(360)[:200]
        np.testing.assert_array_equal(said(estimator, queries.iloc[order]), together[order])

    @BOTH
    def test_order_of_training_rows(self, make, frame, fitted):
        order, y = np.random.default_rng(1).permutation(N), target(make, frame)
        shuffled = make(**PAIR).fit(frame.iloc[order], y[order])
        np.testing.assert_array_equal(said(shuffled, frame), said(fitted[make], frame))
        for part, expected in zip(shuffled.kneighbors(frame), fitted[make].kneighbors(frame), strict=True):
            np.testing.assert_array_equal(np.where(part < 0, -1, order[part]) if part.dtype == np.int64 else part, expected)

    @BOTH
    def test_weights_are_copies(self, make, frame):
        weight, y = np.random.default_rng(2).integers(0, 4, N), target(make, frame)
        weighted = make(**FAST).fit(frame, y, sample_weight=weight)
        rows = np.repeat(np.arange(N), weight)
        copies = make(**FAST).fit(frame.iloc[rows], y[rows])
        np.testing.assert_array_equal(said(weighted, frame), said(copies, frame))
        assert (said(weighted, frame) != said(make(**FAST).fit(frame, y), frame)).any()

    @BOTH
    def test_weight_zero_is_absent(self, make, frame):
        kept, y = np.random.default_rng(3).random(N) < 0.7, target(make, frame)
        weighted = make(**FAST).fit(frame, y, sample_weight=kept * 2.0)
        absent = make(**FAST).fit(frame[kept], y[kept])
        np.testing.assert_array_equal(said(weighted, frame), said(absent, frame))
        index, expected = (estimator.kneighbors(frame)[1] for estimator in (weighted, absent))
        np.testing.assert_array_equal(index, np.where(expected < 0, -1, np.flatnonzero(kept)[expected]))

    @BOTH
    def test_units_of_weights(self, make, frame, fitted):
        y = target(make, frame)
        for unit in (0.5, 2.0**-900, 2.0**900):
            scaled = make(**PAIR).fit(frame, y, sample_weight=np.full(N, unit))
            np.testing.assert_array_equal(said(scaled, frame), said(fitted[make], frame))

    def test_names_of_classes(self, frame, fitted):
        y = target(TabRClassifier, frame)
        renamed = TabRClassifier(**PAIR).fit(frame, np.searchsorted(["a", "b", "c"], y) - 7)
        np.testing.assert_array_equal(renamed.predict_proba(frame), fitted[TabRClassifier].predict_proba(frame))


BAD = {
    "context_size": [0, -1, 2.5, "all", True], "n_estimators": [0, 1.0], "embedding": ["plr", None],
    "n_frequencies": [0, 0.5],
    "frequency_scale": [0, -1.0, "a"], "embedding_width": [0, 1.5], "width": [0, None], "n_encoder_blocks": [-1, 1.5, True],
    "n_predictor_blocks": [-1, "1"],
    "dropout": [-0.1, 1.0, None], "context_dropout": [-0.1, 1, np.nan], "learning_rate": [0.0, -1, np.inf, "fast"],
    "weight_decay": [-1e-3, np.nan, np.inf], "batch_size": [0, "some", 2.5], "max_epochs": [0, 1e3], "patience": [0, None],
    "freeze_contexts_after": [0, "never", 1.5], "validation_fraction": [-0.1, 1.0, "a"],
    "time_limit": [0, -1, "1 h", np.nan], "device": ["nowhere"], "categorical_features": [[9], ["nothing"]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
@BOTH
def test_bad_parameters_are_named(make, frame, name, value):
    with pytest.raises(ValueError, match=name) as error:
        make(**FAST | {"max_epochs": 1} | {name: value}).fit(frame, target(make, frame))
    wrong = value[0] if isinstance(value, list) else value
    assert str(wrong) in str(error.value)


def test_every_parameter_is_checked():
    unchecked = {"progress", "random_state"}
    for make in (TabRClassifier, TabRRegressor):
        assert set(make().get_params()) == set(BAD) | unchecked | {"stopping"}


def test_unknown_stopping_is_named(frame):
    with pytest.raises(ValueError, match="stopping='rmse' is unknown; use 'loss' or 'error'"):
        TabRClassifier(stopping="rmse").fit(frame, target(TabRClassifier, frame))
