"""Eight threads ask the same estimators at once, and others fit meanwhile: every answer is bitwise that of one thread."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution

from estimators import (
    BayesianOptimizer,
    LearningCurveExtrapolator,
    PFNClassifier,
    PFNDensity,
    PFNImputer,
    PFNRegressor,
    TabRClassifier,
)

N_THREADS = 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
LABEL, TARGET = np.where(X[:, 0] > 0, "up", "down"), X[:, 0] + 0.1 * RNG.normal(size=40)
GAPPY = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
MIXED = pd.DataFrame({"a": X[:, 0], "b": np.where(X[:, 1] > 0, "x", None)})
QUERIES = [RNG.normal(size=(n, 3)) for n in (1, 2, 7, 30, 64, 5, 1, 40)]
TABR = {"n_estimators": 1, "width": 16, "context_size": 8, "max_epochs": 2, "random_state": 0}


def at_once(functions):
    """Call each in a thread of its own; all begin together."""
    barrier = Barrier(len(functions))

    def run(function):
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


MAKE = {
    "classifier": lambda: (lambda clf: [lambda q=q: clf.predict_proba(q) for q in QUERIES])(
        PFNClassifier(random_state=0).fit(X, LABEL)),
    "regressor": lambda: (lambda reg: [lambda q=q: reg.predict(q, quantiles=[0.1, 0.9]) for q in QUERIES])(
        PFNRegressor(random_state=0).fit(X, TARGET)),
    "local contexts": lambda: (lambda clf: [lambda q=q: clf.predict_proba(q) for q in QUERIES])(
        PFNClassifier(2, max_context=12, random_state=0).fit(X, LABEL)),
    "frame": lambda: (lambda clf, n: [lambda k=k: clf.predict_proba(MIXED[k:]) for k in range(n)])(
        PFNClassifier(1, random_state=0).fit(MIXED, LABEL), N_THREADS),
    "TabR": lambda: (lambda clf: [lambda q=q: clf.predict_proba(q) for q in QUERIES])(TabRClassifier(**TABR).fit(X, LABEL)),
    "imputer": lambda: (lambda imputer: [lambda k=k: imputer.transform(GAPPY[k:]) for k in range(N_THREADS)])(
        PFNImputer(1, random_state=0).fit(GAPPY)),
    "density": lambda: (lambda density: [lambda q=q: density.score_samples(q[:5]) for q in QUERIES])(
        PFNDensity(1, random_state=0).fit(X)),
    "curve": lambda: (lambda curve: [lambda k=k: curve.predict([20, 30 + k]) for k in range(N_THREADS)])(
        LearningCurveExtrapolator(horizon=50).fit(range(1, 11), np.linspace(0.3, 0.6, 10))),
    "optimiser": lambda: (lambda one: [lambda k=k: one.predict([{"x": k / 10}]) for k in range(N_THREADS)])(told()),
}


def told():
    optimizer = BayesianOptimizer({"x": FloatDistribution(0, 1)}, random_state=0)
    for x in (0.1, 0.4, 0.5, 0.9):
        optimizer.tell({"x": x}, (x - 0.3) ** 2)
    return optimizer


@pytest.mark.parametrize("name", MAKE)
def test_eight_threads_ask_one_estimator(name):
    """The first questions of all: each thread may be the one that encodes the context, or builds what is kept."""
    expected = [ask() for ask in MAKE[name]()]
    for _ in range(3):
        for found, alone in zip(at_once(MAKE[name]()), expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_some_ask_while_others_fit():
    tables = [(X[k:], LABEL[k:], TARGET[k:]) for k in range(4)]

    def classified(table):
        return PFNClassifier(2, random_state=0).fit(table[0], table[1]).predict_proba(QUERIES[2])

    def regressed(table):
        return PFNRegressor(2, random_state=0).fit(table[0], table[2]).predict(QUERIES[2])

    fits = [lambda f=f, t=t: f(t) for f in (classified, regressed) for t in tables]
    shared = [ask for name in ("classifier", "regressor") for ask in MAKE[name]()[:4]]
    expected = [function() for function in fits + shared]
    for _ in range(3):
        for found, alone in zip(at_once(fits + shared), expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_networks_are_loaded_once_however_many_threads_ask_first():
    from estimators import base
    base._load_bundled.cache_clear()
    expected = PFNClassifier(1, random_state=0).fit(X, LABEL).predict_proba(X[:3])
    base._load_bundled.cache_clear()
    found = at_once([lambda: PFNClassifier(1, random_state=0).fit(X, LABEL).predict_proba(X[:3])] * N_THREADS)
    for one in found:
        np.testing.assert_array_equal(one, expected)
