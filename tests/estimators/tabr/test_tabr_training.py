"""When training stops, and what is kept."""

import time

import numpy as np
import pytest
from sklearn.metrics import log_loss
from tabr_cases import BOTH, FAST, N, said, target

from estimators import TabRClassifier, TabRRegressor, tabr_training


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
