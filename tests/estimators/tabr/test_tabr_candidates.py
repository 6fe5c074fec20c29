"""Whom a query looks up: new candidates, masks, neighbours and their weights."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from tabr_cases import BOTH, FAST, SHARP, N, said, target
from test_tabr_network import answer, shares

from estimators import TabRClassifier, TabRRegressor


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
