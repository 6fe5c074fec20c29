"""TabR: networks that are trained on a table and look up its rows when they predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets

from estimators.table import check_range
from estimators.tabr_answers import CandidateMask
from estimators.tabr_base import TabREstimator


class TabRClassifier(ClassifierMixin, TabREstimator):
    """Class probabilities from a network that retrieves similar training rows, for tables too long for `PFNClassifier`.

    Each row is mapped to a key; the `context_size` training rows with the nearest keys vote with their labels, corrected for
    how they differ from the row [1]_. The network is trained on the table, with early stopping on some of its rows; a row
    never sees its own label. Numbers, booleans, strings, categoricals, dates and missing values go in as they are.

    Parameters
    ----------
    context_size : int, default=96
        Neighbours of a row.
    n_estimators : int, default=2
        Networks whose predictions are averaged; each has its own initial weights, batches and validation rows.
    embedding : {"alternate", "periodic", "none"}, default="alternate"
        Which networks read periodic embeddings (PLR-lite) [2]_ of numbers beside the numbers themselves: every second,
        beginning with the first, or all, or none, which is TabR-S. Which is better depends on the table.
    n_frequencies, frequency_scale, embedding_width : int, float, int, default=16, 0.1, 16
        Of the embeddings: frequencies per column, their initial standard deviation, and outputs per column.
    width : int, default=264
        Of representations and keys.
    n_encoder_blocks, n_predictor_blocks : int, default=0, 1
        Residual blocks before and after the retrieval.
    dropout, context_dropout : float, default=0.3885, 0.3892
        In hidden layers, and of neighbours; multiples of 1/256 are used.
    learning_rate, weight_decay : float, default=3.12e-4, 1.23e-6
        Of AdamW.
    batch_size : int or "auto", default="auto"
        "auto" is 128 for fewer than 10,000 training rows, 256 below 30,000, 512 below 200,000, else 1024.
    max_epochs : int, default=500
    patience : int or "auto", default="auto"
        Training stops after `max_epochs`, or when the validation score has not improved for `patience` epochs: "auto" is 16
        below 10,000 training rows, else 8. The weights with the best score are kept.
    freeze_contexts_after : int, "auto" or None, default="auto"
        Epochs after which the neighbours of the training rows are no longer searched anew. "auto" is 8 from 10,000 training
        rows, else None, which is never.
    validation_fraction : float, default=0.2
        Share of the rows that early stopping is judged by; equal rows stay on one side. With 0, or fewer than ten rows, it
        is judged by predictions of the training rows, each without itself.
    stopping : {"loss", "error"}, default="loss"
        The validation score: log loss, or the share of wrong labels; of regressors the root mean square error, or the mean
        absolute error, in standard deviations of the target.
    time_limit : float or None, default=None
        Seconds for `fit`, after which training stops and the best weights so far are kept. At least one step is made.
    categorical_features : list or None, default=None
        Names, positions or a mask of numeric columns that hold categories; others are recognised by their type.
    device : str, default="auto"
        "auto" takes a CUDA device if there is one; else "cpu", "cuda", "cuda:1", …
    progress : bool, default=False
        Whether to show a progress bar for each network.
    random_state : int, RandomState or None, default=None
        Decides initial weights, batches, dropout and validation rows; pass an int for reproducible fits.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels in sorted order.
    n_epochs_ : list of int
        Epochs that each network's weights were trained for.
    fit_times_ : list of float
        Seconds that each network's training took.
    validation_scores_ : list of ndarray
        Each network's score after every epoch; smaller is better.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only when X had string column names.

    Notes
    -----
    Equal rows with equal labels count as one row with the sum of their weights, so that an integer weight is as good as
    that many copies. In training a row never sees itself, but it sees its other copies, as rows to be predicted will see
    theirs. Weights that are not whole, or the same throughout a class, are not taken for copies. At prediction the
    candidates are all rows of `fit`, the validation rows among them.

    Numbers become normal scores, and categories one-hot columns: one for each of up to 64 levels, or for the 63 most
    frequent and for the rest. Missing values are set to 0 and marked in a column. The fitted estimator holds the table.

    References
    ----------
    .. [1] Y. Gorishniy et al., "TabR: Tabular Deep Learning Meets Nearest Neighbors", ICLR 2024.
    .. [2] Y. Gorishniy, I. Rubachev, A. Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS
       2022.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> clf = TabRClassifier(max_epochs=3, random_state=0).fit(X[::2], y[::2])
    >>> clf.score(X[1::2], y[1::2]) > 0.9
    True
    >>> weight, index = clf.kneighbors(X[1:2], n_neighbors=3)   # the rows of X[::2] that count most for it
    >>> weight.shape, index.shape
    ((1, 3), (1, 3))
    """

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        candidate_mask: CandidateMask | None = None,
    ) -> TabRClassifier:
        """Train the networks.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Numbers, booleans, strings, categoricals or dates; NaN, None and pandas' NA are missing values.
        y : array-like of shape (n_samples,)
            Class labels of any type that sorts.
        sample_weight : array-like of shape (n_samples,), optional
            Of the rows in the loss, in the validation score, and as neighbours. An integer weight is that many copies of the
            row; 0 leaves it out.
        X_val, y_val : array-like, optional
            Rows for early stopping, in place of some of X. They do not become candidates; see `add_candidates`.
        candidate_mask : callable, optional
            Which rows may see which: given the numbers of b rows and of c candidates, two int arrays, a boolean array
            (b, c). Rows of X have the numbers 0 … n-1, those of X_val follow. If only earlier rows may be seen, for example,
            ``lambda rows, candidates: times[rows][:, None] > times[candidates]``. Equal rows are then not merged, and may
            be on both sides of the validation split.

        Returns
        -------
        TabRClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of range, X holds infinite values, y is missing, continuous or of another length than X, or
            weights are negative or all zero.
        """
        return self._fit(X, y, sample_weight, X_val, y_val, candidate_mask)

    def predict_proba(self, X: Any, *, candidate_mask: CandidateMask | None = None) -> np.ndarray:
        """Probability of each class.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`. Categories that `fit` did not see are none of those that it saw.
        candidate_mask : callable, optional
            As in `fit`: given numbers of rows of this X, and of candidates as `kneighbors` numbers them. By default all
            candidates are searched.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Columns in the order of `classes_`; rows sum to 1.
        """
        outputs = self._outputs(X, candidate_mask)
        if len(self.classes_) == 1:
            return np.ones((outputs.shape[1], 1))
        if outputs.shape[2] == 1:
            outputs = torch.cat([torch.zeros_like(outputs), outputs], 2)
        return outputs.softmax(2).mean(0).numpy()

    def predict(self, X: Any, *, candidate_mask: CandidateMask | None = None) -> np.ndarray:
        """Most probable class of each row, (n_samples,)."""
        winner = self.predict_proba(X, candidate_mask=candidate_mask).argmax(1)
        return self.classes_[winner]

    def _encode_target(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        check_classification_targets(y)
        self.classes_, label = np.unique(y, return_inverse=True)
        return label.astype(np.int64)

    def _known_target(self, y: np.ndarray) -> np.ndarray:
        unknown = np.flatnonzero(~np.isin(y, self.classes_))
        if len(unknown):
            row = unknown[0]
            raise ValueError(f"y has the label {y.tolist()[row]!r} in row {row}, which fit did not see; fit again with it.")
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _n_labels(self) -> int:
        return len(self.classes_)


class TabRRegressor(RegressorMixin, TabREstimator):
    """Predictions of a number by a network that retrieves similar training rows, for tables too long for `PFNRegressor`.

    Each row is mapped to a key; the `context_size` training rows with the nearest keys contribute their targets, corrected
    for how they differ from the row [1]_. Targets are standardised; the loss and the validation score are squared errors.
    Everything else is as in `TabRClassifier`, which describes the parameters.

    Attributes
    ----------
    n_epochs_ : list of int
        Epochs that each network's weights were trained for.
    fit_times_ : list of float
        Seconds that each network's training took.
    validation_scores_ : list of ndarray
        Each network's score after every epoch; smaller is better.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only when X had string column names.

    References
    ----------
    .. [1] Y. Gorishniy et al., "TabR: Tabular Deep Learning Meets Nearest Neighbors", ICLR 2024.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = TabRRegressor(max_epochs=10, random_state=0).fit(X[::2], y[::2])
    >>> reg.predict(X[1::2]).shape
    (221,)
    """

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        candidate_mask: CandidateMask | None = None,
    ) -> TabRRegressor:
        """Train the networks; see `TabRClassifier.fit`. `y` holds numbers, float of shape (n_samples,)."""
        return self._fit(X, y, sample_weight, X_val, y_val, candidate_mask)

    def predict(self, X: Any, *, candidate_mask: CandidateMask | None = None) -> np.ndarray:
        """Predicted targets, (n_samples,) float64, in the units of y; see `TabRClassifier.predict_proba`."""
        return self._outputs(X, candidate_mask).squeeze(2).mean(0).numpy() * self._scale + self._mean

    def _encode_target(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        y = _as_numbers(y)
        values = np.unique(y)
        total = np.bincount(np.searchsorted(values, y), weights=weight)             # in an order that copies do not change
        exponent = int(np.frexp(np.abs(values).max())[1])
        values = np.ldexp(values, -exponent)                        # exact, and squares neither overflow nor vanish
        mean = np.average(values, weights=total)
        scale = np.sqrt(np.average((values - mean) ** 2, weights=total))
        self._mean, self._scale = np.ldexp([mean, scale], exponent).tolist()
        return self._known_target(y)

    def _known_target(self, y: np.ndarray) -> np.ndarray:
        return ((_as_numbers(y) - self._mean) / (self._scale or 1.0)).astype(np.float32)

    def _n_labels(self) -> int:
        return 0


def _as_numbers(y: np.ndarray) -> np.ndarray:
    try:
        if y.dtype.kind in "mM":
            raise TypeError(f"its dtype is {y.dtype}")
        y = y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"y is not numeric ({error}); use TabRClassifier for labels.") from error
    check_range(y)                                                  # again: it may have been text
    return y
