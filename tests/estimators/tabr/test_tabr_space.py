"""TabR in the package's own hyper-parameter search."""

import numpy as np
import pytest
from optuna.distributions import IntDistribution
from sklearn.datasets import load_iris

from estimators import TABR_S_SEARCH_SPACE, TABR_SEARCH_SPACE, TabRClassifier, TabRRegressor
from estimators.search import PFNSearchCV


@pytest.mark.parametrize("estimator", [TabRClassifier, TabRRegressor])
@pytest.mark.parametrize("space", [TABR_S_SEARCH_SPACE, TABR_SEARCH_SPACE])
def test_every_parameter_of_the_spaces_is_one_of_the_estimators(estimator, space):
    assert set(space) <= set(estimator().get_params())


def test_the_spaces_are_those_of_the_paper():
    rate = TABR_S_SEARCH_SPACE["learning_rate"]
    assert (rate.low, rate.high) == (3e-5, 1e-3)
    assert set(TABR_SEARCH_SPACE) - set(TABR_S_SEARCH_SPACE) == {
        "n_encoder_blocks", "n_predictor_blocks", "n_frequencies", "frequency_scale", "embedding_width"}


@pytest.mark.slow
def test_pfn_search_cv_tunes_tabr():
    X, y = load_iris(return_X_y=True)
    space = TABR_SEARCH_SPACE | {"width": IntDistribution(16, 32, step=8)}
    model = TabRClassifier(n_estimators=1, embedding="periodic", max_epochs=4, random_state=0)
    search = PFNSearchCV(model, space, n_iter=3, cv=2, random_state=0).fit(X, y)
    tried = search.cv_results_["params"]
    assert len(tried) == 3
    assert all(set(params) == set(space) for params in tried)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.get_params()["width"] == search.best_params_["width"]
