"""What the classifier and the regressor share: parameters, the network, the table in its terms, contexts that are kept."""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.context import Table
from estimators.ensemble import Part, View
from estimators.inference import (
    Pass,
    bytes_per_context_row,
    encode,
    in_blocks,
    memory_bytes,
    resolve_device,
    resolve_precision,
)
from estimators.kernel_ridge import KernelRidge
from estimators.persistence import Persistence
from estimators.table import TableEncoder, TakesTables, as_table, read_training_table
from pfn import PFN, load_pretrained
from pfn.checkpoint import bundled_weights
from pfn.network import EncodedContext

_FEW = 32                                                           # queries
_ALL = (-1, -1)                                                     # key of the contexts of all members
_CONTEXTS = ("auto", "full", "subsample", "local")


@dataclass(frozen=True)
class Question:
    """Queries that one part of one member is asked."""

    member: int
    part: int
    queries: np.ndarray                                             # numbers of the rows
    x: Tensor                                                       # (len(queries), n_columns), as the member sees them


class PFNEstimator(Persistence, TakesTables):
    """Base of the estimators around one network; `fit` of a subclass calls the methods here in the order they stand."""

    n_estimators: int
    model: str | os.PathLike[str] | PFN
    device: str | torch.device
    precision: str
    context: str
    max_context: int
    memory_limit: float
    random_state: int | np.random.RandomState | None
    _several_targets = False                                        # whether y may have several columns
    _table: Table
    _views: list[View]
    _ridge: KernelRidge | None

    def _check_parameters(self) -> None:
        for name in ("n_estimators", "max_context"):
            check_positive_integer(name, getattr(self, name))
        if self.context not in _CONTEXTS:
            raise ValueError(f"context={self.context!r} is unknown; use one of {', '.join(map(repr, _CONTEXTS))}.")
        if not isinstance(self.memory_limit, (int, float)) or not self.memory_limit > 0:
            raise ValueError(f"memory_limit={self.memory_limit!r} is no positive number of GiB.")

    def _read(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, np.ndarray, np.ndarray | None]:
        """The table, the target and the weights, without the rows of weight 0."""
        table, y, weight, self._kept = read_training_table(self, X, y, sample_weight, self._several_targets)
        return table, y, weight

    def _load(self, task: str, verb: str) -> PFN:
        """Set `model_`, and return it as it was before, in float32."""
        original = self._original()
        if original.config.task != task:
            raise ValueError(f"model={self.model!r} is a {original.config.task} network; use one that {verb}.")
        self._set_network(original)
        return original

    def _source(self) -> str | os.PathLike[str] | PFN:
        return self.__dict__.get("_tuned", self.model)              # fine_tune sets _tuned

    def _original(self) -> PFN:
        source = self._source()
        return source if isinstance(source, PFN) else load_shared(source)

    def _set_network(self, network: PFN) -> None:
        device = resolve_device(self.device)
        precision = resolve_precision(self.precision, device, network.config)
        source = self._source()
        if source in bundled_weights():
            self.model_ = _load_bundled(str(source), device, precision)
        else:                                                       # a copy: the network that was passed in stays as it is
            self.model_ = copy.deepcopy(network).to(device, precision).requires_grad_(False)
        self._contexts: dict[tuple[int, int], EncodedContext] = {}

    @property
    def _keeps_units(self) -> bool:
        """Whether the network reads tables as they are, in the units of its prior."""
        return self.model_.config.scaling == "prior"

    def _encode(self, table: Any) -> np.ndarray:
        """The training table as the matrix that networks read, (n, f) float32; sets the encoder."""
        self._encoder = TableEncoder().fit(table, keeps_units=self._keeps_units)
        return self._encoder.transform(table)

    @property
    def _max_features(self) -> int:
        """Most columns that the network has seen in training."""
        card = self.model_.card
        return card.envelope.max_features if card is not None else self._table.x.shape[1]

    def _wants_smooth_columns(self, n_columns: int) -> bool:
        """Not for a single member, which sees the table as it is, nor for networks to which units matter.

        Nor if the columns would take more than a third of what the network can read.
        """
        return self.n_estimators > 1 and not self._keeps_units and 3 * n_columns <= self._max_features

    def _append_smooth_columns(self, targets: np.ndarray) -> None:
        """Give the table columns of what kernel ridge regression says of targets (n, k) of its rows, if that is much."""
        found = KernelRidge.fit(self._table.x, targets, self._table.weight, self._encoder.categories_)
        if found is not None:
            self._ridge, columns = found
            self._table = replace(self._table, x=np.column_stack([self._table.x, columns]))

    def _with_smooth_columns(self, x: Tensor) -> Tensor:
        return x if self._ridge is None else torch.cat([x, self._ridge(x)], dim=1)

    def _encode_queries(self, X: Any) -> Tensor:
        encoded = self._encoder.transform(as_table(self, X, reset=False, keep_types=True))
        return self._with_smooth_columns(torch.from_numpy(encoded))

    def _view_settings(self) -> dict[str, Any]:
        """Arguments of `make_views` that both tasks share."""
        n_features = self._table.x.shape[1]
        return {
            "n_estimators": self.n_estimators,
            "plain": self._keeps_units,
            "max_features": self._max_features,
            "max_context": self._context_rows(min(n_features, self._max_features)),
            "local": self.context in ("auto", "local"),
            "n_for_all": 0 if self._ridge is None else len(self._ridge.mean),
        }

    def _context_rows(self, n_features: int) -> int:
        """Most rows that a member reads: `max_context`, all with context="full", and no more than the memory allows."""
        wanted = len(self._table) if self.context == "full" else self.max_context
        row = self._bytes_per_row(n_features)
        possible = max(int(self.memory_limit * 2**30 / row), 16)
        if min(wanted, len(self._table)) > possible:
            warnings.warn(
                f"a context of {wanted} rows needs about {wanted * row / 2**30:.1f} GiB, more than memory_limit="
                f"{self.memory_limit} GiB; each member reads {possible} rows instead.",
                stacklevel=4,
            )
            return possible
        return wanted

    def _bytes_per_row(self, n_features: int) -> int:
        itemsize = next(self.model_.parameters()).element_size()
        return bytes_per_context_row(self.model_.config, n_features, itemsize)

    def _questions(self, x: Tensor) -> list[Question]:
        """What the members have to be asked for queries x (n, f)."""
        questions = []
        for member, view in enumerate(self._views):
            seen = view.features(self._table, x)
            for part, queries in enumerate(view.queries_of(self._table, x)):
                if len(queries):
                    questions.append(Question(member, part, queries, seen[torch.from_numpy(queries)]))
        return questions

    def _targets(self, view: View, rows: np.ndarray, part: Part) -> np.ndarray:
        """What a member sees of the targets of these rows of the table."""
        raise NotImplementedError

    def _shown(
        self, view: View, rows: np.ndarray, part: Part, weights: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, targets and weights of rows of the table as a member reads them; `weights` (n,) for other weights."""
        x = view.features(self._table, torch.from_numpy(self._table.x[rows]))
        weight = (self._table.weight if weights is None else weights)[rows]
        y = torch.from_numpy(self._targets(view, rows, part))
        return x, y, None if (weight == 1).all() else torch.from_numpy(weight)

    def _pass(self, question: Question) -> Pass:
        view = self._views[question.member]
        part = view.parts[question.part]
        return Pass(*self._shown(view, part.rows, part), question.x)

    def _ask(self, questions: list[Question], what: str = "decode") -> list[Tensor]:
        """Answers, each (len(queries), ...) float64, from contexts that are encoded once and kept for the next call."""
        function = getattr(self.model_, what)
        together = self._together(questions)
        if together is not None:
            return list(in_blocks(function, together, torch.stack([q.x for q in questions])))
        return [in_blocks(function, self._context(q.member, q.part), q.x.unsqueeze(0))[0] for q in questions]

    def _together(self, questions: list[Question]) -> EncodedContext | None:
        """All members' contexts in one batch, for a few queries of a small table; None if they do not fit into one."""
        shapes = {(len(view.parts), len(view.cells[0].rows), len(view.columns)) for view in self._views}
        if len(questions[0].x) > _FEW or len(self._views) == 1 or len(shapes) > 1:
            return None
        n_parts, n_rows, n_columns = shapes.pop()
        if n_parts > 1 or len(self._views) * n_rows * self._bytes_per_row(n_columns) > self.memory_limit * 2**30 / 16:
            return None
        if _ALL not in self._contexts:
            contexts = [self._context(q.member, q.part) for q in questions]
            if len({one.log_weight is None for one in contexts}) > 1:
                return None
            self._contexts[_ALL] = EncodedContext.joined(contexts)
        return self._contexts[_ALL]

    def _context(self, member: int, part: int) -> EncodedContext:
        kept = self._contexts
        if (member, part) in kept:
            return kept[member, part]
        view = self._views[member]
        with torch.no_grad():
            context = encode(self.model_, *self._shown(view, view.parts[part].rows, view.parts[part]))
        used = sum(memory_bytes(other) for other in list(kept.values()))
        if used + memory_bytes(context) <= self.memory_limit * 2**30 / 8:
            kept[member, part] = context
        return context


def check_positive_integer(name: str, value: Any) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} is not a positive integer.")


def load_shared(model: str | os.PathLike[str]) -> PFN:
    """A network that nobody changes: bundled weights are read from disk once."""
    if isinstance(model, str) and model in bundled_weights():
        return _load_bundled(model, None, None)
    return load_pretrained(model)


@cache
def _load_bundled(name: str, device: torch.device | None, precision: torch.dtype | None) -> PFN:
    return load_pretrained(name).to(device, precision)
