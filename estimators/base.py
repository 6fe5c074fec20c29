"""What the classifier and the regressor share: parameters, the network, the table in the network's units."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d

from estimators.inference import resolve_device, resolve_precision
from estimators.table import TableEncoder, as_table
from pfn import PFN, load_pretrained


class PFNEstimator(BaseEstimator):
    """Base of the estimators around one network; `fit` of a subclass calls the methods here in the order they stand."""

    n_estimators: int
    model: str | os.PathLike[str] | PFN
    device: str | torch.device
    precision: str
    max_context: int

    def _check_parameters(self) -> None:
        for name in ("n_estimators", "max_context"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name}={value!r} is not a positive integer.")

    def _read(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        """The table and the target, checked by scikit-learn's rules."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y is None."
            )
        table = as_table(self, X, reset=True)
        y = column_or_1d(y, warn=True)
        check_consistent_length(table, y)
        assert_all_finite(y, input_name="y")
        return table, y

    def _load(self, task: str, verb: str) -> PFN:
        """The network on its device, in its precision; sets `model_`. Returns it as it was before, in float32."""
        original = self.model if isinstance(self.model, PFN) else load_pretrained(self.model)
        if original.config.task != task:
            raise ValueError(f"model={self.model!r} is a {original.config.task} network; use one that {verb}.")
        device = resolve_device(self.device)
        # A copy: the network that was passed in keeps its device and precision.
        self.model_ = copy.deepcopy(original).to(device, resolve_precision(self.precision, device))
        return original

    def _encode(self, table: Any) -> np.ndarray:
        """The training table as the matrix that networks read, (n, f) float32; sets the encoder."""
        self._encoder = TableEncoder().fit(table)
        return self._encoder.transform(table)

    def _encode_queries(self, X: Any) -> np.ndarray:
        return self._encoder.transform(as_table(self, X, reset=False))

    def _max_features(self) -> int:
        card = self.model_.card
        return card.envelope.max_features if card is not None else self.n_features_in_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags
