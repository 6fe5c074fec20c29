"""Optuna studies with and without pruning: networks that are trained while one waits, and recorded runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from curve_data import load
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from tqdm import tqdm

from estimators.optuna import LearningCurvePruner
from pfn import PFN

Objective = Callable[[optuna.Trial], float]
Trace = list[tuple[int, float]]         # steps spent, best final value so far, larger is better


def steps_to(trace: Trace, value: float) -> float:
    """Steps until there is a value as good as this one."""
    return next((spent for spent, found in trace if found >= value), math.inf)


def train_networks(seed: int) -> Objective:
    """Multilayer perceptrons on 400 digits: validation accuracy after each of 40 epochs."""
    X, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))
    X, fit, valid = X / 16, rows[:400], rows[400:1000]

    def objective(trial: optuna.Trial) -> float:
        model = MLPClassifier(
            hidden_layer_sizes=(trial.suggest_int("width", 4, 64, log=True),), random_state=seed,
            learning_rate_init=trial.suggest_float("rate", 1e-5, 1.0, log=True),
            batch_size=trial.suggest_int("batch", 16, 256, log=True),
            alpha=trial.suggest_float("alpha", 1e-6, 10.0, log=True),
            solver=trial.suggest_categorical("solver", ["adam", "sgd"]),
        )
        rng = np.random.default_rng(trial.number)
        for epoch in range(1, 41):
            order = rng.permutation(fit)
            accuracy = model.partial_fit(X[order], y[order], classes=range(10)).score(X[valid], y[valid])
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(accuracy)

    return objective


def replay(name: str) -> Objective:
    """The recorded run whose hyper-parameters are nearest; one that diverges ends there."""
    curves = load(name)
    low, high = curves.hyperparameters.min(0), curves.hyperparameters.max(0)
    places = (curves.hyperparameters - low) / (high - low)

    def objective(trial: optuna.Trial) -> float:
        point = [trial.suggest_float(name, 0, 1) for name in curves.names]
        row = curves.values[np.square(places - point).sum(1).argmin()]
        for step, value in enumerate(row, 1):
            trial.report(value, step)
            if trial.should_prune() or not np.isfinite(value):
                raise optuna.TrialPruned
        return float(row[-1])

    return objective


def optimize(objective: Objective, sampler: str, pruner: Any, n_trials: int, seed: int, minimize: bool) -> Trace:
    make = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[sampler]
    study = optuna.create_study(direction="minimize" if minimize else "maximize", sampler=make(seed=seed), pruner=pruner)
    study.optimize(objective, n_trials=n_trials)
    spent, best, trace = 0, -math.inf, []
    for trial in study.trials:
        spent += len(trial.intermediate_values)
        if trial.state == optuna.trial.TrialState.COMPLETE:
            value = -trial.value if minimize else trial.value
            if value > best:
                best = value
                trace.append((spent, best))
    return [*trace, (spent, best)]


def studies(
    replayed: list[str], *, model: PFN, prior: str, n_trials: int, n_seeds: int
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """For each task and sampler, then for each pruner, of each seed: steps, best value, CPU seconds, and "same value": the
    steps that the study without pruning took to find its best value, divided by those until one as good was found.
    """
    tasks: dict[str, tuple[Callable[[int], Objective], bool, int]] = {"digits": (train_networks, False, 40)}
    for name in replayed:
        tasks[name] = (lambda seed, name=name: replay(name)), load(name).minimize, len(load(name).steps)
    results = {}
    for task, (make, minimize, n_steps) in tasks.items():
        pruners: dict[str, Callable[[], Any]] = {
            "no pruning": optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner,
            "hyperband": lambda n_steps=n_steps: optuna.pruners.HyperbandPruner(max_resource=n_steps),
            "learning curve": lambda: LearningCurvePruner(prior=prior, model=model),
            "learning curve, 0.1": lambda: LearningCurvePruner(delta=0.1, prior=prior, model=model),
        }
        for sampler in ("random", "tpe"):
            rows: dict[str, dict[str, list[float]]] = {name: {} for name in pruners}
            for seed in tqdm(range(n_seeds), desc=f"{task}, {sampler}", disable=None):
                baseline: Trace = []
                for name, pruner in pruners.items():
                    start = time.process_time()
                    trace = optimize(make(seed), sampler, pruner(), n_trials, seed, minimize)
                    baseline = baseline or trace
                    steps, best = trace[-1]
                    ratio = steps_to(baseline, baseline[-1][1]) / steps_to(trace, baseline[-1][1])
                    found = {"steps": steps, "best": -best if minimize else best, "same value": ratio,
                             "seconds": time.process_time() - start}
                    for key, value in found.items():
                        rows[name].setdefault(key, []).append(float(value))
            results[f"{task}, {sampler}"] = rows
    return results
