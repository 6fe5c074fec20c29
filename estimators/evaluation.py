"""How good is a network on real tables: fit and score, beside baselines, and the table of results."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tqdm import tqdm

from estimators.classifier import PFNClassifier
from estimators.datasets import Split, bundled_datasets, read_datasets, split_dataset
from estimators.metrics import METRICS, Normal, classification_scores, regression_scores
from estimators.regressor import PFNRegressor
from pfn import PFN, load_pretrained

_RANKED = {"classification": ("auc", "log_loss"), "regression": ("rmse", "nll", "pinball")}
_TITLES = {"auc": "AUC", "log_loss": "log loss", "ece": "ECE", "rmse": "RMSE/std", "nll": "NLL", "coverage": "coverage 90 %"}
_NAMES = {"pfn": "PFN", "logistic": "logistic regression", "ridge": "ridge", "forest": "random forest"}


def fit_and_score(estimator: Any, split: Split) -> dict[str, float]:
    """Fit on the training rows, score the predictions for the test rows.

    A regressor without `predict_distribution` gets one normal distribution around each prediction. Their common standard
    deviation is the root mean square error on a random fifth of the training rows of a fit on the others, at least 1/1000 of
    the targets' standard deviation; the predictions come from a fit on all of them.
    """
    if split.task == "classification":
        estimator.fit(split.X, split.y)
        predicted = estimator.predict_proba(split.X_test)
        # A rare class may have no training row.
        probabilities = np.zeros((len(predicted), max(split.y.max(), split.y_test.max()) + 1), dtype=predicted.dtype)
        probabilities[:, estimator.classes_] = predicted
        return classification_scores(split.y_test, probabilities)
    scale = float(split.y.std())
    if hasattr(estimator, "predict_distribution"):
        distribution = estimator.fit(split.X, split.y).predict_distribution(split.X_test)
    else:
        rest, fifth = train_test_split(np.arange(len(split.y)), test_size=0.2, random_state=0)
        residuals = split.y[fifth] - clone(estimator).fit(split.X[rest], split.y[rest]).predict(split.X[fifth])
        std = max(float(np.sqrt(np.mean(residuals**2))), 1e-3 * scale)
        distribution = Normal(estimator.fit(split.X, split.y).predict(split.X_test), std)
    return regression_scores(split.y_test, distribution, scale)


def for_linear_models(categorical: np.ndarray, **arguments: Any) -> Any:
    """Transformer that imputes, one-hot encodes the categorical columns and standardises the others."""
    one_hot = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numeric = make_pipeline(SimpleImputer(), StandardScaler())
    return make_column_transformer((one_hot, list(categorical)), remainder=numeric, **arguments)


def baseline_models(task: str, categorical: np.ndarray) -> dict[str, Any]:
    """A linear model and a random forest of scikit-learn at their defaults, by the names that results use."""
    if task == "classification":
        return {"logistic": make_pipeline(for_linear_models(categorical), LogisticRegression(max_iter=1000)),
                "forest": make_pipeline(SimpleImputer(), RandomForestClassifier(random_state=0))}
    return {"ridge": make_pipeline(for_linear_models(categorical, sparse_threshold=0), Ridge()),
            "forest": make_pipeline(SimpleImputer(), RandomForestRegressor(random_state=0))}


def summary(rows: dict[str, dict[str, float]], task: str, models: Sequence[str], names: dict[str, str] | None = None) -> str:
    """Markdown table of means over the datasets that every model has, mean ranks, and PFN's wins paired by dataset.

    Parameters
    ----------
    rows : dict
        Metrics by "dataset/seed/model"; seeds are averaged first.
    task : {"classification", "regression"}
    models : sequence of str
        Which, and in which order.
    names : dict, optional
        What to call them.
    """
    names = _NAMES if names is None else names
    mean = dataset_means(rows, task, models)
    ranked = _RANKED[task]
    n = len(mean[ranked[0]])
    titles = {metric: _TITLES.get(metric, metric) for metric in METRICS[task]}
    heads = ["model", *titles.values(), *(f"rank {titles[metric]}" for metric in ranked)]
    lines = [f"{n} dataset{'s' * (n != 1)}", "",
             f"| {' | '.join(heads)} | PFN better in {' / '.join(titles[metric] for metric in ranked)} |",
             "|" + "---|" * (len(heads) + 1)]
    rank = {metric: mean[metric].rank(axis=1, ascending=METRICS[task][metric] < 0).mean() for metric in ranked}
    for model in models:
        versus = "–"
        if model != "pfn" and "pfn" in models:
            gain = {metric: METRICS[task][metric] * (mean[metric]["pfn"] - mean[metric][model]) for metric in ranked}
            versus = " / ".join(str((gain[metric] > 0).sum()) for metric in ranked)
        cells = [f"{mean[metric][model].mean():.4f}" for metric in titles]
        cells += [f"{rank[metric][model]:.2f}" for metric in ranked]
        lines.append(f"| {names[model]} | {' | '.join(cells)} | {versus} |")
    return "\n".join(lines)


def dataset_means(rows: dict[str, dict[str, float]], task: str, models: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Of each metric the means over seeds, datasets × models; only datasets that every model has."""
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples([key.split("/") for key in rows], names=["dataset", "seed", "model"])
    mean = frame.groupby(["dataset", "model"]).mean()
    return {metric: mean[metric].unstack().reindex(columns=list(models)).dropna() for metric in METRICS[task]}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found out; print it, or take the numbers.

    Attributes
    ----------
    task : {"classification", "regression"}
    rows : dict
        Metrics by "dataset/seed/model"; the network is the model "pfn".
    left_out : dict
        Datasets that the network cannot predict, and why.
    """

    task: str
    rows: dict[str, dict[str, float]]
    left_out: dict[str, str]

    def __str__(self) -> str:
        models = list(dict.fromkeys(key.split("/")[2] for key in self.rows))
        metric = _RANKED[self.task][1]
        each = dataset_means(self.rows, self.task, models)[metric]
        heads = [_TITLES[metric], *(_NAMES[model] for model in models)]
        lines = [summary(self.rows, self.task, models), "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        lines += [f"| {name} | {' | '.join(f'{value:.4f}' for value in row)} |" for name, row in each.iterrows()]
        lines += [f"left out: {name}, {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)

    def to_json(self) -> str:
        """`rows`, `task` and `left_out`; `benchmarks/compare.py` reads it."""
        return json.dumps(vars(self), indent=0)


def evaluate(
    model: str | os.PathLike[str] | PFN,
    data: str | os.PathLike[str] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    max_train: int = 1000,
    baselines: bool = True,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Evaluation:
    """Compare a network with baselines on real datasets.

    Each dataset is split in halves at random (stratified by class); the models see at most `max_train` rows of the first
    half and predict all of the second.

    Parameters
    ----------
    model : str, path or PFN
        A bundled name, a checkpoint, or a network. It decides the task. `PFNClassifier` or `PFNRegressor` wraps it, at
        their defaults.
    data : path, optional
        Folder of .npz files, see `estimators.datasets.read_dataset`; by default the datasets that scikit-learn brings
        along.
    seeds : sequence of int, default=(0,)
        One split for each.
    max_train : int, default=1000
    baselines : bool, default=True
        Also score a linear model and a random forest, at scikit-learn's defaults, numbers imputed where they need it.
    device : str, default="auto"
        Of the network.
    progress : bool, default=True
        Show a bar, on terminals only.

    Returns
    -------
    Evaluation

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint or no dataset in `data`.
    ValueError
        If the network can predict none of the datasets, or one cannot be read or split.

    Examples
    --------
    >>> from pfn import PFNConfig
    >>> untrained = PFN(PFNConfig(n_outputs=3, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32))
    >>> result = evaluate(untrained, max_train=20, baselines=False)
    >>> sorted(result.rows["iris/0/pfn"])
    ['accuracy', 'auc', 'ece', 'log_loss']
    >>> result.left_out
    {'digits': 'it has 10 classes, the network at most 3'}
    """
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds={list(seeds)} is empty or has a negative number; give one or more from 0 up.")
    if max_train < 2:
        raise ValueError(f"max_train={max_train} is too few rows to learn from; give at least 2.")
    network = model if isinstance(model, PFN) else load_pretrained(model)
    if network.config.scaling == "prior":
        raise ValueError(
            f"model={model!r} reads values in the units of its prior, so tables in other units say nothing about it; use "
            "pfn certify, or the benchmarks of what it is for."
        )
    task, n_outputs = network.config.task, network.config.n_outputs
    chosen, left_out = [], {}
    for dataset in bundled_datasets(task) if data is None else read_datasets(data):
        if dataset.task != task:
            left_out[dataset.name] = f"its task is {dataset.task}"
        elif dataset.n_classes > n_outputs:
            left_out[dataset.name] = f"it has {dataset.n_classes} classes, the network at most {n_outputs}"
        else:
            chosen.append(dataset)
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"data={data!r} has no dataset for this {task} network ({reasons}); give another folder.")
    # All splits first: what cannot be split stops us before the work, not after half of it.
    splits = {f"{dataset.name}/{seed}": split_dataset(dataset, seed, max_train) for dataset, seed in product(chosen, seeds)}
    wrapper = PFNClassifier if task == "classification" else PFNRegressor
    rows = {}
    for name, split in tqdm(splits.items(), disable=None if progress else True):
        rows[f"{name}/pfn"] = fit_and_score(wrapper(model=network, device=device, random_state=0), split)
        for baseline, estimator in baseline_models(task, split.categorical).items() if baselines else ():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                     # convergence, columns without a single value
                rows[f"{name}/{baseline}"] = fit_and_score(estimator, split)
    return Evaluation(task, rows, left_out)
