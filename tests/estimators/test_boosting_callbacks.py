"""Real small trainings of XGBoost and LightGBM, ended by decisions of a known forecaster."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from curve_forecasters import fresh
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes

import estimators.early_stopping
from estimators.boosting_callbacks import LightGBMCallback, xgboost_callback
from estimators.early_stopping import CurveStopper

ROUNDS = 60
XGBOOST = {"objective": "binary:logistic", "eval_metric": "logloss", "eta": 0.3, "nthread": 1, "seed": 0}
LIGHTGBM = {"objective": "binary", "metric": "binary_logloss", "num_threads": 1, "verbosity": -1, "min_data_in_leaf": 5,
            "learning_rate": 0.3, "seed": 0}


class StopAfter(CurveStopper):
    """Stops when there are n values, which it keeps."""

    def __init__(self, n, **settings):
        super().__init__(1000, **settings)
        self.n = n

    def should_stop(self, history):
        self.history = list(history)
        return len(history) >= self.n


def overfitting():
    """Few rows and noisy labels: the validation loss has its minimum early."""
    X, y = load_breast_cancer(return_X_y=True)
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.2, 1 - y, y)
    return X[:150], y[:150], X[150:400], y[150:400]


@pytest.fixture
def forecaster(monkeypatch):
    made = fresh(ratio=0.8, std=0.005)
    monkeypatch.setattr(estimators.early_stopping, "LearningCurveExtrapolator", made)
    monkeypatch.setattr(estimators.early_stopping, "load_shared", lambda model: model)
    return made


def test_importing_needs_neither_library():
    code = (
        "import sys; sys.modules['xgboost'] = sys.modules['lightgbm'] = None\n"
        "import estimators, estimators.early_stopping\n"
        "from estimators.boosting_callbacks import LightGBMCallback, xgboost_callback\n"
        "LightGBMCallback(estimators.early_stopping.CurveStopper(10))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("make", [xgboost_callback, LightGBMCallback])
def test_a_callback_wants_a_stopper(make):
    pytest.importorskip("xgboost")
    with pytest.raises(TypeError, match="stopper=100 is no CurveStopper"):
        make(100)


class TestXGBoost:
    @pytest.fixture
    def xgboost(self):
        return pytest.importorskip("xgboost")

    @pytest.fixture
    def data(self, xgboost):
        X, y, X_valid, y_valid = overfitting()
        return xgboost.DMatrix(X, y), xgboost.DMatrix(X_valid, y_valid)

    def train(self, xgboost, data, callback, params=None, **settings):
        log = {}
        booster = xgboost.train(
            XGBOOST | (params or {}), data[0], ROUNDS, evals=[(data[0], "fit"), (data[1], "valid")], evals_result=log,
            verbose_eval=False, callbacks=[callback], **settings,
        )
        return booster, log

    def test_ends_when_the_stopper_says_so(self, xgboost, data):
        stopper = StopAfter(12, minimize=True)
        booster, log = self.train(xgboost, data, xgboost_callback(stopper))
        assert booster.num_boosted_rounds() == 12
        assert stopper.history == log["valid"]["logloss"]

    @pytest.mark.parametrize("n", [12, 10_000])
    def test_the_best_iteration_is_that_of_the_best_value(self, xgboost, data, n):
        booster, log = self.train(xgboost, data, xgboost_callback(StopAfter(n, minimize=True)))
        assert 0 < booster.best_iteration == int(np.argmin(log["valid"]["logloss"])) < booster.num_boosted_rounds() - 1
        assert booster.best_score == min(log["valid"]["logloss"])

    def test_scores_are_better_when_larger(self, xgboost, data):
        stopper = StopAfter(15)
        booster, log = self.train(xgboost, data, xgboost_callback(stopper), {"eval_metric": ["logloss", "auc"]})
        assert stopper.history == log["valid"]["auc"]
        assert booster.best_iteration == int(np.argmax(log["valid"]["auc"]))

    def test_data_set_and_metric_can_be_named(self, xgboost, data):
        stopper = StopAfter(5, minimize=True)
        _, log = self.train(xgboost, data, xgboost_callback(stopper, "fit", "error"), {"eval_metric": ["error", "auc"]})
        assert stopper.history == log["fit"]["error"]

    @pytest.mark.parametrize(
        ("stopper", "names", "metric", "match"),
        [
            (StopAfter(5), (), "logloss", "'logloss' is better when smaller.*minimize=False"),
            (StopAfter(5, minimize=True), (), "auc", "'auc' is better when larger.*minimize=True"),
            (StopAfter(5, minimize=True), ("test",), "logloss", r"dataset='test'.*\['fit', 'valid'\]"),
            (StopAfter(5, minimize=True), ("fit", "rmse"), "logloss", r"metric='rmse'.*\['logloss'\]"),
        ],
    )
    def test_what_does_not_fit_the_training_is_named(self, xgboost, data, stopper, names, metric, match):
        with pytest.raises(ValueError, match=match):
            self.train(xgboost, data, xgboost_callback(stopper, *names), {"eval_metric": metric})

    def test_without_validation_there_is_nothing_to_stop_by(self, xgboost, data):
        with pytest.raises(ValueError, match="pass evals="):
            xgboost.train(XGBOOST, data[0], 3, callbacks=[xgboost_callback(StopAfter(2, minimize=True))])

    def test_mape_is_a_loss_although_map_is_a_score(self, xgboost):
        X, y = load_diabetes(return_X_y=True)
        data = xgboost.DMatrix(X[:200], y[:200]), xgboost.DMatrix(X[200:], y[200:])
        params = {"objective": "reg:squarederror", "eval_metric": "mape"}
        booster, _ = self.train(xgboost, data, xgboost_callback(StopAfter(4, minimize=True)), params)
        assert booster.num_boosted_rounds() == 4

    def test_training_goes_on_from_a_booster(self, xgboost, data):
        first, _ = self.train(xgboost, data, xgboost_callback(StopAfter(3, minimize=True)))
        booster, log = self.train(xgboost, data, xgboost_callback(StopAfter(6, minimize=True)), xgb_model=first)
        assert booster.num_boosted_rounds() == 9
        assert booster.best_iteration == 3 + int(np.argmin(log["valid"]["logloss"]))

    def test_cross_validation(self, xgboost, data):
        stopper = StopAfter(7, minimize=True)
        callbacks = [xgboost_callback(stopper)]
        table = xgboost.cv(XGBOOST, data[1], ROUNDS, nfold=3, callbacks=callbacks, as_pandas=False, seed=0)
        assert stopper.history[: len(table["test-logloss-mean"])] == table["test-logloss-mean"]
        assert len(stopper.history) == 7

    def test_the_estimator_predicts_with_the_best_iteration(self, xgboost):
        X, y, X_valid, y_valid = overfitting()
        callback = xgboost_callback(StopAfter(20, minimize=True))
        model = xgboost.XGBClassifier(n_estimators=ROUNDS, eval_metric="logloss", n_jobs=1, callbacks=[callback])
        for one in (model, clone(model), pickle.loads(pickle.dumps(model))):
            one.fit(X, y, eval_set=[(X_valid, y_valid)], verbose=False)
            assert one.get_booster().num_boosted_rounds() == 20
            assert one.best_iteration < 19
            expected = one.predict_proba(X_valid, iteration_range=(0, one.best_iteration + 1))
            assert np.array_equal(one.predict_proba(X_valid), expected)

    def test_a_forecast_ends_a_training_that_overfits(self, xgboost, data, forecaster):
        stopper = CurveStopper(ROUNDS, minimize=True)
        booster, log = self.train(xgboost, data, xgboost_callback(stopper))
        assert booster.num_boosted_rounds() < ROUNDS
        assert booster.num_boosted_rounds() % 3 == 0                         # a twentieth of the horizon
        assert stopper.last_decision_.reason == "hopeless"
        assert stopper.last_decision_.threshold == pytest.approx(min(log["valid"]["logloss"]))
        assert forecaster.last.bounds == (0, np.inf)


class TestLightGBM:
    @pytest.fixture
    def lightgbm(self):
        return pytest.importorskip("lightgbm")

    def train(self, lightgbm, callback, params=None, **settings):
        X, y, X_valid, y_valid = overfitting()
        data, log = lightgbm.Dataset(X, y), {}
        booster = lightgbm.train(
            LIGHTGBM | (params or {}), data, ROUNDS, valid_names=["fit", "valid"],
            valid_sets=[data, lightgbm.Dataset(X_valid, y_valid, reference=data)],
            callbacks=[lightgbm.record_evaluation(log), callback], **settings,
        )
        return booster, log

    def test_ends_when_the_stopper_says_so(self, lightgbm):
        stopper = StopAfter(12, minimize=True)
        _, log = self.train(lightgbm, LightGBMCallback(stopper, "valid"))
        assert len(log["valid"]["binary_logloss"]) == 12
        assert stopper.history == log["valid"]["binary_logloss"]

    @pytest.mark.parametrize("n", [12, 10_000])
    def test_the_best_iteration_is_that_of_the_best_value(self, lightgbm, n):
        booster, log = self.train(lightgbm, LightGBMCallback(StopAfter(n, minimize=True), "valid"))
        assert booster.best_iteration == 1 + int(np.argmin(log["valid"]["binary_logloss"]))
        assert booster.best_score["valid"]["binary_logloss"] == min(log["valid"]["binary_logloss"])

    def test_scores_are_better_when_larger(self, lightgbm):
        stopper = StopAfter(15)
        booster, log = self.train(lightgbm, LightGBMCallback(stopper, "valid"), {"metric": "auc"})
        assert stopper.history == log["valid"]["auc"]
        assert booster.best_iteration == 1 + int(np.argmax(log["valid"]["auc"]))

    def test_the_training_set_is_not_what_counts(self, lightgbm):
        X, y, X_valid, y_valid = overfitting()
        model, stopper = lightgbm.LGBMClassifier(n_estimators=ROUNDS, n_jobs=1, verbosity=-1), StopAfter(10, minimize=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lightgbm.basic.LGBMDeprecationWarning)       # older ones know eval_set only
            model.fit(X, y, eval_set=[(X, y), (X_valid, y_valid)], callbacks=[LightGBMCallback(stopper)])
        assert stopper.history == model.evals_result_["valid_1"]["binary_logloss"]
        assert model.best_iteration_ == 1 + int(np.argmin(stopper.history))
        expected = model.booster_.predict(X_valid, num_iteration=model.best_iteration_)
        assert np.array_equal(model.predict_proba(X_valid)[:, 1], expected)

    def test_a_callback_serves_several_trainings(self, lightgbm):
        callback = LightGBMCallback(StopAfter(8, minimize=True), "valid")
        assert [len(self.train(lightgbm, callback)[1]["valid"]["binary_logloss"]) for _ in range(2)] == [8, 8]

    @pytest.mark.parametrize(
        ("stopper", "names", "match"),
        [
            (StopAfter(5), ("valid",), "'binary_logloss' is better when smaller.*minimize=False"),
            (StopAfter(5, minimize=True), ("test",), r"dataset='test'.*\('valid', 'binary_logloss'\)"),
            (StopAfter(5, minimize=True), ("valid", "auc"), "metric='auc'"),
        ],
    )
    def test_what_does_not_fit_the_training_is_named(self, lightgbm, stopper, names, match):
        with pytest.raises(ValueError, match=match):
            self.train(lightgbm, LightGBMCallback(stopper, *names))

    def test_cross_validation(self, lightgbm):
        X, y, *_ = overfitting()
        stopper = StopAfter(7, minimize=True)
        table = lightgbm.cv(
            LIGHTGBM, lightgbm.Dataset(X, y), ROUNDS, nfold=3, callbacks=[LightGBMCallback(stopper)], seed=0,
            eval_train_metric=True,
        )
        assert len(stopper.history) == 7
        assert table["valid binary_logloss-mean"] == stopper.history[: 1 + int(np.argmin(stopper.history))]

    def test_a_forecast_ends_a_training_that_overfits(self, lightgbm, forecaster):
        stopper = CurveStopper(ROUNDS, minimize=True)
        booster, log = self.train(lightgbm, LightGBMCallback(stopper, "valid"))
        assert len(log["valid"]["binary_logloss"]) < ROUNDS
        assert stopper.last_decision_.stop
        assert booster.best_iteration == 1 + int(np.argmin(log["valid"]["binary_logloss"]))
