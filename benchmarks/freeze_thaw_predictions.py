"""Predictions of how recorded runs end from parts of some: with, without and with wrong hyper-parameters."""

from __future__ import annotations

import functools

import numpy as np
import torch
from curve_data import CurveSet

from estimators import PartialCurve
from estimators.freeze_thaw_study import Study, shared_metric
from estimators.freeze_thaw_surrogate import load_freeze_thaw_network
from pfn import PFN

N_NEW = 60                                                          # configurations without observations that are asked for
N_BEGUN = 80
Array = np.ndarray
PREDICTORS = ("network", "network, shuffled hyper-parameters", "last value")


def scores(method: str, curves: CurveSet, n_observed: int, first_seed: int, n_seeds: int, model: str) -> dict[str, float]:
    """Mean log-likelihood and squared error at the horizon, in the metric's unit interval, over tasks of a table."""
    found: dict[str, list[float]] = {}
    for seed in range(first_seed, first_seed + n_seeds):
        study, new, rows, truth = task(curves, n_observed, seed, shuffled="shuffled" in method)
        if method == "last value":
            mean, std = last_values(study, rows)
            log_prob = -0.5 * np.square((truth - mean) / std) - np.log(std * np.sqrt(2 * np.pi))
        else:
            surrogate = study.surrogate(load(model), np.arange(study.x.shape[1]), new)
            posterior = surrogate.posterior(rows, np.ones(len(rows)))
            mean = posterior.mean.double().numpy()
            log_prob = posterior.log_prob(torch.from_numpy(truth).float()).double().numpy()
        begun = rows < len(study.curves)
        for kind, chosen in (("begun", begun), ("new", ~begun)):
            if chosen.any():
                found.setdefault(f"log_prob {kind}", []).append(float(log_prob[chosen].mean()))
                found.setdefault(f"squared_error {kind}", []).append(float(np.square(mean - truth)[chosen].mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def task(curves: CurveSet, n_observed: int, seed: int, *, shuffled: bool) -> tuple[Study, Array, Array, Array]:
    """Runs cut off at random, `n_observed` epochs in all; new configurations; rows asked for, and where they end.

    How uneven the lengths are differs from task to task. At most half of the configurations are begun. Only rows whose runs
    do not fail are asked for.
    """
    rng = np.random.default_rng(seed)
    n, m = curves.values.shape
    order = rng.permutation(n)
    skew = np.exp(rng.uniform(np.log(0.3), np.log(4.0)))
    reached = np.maximum(np.ceil(m * rng.random(n // 2) ** skew), 1).astype(int)
    total = reached.cumsum()
    if total[-1] > n_observed:
        last = int((total >= n_observed).argmax())
        reached = reached[: last + 1]
        reached[last] -= total[last] - n_observed
    x = curves.hyperparameters - curves.hyperparameters.min(0)
    x = x / np.maximum(x.max(0), 1e-12)
    x = x[rng.permutation(n)] if shuffled else x
    begun, others = order[: len(reached)], order[len(reached) :]
    new = others[np.isfinite(curves.values[others, -1])][:N_NEW]
    parts = [curves.values[row, :step] for row, step in zip(begun, reached, strict=True)]
    told = [cut_off(number, values) for number, values in enumerate(parts)]
    metric = shared_metric(told, curves.minimize, curves.bounds, None)
    asked = np.flatnonzero((reached < m) & np.isfinite(curves.values[begun, -1]))[:N_BEGUN]
    truth = metric.forward(curves.values[[*begun[asked], *new], -1][None])[0]
    rows = np.array([*asked, *range(len(begun), len(begun) + len(new))])
    return Study(x[begun], told, metric, m), x[new], rows, truth


def cut_off(number: int, values: Array) -> PartialCurve:
    failed = np.isnan(values)
    n_told = int(failed.argmax()) if failed.any() else len(values)
    return PartialCurve(number, {}, tuple(range(1, n_told + 1)), tuple(values[:n_told].tolist()),
                        n_told + 1 if failed.any() else None)


def last_values(study: Study, rows: Array) -> tuple[Array, Array]:
    """Means and deviations: of begun runs the last value and how far second halves moved; of new ones moments of these.

    Deviations have one more observation of 0.2 / √n beside n others, as the network's scale has.
    """
    ends = np.array([y[-1] if len(y) else np.nan for y in study.goodness])
    moves = np.array([y[-1] - y[(len(y) - 1) // 2] for y in study.goodness if len(y) > 1])
    begun = rows < len(ends)
    mean = np.where(begun, ends[np.where(begun, rows, 0)], np.nanmean(ends))
    return mean, np.where(begun, deviation(moves), deviation(ends - np.nanmean(ends)))


def deviation(moves: Array) -> float:
    known = moves[np.isfinite(moves)]
    return float(np.sqrt((np.square(known).sum() + 0.04 / max(len(known), 1)) / (len(known) + 1)))


@functools.cache
def load(model: str) -> PFN:
    return load_freeze_thaw_network(model)
