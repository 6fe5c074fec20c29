"""Six tuning tasks: hyper-parameters of scikit-learn models on data that scikit-learn bundles, to be minimised.

Rows are a fixed random subset and folds are fixed, so a configuration has one value. Classifiers that give probabilities are
scored by log loss, support vectors by their error rate, regressors by RMSE in units of the target's standard deviation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import SVC, SVR

Space = dict[str, BaseDistribution]
SCALERS = {"standard": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}


@cache
def folds(dataset: str, n_rows: int, n_folds: int = 3) -> list[tuple[Any, Any, Any, Any]]:
    """Train and test rows and targets of each fold; targets of a regression are standardised."""
    x, y = getattr(datasets, f"load_{dataset}")(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))[:n_rows]
    x, y = x[rows], y[rows]
    if dataset == "diabetes":
        y = (y - y.mean()) / y.std()
    splitter = (KFold if dataset == "diabetes" else StratifiedKFold)(n_folds, shuffle=True, random_state=0)
    return [(x[train], y[train], x[test], y[test]) for train, test in splitter.split(x, y)]


def score(model: Any, dataset: str, n_rows: int, n_folds: int = 3) -> float:
    """Mean over folds, each capped at 5: log loss and the error of a solver that does not converge have no limit."""
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for x, y, x_test, y_test in folds(dataset, n_rows, n_folds):
            model.fit(x, y)
            if dataset == "diabetes":
                losses.append(np.sqrt(((model.predict(x_test) - y_test) ** 2).mean()))
            elif hasattr(model, "predict_proba"):
                losses.append(log_loss(y_test, model.predict_proba(x_test), labels=model.classes_))
            else:
                losses.append((model.predict(x_test) != y_test).mean())
    return float(np.minimum(losses, 5.0).mean())


def svr(params: dict[str, Any]) -> float:
    model = SVR(C=params["C"], gamma=params["gamma"], epsilon=params["epsilon"], kernel=params["kernel"], max_iter=20_000)
    return score(make_pipeline(StandardScaler(), model), "diabetes", 240)


def svc(params: dict[str, Any]) -> float:
    return score(make_pipeline(MinMaxScaler(), SVC(**params, max_iter=20_000)), "digits", 300)


def forest(params: dict[str, Any]) -> float:
    return score(RandomForestClassifier(**params, random_state=0), "wine", 178, 2)


def boosting(params: dict[str, Any]) -> float:
    return score(GradientBoostingRegressor(**params, random_state=0), "diabetes", 240, 2)


def network(params: dict[str, Any]) -> float:
    params = dict(params)
    model = MLPClassifier((params.pop("width"),) * params.pop("layers"), **params, random_state=0)
    return score(make_pipeline(StandardScaler(), model), "breast_cancer", 200, 2)


def logistic(params: dict[str, Any]) -> float:
    steps = SCALERS[params["scaler"]](), PCA(params["components"], whiten=params["whiten"], random_state=0)
    model = LogisticRegression(C=params["C"], fit_intercept=params["intercept"], max_iter=100)
    return score(make_pipeline(*steps, model), "digits", 300, 2)


TASKS: dict[str, tuple[Callable[[dict[str, Any]], float], Space]] = {
    "svr-diabetes": (svr, {
        "C": FloatDistribution(1e-3, 1e3, log=True), "gamma": FloatDistribution(1e-5, 10.0, log=True),
        "epsilon": FloatDistribution(1e-3, 1.0, log=True), "kernel": CategoricalDistribution(["rbf", "sigmoid"])}),
    "svc-digits": (svc, {
        "C": FloatDistribution(1e-3, 1e3, log=True), "gamma": FloatDistribution(1e-4, 10.0, log=True),
        "kernel": CategoricalDistribution(["rbf", "poly", "sigmoid"]), "degree": IntDistribution(2, 5),
        "coef0": FloatDistribution(0.0, 1.0, step=0.1)}),
    "forest-wine": (forest, {
        "n_estimators": IntDistribution(2, 16), "max_depth": IntDistribution(1, 10),
        "min_samples_leaf": IntDistribution(1, 20, log=True), "max_features": FloatDistribution(0.1, 1.0, step=0.1),
        "criterion": CategoricalDistribution(["gini", "entropy"]), "bootstrap": CategoricalDistribution([False, True])}),
    "boosting-diabetes": (boosting, {
        "n_estimators": IntDistribution(5, 50, log=True), "learning_rate": FloatDistribution(0.01, 1.0, log=True),
        "max_depth": IntDistribution(1, 5), "min_samples_leaf": IntDistribution(1, 40, log=True),
        "subsample": FloatDistribution(0.3, 1.0, step=0.1), "max_features": FloatDistribution(0.1, 1.0, step=0.1),
        "loss": CategoricalDistribution(["squared_error", "absolute_error", "huber"])}),
    "network-breast-cancer": (network, {
        "layers": IntDistribution(1, 2), "width": IntDistribution(2, 32, log=True),
        "learning_rate_init": FloatDistribution(1e-4, 0.3, log=True), "alpha": FloatDistribution(1e-6, 10.0, log=True),
        "batch_size": IntDistribution(10, 50, step=10), "max_iter": IntDistribution(4, 12, step=4),
        "activation": CategoricalDistribution(["relu", "tanh", "logistic"]),
        "solver": CategoricalDistribution(["adam", "sgd"])}),
    "logistic-digits": (logistic, {
        "C": FloatDistribution(1e-4, 1e3, log=True), "components": IntDistribution(2, 40),
        "scaler": CategoricalDistribution(list(SCALERS)), "whiten": CategoricalDistribution([False, True]),
        "intercept": CategoricalDistribution([False, True])}),
}
