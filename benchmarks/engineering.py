"""Feasibility of engineering designs from 20 to 500 labelled ones: PFNClassifier at its defaults beside nine baselines.

The ten sets of benchmarks/data/engineering (its README has their origin, and the F1 table published for the original data).
Of each set 1000 rows, stratified by class, are the test rows of all runs; each of five seeds (three for tuned models) draws
training rows from the others, stratified, at least two of each class. F1 is that of class 1 as published: feasible designs,
in framed_validity the invalid ones. Probabilities are clipped to [1e-6, 1 - 1e-6] before the log loss. Seconds are those of
the CPU, on one thread, for tuning, fit and probabilities.

Tuned models get a random search over 20 candidates in three stratified folds (two where a class has two rows), by log loss,
the SVM by ROC AUC. XGBoost and the forest read the matrix as it is (gaps imputed for the forest), HistGradientBoosting is
told the categories, the others get them one-hot, and numbers imputed and standardised. Results are kept per set, size, seed
and model:

    python benchmarks/engineering.py                                # print the tables; compute what is not there
    python benchmarks/engineering.py --models pfn --redo            # after a change of the weights
    python benchmarks/engineering.py --models pfn --checkpoint trunk.safetensors --out /tmp/trunk.json
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from real_data import Models, common_models, read_results, write_results
from scipy.stats import loguniform, randint, uniform
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import RandomizedSearchCV, StratifiedKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from tqdm import tqdm

from estimators.datasets import Dataset, Split, read_datasets
from estimators.evaluation import baseline_models, for_linear_models

SIZES, N_TEST, N_CANDIDATES = (20, 50, 100, 200, 500), 1000, 20
N_SEEDS, N_SLOW_SEEDS, SLOW = 5, 3, ("xgboost-tuned", "hist-tuned", "svm-tuned")
NAMES = {"pfn": "PFNClassifier", "xgboost": "XGBoost", "xgboost-tuned": "XGBoost, tuned",
         "hist-tuned": "HistGradientBoosting, tuned", "svm": "SVM", "svm-tuned": "SVM, tuned",
         "logistic": "logistic regression", "knn": "k nearest neighbours", "forest": "random forest", "mlp": "MLP"}


def folds(y: np.ndarray) -> StratifiedKFold:
    return StratifiedKFold(min(3, np.bincount(y).min()), shuffle=True, random_state=0)


def search(y: np.ndarray, estimator: Any, space: dict[str, Any], scoring: str = "neg_log_loss") -> RandomizedSearchCV:
    return RandomizedSearchCV(estimator, space, n_iter=N_CANDIDATES, scoring=scoring, cv=folds(y), random_state=0)


class SupportVectors:
    """RBF machine on standardised inputs: the classes are its own, the probabilities Platt's."""

    def __init__(self, categorical: np.ndarray, *, tune: bool) -> None:
        self.categorical, self.tune = categorical, tune

    def fit(self, X: np.ndarray, y: np.ndarray) -> None:
        machine = make_pipeline(for_linear_models(self.categorical), SVC())
        if self.tune:                                               # it has no probabilities yet, hence not by log loss
            space = {"svc__C": loguniform(0.1, 1000), "svc__gamma": loguniform(0.001, 3)}
            machine = search(y, machine, space, scoring="roc_auc").fit(X, y).best_estimator_
        self.calibrated = CalibratedClassifierCV(machine, cv=folds(y), ensemble=False).fit(X, y)
        self.machine = machine.fit(X, y)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.calibrated.predict_proba(X)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.machine.predict(X)


def tuned_xgboost(split: Split, _: argparse.Namespace) -> RandomizedSearchCV:
    from xgboost import XGBClassifier

    space = {"n_estimators": randint(20, 200), "learning_rate": loguniform(0.02, 0.3), "max_depth": randint(1, 8),
             "min_child_weight": loguniform(0.01, 5), "subsample": uniform(0.5, 0.5), "colsample_bytree": uniform(0.5, 0.5),
             "reg_lambda": loguniform(0.01, 10)}
    return search(split.y, XGBClassifier(random_state=0, n_jobs=1), space)


def tuned_hist(split: Split, _: argparse.Namespace) -> RandomizedSearchCV:
    space = {"max_iter": randint(20, 150), "learning_rate": loguniform(0.02, 0.3), "max_leaf_nodes": randint(2, 16),
             "min_samples_leaf": randint(1, 21), "l2_regularization": loguniform(1e-3, 10)}
    estimator = HistGradientBoostingClassifier(categorical_features=split.categorical, early_stopping=False, random_state=0)
    return search(split.y, estimator, space)


def standardised(estimator: Any) -> Any:
    return lambda split, _: make_pipeline(for_linear_models(split.categorical), estimator)


