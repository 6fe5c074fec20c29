import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from estimators import PFNClassifier
from estimators.classifier import _log_choice
from estimators.many_classes import class_tree


@pytest.mark.parametrize("n_classes", [3, 11, 25, 150])
@pytest.mark.parametrize("equal", [False, True])
def test_every_class_is_at_the_end_of_one_branch(n_classes, equal):
    centres = np.zeros((n_classes, 2)) if equal else np.random.default_rng(0).normal(size=(n_classes, 2))
    choices = class_tree(centres, 10, np.random.RandomState(0))
    assert (choices[0] >= 0).all()
    assert all(slots.max() < 10 for slots in choices)
    branches = np.stack(choices, axis=1)
    assert len({tuple(branch) for branch in branches}) == n_classes


def test_probabilities_of_a_tree_sum_to_one():
    choices = class_tree(np.random.default_rng(0).normal(size=(23, 2)), 5, np.random.RandomState(0))
    torch.manual_seed(0)
    log_p = sum(_log_choice(torch.randn(7, 5, dtype=torch.float64), slots) for slots in choices)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(7, dtype=torch.float64))


def test_thirty_classes_are_told_apart():
    """Digits in three sizes: 30 classes, 20 rows of each to learn from."""
    X, digit = load_digits(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(digit == d)[:90] for d in range(10)])
    size = np.arange(len(rows)) % 3
    X, y = X[rows] * (0.25 + 0.75 * size[:, None]), np.char.add(digit[rows].astype(str), np.array(["s", "m", "l"])[size])
    train = np.arange(len(rows)) % 90 < 60
    clf = PFNClassifier(n_estimators=2, random_state=0).fit(X[train], y[train])
    p = clf.predict_proba(X[~train][::4])
    assert p.shape[1] == 30
    np.testing.assert_allclose(p.sum(1), 1.0)
    assert np.mean(clf.classes_[p.argmax(1)] == y[~train][::4]) > 0.8
