"""A fit that fails leaves the fitted estimator as it was."""

import numpy as np
import pytest

from estimators import PFNClassifier, PFNDensity, PFNImputer, PFNRegressor, TabRClassifier, TabRRegressor
from estimators.fitting import all_or_nothing

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = np.where(X[:, 0] > 0, "yes", "no")
FAST = {"n_estimators": 1, "embedding": "none", "width": 32, "context_size": 8, "max_epochs": 2, "random_state": 0}
CASES = {
    "classifier": (PFNClassifier(n_estimators=1), Y, "predict_proba"),
    "regressor": (PFNRegressor(n_estimators=1), X[:, 1], "predict"),
    "imputer": (PFNImputer(n_estimators=1, n_passes=1), None, "transform"),
    "density": (PFNDensity(n_orders=1, n_estimators=1), None, "score_samples"),
    "TabR classifier": (TabRClassifier(**FAST), Y, "predict_proba"),
    "TabR regressor": (TabRRegressor(**FAST), X[:, 1], "predict"),
}


def _fails(*_args, **_kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("estimator", "y", "method"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("late", [False, True], ids=["bad table", "interrupted"])
def test_failed_fit_changes_nothing(estimator, y, method, late, monkeypatch):
    queries = X[:5].copy()
    queries[0, 0] = np.nan
    estimator.fit(X, y)
    attributes, expected = set(vars(estimator)), getattr(estimator, method)(queries)
    other = RNG.normal(size=(20, 2))
    labels = None if y is None else y[:20]
    if late:                                                        # n_features_in_ and more are set by then
        for step in ("tabr_base.train", "conditional.ConditionalEstimator._fit_table", "base.PFNEstimator._load"):
            monkeypatch.setattr(f"estimators.{step}", _fails)
    else:
        other[3, 1] = np.inf
    with pytest.raises(KeyboardInterrupt if late else ValueError, match=None if late else "inf"):
        estimator.fit(other, labels)
    monkeypatch.undo()
    assert set(vars(estimator)) == attributes
    assert estimator.n_features_in_ == 3
    np.testing.assert_array_equal(getattr(estimator, method)(queries), expected)


def test_attributes_that_were_new_are_gone():
    class Thing:
        @all_or_nothing
        def fit(self, value):
            self.value_ = value
            if value < 0:
                raise ValueError("negative")
            return self

    thing = Thing()
    with pytest.raises(ValueError, match="negative"):
        thing.fit(-1)
    assert vars(thing) == {}
    assert thing.fit(1).value_ == 1
    with pytest.raises(ValueError, match="negative"):
        thing.fit(-1)
    assert thing.value_ == 1
    assert Thing.fit.__name__ == "fit"
