"""What people use: scikit-learn estimators on top of the pretrained networks."""

from estimators.bayesian_optimizer import BayesianOptimizer
from estimators.classifier import PFNClassifier
from estimators.density import PFNDensity
from estimators.freeze_thaw import FreezeThawOptimizer
from estimators.freeze_thaw_runs import PartialCurve, Suggestion
from estimators.goal import SearchSettings
from estimators.imputer import PFNImputer
from estimators.learning_curves import LearningCurveExtrapolator
from estimators.minimization import minimize
from estimators.regressor import PFNRegressor
from estimators.space import SearchSpace
from estimators.tabr import TabRClassifier, TabRRegressor
from estimators.tabr_space import TABR_S_SEARCH_SPACE, TABR_SEARCH_SPACE
from estimators.trials import Trial
from pfn import __version__ as __version__

__all__ = [
    "TABR_SEARCH_SPACE",
    "TABR_S_SEARCH_SPACE",
    "BayesianOptimizer",
    "FreezeThawOptimizer",
    "LearningCurveExtrapolator",
    "PFNClassifier",
    "PFNDensity",
    "PFNImputer",
    "PFNRegressor",
    "PartialCurve",
    "SearchSettings",
    "SearchSpace",
    "Suggestion",
    "TabRClassifier",
    "TabRRegressor",
    "Trial",
    "minimize",
]
