"""What TabR's classifier and regressor share: reading tables, training the members, candidates, neighbours."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor
from tqdm import tqdm

from estimators.base import check_positive_integer
from estimators.conditional import column_numbers
from estimators.fitting import all_or_nothing
from estimators.inference import resolve_device
from estimators.persistence import Saved
from estimators.table import TakesTables, as_table, checked_target, read_training_table
from estimators.tabr_answers import CandidateMask, Found, find, joined, outputs, pairs_of, votes
from estimators.tabr_network import TabRConfig, TabRNetwork, in_parts
from estimators.tabr_parameters import TabRParameters
from estimators.tabr_rows import Rows, canonical_rows, in_units_of, moved, split_rows
from estimators.tabr_table import TabRTable
from estimators.tabr_training import train

_FEWEST = 10                                                        # distinct rows from which some are kept for validation


class TabREstimator(TabRParameters, Saved, TakesTables):
    """Base of `TabRClassifier` and `TabRRegressor`."""

    def _encode_target(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Labels as the network reads them, int64 or float32; sets what `_known_target` needs."""
        raise NotImplementedError

    def _known_target(self, y: np.ndarray) -> np.ndarray:
        """The same for rows that come later."""
        raise NotImplementedError

    def _n_labels(self) -> int:
        """Classes, or 0."""
        raise NotImplementedError

    @all_or_nothing
    def _fit(
        self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any, candidate_mask: CandidateMask | None
    ) -> Self:
        start = time.monotonic()
        self._check_parameters()
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val belong together; pass both or neither.")
        table, y, weight, kept = read_training_table(self, X, y, sample_weight)
        label = self._encode_target(y, weight)
        random_state = check_random_state(self.random_state)
        names = getattr(self, "feature_names_in_", range(self.n_features_in_))
        self._table = TabRTable().fit(table, column_numbers(self.categorical_features, names), random_state)
        rows, group, self._row_numbers = canonical_rows(
            self._table.transform(table), label, weight, np.flatnonzero(kept), merge=candidate_mask is None
        )
        self._mean_weight = float(rows.weight.mean())
        rows = in_units_of(rows, self._mean_weight)
        self._n_rows = len(kept)
        held_out = None
        if X_val is not None:
            held_out = self._read_validation(X_val, y_val)
        device = resolve_device(self.device)
        self._networks: list[TabRNetwork] = []
        self.validation_scores_: list[np.ndarray] = []
        self.n_epochs_: list[int] = []
        self.fit_times_: list[float] = []
        limit = math.inf if self.time_limit is None else float(self.time_limit)
        for member in range(self.n_estimators):
            fit, validation = np.arange(len(rows)), np.arange(0)
            if held_out is None and len(rows) >= _FEWEST:
                fit, validation = split_rows(
                    rows.label.numpy(), group, self.validation_fraction, self._n_labels() > 0, random_state
                )
            judged = rows[torch.from_numpy(validation)] if held_out is None else held_out
            numbers = self._row_numbers[validation] if held_out is None else self._n_rows + np.arange(len(judged))
            own = self._row_numbers[fit]
            seeds = random_state.randint(2**31, size=2).tolist()
            generator = torch.Generator(device).manual_seed(seeds[0])
            config = self._config(self._table, self._n_labels(), member)
            network = TabRNetwork(config, torch.Generator().manual_seed(seeds[1]))
            history = train(
                network.to(device), moved(rows[torch.from_numpy(fit)], device), moved(judged, device),
                self._plan(len(fit)), generator, pairs_of(candidate_mask, own, own), pairs_of(candidate_mask, numbers, own),
                start + limit * (member + 1) / self.n_estimators, self._bar(member),
            )
            if not math.isfinite(history.score[history.best_epoch]):
                raise ValueError(f"learning_rate={self.learning_rate!r} makes training diverge; use a smaller one.")
            self._networks.append(network.requires_grad_(False))
            self.validation_scores_.append(np.array(history.score))
            self.n_epochs_.append(history.best_epoch + 1)
            self.fit_times_.append(history.seconds[-1])
        self._rows = rows
        self._kept: dict[str, Any] = {}
        return self

    def add_candidates(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Add labelled rows for predictions to draw on; nothing is trained.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`.
        y : array-like of shape (n_samples,)
            Classes that `fit` knew, or targets.
        sample_weight : array-like of shape (n_samples,), optional
            Relative to the weights of `fit`.

        Returns
        -------
        self
            `kneighbors` numbers the new rows on from those that it had.

        Raises
        ------
        ValueError
            If X or y are not as in `fit`; the estimator is then what it was.
        """
        check_is_fitted(self)
        table, y = as_table(self, X, reset=False, keep_types=True), checked_target(y)
        check_consistent_length(table, y)
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if weight.shape != (len(y),) or not (np.isfinite(weight) & (weight > 0)).all():
            raise ValueError(f"sample_weight must be {len(y)} positive numbers, one for each row of X.")
        added, _, numbers = canonical_rows(
            self._table.transform(table), self._known_target(y), weight, self._n_rows + np.arange(len(y)), merge=False
        )
        added = in_units_of(added, self._mean_weight)
        self._rows = Rows(*(torch.cat([getattr(part, f.name) for part in (self._rows, added)]) for f in fields(Rows)))
        self._row_numbers = np.concatenate([self._row_numbers, numbers])
        self._n_rows += len(y)
        self._kept = {}
        return self

    def kneighbors(
        self, X: Any, n_neighbors: int | None = None, *, candidate_mask: CandidateMask | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which rows the predictions for X draw on, and how much.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        n_neighbors : int, optional
            Columns of the result; by default as many as any row has.
        candidate_mask : callable, optional
            As in `predict`.

        Returns
        -------
        weight : ndarray of shape (n_samples, n_neighbors), float64
            From large to small, means over the members. All neighbours of a row have weights that sum to 1.
        index : ndarray of shape (n_samples, n_neighbors), int64
            Rows of the X of `fit`, then of those of `add_candidates`. Of equal rows with equal targets, which vote as
            one, the first. -1, with weight 0, where a row has no more neighbours.
        """
        check_is_fitted(self)
        if n_neighbors is not None:
            check_positive_integer("n_neighbors", n_neighbors)
        numbers = torch.from_numpy(self._row_numbers)
        parts = []
        for network, key, blocks in self._find(self._read_queries(X), candidate_mask):
            found = [votes(network, key, one) for one in blocks]
            index, weight = (torch.cat([one[k] for one in found]) for k in (0, 1))
            parts.append((numbers[index].masked_fill(index < 0, -1), weight))
        return joined(parts, n_neighbors)

    def _outputs(self, X: Any, candidate_mask: CandidateMask | None) -> Tensor:
        """What the networks say of X, (n_estimators, n, n_outputs) float64."""
        check_is_fitted(self)
        rows, _ = self._candidates()
        return torch.stack([
            torch.cat([outputs(network, rows, key, found) for found in blocks])
            for network, key, blocks in self._find(self._read_queries(X), candidate_mask)
        ])

    def _find(
        self, x: Tensor, candidate_mask: CandidateMask | None
    ) -> Iterator[tuple[TabRNetwork, Tensor, Iterator[Found]]]:
        """Of each network the keys of the candidates, and what it finds for x."""
        rows, keys = self._candidates()
        for network, key in zip(self._networks, keys, strict=True):
            yield network, key, find(network, x, rows, key, self._row_numbers, self.context_size, candidate_mask)

    def _candidates(self) -> tuple[Rows, list[Tensor]]:
        """The candidates on the networks' device, and each member's keys of them, from the last call if it made them."""
        if not self._kept:
            rows = moved(self._rows, next(self._networks[0].parameters()).device)
            self._kept.update(rows=rows, keys=[in_parts(network.keys, rows.x) for network in self._networks])
        return self._kept["rows"], self._kept["keys"]

    def _read_queries(self, X: Any) -> Tensor:
        return torch.from_numpy(self._table.transform(as_table(self, X, reset=False, keep_types=True)))

    def _read_validation(self, X: Any, y: Any) -> Rows:
        table, y = as_table(self, X, reset=False, keep_types=True), checked_target(y)
        check_consistent_length(table, y)
        x = self._table.transform(table)
        label = self._known_target(y)
        return Rows(torch.from_numpy(x), torch.from_numpy(label), torch.ones(len(x)), torch.zeros(len(x)))

    def _bar(self, member: int) -> Callable[[], tqdm] | None:
        if not self.progress:
            return None
        return lambda: tqdm(desc=f"network {member + 1} of {self.n_estimators}", unit="epoch", total=self.max_epochs)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in super().__getstate__().items() if name != "_kept"}
        if "_networks" in state:
            state["_networks"] = [
                {"config": asdict(network.config), "weights": {k: v.cpu() for k, v in network.state_dict().items()}}
                for network in self._networks
            ]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_networks" in state:
            self._kept = {}
            self._networks = [_restored(one, resolve_device(self.device)) for one in state["_networks"]]


def _restored(saved: dict[str, Any], device: torch.device) -> TabRNetwork:
    with torch.device("meta"):                                      # shapes only: a wrong width in the file takes no memory
        network = TabRNetwork(TabRConfig(**saved["config"]), None)
    weights = {name: value.clone() for name, value in saved["weights"].items()}     # from memory that is aligned
    network.load_state_dict(weights, assign=True)
    return network.to(device).requires_grad_(False)
