import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_iris

from estimators import PFNClassifier
from estimators.calibration import fit_temperature


def draws(temperature, n, seed=0):
    """Logits of which softmax(logits / temperature) is the law of the labels."""
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.normal(size=(n, 3))
    p = softmax(logits / temperature, axis=1)
    return logits, (rng.random((n, 1)) > p.cumsum(1)).sum(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_recovers_the_temperature_of_many_rows(temperature):
    """4000 rows: the standard error of log T, from the Fisher information, is below 0.03."""
    assert np.log(fit_temperature(*draws(temperature, 4000)) / temperature) == pytest.approx(0.0, abs=0.12)


def test_a_few_rows_leave_it_near_one():
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert 0.6 < fit_temperature(logits, np.array([0, 1])) < 1.0
    assert 1.0 < fit_temperature(logits, np.array([1, 0])) < 3.0


def test_auto_temperature_sharpens_or_softens_every_row_alike():
    X, y = load_iris(return_X_y=True)
    plain = PFNClassifier(temperature=1.0, random_state=0).fit(X[::2], y[::2])
    auto = PFNClassifier(random_state=0).fit(X[::2], y[::2])
    expected = plain.predict_proba(X[1::2]) ** (1 / auto.temperature_)
    np.testing.assert_allclose(auto.predict_proba(X[1::2]), expected / expected.sum(1, keepdims=True), atol=1e-9)


def test_a_class_with_one_row_does_not_spoil_it():
    X, y = load_iris(return_X_y=True)
    clf = PFNClassifier(random_state=0).fit(X[:101], y[:101])
    assert 1 / 8 < clf.temperature_ < 1.5
