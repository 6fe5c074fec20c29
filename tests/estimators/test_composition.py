"""The estimators inside scikit-learn's machinery, on the real data that come with it; every result is checked."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay, calibration_curve
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.inspection import DecisionBoundaryDisplay, partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, log_loss, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    LeaveOneOut,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    train_test_split,
)
from sklearn.multiclass import OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from estimators import PFNClassifier, PFNRegressor


def classifier(**arguments):
    return PFNClassifier(**({"n_estimators": 1, "temperature": 1.0, "random_state": 0} | arguments))


def regressor(**arguments):
    return PFNRegressor(**({"n_estimators": 1, "random_state": 0} | arguments))


def halves(load, n, columns=None):
    """Of a dataset of scikit-learn two times `n` rows (stratified), as frames, in columns of names."""
    X, y = load(return_X_y=True, as_frame=True)
    stratify = y if y.nunique() < 10 else None
    X = X if columns is None else X[columns]
    return train_test_split(X, y, train_size=n, test_size=n, random_state=0, stratify=stratify)


@pytest.fixture(scope="module")
def wine():
    return halves(load_wine, 70)


@pytest.fixture(scope="module")
def cancer():
    return halves(load_breast_cancer, 80, ["mean radius", "mean texture", "worst area", "worst concavity"])


@pytest.fixture(scope="module")
def diabetes():
    return halves(load_diabetes, 150)


@pytest.fixture(scope="module")
def wine_with_text(wine):
    """The colour intensity as words, with gaps: the most telling column but one."""
    def worded(X):
        words = pd.cut(X["color_intensity"], [0, 3, 5, 99], labels=["pale", "rosy", "deep"]).astype(object)
        return X[["hue", "ash"]].assign(colour=words.mask(np.arange(len(X)) % 10 == 0))

    X, X_test, y, y_test = wine
    return worded(X), worded(X_test), y, y_test


def test_pipeline_predicts_what_the_classifier_does(wine):
    X, X_test, y, y_test = wine
    pipeline = make_pipeline(StandardScaler(), classifier()).fit(X, y)
    assert pipeline.score(X_test, y_test) > 0.9
    expected = classifier().fit(X, y).predict_proba(X_test)
    np.testing.assert_allclose(pipeline.predict_proba(X_test), expected, atol=0.05)          # bfloat16 rounds the cells


def test_selected_columns_are_those_alone(wine):
    X, X_test, y, _ = wine
    pipeline = make_pipeline(SelectKBest(k=4), classifier()).fit(X, y)
    kept = X.columns[pipeline[0].get_support()]
    expected = classifier().fit(X[kept].to_numpy(), y).predict_proba(X_test[kept].to_numpy())
    np.testing.assert_array_equal(pipeline.predict_proba(X_test), expected)


def test_set_output_hands_names_down_a_pipeline(wine):
    X, X_test, y, y_test = wine
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(), classifier()).set_output(transform="pandas").fit(X, y)
    assert pipeline[-1].feature_names_in_.tolist() == X.columns.tolist()
    assert pipeline.score(X_test, y_test) > 0.9


def test_column_transformer_and_text_as_it_is_agree(wine_with_text):
    X, X_test, y, y_test = wine_with_text
    columns = make_column_transformer((OneHotEncoder(sparse_output=False), ["colour"]), remainder="passthrough")
    encoded = make_pipeline(columns, classifier()).fit(X, y)
    plain = classifier().fit(X, y)
    baseline = classifier().fit(X[["hue", "ash"]], y).score(X_test[["hue", "ash"]], y_test)
    assert min(encoded.score(X_test, y_test), plain.score(X_test, y_test)) > baseline + 0.05
    assert (encoded.predict(X_test) == plain.predict(X_test)).mean() > 0.85


def test_grid_search_refits_the_best(wine_with_text):
    X, X_test, y, _ = wine_with_text
    grid = {"pfnclassifier__n_estimators": [1, 2], "pfnclassifier__temperature": [0.5, 50.0]}
    search = GridSearchCV(make_pipeline(FunctionTransformer(), classifier()), grid, scoring="neg_log_loss", cv=2).fit(X, y)
    assert search.best_params_["pfnclassifier__temperature"] == 0.5                        # 50 is hardly more than a guess
    best = {name.removeprefix("pfnclassifier__"): value for name, value in search.best_params_.items()}
    np.testing.assert_array_equal(search.predict_proba(X_test), classifier(**best).fit(X, y).predict_proba(X_test))


def test_two_processes_predict_as_one(wine):
    X, _, y, _ = wine
    p = [cross_val_predict(classifier(), X, y, cv=2, method="predict_proba", n_jobs=n_jobs) for n_jobs in (1, 2)]
    np.testing.assert_allclose(p[1], p[0], atol=1e-5)
    assert log_loss(y, p[0]) < 0.3


def test_cross_validation_beats_the_prior_in_every_fold(diabetes):
    X, _, y, _ = diabetes
    result = cross_validate(regressor(), X, y, cv=3, scoring=["r2", "neg_mean_absolute_error"], return_estimator=True)
    assert result["test_r2"].min() > 0.2
    assert (-result["test_neg_mean_absolute_error"] < (y - y.median()).abs().mean()).all()
    assert all(estimator.feature_names_in_.tolist() == X.columns.tolist() for estimator in result["estimator"])


def test_leave_one_out():
    X, y = load_iris(return_X_y=True)
    assert cross_val_score(classifier(), X[::5], y[::5], cv=LeaveOneOut()).mean() > 0.85


def test_calibration_does_not_hurt(cancer):
    X, X_test, y, y_test = cancer
    own = log_loss(y_test, classifier().fit(X, y).predict_proba(X_test))
    calibrated = CalibratedClassifierCV(classifier(temperature=20.0), cv=3, ensemble=False).fit(X, y)
    unsure = log_loss(y_test, classifier(temperature=20.0).fit(X, y).predict_proba(X_test))
    assert log_loss(y_test, calibrated.predict_proba(X_test)) < min(unsure, own + 0.1)


def test_stacked_classifiers(cancer):
    X, X_test, y, y_test = cancer
    forest = HistGradientBoostingClassifier(max_iter=20, random_state=0)
    stack = StackingClassifier([("pfn", classifier()), ("trees", forest)], LogisticRegression(), cv=3).fit(X, y)
    assert stack.score(X_test, y_test) > 0.9
    expected = classifier().fit(X, y).predict_proba(X_test)[:, 1]
    np.testing.assert_array_equal(stack.transform(X_test)[:, 0], expected)
    assert stack.final_estimator_.coef_[0, 0] > 0


def test_stacked_regressors(diabetes):
    X, X_test, y, y_test = diabetes
    stack = StackingRegressor([("pfn", regressor()), ("ridge", Ridge(0.1))], Ridge(), cv=3).fit(X, y)
    scores = [r2_score(y_test, model.fit(X, y).predict(X_test)) for model in (stack, regressor())]
    assert min(scores) > 0.35
    assert scores[0] > scores[1] - 0.05


def test_votes_are_averaged_with_those_of_trees(cancer):
    X, X_test, y, y_test = cancer
    trees = HistGradientBoostingClassifier(max_iter=20, random_state=0)
    vote = VotingClassifier([("pfn", classifier()), ("trees", trees)], voting="soft").fit(X, y)
    each = [model.fit(X, y).predict_proba(X_test) for model in (classifier(), clone(trees))]
    np.testing.assert_allclose(vote.predict_proba(X_test), np.mean(each, axis=0), atol=1e-12)
    assert vote.score(X_test, y_test) > 0.9


def test_bagging_averages_bootstraps(wine):
    X, X_test, y, y_test = wine
    bag = BaggingClassifier(classifier(), n_estimators=3, max_features=0.6, random_state=0).fit(X, y)
    assert bag.score(X_test, y_test) > 0.9
    members = [model.predict_proba(X_test.to_numpy()[:, columns])
               for model, columns in zip(bag.estimators_, bag.estimators_features_, strict=True)]
    np.testing.assert_allclose(bag.predict_proba(X_test), np.mean(members, axis=0), atol=1e-12)


def test_permutation_importance_finds_the_column_that_matters(cancer):
    X, X_test, y, y_test = cancer
    noise = np.random.default_rng(0).normal(size=len(X))
    clf = classifier().fit(X.assign(noise=noise), y)
    importance = permutation_importance(clf, X_test.assign(noise=noise), y_test, scoring="neg_log_loss", n_repeats=3,
                                        random_state=0).importances_mean
    assert importance[2:4].max() > 5 * abs(importance[4])                                    # area or concavity; the noise


def test_partial_dependence_rises_with_the_body_mass(diabetes):
    X, _, y, _ = diabetes
    curve = partial_dependence(regressor().fit(X, y), X[:20], ["bmi"], grid_resolution=5)
    assert np.all(np.diff(curve["average"][0]) > 0)
    assert np.ptp(curve["average"][0]) > 0.5 * y.std()


@pytest.mark.parametrize("wrapper", [OneVsRestClassifier, OutputCodeClassifier])
def test_reductions_of_many_classes(wrapper, wine):
    X, X_test, y, y_test = wine
    arguments = {"random_state": 0} if wrapper is OutputCodeClassifier else {}
    assert wrapper(classifier(), **arguments).fit(X, y).score(X_test, y_test) > 0.85


def test_one_regressor_for_each_output(diabetes):
    X, X_test, y, _ = diabetes
    both = MultiOutputRegressor(regressor()).fit(X, np.column_stack([y, 10 - 3 * y]))
    first, second = both.predict(X_test).T
    np.testing.assert_array_equal(first, regressor().fit(X, y).predict(X_test))
    assert np.corrcoef(first, second)[0, 1] < -0.98                                        # not -1: bars have a sign


def test_transformed_target_is_transformed_back(diabetes):
    X, X_test, y, y_test = diabetes
    model = TransformedTargetRegressor(regressor(), func=np.log, inverse_func=np.exp).fit(X, y)
    np.testing.assert_allclose(model.predict(X_test), np.exp(regressor().fit(X, np.log(y)).predict(X_test)))
    assert r2_score(y_test, model.predict(X_test)) > 0.3


def test_learning_curve_rises(cancer):
    X, _, y, _ = cancer
    sizes, _, scores = learning_curve(classifier(), X, y, train_sizes=[10, 60], cv=4, scoring="neg_log_loss", shuffle=True,
                                      random_state=0)
    guess = -log_loss(y, DummyClassifier(strategy="prior").fit(X, y).predict_proba(X))
    assert sizes.tolist() == [10, 60]
    assert scores[1].mean() > max(scores[0].mean(), guess) + 0.05


def test_threshold_is_tuned_to_rare_classes(cancer):
    X, X_test, y, y_test = cancer
    rare = np.flatnonzero((y == 1) | (np.arange(len(y)) % 4 == 0))                           # few malignant ones are left
    tuned = TunedThresholdClassifierCV(classifier(), scoring="balanced_accuracy", cv=3, thresholds=50)
    tuned.fit(X.iloc[rare], y.iloc[rare])
    plain = classifier().fit(X.iloc[rare], y.iloc[rare])
    scores = [balanced_accuracy_score(y_test, model.predict(X_test)) for model in (tuned, plain)]
    assert scores[0] >= scores[1] - 0.05                              # a malignant row is 0.02
    assert scores[0] > 0.85


def test_clones_take_parameters_and_leave_the_fit():
    X, y = load_iris(return_X_y=True)
    original = classifier(max_context=50).fit(X, y)
    copy = clone(original)
    assert copy.get_params() == original.get_params()
    assert not hasattr(copy, "classes_")
    copy.set_params(n_estimators=2, temperature=2.0)
    assert (original.n_estimators, original.temperature) == (1, 1.0)
    assert copy.fit(X, y).temperature_ == 2.0
    with pytest.raises(ValueError, match="Invalid parameter 'trees' for estimator PFNClassifier"):
        copy.set_params(trees=100)


def test_displays_draw_the_predictions(cancer):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    X, X_test, y, y_test = (part.iloc[:, :2] if part.ndim == 2 else part for part in cancer)
    clf = classifier().fit(X, y)
    calibration = CalibrationDisplay.from_estimator(clf, X_test, y_test, n_bins=5)
    expected = calibration_curve(y_test, clf.predict_proba(X_test)[:, 1], n_bins=5)
    np.testing.assert_array_equal([calibration.prob_true, calibration.prob_pred], expected)
    boundary = DecisionBoundaryDisplay.from_estimator(clf, X, grid_resolution=8, response_method="predict_proba")
    grid = pd.DataFrame({name: axis.ravel() for name, axis in zip(X.columns, (boundary.xx0, boundary.xx1), strict=True)})
    np.testing.assert_allclose(boundary.response.ravel(), clf.predict_proba(grid)[:, 1], atol=1e-12)
    plt.close("all")
