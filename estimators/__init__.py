"""What people use: scikit-learn estimators on top of the pretrained networks."""

from estimators.bayesian_optimizer import BayesianOptimizer
from estimators.classifier import PFNClassifier
from estimators.density import PFNDensity
from estimators.goal import SearchSettings
from estimators.imputer import PFNImputer
from estimators.minimization import minimize
from estimators.regressor import PFNRegressor
from estimators.space import SearchSpace
from estimators.trials import Trial

__all__ = [
    "BayesianOptimizer",
    "PFNClassifier",
    "PFNDensity",
    "PFNImputer",
    "PFNRegressor",
    "SearchSettings",
    "SearchSpace",
    "Trial",
    "minimize",
]