MODELS: Models = {
    **{name: model for name, model in common_models("classification").items() if name in NAMES},
    "xgboost-tuned": tuned_xgboost,
    "hist-tuned": tuned_hist,
    "svm": lambda split, _: SupportVectors(split.categorical, tune=False),
    "svm-tuned": lambda split, _: SupportVectors(split.categorical, tune=True),
    "logistic": lambda split, _: baseline_models("classification", split.categorical)["logistic"],
    "knn": standardised(KNeighborsClassifier()),
    "mlp": standardised(MLPClassifier(max_iter=1000, random_state=0)),
}


def training_sample(dataset: Dataset, size: int, seed: int) -> Split:
    """The test rows of the dataset, the same for every size and seed, and `size` of the others."""
    pool, test = train_test_split(np.arange(len(dataset.y)), test_size=N_TEST, random_state=0, stratify=dataset.y)
    pool = np.random.default_rng(seed).permutation(pool)
    members = [pool[dataset.y[pool] == label] for label in (0, 1)]
    positive = max(2, round(size * len(members[1]) / len(pool)))
    rows = np.concatenate([members[0][: size - positive], members[1][:positive]])
    return Split(dataset.task, dataset.X[rows], dataset.y[rows], dataset.X[test], dataset.y[test], dataset.categorical)


def scores(estimator: Any, split: Split) -> dict[str, float]:
    begun = time.process_time()
    estimator.fit(split.X, split.y)
    p = estimator.predict_proba(split.X_test)[:, 1].astype(np.float64)
    seconds = time.process_time() - begun
    positive = estimator.predict(split.X_test) if isinstance(estimator, SupportVectors) else p > 0.5
    return {"f1": round(f1_score(split.y_test, positive, zero_division=0), 5),
            "log_loss": round(log_loss(split.y_test, p.clip(1e-6, 1 - 1e-6)), 5), "seconds": round(seconds, 4)}


def compute(args: argparse.Namespace) -> dict[str, Any]:
    """Fill `args.out` with whatever is asked for and not there yet; written after every seed of a set."""
    out = Path(args.out)
    results = read_results(out)
    for seed, dataset in tqdm(list(product(range(args.seeds), read_datasets(args.data))), disable=None):
        if args.sets is not None and dataset.name not in args.sets:
            continue
        done = set()
        for model, size in product(args.models, args.sizes):
            key = f"{dataset.name}/{size}/{seed}/{model}"
            if (key in results["rows"] and not args.redo) or (model in SLOW and seed >= N_SLOW_SEEDS):
                continue
            split = training_sample(dataset, size, seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                     # convergence, columns without a value, unseen categories
                results["rows"][key] = scores(MODELS[model](split, args), split)
            done.add(model)
        if done:
            write_results(out, results, done, where=", one thread")
    return results


def report(rows: dict[str, dict[str, float]]) -> str:
    """Two tables in Markdown: over all sets and sizes, and by size. Seeds are averaged before anything else."""
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples([key.split("/") for key in rows], names=["set", "size", "seed", "model"])
    mean = frame.groupby(["set", "size", "model"]).mean()
    models = [model for model in NAMES if model in mean.index.get_level_values("model")]
    f1, loss, seconds = (mean[metric].unstack()[models].dropna() for metric in ("f1", "log_loss", "seconds"))
    ranks = {"f1": f1.rank(axis=1, ascending=False), "loss": loss.rank(axis=1)}
    lines = [f"{f1.index.get_level_values('set').nunique()} sets × {f1.index.get_level_values('size').nunique()} sizes", "",
             "| model | F1 | rank F1 | log loss | rank log loss | median s |", "|---|---|---|---|---|---|"]
    for model in sorted(models, key=ranks["f1"].mean().get):
        lines.append(f"| {NAMES[model]} | {f1[model].mean():.3f} | {ranks['f1'][model].mean():.2f} "
                     f"| {loss[model].mean():.3f} | {ranks['loss'][model].mean():.2f} | {seconds[model].median():.2f} |")
    sizes = [str(size) for size in SIZES if str(size) in f1.index.get_level_values("size")]
    for title, values, rank in (("F1", f1, ranks["f1"]), ("log loss", loss, ranks["loss"])):
        lines += ["", f"{title}, and its mean rank, by training rows", "",
                  f"| model | {' | '.join(sizes)} |", "|---" * (len(sizes) + 1) + "|"]
        for model in sorted(models, key=rank.mean().get):
            cells = [f"{values[model].xs(size, level='size').mean():.3f} ({rank[model].xs(size, level='size').mean():.1f})"
                     for size in sizes]
            lines.append(f"| {NAMES[model]} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(here / "data" / "engineering"))
    parser.add_argument("--out", default=str(here / "results" / "engineering.json"))
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--sets", nargs="+", help="file names without .npz; all by default")
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=list(SIZES), help="training rows")
    parser.add_argument("--seeds", type=int, default=N_SEEDS, help="draws of the training rows")
    parser.add_argument("--checkpoint", default="classifier")
    parser.add_argument("--n-estimators", type=int, default=4, help="members of PFNClassifier")
    parser.add_argument("--redo", action="store_true", help="compute again what is there already")
    torch.set_num_threads(1)
    print(report(compute(parser.parse_args())["rows"]))
