"""Settings and targets that the tests of TabR share."""

import numpy as np
import pytest

from estimators import TabRClassifier, TabRRegressor

FAST = {"n_estimators": 1, "embedding": "periodic", "n_frequencies": 4, "embedding_width": 4, "width": 32,
        "context_size": 16, "learning_rate": 1e-2, "max_epochs": 4, "patience": 16, "random_state": 0}
PAIR = FAST | {"n_estimators": 2, "embedding": "alternate"}
# Keys far enough apart for a network to tell rows by them, and nothing between neighbours and output.
SHARP = {"n_estimators": 1, "embedding": "none", "width": 32, "context_size": 4, "dropout": 0.0, "context_dropout": 0.0,
         "n_predictor_blocks": 0, "learning_rate": 1e-2, "max_epochs": 12, "random_state": 0}
BOTH = pytest.mark.parametrize("make", [TabRClassifier, TabRRegressor])
N = 120


def target(make, frame):
    """Three classes, or a number."""
    value = frame["size"].fillna(0) + (frame["colour"] == "red") + 0.3 * frame["weight"]
    return value.to_numpy() if make is TabRRegressor else np.array(["a", "b", "c"])[np.digitize(value, [0.3, 1.0])]


def said(estimator, X, **kwargs):
    """The estimator's full answer."""
    return (estimator.predict_proba if isinstance(estimator, TabRClassifier) else estimator.predict)(X, **kwargs)
