"""Classification of tables by a pretrained network: fit stores the table, predict is a forward pass."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from estimators.base import PFNEstimator
from estimators.calibration import fit_temperature
from estimators.ensemble import View, canonical_classes, canonical_rows, make_views
from estimators.inference import query_logits
from pfn import PFN


class PFNClassifier(ClassifierMixin, PFNEstimator):
    """Class probabilities for small tables in one forward pass, without training or tuning.

    A transformer that was pretrained on synthetic tables reads the training rows as context and outputs an
    approximation of the posterior predictive distribution of each query row. Numbers, booleans, strings, categoricals,
    dates and missing values go in as they are.

    Parameters
    ----------
    n_estimators : int, default=4
        Forward passes whose logits are averaged; they differ in the order of features and classes, and every second one sees
        ranks in place of values.
    model : str, path or PFN, default="classifier"
        Bundled weights, a checkpoint of your own, or a network returned by `pfn.pretrain`.
    device : str, default="auto"
        "auto" takes a CUDA device if there is one; else "cpu", "cuda", "cuda:1", …
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the network's layers. "auto" takes bfloat16 on CPUs with instructions for it (AVX512-BF16, AMX), whose matrix
        products are faster then, and float32 elsewhere.
    temperature : float or "auto", default="auto"
        Divides the logits before the softmax. "auto" predicts each half of the training rows from the other and takes
        the value that suits them, at the cost of about one more member; 1.0 leaves the network's own confidence.
    max_context : int, default=1000
        Largest number of training rows that a member reads; from longer tables each member reads another stratified
        sample.
    random_state : int, RandomState or None, default=None
        Decides the orders and samples of the members; pass an int for reproducible probabilities.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels in sorted order.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only when X had string column names.
    temperature_ : float
        The temperature in use; below 1 the network was too cautious on this table.
    model_ : PFN
        The network; `model_.card` tells how it was trained and where it was validated.

    Notes
    -----
    Neither the order of the training rows, nor the names of the classes, nor the other rows that are predicted in the
    same call have any influence on a prediction.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.
    .. [2] N. Hollmann et al., "TabPFN: A Transformer That Solves Small Tabular Classification Problems in a Second",
       ICLR 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = PFNClassifier(random_state=0).fit(X[::2], y[::2])
    >>> clf.predict_proba(X[1::2]).shape
    (75, 3)
    >>> clf.score(X[1::2], y[1::2]) > 0.9
    True
    """

    def __init__(
        self,
        n_estimators: int = 4,
        model: str | os.PathLike[str] | PFN = "classifier",
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        temperature: float | str = "auto",
        max_context: int = 1000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.model = model
        self.device = device
        self.precision = precision
        self.temperature = temperature
        self.max_context = max_context
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> PFNClassifier:
        """Store the table as context and calibrate the confidence on it; no weight is trained.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Numbers, booleans, strings, categoricals or dates; NaN, None and pandas' NA are missing values.
        y : array-like of shape (n_samples,)
            Class labels of any type that sorts.

        Returns
        -------
        PFNClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If there are more classes than the network has outputs, if X holds infinite values, or if y is missing,
            continuous, or of another length than X.
        """
        self._check_parameters()
        if self.temperature != "auto" and not (isinstance(self.temperature, (int, float)) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature!r} is neither 'auto' nor a positive number; 1.0 is neutral.")
        table, y = self._read(X, y)
        check_classification_targets(y)
        self.classes_, label = np.unique(y, return_inverse=True)
        self._load("classification", "classifies")
        n_classes = len(self.classes_)
        if n_classes > self.model_.config.n_outputs:
            raise ValueError(
                f"y has {n_classes} classes but model={self.model!r} predicts at most {self.model_.config.n_outputs}; "
                "merge rare classes, or wrap it in sklearn.multiclass.OutputCodeClassifier."
            )
        x = self._encode(table)
        self._rank_of_class = canonical_classes(x, label, n_classes)
        label = self._rank_of_class[label]
        order = canonical_rows(x, label)
        self._x, self._y = x[order], label[order]
        random_state = check_random_state(self.random_state)
        self._views = make_views(
            self._x,
            self._y,
            n_estimators=self.n_estimators,
            n_classes=n_classes,
            max_features=self._max_features(),
            max_context=self.max_context,
            random_state=random_state,
        )
        auto = self.temperature == "auto"
        self.temperature_ = self._cross_fit_temperature(random_state) if auto else float(self.temperature)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Posterior predictive probability of each class.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`. Categories that `fit` did not see count as missing.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Columns in the order of `classes_`; rows sum to 1.
        """
        check_is_fitted(self)
        x = self._encode_queries(X)
        logits = [self._member_logits(view, view.rows, x) for view in self._views]
        return softmax(np.mean(logits, axis=0) / self.temperature_, axis=1)[:, self._rank_of_class]

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each row, (n_samples,)."""
        winner = self.predict_proba(X).argmax(1)                     # first, so that an unfitted estimator says so
        return self.classes_[winner]

    def _member_logits(self, view: View, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Logits (len(x), n_classes) by canonical class, from one view with these rows of the table as context."""
        context, slots = view.features(self._x[rows]), view.classes[self._y[rows]]
        return query_logits(self.model_, context, slots, view.features(x))[:, view.classes]

    def _cross_fit_temperature(self, random_state: np.random.RandomState) -> float:
        """Temperature for which one half of the context, predicted from the other, is most probable; and vice versa."""
        half = random_state.permutation(len(self._x)) % 2
        logits, labels = [], []
        for fold in (0, 1):
            view = self._views[fold % len(self._views)]
            context, held_out = view.rows[half[view.rows] != fold], view.rows[half[view.rows] == fold]
            held_out = held_out[np.isin(self._y[held_out], self._y[context])]      # a class must be seen to be predicted
            if len(context) and len(held_out):
                logits.append(self._member_logits(view, context, self._x[held_out]))
                labels.append(self._y[held_out])
        return fit_temperature(np.concatenate(logits), np.concatenate(labels)) if logits else 1.0
