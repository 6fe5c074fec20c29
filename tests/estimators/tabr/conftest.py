"""A small mixed table, and estimators fitted to it."""

import numpy as np
import pandas as pd
import pytest
from tabr_cases import PAIR, N, target

from estimators import TabRClassifier, TabRRegressor


@pytest.fixture(scope="session")
def frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=N), "weight": rng.exponential(size=N), "flag": rng.random(N) < 0.5,
                          "colour": rng.choice(["red", "green", None], N)})
    frame.loc[::7, "size"] = np.nan
    return frame


@pytest.fixture(scope="session")
def fitted(frame):
    """Both, of two networks; not to be changed."""
    return {make: make(**PAIR).fit(frame, target(make, frame)) for make in (TabRClassifier, TabRRegressor)}
