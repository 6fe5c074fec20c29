"""TabRClassifier and TabRRegressor: what must not matter does not, what is kept is right, training stops where it should."""

import copy
import pickle
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import safe_open, save_file
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator
from test_tabr_network import answer, shares

from estimators import TabRClassifier, TabRRegressor, tabr_training
from pfn.checkpoint import CheckpointError

FAST = {"n_estimators": 1, "embedding": "periodic", "n_frequencies": 4, "embedding_width": 4, "width": 32,
        "context_size": 16, "learning_rate": 1e-2, "max_epochs": 4, "patience": 16, "random_state": 0}
PAIR = FAST | {"n_estimators": 2, "embedding": "alternate"}
# Keys far enough apart for a network to tell rows by them, and nothing between neighbours and output.
SHARP = {"n_estimators": 1, "embedding": "none", "width": 32, "context_size": 4, "dropout": 0.0, "context_dropout": 0.0,
         "n_predictor_blocks": 0, "learning_rate": 1e-2, "max_epochs": 12, "random_state": 0}
BOTH = pytest.mark.parametrize("make", [TabRClassifier, TabRRegressor])
N = 120


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=N), "weight": rng.exponential(size=N), "flag": rng.random(N) < 0.5,
                          "colour": rng.choice(["red", "green", None], N)})
    frame.loc[::7, "size"] = np.nan
    return frame


def target(make, frame):
    """Three classes, or a number."""
    value = frame["size"].fillna(0) + (frame["colour"] == "red") + 0.3 * frame["weight"]
    return value.to_numpy() if make is TabRRegressor else np.array(["a", "b", "c"])[np.digitize(value, [0.3, 1.0])]


def said(estimator, X, **kwargs):
    """The estimator's full answer."""
    return (estimator.predict_proba if isinstance(estimator, TabRClassifier) else estimator.predict)(X, **kwargs)


@pytest.fixture(scope="module")
def fitted(frame):
    """Both, of two networks; not to be changed."""
    return {make: make(**PAIR).fit(frame, target(make, frame)) for make in (TabRClassifier, TabRRegressor)}


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


class TestCandidates:
    @BOTH
    def test_a_new_cluster_has_the_labels_that_it_is_given(self, make):
        rng = np.random.default_rng(0)
        centers, labels = rng.normal(size=(41, 8)), rng.integers(0, 2, 40)
        X = np.repeat(centers, 10, axis=0) + 0.01 * rng.normal(size=(410, 8))
        X, cluster = X[:400], X[400:]
        estimator = make(**SHARP).fit(X, np.repeat(labels, 10))
        for label in (0, 1):
            more = copy.deepcopy(estimator)
            assert more.add_candidates(cluster[:5], np.full(5, label)) is more
            assert (np.abs(more.predict(cluster) - label) < 0.4).all()
            np.testing.assert_array_equal(said(more, X), said(estimator, X))
            weight, index = more.kneighbors(cluster)
            assert (weight * (index >= 400)).sum(1).min() > 0.9
            assert index.max() == 404
            assert (weight[index == 400 + np.arange(10)[:, None]] > 0.2).sum() == 5          # each knows itself

    def test_weights_are_relative_to_those_of_fit(self, frame):
        y = target(TabRClassifier, frame)
        one, other = (TabRClassifier(**FAST).fit(frame, y, sample_weight=np.full(N, unit)) for unit in (1.0, 4.0))
        new = frame.iloc[:10].assign(weight=1.0)
        one.add_candidates(new, ["a"] * 10, sample_weight=np.full(10, 2.0))
        other.add_candidates(new, ["a"] * 10, sample_weight=np.full(10, 8.0))
        np.testing.assert_array_equal(one.predict_proba(new), other.predict_proba(new))
        plain = TabRClassifier(**FAST).fit(frame, y).add_candidates(new, ["a"] * 10)
        assert (plain.predict_proba(new)[:, 0] < one.predict_proba(new)[:, 0]).any()

    def test_numbers_go_on_after_all_rows_of_fit(self, frame):
        y, weight = target(TabRClassifier, frame), np.ones(N)
        weight[-5:] = 0
        clf = TabRClassifier(**FAST).fit(frame, y, sample_weight=weight)
        clf.add_candidates(frame.iloc[-5:-2], y[-5:-2]).add_candidates(frame.iloc[-2:], y[-2:])
        weight, index = clf.kneighbors(frame.iloc[-5:])
        assert [row in found for row, found in zip(range(N, N + 5), index, strict=True)] == [True] * 5

    @BOTH
    @pytest.mark.parametrize(("change", "message"), [
        ({"y": ["d"] * 5}, "label 'd' in row 0, which fit did not see|y is not numeric"),
        ({"y": ["a"] * 4}, "inconsistent numbers"), ({"y": [None] * 5}, "contains NaN, None"),
        ({"X": pd.DataFrame({"size": [1.0] * 5})}, "feature names"),
        ({"sample_weight": np.zeros(5)}, "sample_weight must be 5 positive"),
        ({"sample_weight": [1.0]}, "sample_weight must"), ({"sample_weight": [np.nan] * 5}, "sample_weight must"),
    ])
    def test_bad_rows_change_nothing(self, make, fitted, frame, change, message):
        estimator = fitted[make]
        before, rows = said(estimator, frame), len(estimator._rows)
        good = {"X": frame.iloc[:5], "y": target(make, frame)[:5]}
        with pytest.raises(ValueError, match=message):
            estimator.add_candidates(**good | change)
        np.testing.assert_array_equal(said(estimator, frame), before)
        assert len(estimator._rows) == rows


