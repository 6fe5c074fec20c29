"""What people use: scikit-learn estimators on top of the pretrained networks."""

from estimators.classifier import PFNClassifier
from estimators.density import PFNDensity
from estimators.imputer import PFNImputer
from estimators.regressor import PFNRegressor

__all__ = ["PFNClassifier", "PFNDensity", "PFNImputer", "PFNRegressor"]
