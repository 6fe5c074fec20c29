"""In training, nothing tells a row its own label."""

import numpy as np
import pytest
import torch
from tabr_cases import BOTH, FAST, SHARP

from estimators import TabRClassifier, TabRRegressor, tabr_training


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
