"""What TabR's classifier and regressor share: reading tables, training the members, candidates, neighbours."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from estimators.base import check_positive_integer
from estimators.conditional import column_numbers
from estimators.inference import padded_blocks, resolve_device
from estimators.persistence import Saved
from estimators.table import TakesTables, as_table, checked_target, read_training_table
from estimators.tabr_kernels import squared_distances
from estimators.tabr_network import TabRConfig, TabRNetwork
from estimators.tabr_rows import distinct_rows, split_rows, weight_of_copies
from estimators.tabr_search import Allowed, nearest
from estimators.tabr_table import TabRTable
from estimators.tabr_training import Plan, Rows, in_parts, log_weights, train

_FEWEST = 10                                                        # distinct rows from which some are kept for validation
_FREEZE_FROM = 10_000                                               # training rows, by default
_BLOCK = 256                                                        # distinct neighbours that are prepared together

CandidateMask = Callable[[np.ndarray, np.ndarray], np.ndarray]


class TabREstimator(Saved, TakesTables):
    """Base of `TabRClassifier` and `TabRRegressor`."""

    context_size: int
    n_estimators: int
    embedding: str
    n_frequencies: int
    frequency_scale: float
    embedding_width: int
    width: int
    n_encoder_blocks: int
    n_predictor_blocks: int
    dropout: float
    context_dropout: float
    learning_rate: float
    weight_decay: float
    batch_size: int | str
    max_epochs: int
    patience: int
    freeze_contexts_after: int | str | None
    validation_fraction: float
    time_limit: float | None
    categorical_features: Any
    device: str | torch.device
    progress: bool
    random_state: int | np.random.RandomState | None

    def _encode_target(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Labels as the network reads them, int64 or float32; sets what `_known_target` needs."""
        raise NotImplementedError

    def _known_target(self, y: np.ndarray) -> np.ndarray:
        """The same for rows that come later."""
        raise NotImplementedError

    def _n_labels(self) -> int:
        """Classes, or 0."""
        raise NotImplementedError

    def _stopping(self) -> str:
        raise NotImplementedError

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
        rows, group, self._row_numbers = _canonical(
            self._table.transform(table), label, weight, np.flatnonzero(kept), merge=candidate_mask is None
        )
        self._mean_weight = float(rows.weight.mean())
        rows = _scaled(rows, self._mean_weight)
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
            generator = torch.Generator(device).manual_seed(int(random_state.randint(2**31)))
            network = TabRNetwork(self._config(member), torch.Generator().manual_seed(int(random_state.randint(2**31))))
            history = train(
                network.to(device), _moved(rows[torch.from_numpy(fit)], device), _moved(judged, device),
                self._plan(len(fit)), generator, _pairs(candidate_mask, own, own), _pairs(candidate_mask, numbers, own),
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
        table, y = as_table(self, X, reset=False), checked_target(y)
        check_consistent_length(table, y)
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if weight.shape != (len(y),) or not (np.isfinite(weight) & (weight > 0)).all():
            raise ValueError(f"sample_weight must be {len(y)} positive numbers, one for each row of X.")
        added, _, numbers = _canonical(
            self._table.transform(table), self._known_target(y), weight, self._n_rows + np.arange(len(y)), merge=False
        )
        added = _scaled(added, self._mean_weight)
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
        x = self._read_queries(X)
        numbers = torch.from_numpy(self._row_numbers)
        found = []
        for rows, (parts, _) in self._answers(x, candidate_mask, outputs=False):
            index = torch.cat([numbers[one].masked_fill(one < 0, -1) for one, _ in parts], 1)
            weight = torch.cat([one for _, one in parts], 1).double() / len(parts)
            found.append(_summed(index[: len(rows)], weight[: len(rows)]))
        widest = n_neighbors or max((int((weight > 0).sum(1).max()) for weight, _ in found), default=0)
        shares, neighbors = (_columns([part[k] for part in found], widest) for k in (0, 1))
        return shares, np.where(shares > 0, neighbors, -1)

    def _outputs(self, X: Any, candidate_mask: CandidateMask | None) -> Tensor:
        """What the networks say of X, (n_estimators, n, n_outputs) float64."""
        check_is_fitted(self)
        x = self._read_queries(X)
        parts = [outputs[:, : len(rows)] for rows, (_, outputs) in self._answers(x, candidate_mask, outputs=True)]
        return torch.cat(parts, 1)

    def _answers(self, x: Tensor, candidate_mask: CandidateMask | None, *, outputs: bool) -> Any:
        """For each block of queries: their numbers, what every member finds (index, weight), and what it says."""
        rows, keys = self._candidates()
        device = rows.x.device
        for start, stop, size in padded_blocks(len(x)):
            numbers = np.arange(start, stop)
            block = F.pad(x[start:stop], (0, 0, 0, size - len(numbers))).to(device)
            found, said = [], []
            for network, key in zip(self._networks, keys, strict=True):
                query_key = network.keys(block)
                allowed = _pairs(candidate_mask, numbers, self._row_numbers)
                index = nearest(query_key[: len(numbers)], key, self.context_size, allowed)
                index = F.pad(index, (0, 0, 0, size - len(numbers)))
                log_weight = log_weights(rows, index)
                if not outputs:
                    distances = squared_distances(query_key, key, index.clamp(min=0))
                    found.append((index.cpu(), network.weights(distances, log_weight).cpu()))
                    continue
                distinct, place = index.clamp(min=0).unique(return_inverse=True)
                near = F.pad(key[distinct], (0, 0, 0, -len(distinct) % _BLOCK))
                correction = torch.cat([network.corrections(part) for part in near.split(_BLOCK)])
                said.append(network.mix(
                    network.represent(block), query_key, near, correction, rows.label[distinct], place, log_weight
                ).double().cpu())
            yield numbers, (found, torch.stack(said) if outputs else None)

    def _candidates(self) -> tuple[Rows, list[Tensor]]:
        """The candidates on the networks' device, and each member's keys of them, from the last call if it made them."""
        if not self._kept:
            rows = _moved(self._rows, next(self._networks[0].parameters()).device)
            self._kept.update(rows=rows, keys=[in_parts(network.keys, rows.x) for network in self._networks])
        return self._kept["rows"], self._kept["keys"]

    def _read_queries(self, X: Any) -> Tensor:
        return torch.from_numpy(self._table.transform(as_table(self, X, reset=False)))

    def _read_validation(self, X: Any, y: Any) -> Rows:
        table, y = as_table(self, X, reset=False), checked_target(y)
        check_consistent_length(table, y)
        x = self._table.transform(table)
        label = self._known_target(y)
        return Rows(torch.from_numpy(x), torch.from_numpy(label), torch.ones(len(x)), torch.zeros(len(x)))

    def _config(self, member: int) -> TabRConfig:
        is_periodic = self.embedding == "periodic" or (self.embedding == "alternate" and member % 2 == 0)
        n_columns, n_labels = self._table.n_columns, self._n_labels()
        return TabRConfig(
            n_numeric=self._table.n_numeric, n_plain=n_columns - self._table.n_numeric,
            n_outputs=n_labels if n_labels > 2 else 1, n_labels=n_labels, width=self.width, hidden=2 * self.width,
            n_encoder_blocks=self.n_encoder_blocks, n_predictor_blocks=self.n_predictor_blocks,
            n_frequencies=self.n_frequencies if is_periodic else 0, frequency_scale=self.frequency_scale,
            embedding_width=self.embedding_width,
            dropout=self.dropout, context_dropout=self.context_dropout,
        )

    def _plan(self, n_rows: int) -> Plan:
        batch_size = self.batch_size
        if not isinstance(batch_size, int | np.integer):
            batch_size = 128 if n_rows < 10_000 else 256 if n_rows < 30_000 else 512 if n_rows < 200_000 else 1024
        freeze = self.freeze_contexts_after
        if isinstance(freeze, str):
            freeze = None if n_rows < _FREEZE_FROM else 8
        return Plan(
            context_size=self.context_size, batch_size=int(batch_size), learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, max_epochs=self.max_epochs, patience=self.patience,
            freeze_contexts_after=freeze, stopping=self._stopping(),
        )

    def _bar(self, member: int) -> Callable[[], tqdm] | None:
        if not self.progress:
            return None
        return lambda: tqdm(desc=f"network {member + 1} of {self.n_estimators}", unit="epoch", total=self.max_epochs)

    def _check_parameters(self) -> None:
        for name in ("context_size", "n_estimators", "width", "max_epochs", "patience", "n_frequencies", "embedding_width"):
            check_positive_integer(name, getattr(self, name))
        if self.embedding not in ("alternate", "periodic", "none"):
            raise ValueError(f"embedding={self.embedding!r} is unknown; use 'alternate', 'periodic' or 'none'.")
        for name in ("n_encoder_blocks", "n_predictor_blocks"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 0:
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
        if self.batch_size != "auto":
            check_positive_integer("batch_size", self.batch_size)
        freeze = self.freeze_contexts_after
        if not (freeze is None or freeze == "auto"):
            check_positive_integer("freeze_contexts_after", freeze)
        if self.time_limit is not None and not (_is_number(self.time_limit) and self.time_limit > 0):
            raise ValueError(f"time_limit={self.time_limit!r} is not a positive number of seconds; None for no limit.")

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


def _canonical(
    x: np.ndarray, label: np.ndarray, weight: np.ndarray | None, numbers: np.ndarray, *, merge: bool
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """The rows sorted by content, equal ones with equal labels as one; groups of equal x; the number of the first of each.

    Weights are float64 still. Without `merge` every row stays where it is, a group of its own.
    """
    if not merge:
        total = np.ones(len(x)) if weight is None else weight
        rows = Rows(*(torch.tensor(part) for part in (x, label, total, np.zeros(len(x)))))
        return rows, np.arange(len(x)), numbers
    first, of_row = distinct_rows(np.column_stack([x, label.astype(np.float32)]))
    total, count = np.bincount(of_row, weights=weight), np.bincount(of_row)
    others = weight_of_copies(weight, total, count, label)
    rows = Rows(*(torch.from_numpy(part) for part in (x[first], label[first], total.astype(np.float64), others)))
    return rows, distinct_rows(x[first])[1], numbers[first]


def _scaled(rows: Rows, unit: float) -> Rows:
    """The same with weights in units of `unit`, float32, none infinite, and none 0 that was not."""
    limits = torch.finfo(torch.float32)
    weight, others = ((part / unit).clamp(max=limits.max).float() for part in (rows.weight, rows.others))
    return Rows(rows.x, rows.label, weight.clamp(min=limits.tiny), others)


def _moved(rows: Rows, device: torch.device) -> Rows:
    return Rows(*(getattr(rows, f.name).to(device) for f in fields(Rows)))


def _pairs(mask: CandidateMask | None, queries: np.ndarray, candidates: np.ndarray) -> Allowed | None:
    """The user's mask in terms of positions in `queries` and `candidates`, which hold the user's numbers."""
    if mask is None:
        return None

    def allowed(query: Tensor, candidate: Tensor) -> Tensor:
        asked = queries[query.cpu().numpy()], candidates[candidate.cpu().numpy()]
        pairs = np.asarray(mask(*asked))
        if pairs.dtype != np.bool_ or pairs.shape != (len(asked[0]), len(asked[1])):
            raise ValueError(
                f"candidate_mask returned {pairs.dtype} of shape {pairs.shape} for {len(asked[0])} queries and "
                f"{len(asked[1])} candidates; return a boolean array of shape ({len(asked[0])}, {len(asked[1])})."
            )
        return torch.from_numpy(np.require(pairs, requirements=["C", "W"])).to(query.device)

    return allowed


def _summed(index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the same number added up, row by row, from large to small."""
    index, order = index.sort(dim=1, stable=True)
    weight = weight.gather(1, order)
    starts = torch.ones_like(index, dtype=torch.bool)
    starts[:, 1:] = index[:, 1:] != index[:, :-1]
    place = starts.long().cumsum(1) - 1
    total = torch.zeros_like(weight).scatter_add(1, place, weight)
    number = torch.full_like(index, -1).scatter(1, place, index)
    total, order = total.sort(dim=1, descending=True, stable=True)
    return total, number.gather(1, order)


def _columns(parts: list[Tensor], width: int) -> np.ndarray:
    """The first `width` columns of all parts, with zeros where a part has fewer."""
    return torch.cat([F.pad(part, (0, max(width - part.shape[1], 0)))[:, :width] for part in parts]).numpy()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
