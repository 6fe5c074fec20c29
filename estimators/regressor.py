"""Regression on tables by a pretrained network: fit stores the table, predict is a forward pass."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from estimators.base import PFNEstimator
from estimators.distribution import PredictiveDistribution, mixture, on_other_borders
from estimators.ensemble import View, canonical_rows, make_views
from estimators.inference import query_logits
from estimators.targets import TargetWarp
from pfn import PFN


class PFNRegressor(RegressorMixin, PFNEstimator):
    """Posterior predictive distributions for small tables in one forward pass, without training or tuning.

    A transformer that was pretrained on synthetic tasks reads the training rows as context and outputs an approximation
    of the posterior predictive distribution of each query row: a whole density, from which mean, quantiles and
    probabilities follow. Numbers, booleans, strings, categoricals, dates and missing values go in as they are.

    Parameters
    ----------
    n_estimators : int, default=4
        Forward passes whose densities are averaged; they differ in the order of features, every second one sees ranks in
        place of values, and the last two of every four normal scores in place of targets, which tames skewed ones. 1 shows the
        network the table as it is, which suits a prior of your own.
    model : str, path or PFN, default="regressor"
        Bundled weights, a checkpoint of your own, or a network returned by `pfn.pretrain`.
    device : str, default="auto"
        "auto" takes a CUDA device if there is one; else "cpu", "cuda", "cuda:1", …
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the network's layers. "auto" takes bfloat16 on CPUs with instructions for it (AVX512-BF16, AMX) and float32
        elsewhere. bfloat16 keeps three digits of each target: choose float32 where noise is below 1 % of their spread.
    max_context : int, default=1000
        Largest number of training rows that a member reads; from longer tables each member reads another sample,
        stratified by deciles of y.
    random_state : int, RandomState or None, default=None
        Decides the orders and samples of the members; pass an int for reproducible predictions.

    Attributes
    ----------
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only when X had string column names.
    model_ : PFN
        The network; `model_.card` tells how it was trained and where it was validated.

    Notes
    -----
    Neither the order of the training rows nor the other rows that are predicted in the same call have any influence on a
    prediction; shifting and scaling y shifts and scales it.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.
    .. [2] N. Hollmann et al., "Accurate predictions on small data with a tabular foundation model", Nature 2025.

    Examples
    --------
    >>> from pfn import PFNConfig, PretrainConfig, TaskSizes, pretrain
    >>> from priors import GPPrior
    >>> small = PFNConfig(task="regression", n_outputs=16, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32)
    >>> sizes = TaskSizes(rows=(16, 32), features=(1, 2), cells=256)
    >>> model = pretrain(PretrainConfig(GPPrior(), small, sizes, n_steps=3, decay_steps=0), progress=False)
    >>> reg = PFNRegressor(model=model).fit([[0.0], [0.5], [1.0]], [10.0, 11.0, 12.0])
    >>> reg.predict([[0.25], [0.75]], quantiles=[0.1, 0.5, 0.9]).shape
    (2, 3)
    """

    def __init__(
        self,
        n_estimators: int = 4,
        model: str | os.PathLike[str] | PFN = "regressor",
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        max_context: int = 1000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.model = model
        self.device = device
        self.precision = precision
        self.max_context = max_context
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> PFNRegressor:
        """Store the table as context; no weight is trained.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Numbers, booleans, strings, categoricals or dates; NaN, None and pandas' NA are missing values.
        y : array-like of shape (n_samples,)
            Finite numbers.

        Returns
        -------
        PFNRegressor
            The fitted estimator.

        Raises
        ------
        FileNotFoundError
            If `model` is neither a bundled name nor a file.
        ValueError
            If X holds infinite values, or if y is missing, not numeric, not finite or of another length than X.
        """
        self._check_parameters()
        table, y = self._read(X, y)
        try:
            y = y.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"y is not numeric ({error}); use PFNClassifier for labels.") from error
        # Borders from the float32 original: rounded to bfloat16 they need not increase.
        self._borders = self._load("regression", "regresses").borders.detach().double().cpu()
        x = self._encode(table)
        order = canonical_rows(x, y)
        self._x = x[order]
        ordered = np.sort(y)                                                 # sums do not depend on the order of the rows
        self._location, self._scale = _location_and_scale(ordered)
        self._y = ((y[order] - self._location) / self._scale).astype(np.float32)
        self._views = make_views(
            self._x,
            np.searchsorted(ordered, y[order]) * 10 // len(y),               # deciles
            n_estimators=self.n_estimators,
            n_classes=1,
            max_features=self._max_features(),
            max_context=self.max_context,
            random_state=check_random_state(self.random_state),
        )
        return self

    def predict_distribution(self, X: Any) -> PredictiveDistribution:
        """Posterior predictive distribution of each row's target.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`. Categories that `fit` did not see count as missing.

        Returns
        -------
        PredictiveDistribution
            With attributes `mean` and `std` and methods `log_prob`, `cdf`, `quantile` and `sample`, in the units of y.
        """
        check_is_fitted(self)
        x = self._encode_queries(X)
        posterior = mixture([self._member_log_mass(view, x) for view in self._views], self._borders)
        return PredictiveDistribution(posterior, self._location, self._scale)

    def predict(
        self, X: Any, return_std: bool = False, quantiles: Any = None
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Posterior predictive mean of each row, or quantiles.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        return_std : bool, default=False
            Return the standard deviations as well.
        quantiles : sequence of float, optional
            Probabilities in [0, 1]; returns these quantiles in place of the mean.

        Returns
        -------
        ndarray of shape (n_samples,), two of them with `return_std`, or one of shape (n_samples, n_quantiles)
        """
        if return_std and quantiles is not None:
            raise ValueError("return_std=True together with quantiles is ambiguous; call predict_distribution for both.")
        distribution = self.predict_distribution(X)
        if quantiles is not None:
            return distribution.quantile(quantiles)
        return (distribution.mean, distribution.std) if return_std else distribution.mean

    def _member_log_mass(self, view: View, x: np.ndarray) -> torch.Tensor:
        """Log masses (len(x), n_bars) of one member, on the borders that all members share."""
        y = self._y[view.rows].astype(np.float64)
        warp = TargetWarp.normal_scores(y) if view.scores else None
        seen = y if warp is None else warp.forward(y)
        logits = query_logits(self.model_, view.features(self._x[view.rows]), seen.astype(np.float32), view.features(x))
        log_mass = torch.from_numpy(logits).log_softmax(-1)
        if warp is None and len(view.rows) == len(self._x):
            return log_mass
        location, scale = _location_and_scale(seen)                          # the network standardised by its own context
        borders = location + scale * self._borders
        return on_other_borders(log_mass, borders if warp is None else warp.inverse(borders), self._borders)


def _location_and_scale(y: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; 1 for a constant."""
    location, scale = float(y.mean()), float(y.std())
    return location, scale if scale > 1e-12 * abs(location) else 1.0
