"""What people use: scikit-learn estimators on top of the pretrained networks."""

from estimators.classifier import PFNClassifier

__all__ = ["PFNClassifier"]
