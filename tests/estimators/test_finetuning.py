import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from estimators import PFNClassifier, PFNRegressor
from pfn import PFNConfig, PretrainConfig, TaskSizes, pretrain
from priors import GPPrior, as_classification


@pytest.fixture(scope="module")
def network():
    """Has seen a hundred steps, so that there is something to learn."""
    small = PFNConfig(n_outputs=4, embed_dim=32, n_heads=2, n_layers=2, hidden_dim=64)
    prior = as_classification(GPPrior(), max_classes=4)
    sizes = TaskSizes(rows=(16, 32), features=(1, 4), cells=512)
    config = PretrainConfig(prior, small, sizes, n_steps=100, warmup_steps=10, decay_steps=0, learning_rate=3e-3)
    return pretrain(config, progress=False)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(160, 3))
    return X, np.where(X[:, 0] > 0, "yes", "no")


def test_it_learns_the_table_and_fit_forgets_it(network, data):
    X, y = data
    clf = PFNClassifier(2, network, random_state=0, temperature=1.0)
    before = clf.fit(X, y).predict_proba(X)
    clf.fine_tune(X, y, n_steps=60, learning_rate=3e-3, progress=False)
    losses = clf.fine_tuning_losses_
    assert losses.min() < losses[0] - 0.1
    assert np.abs(clf.predict_proba(X) - before).max() > 0.1
    np.testing.assert_array_equal(clf.fit(X, y).predict_proba(X), before)


def test_weights_are_kept_if_nothing_improves(data):
    """The bundled network on noise, with a rate that ruins it: the original weights are the best."""
    X, _ = data
    y = np.random.default_rng(1).integers(2, size=len(X))
    clf = PFNClassifier(1, random_state=0, temperature=1.0)
    expected = clf.fit(X, y).predict_proba(X[:9])
    clf.fine_tune(X, y, n_steps=20, learning_rate=0.5, patience=1, progress=False)
    assert len(clf.fine_tuning_losses_) == 2
    np.testing.assert_array_equal(clf.predict_proba(X[:9]), expected)


def test_regressor_with_weights_and_a_time_limit():
    X, y = load_diabetes(return_X_y=True)
    reg = PFNRegressor(1, random_state=0)
    reg.fine_tune(X[:90], y[:90], np.arange(90) % 3, n_steps=500, time_limit=1e-3, progress=False)
    assert len(reg.fine_tuning_losses_) == 2
    assert np.isfinite(reg.predict(X[90:])).all()


def test_same_seed_same_result(network, data):
    X, y = data
    p = [PFNClassifier(1, network, random_state=3).fine_tune(X, y, n_steps=10, learning_rate=1e-3, progress=False)
         .predict_proba(X[:5]) for _ in range(2)]
    np.testing.assert_array_equal(*p)


@pytest.mark.parametrize(("arguments", "y", "message"), [
    ({"validation_fraction": 1.0}, [0, 1] * 8, "validation_fraction=1.0 is no share"),
    ({"n_steps": 0}, [0, 1] * 8, "n_steps=0 is not positive"),
    ({}, list(range(16)), "y has 16 classes, more than the network's 10 outputs")])
def test_bad_arguments(arguments, y, message):
    X = np.arange(32.0).reshape(16, 2)
    with pytest.raises(ValueError, match=message):
        PFNClassifier(1).fine_tune(X, y, progress=False, **arguments)


def test_rows_of_weight_zero_are_neither_learnt_nor_held_out(network, data):
    """A class that has no weight is no class."""
    X, y = data
    labels = np.where(np.arange(len(X)) % 3 == 0, "absent", y)
    clf = PFNClassifier(1, network, random_state=0)
    clf.fine_tune(X, labels, (labels != "absent") * 1.0, n_steps=10, learning_rate=1e-3, progress=False)
    assert clf.classes_.tolist() == ["no", "yes"]
    assert np.isfinite(clf.fine_tuning_losses_).all()
