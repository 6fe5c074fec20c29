"""Parameters of TabR's estimators: their defaults, their ranges, and what they mean for a table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from estimators.base import check_positive_integer
from estimators.tabr_network import TabRConfig
from estimators.tabr_table import TabRTable
from estimators.tabr_training import Plan

_LONG = 10_000                                                      # training rows: steps enough in fewer epochs


class TabRParameters(BaseEstimator):
    """Described in `TabRClassifier`."""

    def __init__(
        self,
        context_size: int = 96,
        n_estimators: int = 2,
        *,
        embedding: str = "alternate",
        n_frequencies: int = 16,
        frequency_scale: float = 0.1,
        embedding_width: int = 16,
        width: int = 264,
        n_encoder_blocks: int = 0,
        n_predictor_blocks: int = 1,
        dropout: float = 0.3885,
        context_dropout: float = 0.3892,
        learning_rate: float = 3.12e-4,
        weight_decay: float = 1.23e-6,
        batch_size: int | str = "auto",
        max_epochs: int = 500,
        patience: int | str = "auto",
        freeze_contexts_after: int | str | None = "auto",
        validation_fraction: float = 0.2,
        stopping: str = "loss",
        time_limit: float | None = None,
        categorical_features: Any = None,
        device: str | torch.device = "auto",
        progress: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.context_size = context_size
        self.n_estimators = n_estimators
        self.embedding = embedding
        self.n_frequencies = n_frequencies
        self.frequency_scale = frequency_scale
        self.embedding_width = embedding_width
        self.width = width
        self.n_encoder_blocks = n_encoder_blocks
        self.n_predictor_blocks = n_predictor_blocks
        self.dropout = dropout
        self.context_dropout = context_dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.freeze_contexts_after = freeze_contexts_after
        self.validation_fraction = validation_fraction
        self.stopping = stopping
        self.time_limit = time_limit
        self.categorical_features = categorical_features
        self.device = device
        self.progress = progress
        self.random_state = random_state

    def _config(self, table: TabRTable, n_labels: int, member: int) -> TabRConfig:
        """Shape of a member's network."""
        is_periodic = self.embedding == "periodic" or (self.embedding == "alternate" and member % 2 == 0)
        return TabRConfig(
            n_numeric=table.n_numeric, n_plain=table.n_columns - table.n_numeric,
            n_outputs=n_labels if n_labels > 2 else 1, n_labels=n_labels, width=self.width, hidden=2 * self.width,
            n_encoder_blocks=self.n_encoder_blocks, n_predictor_blocks=self.n_predictor_blocks,
            n_frequencies=self.n_frequencies if is_periodic else 0, frequency_scale=self.frequency_scale,
            embedding_width=self.embedding_width, dropout=self.dropout, context_dropout=self.context_dropout,
        )

    def _plan(self, n_rows: int) -> Plan:
        """How a network is trained on `n_rows` rows."""
        batch_size = self.batch_size
        if not isinstance(batch_size, int | np.integer):
            batch_size = 128 if n_rows < 10_000 else 256 if n_rows < 30_000 else 512 if n_rows < 200_000 else 1024
        patience, freeze = self.patience, self.freeze_contexts_after
        if isinstance(patience, str):
            patience = 16 if n_rows < _LONG else 8
        if isinstance(freeze, str):
            freeze = None if n_rows < _LONG else 8
        return Plan(
            context_size=self.context_size, batch_size=int(batch_size), learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, max_epochs=self.max_epochs, patience=int(patience),
            freeze_contexts_after=freeze, stopping=self.stopping,
        )

    def _check_parameters(self) -> None:
        for name in ("context_size", "n_estimators", "width", "max_epochs", "n_frequencies", "embedding_width"):
            check_positive_integer(name, getattr(self, name))
        if self.embedding not in ("alternate", "periodic", "none"):
            raise ValueError(f"embedding={self.embedding!r} is unknown; use 'alternate', 'periodic' or 'none'.")
        if self.stopping not in ("loss", "error"):
            raise ValueError(f"stopping={self.stopping!r} is unknown; use 'loss' or 'error'.")
        for name in ("n_encoder_blocks", "n_predictor_blocks"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}={value!r} is not an integer of at least 0.")
        for name in ("dropout", "context_dropout", "validation_fraction"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(f"{name}={value!r} is not a number from 0 to below 1.")
        for name in ("learning_rate", "frequency_scale"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r} is not a positive number.")
        if not _is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay!r} is not a number of at least 0.")
        for name in ("batch_size", "patience"):
            if getattr(self, name) != "auto":
                check_positive_integer(name, getattr(self, name))
        freeze = self.freeze_contexts_after
        if not (freeze is None or freeze == "auto"):
            check_positive_integer("freeze_contexts_after", freeze)
        if self.time_limit is not None and not (_is_number(self.time_limit) and self.time_limit > 0):
            raise ValueError(f"time_limit={self.time_limit!r} is not a positive number of seconds; None for no limit.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