def within(rows):
    """A mask that admits these candidates."""
    return lambda queries, candidates: np.broadcast_to(np.isin(candidates, rows), (len(queries), len(candidates)))


def nobody(queries, candidates):
    return np.zeros((len(queries), len(candidates)), dtype=bool)


class TestMasks:
    @BOTH
    def test_predictions_use_what_is_admitted(self, make, frame, fitted):
        estimator = fitted[make]
        index = estimator.kneighbors(frame, candidate_mask=within(range(20, 40)))[1]
        assert set(index[index >= 0]) <= set(range(20, 40))
        more = copy.deepcopy(estimator).add_candidates(frame.assign(weight=0.5), target(make, frame))
        assert (said(more, frame) != said(estimator, frame)).any()
        np.testing.assert_array_equal(said(more, frame, candidate_mask=within(range(N))), said(estimator, frame))

    @BOTH
    def test_queries_have_the_numbers_of_their_rows(self, make, frame, fitted):
        estimator, queries = fitted[make], pd.concat([frame] * 3)
        index = estimator.kneighbors(queries, candidate_mask=lambda rows, candidates: rows[:, None] // 3 == candidates)[1]
        np.testing.assert_array_equal(index[:, 0], np.arange(3 * N) // 3)
        assert index.shape[1] == 1

    @BOTH
    def test_without_candidates(self, make, frame, fitted):
        estimator = fitted[make]
        alone = said(estimator, frame, candidate_mask=nobody)
        assert np.isfinite(alone).all()
        assert (alone != said(estimator, frame)).any()
        more = copy.deepcopy(estimator).add_candidates(frame, target(make, frame)[::-1])
        np.testing.assert_array_equal(said(more, frame, candidate_mask=nobody), alone)
        assert estimator.kneighbors(frame, candidate_mask=nobody)[0].shape == (N, 0)
        weight, index = estimator.kneighbors(frame, 3, candidate_mask=nobody)
        assert not weight.any()
        assert (index == -1).all()

    @BOTH
    def test_training_without_candidates(self, make, frame):
        estimator = make(**FAST).fit(frame, target(make, frame), candidate_mask=nobody)
        assert np.isfinite(said(estimator, frame)).all()

    def test_fit_asks_by_the_numbers_of_the_rows(self, frame):
        """Training rows about training rows, validation rows about training rows; only earlier ones are seen."""
        y, asked = target(TabRRegressor, frame), set()
        weight = np.ones(N)
        weight[:10] = 0

        def earlier(rows, candidates):
            asked.update((row, candidate) for row in rows.tolist() for candidate in candidates.tolist())
            return rows[:, None] > candidates

        TabRRegressor(**FAST).fit(frame, y, weight, X_val=frame[:30], y_val=y[:30], candidate_mask=earlier)
        assert {row for row, _ in asked} == set(range(10, N + 30))
        assert {candidate for _, candidate in asked} == set(range(10, N))

    @pytest.mark.parametrize("fraction", [0.0, 0.2])
    def test_what_is_masked_cannot_be_learnt_from(self, fraction):
        """Rows come in pairs with one random label; who sees the other of the pair knows the label."""
        rng = np.random.default_rng(0)
        X, y = np.repeat(rng.normal(size=(150, 8)), 2, axis=0), np.repeat(rng.integers(0, 2, 150), 2)
        X, pair, order = X + 1e-2 * rng.normal(size=X.shape), np.arange(300) // 2, rng.permutation(300)
        X, y, pair = X[order], y[order], pair[order]
        clf = TabRClassifier(**SHARP, validation_fraction=fraction)
        assert clf.fit(X, y).validation_scores_[0].min() < (0.05 if fraction == 0 else 0.4)
        clf.fit(X, y, candidate_mask=lambda rows, candidates: pair[rows][:, None] != pair[candidates])
        assert clf.validation_scores_[0].min() > 0.15

    @pytest.mark.parametrize(("mask", "message"), [
        (lambda rows, candidates: np.ones((len(rows), len(candidates))), "candidate_mask returned float64"),
        (lambda rows, candidates: candidates > 3, "return a boolean array of shape"),
        (lambda rows, candidates: (rows[:, None] > candidates).T, "candidate_mask returned bool of shape"),
        (lambda rows, candidates: None, "candidate_mask returned object"),
    ])
    def test_bad_masks_are_named(self, frame, fitted, mask, message):
        clf, y = fitted[TabRClassifier], target(TabRClassifier, frame)
        for ask in (clf.predict, clf.predict_proba, clf.kneighbors):
            with pytest.raises(ValueError, match=message):
                ask(frame[:7], candidate_mask=mask)
        with pytest.raises(ValueError, match=message):
            clone(clf).fit(frame, y, candidate_mask=mask)


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    return rng.normal(size=(150, 8)), rng.integers(0, 2, 150), rng.normal(size=150)


class TestLeaks:
    def scores(self, noise, **changes):
        """Best scores in training mode, of labels and of targets that X says nothing about."""
        X, label, number = noise
        changes = SHARP | {"validation_fraction": 0.0} | changes
        return [float(make(**changes).fit(X, y).validation_scores_[0].min())
                for make, y in ((TabRClassifier, label), (TabRRegressor, number))]

    def test_noise_is_not_learnt(self, noise, monkeypatch):
        """A network that saw its own labels would be right about nearly all, as the same network shows."""
        log_loss_, rmse = self.scores(noise)
        assert log_loss_ > 0.3
        assert rmse > 0.6
        everyone = lambda rows, allowed: lambda q, c: torch.ones(len(q), len(c), dtype=torch.bool)  # noqa: E731
        log_weights = tabr_training.log_weights
        monkeypatch.setattr(tabr_training, "_apart", everyone)
        monkeypatch.setattr(tabr_training, "log_weights", lambda rows, index, batch=None: log_weights(rows, index))
        log_loss_, rmse = self.scores(noise)
        assert log_loss_ < 0.05
        assert rmse < 0.3

    def test_copies_do_not_straddle_the_split(self, noise):
        log_loss_, rmse = self.scores([np.repeat(part, 3, axis=0) for part in noise], validation_fraction=0.2)
        assert log_loss_ > 0.6
        assert rmse > 0.8

    def test_copies_see_each_other(self, noise):
        log_loss_, rmse = self.scores([np.repeat(part, 3, axis=0) for part in noise])
        assert log_loss_ < 0.1
        assert rmse < 0.3

    def test_weights_do_not_give_labels_away(self, noise):
        X, label, number = noise
        fractions = 1.5 + np.arange(len(label))
        for make, y, weight in (
            (TabRClassifier, label, 1 + 9 * label), (TabRClassifier, label, fractions), (TabRRegressor, number, fractions),
        ):
            assert not make(**SHARP).fit(X, y, sample_weight=weight)._rows.others.any()

    @BOTH
    def test_the_own_label_never_reaches_the_own_prediction(self, make):
        """Labels of rows are changed one by one; 20 rows have copies with other labels."""
        rng = np.random.default_rng(0)
        X = np.concatenate([rng.normal(size=(40, 3)), np.zeros((3, 3))])
        X = np.concatenate([X, X[:20]])
        y = np.concatenate([rng.integers(0, 3, 40), [0, 1, 2]])
        y = np.concatenate([y, (y[:20] + 1) % 3])
        estimator = make(**FAST).fit(X, y)
        rows, network = estimator._rows, estimator._networks[0]
        plan, everyone = estimator._plan(len(rows)), torch.arange(len(rows))
        assert not rows.others.any()
        apart = tabr_training._apart(rows, None)
        index = tabr_training._contexts(network, rows, everyone, plan.context_size, apart)
        assert not (index == everyone.unsqueeze(1)).any()

        def outputs():
            log_weight = tabr_training.log_weights(rows, index, everyone)
            return tabr_training.mixed(network, rows.x, rows, index, log_weight, torch.Generator().manual_seed(0))

        before, reached = outputs(), 0
        for row in range(len(rows)):
            label = rows.label[row].clone()
            rows.label[row] = label + 1 if make is TabRRegressor else (label + 1) % 3
            again = tabr_training._contexts(network, rows, everyone, plan.context_size, apart)
            after = outputs()
            rows.label[row] = label
            assert torch.equal(again, index)
            assert torch.equal(after[row], before[row])
            changed = (after != before).any(1)
            assert (index[changed] == row).any(1).all()
            reached += bool(changed.any())
        assert reached > 30                                         # most labels do reach others

    def test_validation_rows_do_not_see_themselves(self):
        """Judged by training rows when there are fewer than ten, each without itself."""
        X, y = np.eye(9)[:, :8], np.array([0, 1, 0, 1, 0, 1, 0, 1, 0])
        clf = TabRClassifier(**SHARP).fit(X, y)
        rows, network = clf._rows, clf._networks[0]
        plan, score = clf._plan(9), []
        for apart in (tabr_training._apart(rows, None), None):
            score.append(tabr_training._score(network, rows, rows[torch.arange(0)], plan, apart, None))
        assert score[0] == pytest.approx(clf.validation_scores_[0].min(), rel=1e-5)
        assert score[0] != score[1]


class TestNeighbours:
    @BOTH
    @pytest.mark.parametrize("weighted", [False, True])
    def test_weights_are_those_of_the_forward_pass(self, make, frame, weighted):
        y = target(make, frame)
        weight = np.random.default_rng(0).integers(0, 4, N) if weighted else np.ones(N)
        estimator = make(**FAST).fit(frame, y, sample_weight=weight)
        found, index = estimator.kneighbors(frame)
        np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-5)
        assert (np.diff(found, axis=1) <= 0).all()
        assert (weight[index[index >= 0]] > 0).all()
        # The equations, written down plainly, for all candidates of which any row sees 16.
        network, rows = copy.deepcopy(estimator._networks[0]).double(), estimator._rows
        x = torch.from_numpy(estimator._table.transform(frame)).double()
        candidates, label = rows.x.double(), rows.label if make is TabRClassifier else rows.label.double()
        distance = torch.cdist(network.keys(x), network.keys(candidates))
        nearest = distance.argsort(dim=1, stable=True)[:, :16]
        exact = shares(network, x, candidates, nearest, rows.weight.double()).numpy()
        dense, expected = np.zeros((N, N)), np.zeros((N, N))
        np.put_along_axis(expected, estimator._row_numbers[nearest.numpy()], exact, axis=1)
        for row in range(N):
            dense[row, index[row, index[row] >= 0]] = found[row, index[row] >= 0]
        np.testing.assert_allclose(dense, expected, atol=1e-5)
        output = answer(network, x, candidates, label, nearest, rows.weight.double())
        if make is TabRClassifier:
            np.testing.assert_allclose(estimator.predict_proba(frame), output.softmax(1).numpy(), atol=1e-4)
        else:
            np.testing.assert_allclose((estimator.predict(frame) - np.average(y, weights=weight)) / estimator._scale,
                                       output[:, 0].numpy(), atol=1e-4)

    @BOTH
    def test_a_training_row_is_its_own_nearest(self, make, frame, fitted):
        weight, index = fitted[make].kneighbors(frame)
        own = (index == np.arange(N)[:, None])
        assert own.any(1).all()
        assert (weight[own] >= weight[:, 0] - 1e-6).all()

    @BOTH
    def test_the_first_of_equal_rows_stands_for_all(self, make, frame):
        rows = np.r_[7, 3, 3, np.arange(N)]                         # 0 has weight 0, 2 is a copy of 1, and so are later ones
        weight = np.r_[0, np.ones(N + 2)]
        y = target(make, frame)[rows]
        index = make(**FAST).fit(frame.iloc[rows], y, sample_weight=weight).kneighbors(frame)[1]
        assert not set(index[index >= 0]) & {0, 2, 6}
        assert 1 in index[3]
        assert 10 in index[7]

    @BOTH
    def test_n_neighbors_cuts_and_fills(self, make, frame, fitted):
        weight, index = fitted[make].kneighbors(frame)
        for n in (1, 5, 200):
            few = fitted[make].kneighbors(frame, n_neighbors=n)
            width = min(n, weight.shape[1])
            assert few[0].shape == few[1].shape == (N, n)
            np.testing.assert_array_equal(few[0][:, :width], weight[:, :width])
            np.testing.assert_array_equal(few[1][:, :width], index[:, :width])
            assert not few[0][:, width:].any()
            assert (few[1][:, width:] == -1).all()
        for bad in (0, -1, 2.5):
            with pytest.raises(ValueError, match="n_neighbors"):
                fitted[make].kneighbors(frame, n_neighbors=bad)

    @BOTH
    def test_members_are_averaged(self, make, frame, fitted):
        total = np.zeros((N, N))
        for network in fitted[make]._networks:
            one = copy.copy(fitted[make])
            one._networks, one._kept = [network], {}
            for row, (weight, index) in enumerate(zip(*one.kneighbors(frame), strict=True)):
                total[row, index[index >= 0]] += weight[index >= 0] / 2
        weight, index = fitted[make].kneighbors(frame)
        assert (np.diff(weight, axis=1) <= 0).all()
        for row in range(N):
            assert len(set(index[row, index[row] >= 0])) == (index[row] >= 0).sum()
            np.testing.assert_allclose(weight[row, index[row] >= 0], total[row, index[row, index[row] >= 0]], atol=1e-12)
        np.testing.assert_allclose(weight.sum(1), 1.0, atol=1e-5)


class TestTraining:
    def test_scores_are_those_of_the_validation_rows(self, frame):
        """And the weights are those of the best epoch."""
        X, X_val, changes = frame[:80], frame[80:], FAST | {"max_epochs": 8, "learning_rate": 0.03}
        y, y_val = np.split(target(TabRClassifier, frame), [80])
        clf = TabRClassifier(**changes).fit(X, y, X_val=X_val, y_val=y_val)
        scores = clf.validation_scores_[0]
        assert clf.n_epochs_ == [scores.argmin() + 1]
        assert scores.min() == pytest.approx(log_loss(y_val, clf.predict_proba(X_val), labels=clf.classes_), rel=1e-4)
        clf = TabRClassifier(**changes, stopping="error").fit(X, y, X_val=X_val, y_val=y_val)
        assert clf.validation_scores_[0].min() == pytest.approx(1 - clf.score(X_val, y_val), abs=1e-6)
        assert clf.n_epochs_ == [clf.validation_scores_[0].argmin() + 1]
        y, y_val = np.split(target(TabRRegressor, frame), [80])
        reg = TabRRegressor(**changes).fit(X, y, X_val=X_val, y_val=y_val)
        rmse = np.sqrt(np.mean((reg.predict(X_val) - y_val) ** 2)) / y.std()
        assert reg.validation_scores_[0].min() == pytest.approx(rmse, rel=1e-4)

    def test_fewer_epochs_are_the_beginning_of_more(self, frame):
        y = np.random.default_rng(0).integers(0, 2, N)
        short, long = (TabRClassifier(**FAST | {"max_epochs": n, "learning_rate": 0.1}).fit(frame, y) for n in (2, 9))
        assert len(short.validation_scores_[0]) == 2
        np.testing.assert_array_equal(long.validation_scores_[0][:2], short.validation_scores_[0])
        best = TabRClassifier(**FAST | {"max_epochs": long.n_epochs_[0], "learning_rate": 0.1}).fit(frame, y)
        np.testing.assert_array_equal(best.predict_proba(frame), long.predict_proba(frame))
        assert long.n_epochs_[0] < 9

    def test_patience(self, frame):
        y = np.random.default_rng(0).integers(0, 2, N)
        clf = TabRClassifier(**FAST | {"max_epochs": 60, "patience": 3}).fit(frame, y)
        scores = clf.validation_scores_[0]
        assert len(scores) == clf.n_epochs_[0] + 3 < 60

    @BOTH
    def test_time_limit(self, make, frame):
        endless = FAST | {"max_epochs": 10**6, "patience": 10**6}
        start = time.monotonic()
        estimator = make(**endless | {"n_estimators": 2}, time_limit=0.6).fit(frame, target(make, frame))
        assert time.monotonic() - start < 10
        assert all(len(scores) >= 1 for scores in estimator.validation_scores_)
        assert np.isfinite(said(estimator, frame)).all()
        first = make(**endless, time_limit=1e-9, batch_size=8).fit(frame, target(make, frame))
        assert first.n_epochs_ == [1]
        assert np.isfinite(said(first, frame)).all()

    def test_contexts_freeze(self, frame, monkeypatch):
        calls = []
        nearest = tabr_training.nearest
        monkeypatch.setattr(tabr_training, "nearest", lambda *args: calls.append(len(args[0])) or nearest(*args))
        y, answers = target(TabRClassifier, frame), []
        for freeze, searches in ((None, 6), (2, 2), (6, 6), ("auto", 6)):
            calls.clear()
            clf = TabRClassifier(**FAST | {"max_epochs": 6}, freeze_contexts_after=freeze, batch_size=32)
            answers.append(clf.fit(frame, y).predict_proba(frame))
            assert len(calls) == searches * 3 + 6                   # 96 rows in three batches; 24 for validation
            assert sum(calls) == searches * 96 + 6 * 24
        assert (answers[0] != answers[1]).any()
        np.testing.assert_array_equal(answers[0], answers[2])

    def test_automatic_choices(self):
        plans = {n: TabRClassifier()._plan(n) for n in (9_999, 10_000, 19_999, 20_000, 30_000, 200_000)}
        assert [plan.batch_size for plan in plans.values()] == [128, 256, 256, 256, 512, 1024]
        assert [plan.freeze_contexts_after for plan in plans.values()] == [None, 8, 8, 8, 8, 8]

    @pytest.mark.parametrize("changes", [
        {"n_encoder_blocks": 1}, {"n_predictor_blocks": 0}, {"embedding": "none"}, {"dropout": 0.0, "context_dropout": 0.0},
        {"batch_size": 1}, {"batch_size": 1000}, {"context_size": 1}, {"validation_fraction": 0.0}, {"weight_decay": 0.0},
        {"validation_fraction": 0.9}, {"width": 7}, {"freeze_contexts_after": 1},
        {"dropout": 0.999, "context_dropout": 0.999},
    ], ids=str)
    @BOTH
    def test_every_setting_works(self, make, frame, changes):
        y = target(make, frame)
        estimator = make(**FAST | {"max_epochs": 2} | changes).fit(frame[:60], y[:60])
        assert np.isfinite(said(estimator, frame)).all()
        assert (said(estimator, frame) != said(make(**FAST | {"max_epochs": 2}).fit(frame[:60], y[:60]), frame)).any() \
            or changes in ({"batch_size": 1000}, {"weight_decay": 0.0})


class TestPersistence:
    @BOTH
    def test_files_pickles_and_copies_say_the_same(self, make, frame, fitted, tmp_path):
        estimator = copy.deepcopy(fitted[make]).add_candidates(frame[:20], target(make, frame)[20:40])
        expected, neighbours = said(estimator, frame), estimator.kneighbors(frame)
        estimator.save(tmp_path / "e.safetensors")
        loaded = make.load(tmp_path / "e.safetensors")
        for other in (loaded, pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
            np.testing.assert_array_equal(said(other, frame), expected)
            for one, part in zip(other.kneighbors(frame), neighbours, strict=True):
                np.testing.assert_array_equal(one, part)
            assert other.get_params() == estimator.get_params()
            assert other.n_epochs_ == estimator.n_epochs_
            other.add_candidates(frame[:5], target(make, frame)[:5])
            assert other.kneighbors(frame[:5])[1].max() >= N
        np.testing.assert_array_equal(said(estimator, frame), expected)

    @BOTH
    def test_tables_of_other_kinds(self, make, tmp_path):
        for X in (np.arange(20.0)[:, None], np.ones((20, 2)), pd.DataFrame({"text": list("abcd") * 5})):
            estimator = make(**FAST).fit(X, np.arange(20) % 3)
            estimator.save(tmp_path / "e")
            np.testing.assert_array_equal(said(make.load(tmp_path / "e"), X), said(estimator, X))

    @BOTH
    def test_what_is_kept_is_not_pickled_twice(self, make, frame, fitted):
        estimator = copy.deepcopy(fitted[make])
        size = len(pickle.dumps(estimator))
        said(estimator, frame)
        assert len(pickle.dumps(estimator)) == size
        assert not {key for state in estimator.__getstate__()["_networks"] for key in state} - {"config", "weights"}

    def test_what_is_not_fitted_is_not_saved(self, tmp_path):
        with pytest.raises(ValueError, match="not fitted"):
            TabRClassifier().save(tmp_path / "c")

    def test_bad_files(self, fitted, tmp_path):
        clf = fitted[TabRClassifier]
        clf.save(tmp_path / "c")
        (tmp_path / "pickle").write_bytes(pickle.dumps(clf))
        (tmp_path / "stump").write_bytes((tmp_path / "c").read_bytes()[:500])
        (tmp_path / "empty").write_bytes(b"")
        (tmp_path / "garbage").write_bytes(np.random.default_rng(0).bytes(5000))
        for name, message in (("pickle", "is a pickle"), ("stump", "truncated"), ("empty", "empty"), ("garbage", "garbage")):
            with pytest.raises(CheckpointError, match=message):
                TabRClassifier.load(tmp_path / name)
        with pytest.raises(CheckpointError, match=r"holds a TabRClassifier; load it with TabRClassifier\.load"):
            TabRRegressor.load(tmp_path / "c")
        with pytest.raises(FileNotFoundError, match="no file at"):
            TabRClassifier.load(tmp_path / "nothing")

    @pytest.mark.parametrize(("old", "new"), [
        ('"TabRClassifier"', '"subprocess.Popen"'), ('"TabRTable"', '"os.system"'), ('"Rows"', '"Popen"'),
        ('"format": 1', '"format": 99'), ('"array.0"', '"array.999"'), ('"width", 32', '"width", 64'),
        ('"width", 32', '"width", "a"'), ('"width", 32', '"breadth", 32'), ('"n_labels", 3', '"n_labels", -1'),
        ('"config"', '"weights"'), ('"input.weight"', '"output.weight"'),
    ])
    def test_headers_that_ask_for_other_things(self, fitted, tmp_path, old, new):
        fitted[TabRClassifier].save(tmp_path / "c")
        with safe_open(tmp_path / "c", framework="pt") as archive:
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
            metadata = archive.metadata()
        assert any(old in value for value in metadata.values())
        changed = {key: value.replace(old, new) for key, value in metadata.items()}
        save_file(tensors, tmp_path / "d", metadata=changed)
        with pytest.raises(CheckpointError):
            TabRClassifier.load(tmp_path / "d")


BAD = {
    "context_size": [0, -1, 2.5, "all"], "n_estimators": [0, 1.0], "embedding": ["plr", None], "n_frequencies": [0, 0.5],
    "frequency_scale": [0, -1.0, "a"], "embedding_width": [0, 1.5], "width": [0, None], "n_encoder_blocks": [-1, 1.5],
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
