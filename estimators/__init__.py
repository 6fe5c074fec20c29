"""What people use: scikit-learn estimators on top of the pretrained networks."""

from estimators.classifier import PFNClassifier
from estimators.regressor import PFNRegressor

__all__ = ["PFNClassifier", "PFNRegressor"]
