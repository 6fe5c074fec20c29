"""Callbacks that end the training of XGBoost and LightGBM when its learning curve is not expected to become better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from estimators.early_stopping import CurveStopper

if TYPE_CHECKING:
    from xgboost.callback import TrainingCallback

__all__ = ["LightGBMCallback", "xgboost_callback"]

# Prefixes of XGBoost's own metrics that are better when larger, as in xgboost.callback.EarlyStopping.
_XGBOOST_SCORES = ("auc", "aucpr", "pre", "map", "ndcg")
_XGBOOST_LOSSES = ("rms", "mae", "mape", "mphe", "logloss", "mlogloss", "error", "merror", "quantile", "poisson-", "gamma-")


def xgboost_callback(stopper: CurveStopper, dataset: str | None = None, metric: str | None = None) -> TrainingCallback:
    """A callback for ``xgboost.train``, ``xgboost.cv`` and the scikit-learn interface of XGBoost.

    Like ``xgboost.callback.EarlyStopping`` it records `best_iteration` and `best_score` on the booster, which the
    scikit-learn interface then predicts with.

    Parameters
    ----------
    stopper : CurveStopper
        Its horizon is the number of rounds, its `minimize` that of the metric.
    dataset : str or None, default=None
        Name in `evals`; None: the last one.
    metric : str or None, default=None
        None: the last one of the data set.

    Examples
    --------
    >>> callback = xgboost_callback(CurveStopper(horizon=500, minimize=True))          # doctest: +SKIP
    >>> XGBClassifier(n_estimators=500, callbacks=[callback]).fit(X, y, eval_set=[(X_valid, y_valid)])  # doctest: +SKIP
    """
    from xgboost.callback import TrainingCallback

    check_stopper(stopper)

    class StopHopeless(TrainingCallback):
        def __reduce__(self) -> tuple[Any, ...]:                            # the class is local, so pickle calls us again
            return xgboost_callback, (stopper, dataset, metric)

        def before_training(self, model: Any) -> Any:
            self.n_rounds_before = model.num_boosted_rounds() if hasattr(model, "num_boosted_rounds") else 0
            return model

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            values = _xgboost_values(evals_log, stopper.minimize, dataset, metric)
            best = _best(values, stopper.minimize)
            model.set_attr(best_iteration=str(self.n_rounds_before + best), best_score=str(values[best]))
            return stopper.should_stop(values)

    return StopHopeless()


def _xgboost_values(evals_log: Any, minimize: bool, dataset: str | None, metric: str | None) -> list[float]:
    if not evals_log:
        raise ValueError("there is nothing to stop by: pass evals=[(validation, 'validation')] or eval_set to XGBoost.")
    dataset = list(evals_log)[-1] if dataset is None else dataset
    if dataset not in evals_log:
        raise ValueError(f"dataset={dataset!r} is not evaluated; use one of {list(evals_log)}.")
    metrics = evals_log[dataset]
    metric = list(metrics)[-1] if metric is None else metric
    if metric not in metrics:
        raise ValueError(f"metric={metric!r} is not evaluated on {dataset!r}; use one of {list(metrics)}.")
    is_score = metric.startswith(_XGBOOST_SCORES) and metric != "mape"
    if is_score if minimize else metric.startswith(_XGBOOST_LOSSES):
        raise ValueError(_direction(metric, minimize))
    return [value[0] if isinstance(value, tuple) else value for value in metrics[metric]]            # cv: mean and std


class LightGBMCallback:
    """A callback for ``lightgbm.train``, ``lightgbm.cv`` and the scikit-learn interface of LightGBM.

    Like ``lightgbm.early_stopping`` it sets `best_iteration`, which LightGBM then predicts with.

    Parameters
    ----------
    stopper : CurveStopper
        Its horizon is the number of rounds, its `minimize` that of the metric.
    dataset : str or None, default=None
        Name of the validation set; None: the first one that is not the training set.
    metric : str or None, default=None
        None: the first one of the data set.

    Examples
    --------
    >>> callback = LightGBMCallback(CurveStopper(horizon=500, minimize=True))          # doctest: +SKIP
    >>> LGBMClassifier(n_estimators=500).fit(X, y, eval_set=[(X_valid, y_valid)], callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, stopper: CurveStopper, dataset: str | None = None, metric: str | None = None) -> None:
        self.stopper = check_stopper(stopper)
        self.dataset = dataset
        self.metric = metric
        # As of lightgbm.early_stopping: after the callbacks that record. LightGBM looks for them in the instance.
        self.order, self.before_iteration = 30, False

    def __call__(self, env: Any) -> None:
        from lightgbm.callback import EarlyStopException

        if env.iteration == env.begin_iteration:
            self._results: list[Any] = []
        self._results.append(env.evaluation_result_list)
        chosen = self._chosen(env)
        values = [results[chosen][2] for results in self._results]
        stop = self.stopper.should_stop(values)
        if stop or env.iteration == env.end_iteration - 1:
            best = _best(values, self.stopper.minimize)
            raise EarlyStopException(env.begin_iteration + best, self._results[best])

    def _chosen(self, env: Any) -> int:
        """Position in the list of results; each begins with data set, metric, value, whether larger is better."""
        known = [result[:2] for result in env.evaluation_result_list or []]
        training = {"train", "training", getattr(env.model, "_train_data_name", "training")}
        for position, result in enumerate(env.evaluation_result_list or []):
            dataset, metric, _, is_score = result[:4]
            if self.dataset not in (None, dataset) or self.metric not in (None, metric):
                continue
            if self.dataset is None and dataset in training:
                continue
            if is_score == self.stopper.minimize:
                raise ValueError(_direction(metric, self.stopper.minimize))
            return position
        raise ValueError(
            f"dataset={self.dataset!r} and metric={self.metric!r} are not among what LightGBM evaluates: "
            f"{[tuple(names) for names in known]}; pass a validation set to LightGBM and use its name."
        )


def check_stopper(stopper: Any) -> CurveStopper:
    if not isinstance(stopper, CurveStopper):
        raise TypeError(f"stopper={stopper!r} is no CurveStopper; use CurveStopper(horizon=n_rounds, minimize=True).")
    return stopper


def _best(values: list[float], minimize: bool) -> int:
    """Position of the first best value; of NaN, the first of all."""
    worst = math.inf if minimize else -math.inf
    known = [worst if math.isnan(value) else value for value in values]
    return known.index(min(known) if minimize else max(known))


def _direction(metric: str, minimize: bool) -> str:
    better, use = ("larger", False) if minimize else ("smaller", True)
    return f"{metric!r} is better when {better}, but the stopper has minimize={minimize}; give it minimize={use}."
