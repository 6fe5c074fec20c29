"""Regression on tables by a pretrained network: fit stores the table, predict is a forward pass."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from estimators.base import Question
from estimators.context import Table, location_and_scale
from estimators.distribution import PredictiveDistribution, on_other_borders
from estimators.ensemble import Part, View, make_views
from estimators.explanations import Explanations
from estimators.finetuning import FineTuning, TableTasks
from estimators.inference import run_grouped
from estimators.table import check_range
from estimators.targets import TargetWarp
from pfn import PFN, BarDistribution
from pfn.bar import BarPosterior

_CHUNK = 4096


class PFNRegressor(RegressorMixin, FineTuning, Explanations):
    """Posterior predictive distributions for small tables in one forward pass, without training or tuning.

    A transformer that was pretrained on synthetic tasks reads the training rows as context and outputs an approximation
    of the posterior predictive distribution of each query row: a whole density, from which mean, quantiles and
    probabilities follow. Numbers, booleans, strings, categoricals, dates and missing values go in as they are.

    Parameters
    ----------
    n_estimators : int, default=4
        Forward passes whose densities are averaged; they differ in the order of features, every second one sees ranks in
        place of values, and the last two of every four normal scores in place of targets, which tames skewed ones. All but a
        single one see one more column, see Notes. 1 shows the network the table as it is, which suits a prior of your own.
    model : str, path or PFN, default="regressor"
        Bundled weights, a checkpoint of your own, or a network returned by `pfn.pretrain`.
    device : str, default="auto"
        "auto" takes a CUDA device if there is one; else "cpu", "cuda", "cuda:1", …
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the network's layers. "auto" takes bfloat16 on CPUs with instructions for it (AVX512-BF16, AMX) and float32
        elsewhere. bfloat16 keeps three digits of each target: choose float32 where noise is below 1 % of their spread.
    context : {"auto", "full", "subsample", "local"}, default="auto"
        What members read of tables longer than `max_context`: "full" all of it, "subsample" another sample each,
        stratified by deciles of y, "local" the rows nearest to the query's cell of the table, which are other cells for
        each member. "auto" is "local", which beats samples of the same size (`benchmarks/large_tables.py`).
    max_context : int, default=1000
        Largest number of training rows that a member reads at once.
    memory_limit : float, default=8.0
        GiB that one member may need; contexts that would need more are cut down, with a warning.
    random_state : int, RandomState or None, default=None
        Decides the orders and samples of the members; pass an int for reproducible predictions.

    Attributes
    ----------
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only when X had string column names.
    estimators_ : list of PFNRegressor
        One for each output, only when y had several.
    model_ : PFN
        The network; `model_.card` tells how it was trained and where it was validated.

    Notes
    -----
    Neither the order of the training rows nor the other rows that are predicted in the same call have any influence on a
    prediction; shifting and scaling y shifts and scales it.

    Where kernel ridge regression, with a linear or a Gaussian kernel, explains seven tenths of the variance of y in
    cross-validation, its predictions are one more column of the table, those of training rows from the other folds [3]_. It
    finds out which columns matter [4]_, and has a coordinate for each level of a category: columns that are no numbers are
    categories, and so are columns of numbers with at most 30 levels, of ten rows each, if that predicts better.
    The network knows a linear or smooth function of many columns only roughly, and takes codes for numbers.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.
    .. [2] N. Hollmann et al., "Accurate predictions on small data with a tabular foundation model", Nature 2025.
    .. [3] D. H. Wolpert, "Stacked Generalization", Neural Networks 1992.
    .. [4] A. Radhakrishnan et al., "Mechanism for feature learning in neural networks and backpropagation-free machine
       learning models", Science 2024.

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

    _several_targets = True

    def __init__(
        self,
        n_estimators: int = 4,
        model: str | os.PathLike[str] | PFN = "regressor",
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        context: str = "auto",
        max_context: int = 1000,
        memory_limit: float = 8.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.model = model
        self.device = device
        self.precision = precision
        self.context = context
        self.max_context = max_context
        self.memory_limit = memory_limit
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> PFNRegressor:
        """Store the table as context; no weight is trained.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Numbers, booleans, strings, categoricals or dates; NaN, None and pandas' NA are missing values.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite numbers. Several outputs are predicted independently of each other.
        sample_weight : array-like of shape (n_samples,), optional
            An integer weight is that many copies of the row; 0 leaves it out.

        Returns
        -------
        PFNRegressor
            The fitted estimator.

        Raises
        ------
        FileNotFoundError
            If `model` is neither a bundled name nor a file.
        ValueError
            If X holds infinite values, if y is missing, not numeric, not finite or of another length than X, or if
            weights are negative or all zero.
        """
        return super().fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> PFNRegressor:
        self._check_parameters()
        table, target, weight = self._read(X, y, sample_weight)
        try:
            if target.dtype.kind in "mM":
                raise TypeError(f"its dtype is {target.dtype}")
            target = target.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"y is not numeric ({error}); use PFNClassifier for labels.") from error
        check_range(target)                                         # again: it may have been text
        self.__dict__.pop("estimators_", None)
        # Borders from the float32 original: rounded to bfloat16 they need not increase.
        network = self._load("regression", "regresses")
        self._borders = network.borders.detach().double().cpu()
        if self._keeps_units:
            mean, std = network.target_scaling.detach().double().cpu()
            self._borders = mean + std * self._borders
        if target.ndim == 2:
            columns = np.asarray(y, dtype=np.float64).T
            self.estimators_ = [clone(self).fit(X, column, sample_weight) for column in columns]
            return self
        merged = Table.of(self._encode(table), target, weight)
        self._location, self._scale = (0.0, 1.0) if self._keeps_units else location_and_scale(merged.y, merged.weight)
        self._table = replace(merged, y=((merged.y - self._location) / self._scale).astype(np.float32))
        self._ridge = None
        if self._wants_smooth_columns(1):
            self._append_smooth_columns(self._table.y[:, None])
        ordered = np.sort(merged.y)
        self._views = make_views(
            self._table,
            np.searchsorted(ordered, merged.y) * 10 // len(ordered),         # deciles
            class_slots=lambda *_: [np.empty(0, dtype=np.int64)],
            random_state=check_random_state(self.random_state),
            **self._view_settings(),
        )
        return self

    def predict_distribution(self, X: Any) -> PredictiveDistribution:
        """Posterior predictive distribution of each row's target.

        The context is encoded by the first call and kept for the next, if it takes less than an eighth of `memory_limit`.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`. Categories that `fit` did not see count as missing.

        Returns
        -------
        PredictiveDistribution
            With attributes `mean`, `median`, `mode` and `std` and methods `log_prob`, `cdf`, `quantile` and `sample`, in
            the units of y.

        Raises
        ------
        ValueError
            If y had several outputs; `estimators_` holds the regressor of each.
        """
        check_is_fitted(self)
        if hasattr(self, "estimators_"):
            raise ValueError(
                f"y had {len(self.estimators_)} outputs; call estimators_[i].predict_distribution(X) for the i-th of them."
            )
        return self._distribution(self._encode_queries(X))

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
            With several outputs (n_samples, n_outputs), or (n_samples, n_outputs, n_quantiles).
        """
        if return_std and quantiles is not None:
            raise ValueError("return_std=True together with quantiles is ambiguous; call predict_distribution for both.")
        check_is_fitted(self)
        if hasattr(self, "estimators_"):
            found = [estimator.predict(X, return_std, quantiles) for estimator in self.estimators_]
            if return_std:
                return np.stack([mean for mean, _ in found], 1), np.stack([std for _, std in found], 1)
            return np.stack(found, 1)
        # Densities of many rows at once would be large: a thousand numbers a row.
        chunks = [self._distribution(x) for x in self._encode_queries(X).split(_CHUNK)]
        if quantiles is not None:
            return np.concatenate([chunk.quantile(quantiles) for chunk in chunks])
        mean = np.concatenate([chunk.mean for chunk in chunks])
        return (mean, np.concatenate([chunk.std for chunk in chunks])) if return_std else mean

    def predict_many(self, tables: Iterable[tuple[Any, Any, Any]]) -> list[PredictiveDistribution]:
        """Fit and predict many tables, several of them in one forward pass.

        Parameters
        ----------
        tables : iterable of (X, y, X_query)
            As for `fit` and `predict_distribution`; y (n_samples,).

        Returns
        -------
        list of PredictiveDistribution
            What a clone of this estimator would return from `fit(X, y).predict_distribution(X_query)`.
        """
        fitted, questions, queries = [], [], []
        for X, y, X_query in tables:
            estimator = clone(self).fit(X, y)
            if hasattr(estimator, "estimators_"):
                raise ValueError(f"y has shape {np.shape(y)}; predict_many takes one output a table.")
            queries.append(estimator._encode_queries(X_query))
            questions.append(estimator._questions(queries[-1]))
            fitted.append(estimator)
        if not fitted:
            return []
        passes = [[estimator._pass(q) for q in own] for estimator, own in zip(fitted, questions, strict=True)]
        answers = run_grouped(fitted[0].model_, passes)
        return [
            estimator._mixed(own, logits, len(x))
            for estimator, own, logits, x in zip(fitted, questions, answers, queries, strict=True)
        ]

    def _targets(self, view: View, rows: np.ndarray, part: Part) -> np.ndarray:
        y = self._table.y[rows].astype(np.float64)
        warp = TargetWarp.normal_scores(y, self._table.weight[rows]) if view.scores else None
        return (y if warp is None else warp.forward(y)).astype(np.float32)

    def _negative_log_likelihood(self, X: Any, y: Any) -> float:
        return -float(self.predict_distribution(X).log_prob(y).mean())

    def _tasks(self) -> TableTasks:
        settings = self._view_settings()
        return TableTasks(self._table, None, settings["max_features"], settings["max_context"])

    def _weighted_prediction(self, x: Tensor, log_weight: Tensor) -> Tensor:
        """Mean (n,) predicted for each row of x, in units of y, by the members without a warp of the targets."""
        means = []
        y, weight = (torch.from_numpy(part).double() for part in (self._table.y, self._table.weight))
        for question in self._questions(x):
            view = self._views[question.member]
            if view.scores:
                continue
            part = view.parts[question.part]
            rows = torch.from_numpy(part.rows)
            share = weight[rows] * log_weight[rows].double().exp()
            share = share / share.sum()
            logits = self._ask_weighted(view, part, question.x, log_weight)
            mean = BarDistribution(self._borders).posterior(logits).mean
            if not self._keeps_units:
                location = share @ y[rows]
                variance = share @ (y[rows] - location) ** 2
                mean = location + (variance.sqrt() if variance > 1e-24 else 1.0) * mean
            means.append(mean.new_zeros(len(x)).index_copy(0, torch.from_numpy(question.queries), mean))
        n_members = sum(not view.scores for view in self._views)
        return self._location + self._scale * torch.stack(means).sum(0) / n_members

    def _distribution(self, x: Tensor) -> PredictiveDistribution:
        questions = self._questions(x)
        return self._mixed(questions, self._ask(questions), len(x))

    def _mixed(self, questions: list[Question], logits: list[Tensor], n_queries: int) -> PredictiveDistribution:
        """Equal-weight mixture of the members' answers, on the borders that all share."""
        total = torch.full((n_queries, len(self._borders) - 1), -torch.inf, dtype=torch.float64)
        for question, answer in zip(questions, logits, strict=True):
            view = self._views[question.member]
            log_mass = self._on_shared_borders(answer.log_softmax(-1), view, view.parts[question.part])
            rows = torch.from_numpy(question.queries)
            total[rows] = torch.logaddexp(total[rows], log_mass - np.log(len(self._views)))
        return PredictiveDistribution(BarPosterior(self._borders, total), self._location, self._scale)

    def _on_shared_borders(self, log_mass: Tensor, view: View, part: Part) -> Tensor:
        """A member's log masses (n, n_bars), which refer to its own context's location, scale and warp."""
        y, weight = self._table.y[part.rows].astype(np.float64), self._table.weight[part.rows]
        warp = TargetWarp.normal_scores(y, weight) if view.scores else None
        if warp is None and (self._keeps_units or len(part.rows) == len(self._table)):
            return log_mass
        location, scale = location_and_scale(y if warp is None else warp.forward(y), weight)
        borders = location + scale * self._borders
        return on_other_borders(log_mass, borders if warp is None else warp.inverse(borders), self._borders)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
