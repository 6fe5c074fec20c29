"""What the network makes of a row, and which training rows carried a prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from estimators.base import PFNEstimator
from estimators.ensemble import Part, View
from estimators.inference import encode, in_blocks


class Explanations(PFNEstimator):
    """Adds `embed` and `context_influence` to an estimator."""

    def _weighted_prediction(self, x: Tensor, log_weight: Tensor) -> Tensor:
        """Prediction (n,) for rows x (n, f) with the table's weights times exp(log_weight)."""
        raise NotImplementedError

    def embed(self, X: Any) -> np.ndarray:
        """Representations of rows in the light of the training table: what the network's output layer sees of them.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, 2 * embed_dim), float64; embed_dim of networks with row tokens
            Averages over the members. Rows with similar predictive distributions lie close to each other.
        """
        x = self._encode_single_output(X)
        summaries = x.new_zeros(len(x), self.model_.config.summary_dim, dtype=torch.float64)
        questions = [q for q in self._questions(x) if q.part < len(self._views[q.member].cells)]
        for question, summary in zip(questions, self._ask(questions, "represent"), strict=True):
            summaries.index_add_(0, torch.from_numpy(question.queries), summary / len(self._views))
        return summaries.numpy()

    def context_influence(self, X: Any) -> np.ndarray:
        """How much each training row carried each prediction.

        The derivative of the prediction with respect to the logarithm of the row's `sample_weight`: what is gained, to
        first order, if the row counted 1 % more is a hundredth of it. A negative value says that the row spoke against
        the prediction. One backward pass through the whole context is needed for each row of X.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_queries, n_features)

        Returns
        -------
        ndarray of shape (n_queries, n_samples), float64
            In rows of the training table as it was passed to `fit`. Classification: of the log-probability of the
            predicted class. Regression: of the predicted mean, in units of y, from the members that see the targets
            themselves. Equal training rows share their influence; rows of weight 0 have none. What a row did for columns
            of smooth predictions (see `PFNRegressor`) is not in it; ``n_estimators=1`` does without them.

        References
        ----------
        .. [1] P. W. Koh and P. Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017: the same
           derivative for models that are trained, where it needs an approximation.
        """
        x = self._encode_single_output(X)
        log_weight = torch.zeros(len(self._table), requires_grad=True)
        predictions = self._weighted_prediction(x, log_weight)
        rows = [torch.autograd.grad(one, log_weight, retain_graph=True)[0] for one in predictions]
        influence = torch.stack(rows).double().numpy()
        source = self._table.source
        spread = np.zeros((len(x), len(self._kept)))
        spread[:, self._kept] = (influence / np.bincount(source))[:, source]
        return spread

    def _encode_single_output(self, X: Any) -> Tensor:
        check_is_fitted(self)
        if hasattr(self, "estimators_"):
            raise ValueError(
                f"y had {len(self.estimators_)} outputs; call the method of estimators_[i], the regressor of one of them."
            )
        return self._encode_queries(X)

    def _ask_weighted(self, view: View, part: Part, x: Tensor, log_weight: Tensor) -> Tensor:
        """Logits (m, n_outputs) for queries x, as seen by a member, that depend on the rows' weights."""
        features, y, weight = self._shown(view, part.rows, part)
        factor = log_weight[torch.from_numpy(part.rows)].exp()
        context = encode(self.model_, features, y, factor if weight is None else weight * factor)
        return in_blocks(self.model_.decode, context, x.unsqueeze(0))[0]
