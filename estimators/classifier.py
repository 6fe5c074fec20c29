"""Classification of tables by a pretrained network: fit stores the table, predict is a forward pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from estimators.base import Question
from estimators.calibration import fit_temperature
from estimators.context import Table
from estimators.ensemble import Part, View, canonical_classes, make_views
from estimators.explanations import Explanations
from estimators.finetuning import FineTuning, TableTasks
from estimators.inference import Pass, run_grouped, run_passes
from estimators.many_classes import class_tree
from pfn import PFN

_FEWEST_ROWS_FOR_SMOOTH_COLUMNS = 100                               # of fewer labels it cannot be told how much they explain


@dataclass(frozen=True)
class Half:
    """Rows that are predicted from others of the table, for the calibration."""

    one_pass: Pass
    slots: np.ndarray                                               # of the classes, in that pass
    label: np.ndarray                                               # of the rows
    weight: np.ndarray


ClassSlots = Callable[[int, np.random.RandomState], Sequence[np.ndarray]]


class PFNClassifier(ClassifierMixin, FineTuning, Explanations):
    """Class probabilities for small tables in one forward pass, without training or tuning.

    A transformer that was pretrained on synthetic tables reads the training rows as context and outputs an
    approximation of the posterior predictive distribution of each query row. Numbers, booleans, strings, categoricals,
    dates and missing values go in as they are.

    Parameters
    ----------
    n_estimators : int, default=4
        Forward passes whose logits are averaged; they differ in the order of features and classes, and every second one sees
        ranks in place of values. All but a single one see a few more columns, see Notes.
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
    context : {"auto", "full", "subsample", "local"}, default="auto"
        What members read of tables longer than `max_context`: "full" all of it, "subsample" another stratified sample
        each, "local" the rows nearest to the query's cell of the table, which are other cells for each member. "auto" is
        "local", which beats samples of the same size (`benchmarks/large_tables.py`).
    max_context : int, default=1000
        Largest number of training rows that a member reads at once.
    memory_limit : float, default=8.0
        GiB that one member may need; contexts that would need more are cut down, with a warning.
    random_state : int, RandomState or None, default=None
        Decides the orders and samples of the members; pass an int for reproducible probabilities.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels in sorted order. More than the network's outputs are predicted by a tree of choices.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only when X had string column names.
    temperature_ : float
        The temperature in use; below 1 the network was too cautious on this table.
    model_ : PFN
        The network; `model_.card` tells how it was trained and where it was validated.

    Notes
    -----
    Neither the order of the training rows, nor the names of the classes, nor the other rows that are predicted in the
    same call have any influence on a prediction.

    Where kernel ridge regression, with a linear or a Gaussian kernel, explains seven tenths of the variance of the classes'
    indicators in cross-validation, on 100 rows or more, its predictions are further columns of the table, one a class, those
    of training rows from the other folds [3]_. It finds out which columns matter, and which numbers are codes of categories;
    see `PFNRegressor`.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.
    .. [2] N. Hollmann et al., "TabPFN: A Transformer That Solves Small Tabular Classification Problems in a Second",
       ICLR 2023.
    .. [3] D. H. Wolpert, "Stacked Generalization", Neural Networks 1992.

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
        context: str = "auto",
        max_context: int = 1000,
        memory_limit: float = 8.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.model = model
        self.device = device
        self.precision = precision
        self.temperature = temperature
        self.context = context
        self.max_context = max_context
        self.memory_limit = memory_limit
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> PFNClassifier:
        """Store the table as context and calibrate the confidence on it; no weight is trained.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Numbers, booleans, strings, categoricals or dates; NaN, None and pandas' NA are missing values.
        y : array-like of shape (n_samples,)
            Class labels of any type that sorts; any number of classes.
        sample_weight : array-like of shape (n_samples,), optional
            An integer weight is that many copies of the row; 0 leaves it out.

        Returns
        -------
        PFNClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If X holds infinite values, if y is missing, continuous, or of another length than X, or if weights are
            negative or all zero.
        """
        return super().fit(X, y, sample_weight)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Posterior predictive probability of each class.

        The context is encoded by the first call and kept for the next, if it takes less than an eighth of `memory_limit`.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Columns as in `fit`. Categories that `fit` did not see count as missing.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Columns in the order of `classes_`; rows sum to 1.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of `predict_proba`; finite where that is 0 to double precision."""
        check_is_fitted(self)
        x = self._encode_queries(X)
        questions = self._questions(x)
        return self._log_probabilities(questions, self._ask(questions), len(x)).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each row, (n_samples,)."""
        winner = self.predict_proba(X).argmax(1)                     # first, so that an unfitted estimator says so
        return self.classes_[winner]

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-odds of the second of two classes, (n_samples,), or log-probabilities of more, (n_samples, n_classes)."""
        log_p = self.predict_log_proba(X)
        return log_p[:, 1] - log_p[:, 0] if log_p.shape[1] == 2 else log_p

    def predict_proba_many(self, tables: Iterable[tuple[Any, Any, Any]]) -> list[np.ndarray]:
        """Fit and predict many tables, several of them in one forward pass.

        For cross-validation, jackknife and optimisation loops, where the tables are small and alike. Every table gets the
        answer that a clone of this estimator would give after `fit(X, y).predict_proba(X_query)`.

        Parameters
        ----------
        tables : iterable of (X, y, X_query)
            As for `fit` and `predict_proba`.

        Returns
        -------
        list of ndarray of shape (n_queries, n_classes)
            Columns in the order of the table's sorted labels.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import KFold
        >>> X, y = load_iris(return_X_y=True)
        >>> folds = KFold(10, shuffle=True, random_state=0).split(X)
        >>> p = PFNClassifier(1).predict_proba_many((X[train], y[train], X[test]) for train, test in folds)
        >>> len(p), p[0].shape
        (10, (15, 3))
        """
        fitted, queries, halves = [], [], []
        for X, y, X_query in tables:
            estimator = clone(self)
            halves.append(estimator._prepare(X, y, None))
            queries.append(estimator._encode_queries(X_query))
            fitted.append(estimator)
        if not fitted:
            return []
        model = fitted[0].model_
        held_out = run_grouped(model, [[half.one_pass for half in own] for own in halves])
        for estimator, own, logits in zip(fitted, halves, held_out, strict=True):
            estimator._set_temperature(own, logits)
        questions = [estimator._questions(x) for estimator, x in zip(fitted, queries, strict=True)]
        passes = [[estimator._pass(q) for q in own] for estimator, own in zip(fitted, questions, strict=True)]
        answers = run_grouped(model, passes)
        return [
            estimator._log_probabilities(own, logits, len(x)).exp().numpy()
            for estimator, own, logits, x in zip(fitted, questions, answers, queries, strict=True)
        ]

    def torch_predict_proba(self, X: Tensor) -> Tensor:
        """`predict_proba` as a differentiable function, for moving a design towards a class.

        Parameters
        ----------
        X : Tensor of shape (n_samples, n_features)
            In the units of the table that was fitted, all of whose columns must be numbers. May require gradients.

        Returns
        -------
        Tensor of shape (n_samples, n_classes), float64, on the CPU
            Its gradients with respect to X are exact but for the precision of the layers; choose `precision="float32"`
            where they matter.

        Raises
        ------
        TypeError
            If X is no floating-point tensor, or if the fitted table has columns that are not numbers.
        """
        check_is_fitted(self)
        x = self._with_smooth_columns(self._encoder.transform_tensor(X))
        questions = self._questions(x)
        return self._log_probabilities(questions, self._ask(questions), len(x)).exp()

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> PFNClassifier:
        halves = self._prepare(X, y, sample_weight)
        self._set_temperature(halves, run_passes(self.model_, [half.one_pass for half in halves]))
        return self

    def _prepare(self, X: Any, y: Any, sample_weight: Any) -> list[Half]:
        """Everything of `fit` but the temperature; returns the halves that determine it, none if it is given."""
        self._check_parameters()
        if self.temperature != "auto" and not (isinstance(self.temperature, (int, float)) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature!r} is neither 'auto' nor a positive number; 1.0 is neutral.")
        table, y, weight = self._read(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, label = np.unique(y, return_inverse=True)
        self._load("classification", "classifies")
        n_classes = len(self.classes_)
        x = self._encode(table)
        self._rank_of_class = canonical_classes(Table.of(x, label, weight), n_classes)
        self._table = Table.of(x, self._rank_of_class[label], weight)
        indicated = np.arange(1 if n_classes == 2 else 0, n_classes)
        self._ridge = None
        if len(self._table) >= _FEWEST_ROWS_FOR_SMOOTH_COLUMNS and self._wants_smooth_columns(len(indicated)):
            self._append_smooth_columns(self._table.y[:, None] == indicated)
        random_state = check_random_state(self.random_state)
        self._views = make_views(
            self._table,
            self._table.y,
            class_slots=self._class_slots(n_classes, random_state),
            random_state=random_state,
            **self._view_settings(),
        )
        return self._halves(random_state) if self.temperature == "auto" else []

    def _class_slots(self, n_classes: int, random_state: np.random.RandomState) -> ClassSlots:
        """Slots of the classes in each choice that a member makes."""
        n_slots = self.model_.config.n_outputs
        if n_classes <= n_slots:
            first = random_state.permutation(n_classes)
            return lambda member, _: [(first + member) % n_classes]            # every class visits different slots
        filled = np.nan_to_num(self._table.ranks(torch.from_numpy(self._table.x)).numpy())
        of_class = [self._table.y == label for label in range(n_classes)]
        centres = np.stack([np.average(filled[rows], axis=0, weights=self._table.weight[rows]) for rows in of_class])
        return lambda _, random_state: class_tree(centres, n_slots, random_state)

    def _targets(self, view: View, rows: np.ndarray, part: Part) -> np.ndarray:
        return part.slots[self._table.y[rows]]

    def _negative_log_likelihood(self, X: Any, y: Any) -> float:
        return -float(self.predict_log_proba(X)[np.arange(len(X)), np.searchsorted(self.classes_, y)].mean())

    def _tasks(self) -> TableTasks:
        settings = self._view_settings()
        return TableTasks(self._table, len(self.classes_), settings["max_features"], settings["max_context"])

    def _weighted_prediction(self, x: Tensor, log_weight: Tensor) -> Tensor:
        """Log-probability (n,) of the class that is predicted for each row of x."""
        questions = self._questions(x)
        views = [self._views[q.member] for q in questions]
        logits = [self._ask_weighted(view, view.parts[q.part], q.x, log_weight)
                  for view, q in zip(views, questions, strict=True)]
        return self._log_probabilities(questions, logits, len(x)).amax(1)

    def _log_probabilities(self, questions: list[Question], logits: list[Tensor], n_queries: int) -> Tensor:
        """Log-probabilities (n_queries, n_classes), columns as in `classes_`, from the answers to the questions."""
        log_p = torch.zeros(n_queries, len(self.classes_), dtype=torch.float64)
        for question, answer in zip(questions, logits, strict=True):
            part = self._views[question.member].parts[question.part]
            log_p = log_p.index_add(0, torch.from_numpy(question.queries), _log_choice(answer, part.slots))
        return (log_p / (len(self._views) * self.temperature_)).log_softmax(1)[:, torch.from_numpy(self._rank_of_class)]

    def _halves(self, random_state: np.random.RandomState) -> list[Half]:
        """Two passes in which one half of a context predicts the other.

        A row with a weight above 1 stands for several, of which each half gets its share.
        """
        in_half = random_state.permutation(len(self._table)) % 2
        weight = np.where(self._table.weight > 1, self._table.weight / 2, self._table.weight)
        halves = []
        for fold in (0, 1):
            view = self._views[fold % len(self._views)]
            part = view.cells[0]
            context, held_out = (part.rows[(in_half[part.rows] == half) | (self._table.weight[part.rows] > 1)]
                                 for half in (1 - fold, fold))
            held_out = held_out[np.isin(self._table.y[held_out], self._table.y[context])]      # a class must be seen
            if len(context) and len(held_out):
                queries = view.features(self._table, torch.from_numpy(self._table.x[held_out]))
                one_pass = Pass(*self._shown(view, context, part, weight), queries)
                halves.append(Half(one_pass, part.slots, self._table.y[held_out], weight[held_out]))
        return halves

    def _set_temperature(self, halves: list[Half], logits: list[Tensor]) -> None:
        """Temperature for which the halves are most probable; calibrates the first choice, if there is a tree of them."""
        self.temperature_ = 1.0 if self.temperature == "auto" else float(self.temperature)
        if halves:
            log_p = [_log_choice(one, half.slots).numpy() for half, one in zip(halves, logits, strict=True)]
            labels, weights = (np.concatenate(parts) for parts in zip(*((h.label, h.weight) for h in halves), strict=True))
            self.temperature_ = fit_temperature(np.concatenate(log_p), labels, weights)


def _log_choice(logits: Tensor, slots: np.ndarray) -> Tensor:
    """What logits (n, n_slots) say of the log-probability of each class, (n, n_classes); 0 where a class has no slot."""
    used, position = np.unique(slots[slots >= 0], return_inverse=True)
    chosen = logits[:, torch.from_numpy(used)].log_softmax(1)[:, torch.from_numpy(position)]
    return logits.new_zeros(len(logits), len(slots)).index_copy(1, torch.from_numpy(np.flatnonzero(slots >= 0)), chosen)
