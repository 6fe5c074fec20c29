"""scikit-learn's hyper-parameter search with Bayesian optimisation choosing the candidates."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection._search import BaseSearchCV

from estimators.bayesian_optimizer import BayesianOptimizer
from estimators.goal import SearchSettings
from estimators.space import SearchSpace
from pfn import PFN


class _SameFolds:
    """A splitter that splits once: candidates of all batches see the same folds, also those of a shuffling splitter."""

    def __init__(self, cv: Any) -> None:
        self.cv = cv
        self.folds: list[tuple[np.ndarray, np.ndarray]] = []

    def split(self, X: Any, y: Any = None, **params: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        if not self.folds:
            self.folds = list(self.cv.split(X, y, **params))
        return self.folds


class PFNSearchCV(BaseSearchCV):
    """Search for hyper-parameters by cross-validation, each candidate chosen in view of the scores so far.

    What `RandomizedSearchCV` is to random candidates this is to those of `BayesianOptimizer`. Fits that fail are learnt
    from: their neighbourhood is avoided.

    Parameters
    ----------
    estimator : estimator object
    space : mapping of str to optuna.distributions.BaseDistribution
        Parameters of the estimator, also nested ones such as `"svc__C"`.
    n_iter : int, default=30
        Candidates; fewer if the space has fewer points.
    batch_size : int, default=1
        Candidates chosen at a time. More than one keeps more of `n_jobs` workers busy, at the price of older information.
    scoring, refit, cv, n_jobs, pre_dispatch, verbose, error_score, return_train_score
        As in `RandomizedSearchCV`. With several metrics, `refit` names the one to maximise. Splits are drawn once, so that
        a shuffling `cv` without a seed compares candidates on the same folds.
    model, settings
        As in `BayesianOptimizer`.
    random_state : int, RandomState or None, default=None
        Decides the candidates.

    Attributes
    ----------
    cv_results_ : dict of ndarrays
        Candidates in the order in which they were tried.
    best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, multimetric_
        As in `RandomizedSearchCV`.

    Notes
    -----
    A candidate with a missing score counts as failed, whatever `error_score` is; if all its folds failed, its times are NaN.
    If every candidate fails, so does `fit`.

    Examples
    --------
    >>> from optuna.distributions import FloatDistribution
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> space = {"alpha": FloatDistribution(1e-6, 1e3, log=True)}
    >>> search = PFNSearchCV(Ridge(), space, n_iter=15, random_state=0).fit(X, y)
    >>> search.best_params_["alpha"] < 1 and bool(search.best_score_ > 0.45)
    True
    """

    _checked_cv_orig: Any

    def __init__(
        self,
        estimator: Any,
        space: Any,
        n_iter: int = 30,
        *,
        batch_size: int = 1,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
        model: str | os.PathLike[str] | PFN = "bayesopt",
        settings: SearchSettings | None = None,
        random_state: Any = None,
    ) -> None:
        self.space = space
        self.n_iter = n_iter
        self.batch_size = batch_size
        self.model = model
        self.settings = settings
        self.random_state = random_state
        super().__init__(
            estimator=estimator, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv, verbose=verbose,
            pre_dispatch=pre_dispatch, error_score=error_score, return_train_score=return_train_score,
        )

    def _run_search(self, evaluate_candidates: Callable[..., dict[str, Any]]) -> None:
        """Ask, evaluate, tell, until `n_iter` candidates are known."""
        for name, value in [("n_iter", self.n_iter), ("batch_size", self.batch_size)]:
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        n_iter = int(min(self.n_iter, SearchSpace(self.space).n_points))
        if n_iter < self.n_iter:
            warnings.warn(f"the space has {n_iter} points, fewer than n_iter={self.n_iter}; trying all.", stacklevel=3)
        optimizer = BayesianOptimizer(
            self.space, direction="maximize", random_state=self.random_state, model=self.model, settings=self.settings
        )
        if hasattr(self, "_checked_cv_orig"):
            cv = _SameFolds(self._checked_cv_orig)
        else:                                                       # scikit-learn before 1.8 keeps it to itself
            cv = _SameFolds(inspect.getclosurevars(evaluate_candidates).nonlocals["cv_orig"])
        results: dict[str, Any] = {}
        failures: dict[int, dict[str, Any]] = {}                    # candidates without a single fit, by their number
        last_error = ValueError()
        for start in range(0, n_iter, self.batch_size):
            batch = optimizer.ask(min(self.batch_size, n_iter - start))
            try:
                results = evaluate_candidates(batch, cv=cv)
                scores = self._scores(results)[-len(batch) :]
            except ValueError as error:
                # scikit-learn gives up when all fits of a call fail; a call here is a batch, often of one candidate.
                if self.error_score == "raise" or "fits failed" not in str(error):
                    raise
                failures, last_error = failures | dict(enumerate(batch, start)), error
                scores = np.full(len(batch), np.nan)
            for params, score in zip(batch, scores.tolist(), strict=True):
                optimizer.tell(params, score if math.isfinite(score) else None)
        if failures and not results:
            raise last_error
        if failures:
            message = f"{len(failures)} of {n_iter} candidates could not be fitted. The last of them:\n{last_error}"
            warnings.warn(message, FitFailedWarning, stacklevel=3)
            results.update(self._with_failures(failures))
        del self._evaluated

    def _scores(self, results: dict[str, Any]) -> np.ndarray:
        """What is maximised, (n_candidates,)."""
        name = "mean_test_score" if "mean_test_score" in results else f"mean_test_{self.refit}"
        if name not in results:
            metrics = [key.removeprefix("mean_test_") for key in results if key.startswith("mean_test_")]
            raise ValueError(f"with several metrics refit names the one to maximise, one of {metrics}; got {self.refit!r}.")
        return results[name]

    def _format_results(self, *evaluated: Any) -> dict[str, Any]:
        self._evaluated = evaluated
        with warnings.catch_warnings():                             # said when they failed, and here for every batch again
            warnings.filterwarnings("ignore", "One or more of the (test|train) scores are non-finite", UserWarning)
            return super()._format_results(*evaluated)

    def _with_failures(self, failures: dict[int, dict[str, Any]]) -> dict[str, Any]:
        """`cv_results_` with rows for candidates whose fits all failed, where they were tried."""
        params, n_splits, out, *more = self._evaluated
        metrics = out[0]["test_scores"]
        failed = dict.fromkeys(metrics, self.error_score) if isinstance(metrics, dict) else self.error_score
        filler = {"test_scores": failed, "train_scores": failed, "fit_time": np.nan, "score_time": np.nan}
        fold = out[0] | {name: value for name, value in filler.items() if name in out[0]}
        params, out = list(params), list(out)
        for number, candidate in sorted(failures.items()):
            params.insert(number, candidate)
            out[number * n_splits : number * n_splits] = [fold] * n_splits
        return self._format_results(params, n_splits, out, *more)
