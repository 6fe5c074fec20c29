"""How good are predictions: four metrics of class probabilities, four of predictive distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri
from sklearn.metrics import log_loss, roc_auc_score

# Sign: +1 if larger is better, -1 if smaller is, 0 if neither (coverage should be 0.9).
METRICS: dict[str, dict[str, int]] = {
    "classification": {"auc": 1, "log_loss": -1, "accuracy": 1, "ece": -1},
    "regression": {"rmse": -1, "nll": -1, "pinball": -1, "coverage": 0},
}


@dataclass(frozen=True)
class Normal:
    """Normal distributions of the targets of n rows, as `PredictiveDistribution`; mean (n,) and std (n,) or one number."""

    mean: np.ndarray
    std: np.ndarray | float

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log density in nats per unit of y, (n,)."""
        return -0.5 * ((y - self.mean) / self.std) ** 2 - np.log(self.std * np.sqrt(2 * np.pi))

    def quantile(self, q: Any) -> np.ndarray:
        """Values (n, n_quantiles) below which the target falls with probabilities q."""
        return self.mean[:, None] + np.reshape(self.std, (-1, 1)) * ndtri(q)


def classification_scores(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Four metrics of class probabilities.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Class indices.
    probabilities : ndarray of shape (n, n_classes)
        Divided by their sums over the classes before use.

    Returns
    -------
    dict
        `auc`, area under the ROC curve, averaged over all pairs of classes; `log_loss` in nats; `accuracy`; `ece`, the
        expected calibration error: mean distance of confidence and accuracy over 15 equal bins of confidence, weighted by
        their rows.
    """
    p = probabilities / probabilities.sum(1, keepdims=True)
    classes = np.arange(p.shape[1])
    auc = roc_auc_score(y, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(y, p, multi_class="ovo", labels=classes)
    confidence, correct = p.max(1), p.argmax(1) == y
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs(confidence[bins == b].sum() - correct[bins == b].sum()) for b in range(15)) / len(y)
    return {"auc": float(auc), "log_loss": float(log_loss(y, p, labels=classes)),
            "accuracy": float(correct.mean()), "ece": float(ece)}


def regression_scores(y: np.ndarray, distribution: Any, scale: float) -> dict[str, float]:
    """Four metrics of predictive distributions; all but `coverage` are free of the units of y.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Targets of the test rows.
    distribution : PredictiveDistribution or Normal
        Attribute `mean` (n,), methods `log_prob(y)` (n,) and `quantile(q)` (n, len(q)), in units of y.
    scale : float
        Standard deviation of the training targets, in units of y.

    Returns
    -------
    dict
        `rmse`, root mean square error of the mean over the standard deviation of `y`; `nll`, mean of
        -log p(y / scale) = -log p(y) - log(scale) in nats, p a density; `pinball`, mean pinball loss of the quantiles
        0.1, 0.2, … 0.9 over `scale`; `coverage`, share of rows between the quantiles 0.05 and 0.95, ideally 0.9.

    Raises
    ------
    ValueError
        If `scale` is not positive or `y` is constant.
    """
    if not scale > 0:
        raise ValueError(f"scale={scale!r} is not positive; pass the standard deviation of the training targets.")
    if not y.std() > 0:
        raise ValueError(f"y is {y[0]:g} in all {len(y)} test rows, so RMSE/std is undefined; leave the set out.")
    q = np.arange(1, 10) / 10
    above = y[:, None] - distribution.quantile(q)                                     # (n, 9)
    low, high = distribution.quantile([0.05, 0.95]).T
    return {"rmse": float(np.sqrt(np.mean((y - distribution.mean) ** 2)) / y.std()),
            "nll": float(-np.mean(distribution.log_prob(y)) - np.log(scale)),
            "pinball": float(np.maximum(q * above, (q - 1) * above).mean() / scale),
            "coverage": float(np.mean((low <= y) & (y <= high)))}
