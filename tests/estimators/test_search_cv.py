"""Hyper-parameter search through scikit-learn's interface."""

import pickle

import joblib
import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils.estimator_checks import parametrize_with_checks

import estimators.search
from estimators import SearchSettings
from estimators.search import PFNSearchCV

ALPHA = {"alpha": FloatDistribution(1e-4, 1e4, log=True)}


@pytest.fixture
def regression():
    return make_regression(60, 5, noise=20.0, random_state=0)


@pytest.fixture
def classification():
    return make_classification(80, 5, random_state=0)


class Picky(RegressorMixin, BaseEstimator):
    """Cannot be fitted with x > 0.5; its score is -(x - 0.4)²."""

    def __init__(self, x=0.0, limit=0.5):
        self.x = x
        self.limit = limit

    def fit(self, X, y):
        if self.x > self.limit:
            raise RuntimeError("too large")
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.full(len(X), self.x)

    def score(self, X, y):
        return -((self.x - 0.4) ** 2)


C = {"C": FloatDistribution(0.1, 10.0, log=True)}


@pytest.mark.filterwarnings("ignore")                                        # of scikit-learn's searches, when folds fail
@parametrize_with_checks([PFNSearchCV(SVR(), C, n_iter=2, cv=2), PFNSearchCV(LogisticRegression(), C, n_iter=2, cv=2)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_results_are_those_of_cross_validation(regression):
    search = PFNSearchCV(Ridge(), ALPHA, n_iter=4, cv=3, return_train_score=True, random_state=0).fit(*regression)
    results = search.cv_results_
    grid = GridSearchCV(Ridge(), {"alpha": results["param_alpha"].tolist()}, cv=3, return_train_score=True).fit(*regression)
    assert set(results) == set(grid.cv_results_)
    for name in results:
        if "time" not in name:
            np.testing.assert_array_equal(results[name], grid.cv_results_[name])
    assert (search.best_params_, search.best_score_, search.best_index_) == (
        grid.best_params_, grid.best_score_, grid.best_index_
    )
    np.testing.assert_array_equal(search.predict(regression[0]), grid.predict(regression[0]))
    assert search.n_features_in_ == 5
    assert not search.multimetric_


def test_nested_and_categorical_parameters(classification):
    model = make_pipeline(StandardScaler(), KNeighborsClassifier())
    space = {
        "kneighborsclassifier__n_neighbors": IntDistribution(1, 20),
        "standardscaler": CategoricalDistribution([None, "passthrough"]),
        "kneighborsclassifier__weights": CategoricalDistribution(["uniform", "distance"]),
    }
    search = PFNSearchCV(model, space, n_iter=5, cv=2, random_state=0).fit(*classification)
    assert set(search.best_params_) == set(space)
    assert isinstance(search.best_params_["kneighborsclassifier__n_neighbors"], int)
    assert search.best_estimator_.get_params()["kneighborsclassifier__weights"] == (
        search.best_params_["kneighborsclassifier__weights"]
    )


def test_several_metrics(classification):
    search = PFNSearchCV(LogisticRegression(), C, n_iter=3, cv=2, scoring=["roc_auc", "accuracy"], refit="roc_auc")
    search.fit(*classification)
    assert search.multimetric_
    assert search.best_score_ == search.cv_results_["mean_test_roc_auc"].max()
    assert "mean_test_accuracy" in search.cv_results_


@pytest.mark.parametrize("refit", [False, lambda results: 0])
def test_several_metrics_need_one_to_maximise(classification, refit):
    search = PFNSearchCV(LogisticRegression(), C, scoring=["roc_auc", "accuracy"], refit=refit)
    with pytest.raises(ValueError, match=r"refit names the one to maximise, one of \['roc_auc', 'accuracy'\]"):
        search.fit(*classification)


def test_the_same_random_state_gives_the_same_candidates(regression):
    def candidates(random_state, **options):
        search = PFNSearchCV(Ridge(), ALPHA, n_iter=3, cv=2, random_state=random_state, **options)
        with joblib.parallel_config("threading"):
            return clone(search).fit(*regression).cv_results_["param_alpha"].tolist()

    assert candidates(0) == candidates(0) == candidates(0, n_jobs=2)
    assert candidates(0) != candidates(1)


def test_shuffled_folds_are_the_same_for_all_candidates(regression):
    space = {"alpha": FloatDistribution(1.0, 1.0 + 1e-9)}
    search = PFNSearchCV(Ridge(), space, n_iter=3, cv=KFold(2, shuffle=True), random_state=0).fit(*regression)
    assert np.ptp(search.cv_results_["split0_test_score"]) < 1e-6


@pytest.fixture
def told(monkeypatch):
    """What is told; the candidates are given: the first and the last fail."""
    told = []

    class Script:
        def __init__(self, *args, **options):
            self.candidates = [{"x": x} for x in (0.9, 0.1, 0.3, 0.8, 0.7)]

        def ask(self, n):
            return [self.candidates.pop(0) for _ in range(n)]

        def tell(self, params, value):
            told.append((params["x"], value))

    monkeypatch.setattr(estimators.search, "BayesianOptimizer", Script)
    return told


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_failed_fits_are_told_and_listed(regression, told, batch_size):
    options = {"n_iter": 5, "cv": 2, "batch_size": batch_size, "return_train_score": True}
    search = PFNSearchCV(Picky(), {"x": FloatDistribution(0, 1)}, **options)
    with pytest.warns(FitFailedWarning, match="fits failed"):
        search.fit(*regression)
    results = search.cv_results_
    assert told == [(0.9, None), (0.1, pytest.approx(-0.09)), (0.3, pytest.approx(-0.01)), (0.8, None), (0.7, None)]
    assert results["params"] == [{"x": x} for x in (0.9, 0.1, 0.3, 0.8, 0.7)]
    assert results["param_x"].tolist() == [0.9, 0.1, 0.3, 0.8, 0.7]
    for name in ("mean_test_score", "split1_train_score"):
        np.testing.assert_allclose(results[name], [np.nan, -0.09, -0.01, np.nan, np.nan])
    assert results["rank_test_score"].tolist() == [3, 2, 1, 3, 3]
    assert len(results["mean_fit_time"]) == 5
    assert (search.best_index_, search.best_params_) == (2, {"x": 0.3})


def test_failed_fits_have_the_error_score_of_every_metric(regression, told):
    options = {"n_iter": 4, "cv": 2, "scoring": ["r2", "neg_max_error"], "refit": "neg_max_error", "error_score": -1e9}
    search = PFNSearchCV(Picky(), {"x": FloatDistribution(0, 1)}, **options)
    with pytest.warns(FitFailedWarning, match="fits failed"):
        search.fit(*regression)
    for metric in ("r2", "neg_max_error"):
        assert (search.cv_results_[f"mean_test_{metric}"] == -1e9).tolist() == [True, False, False, True]
    assert [value is None for _, value in told] == [True, False, False, True]
    assert search.best_index_ in (1, 2)


def test_a_search_in_which_everything_fails_says_so(regression):
    search = PFNSearchCV(Picky(limit=-1.0), {"x": FloatDistribution(0, 1)}, n_iter=2, cv=2)
    with pytest.raises(ValueError, match="All the 2 fits failed"):
        search.fit(*regression)
    with pytest.raises(RuntimeError, match="too large"):
        search.set_params(error_score="raise").fit(*regression)


def test_small_spaces_are_tried_in_full(regression):
    search = PFNSearchCV(Ridge(), {"fit_intercept": CategoricalDistribution([True, False])}, cv=2)
    with pytest.warns(UserWarning, match="2 points, fewer than n_iter=30"):
        search.fit(*regression)
    assert sorted(search.cv_results_["param_fit_intercept"].tolist()) == [False, True]


def test_it_can_be_nested_and_pickled(regression):
    search = PFNSearchCV(Ridge(), ALPHA, n_iter=2, cv=2, random_state=0)
    assert cross_val_score(search, *regression, cv=2).shape == (2,)
    search.fit(*regression)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(regression[0]), search.predict(regression[0]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"space": {"alpha": (1e-4, 1.0)}}, TypeError, r"space\['alpha'\] is \(0.0001, 1.0\) of type tuple"),
        ({"space": {}}, ValueError, "at least one parameter"),
        ({"space": {"nope": FloatDistribution(0, 1)}}, ValueError, "Invalid parameter 'nope' for estimator Ridge"),
        ({"n_iter": 0}, ValueError, "n_iter must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be an integer of at least 1, got 2.5"),
        ({"settings": "log_ei"}, TypeError, "no SearchSettings"),
    ],
)
def test_bad_arguments_are_refused_by_fit(regression, options, error, message):
    search = PFNSearchCV(**{"estimator": Ridge(), "space": ALPHA, "cv": 2} | options)
    with pytest.raises(error, match=message):
        search.fit(*regression)


# With the bundled network


def test_the_optimum_is_found_and_failures_are_avoided(regression):
    search = PFNSearchCV(
        Picky(), {"x": FloatDistribution(-5, 5)}, n_iter=20, cv=2, random_state=0, settings=SearchSettings(n_candidates=100)
    )
    with pytest.warns(FitFailedWarning):
        search.fit(*regression)
    assert search.best_params_["x"] == pytest.approx(0.4, abs=0.1)
    assert np.isnan(search.cv_results_["mean_test_score"][10:]).sum() <= 4    # a blind search: 4.5
