"""30 labelled rows: PFNClassifier at its defaults beside five tuned baselines, by ROC AUC and calibration.

The small-data experiment of [1] on other sets: those of benchmarks/data/classification with two classes of at least 50 rows,
at most 100 features and no gaps. Of each, 20 subsets are drawn at random: 15 labelled and 35 test rows of each class, so
that a test row may be in several subsets. Baselines are tuned anew on each subset's labelled rows, in five stratified folds
by log loss (`--scoring`); standardisation and one-hot codes are fitted on training rows only. PFNClassifier and the boosters
read the matrix as it is and are not told which integers are categories; the others get these one-hot.

- `pooled_auc` is of all 1400 predictions of a set, as in [1]; `mean_auc` averages over subsets. Ranks are within a set.
- `ece_100` and `ece_10`: expected calibration error of the probability of class 1, in equal bins of [0, 1].
- An ECE has a floor: the labels that nobody can foresee. `floor_…` is the mean ECE if labels are drawn from the predictions
  themselves. That takes them as independent, while rows recur and the 70 predictions of a subset err together, so the
  floor of a perfectly calibrated model is higher still.
- "all sets" is the ECE of the 25,200 predictions of all 18 sets in the same bins, to be compared with [1]'s .025 (100 bins):
  that is below the floor of 1400 predictions, so it must be such a number. Errors of opposite sign cancel in it; the mean
  over sets is beside it.
- `overconfidence` is the mean of the larger probability minus the accuracy.

Seconds are those of the CPU for the 20 subsets of a set, one thread, with tuning. Results are kept per set and model:

    OMP_NUM_THREADS=1 python benchmarks/small_data.py               # print the tables; compute what is not there
    python benchmarks/small_data.py --models pfn --redo             # after a change of the weights
    python benchmarks/small_data.py --scoring roc_auc --out /tmp/by-auc.json

References: [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from real_data import read_results, write_results
from sklearn.compose import make_column_transformer
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Matern
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tqdm import tqdm

from estimators import PFNClassifier
from estimators.datasets import Dataset, Split, read_datasets

N_SUBSETS, N_LABELLED, N_TEST = 20, 15, 35                          # rows are of each class
MAX_FEATURES, N_BINS, N_DRAWS = 100, 100, 200
NAMES = {"pfn": "PFNClassifier", "logistic": "logistic regression", "xgboost": "XGBoost", "catboost": "CatBoost",
         "gp": "Gaussian process", "knn": "k nearest neighbours"}
LENGTHS = (1.0, 10.0)                                               # from which the marginal likelihood is maximised
GRIDS: dict[str, dict[str, Any]] = {
    "logistic": {"model__C": np.logspace(-2, 2, 5), "model__l1_ratio": (0, 1)},     # needs scikit-learn 1.8
    "xgboost": {"min_child_weight": (0.5, 1), "learning_rate": (0.02, 0.2), "max_depth": (1, 2)},
    "catboost": {"depth": (2, 6), "learning_rate": (0.03, 0.1, 0.3)},
    "gp": {"model__kernel": [ConstantKernel() * kernel for kernel in (
        *map(RBF, LENGTHS), *(Matern(length, nu=1.5) for length in LENGTHS), DotProduct())]},
    "knn": {"model__n_neighbors": (1, 3, 5, 8, 12, 16), "model__weights": ("uniform", "distance")},
}


def suits(dataset: Dataset) -> bool:
    enough = dataset.n_classes == 2 and np.bincount(dataset.y).min() >= N_LABELLED + N_TEST
    return bool(enough and dataset.X.shape[1] <= MAX_FEATURES and not np.isnan(dataset.X).any())


def subset(dataset: Dataset, seed: int) -> Split:
    """Balanced labelled and test rows, without replacement."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(np.flatnonzero(dataset.y == label))[: N_LABELLED + N_TEST] for label in (0, 1)])
    train, test = rows[:, :N_LABELLED].T.ravel(), rows[:, N_LABELLED:].T.ravel()    # classes alternate
    return Split(dataset.task, dataset.X[train], dataset.y[train], dataset.X[test], dataset.y[test], dataset.categorical)


def standardised(categorical: np.ndarray, model: Any) -> Pipeline:
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return Pipeline([("x", make_column_transformer((one_hot, list(categorical)), remainder=StandardScaler())
                      if len(categorical) else StandardScaler()), ("model", model)])


def xgboost(_: np.ndarray) -> Any:
    return import_module("xgboost").XGBClassifier(
        n_estimators=100, subsample=0.8, colsample_bytree=0.8, random_state=0, n_jobs=1)


def catboost(_: np.ndarray) -> Any:
    return import_module("catboost").CatBoostClassifier(
        iterations=100, random_seed=0, verbose=False, thread_count=1, allow_writing_files=False)


BASELINES: dict[str, Callable[[np.ndarray], Any]] = {
    "logistic": lambda categorical: standardised(categorical, LogisticRegression(solver="liblinear", random_state=0)),
    "xgboost": xgboost,
    "catboost": catboost,
    "gp": lambda categorical: standardised(categorical, GaussianProcessClassifier(random_state=0)),
    "knn": lambda categorical: standardised(categorical, KNeighborsClassifier()),
}


def probabilities(model: str, subsets: list[Split], args: argparse.Namespace) -> np.ndarray:
    """Of class 1, (n_subsets, n_test)."""
    if model == "pfn":
        estimator = PFNClassifier(model=args.checkpoint, random_state=0)
        found = estimator.predict_proba_many((s.X, s.y, s.X_test) for s in subsets)
    else:
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        tuned = GridSearchCV(BASELINES[model](subsets[0].categorical), GRIDS[model], scoring=args.scoring, cv=folds)
        found = [tuned.fit(s.X, s.y).predict_proba(s.X_test) for s in subsets]
    return np.stack([p[:, 1] for p in found]).astype(np.float64)


def bin_sums(p: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of `values` in equal bins of the probability `p`, (N_BINS,)."""
    return np.bincount(np.minimum((p * N_BINS).astype(int), N_BINS - 1), values, N_BINS)


def ece(gaps: np.ndarray, n: int, n_bins: int = N_BINS) -> float:
    """Expected calibration error of n rows; `gaps` (N_BINS,) are sums of label minus probability, fewer bins join some."""
    return float(np.abs(gaps.reshape(n_bins, -1).sum(1)).sum() / n)


def expected_ece(variances: np.ndarray, n: int, n_bins: int = N_BINS) -> float:
    """Its floor for many rows: gaps are normal then, and E|gap| = √(2/π) standard deviations. `variances`: of the gaps."""
    return float(np.sqrt(2 / np.pi * variances.reshape(n_bins, -1).sum(1)).sum() / n)


def scores(y: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """Of the predictions of one set, both (n_subsets, n_test)."""
    mean_auc = np.mean([roc_auc_score(*pair) for pair in zip(y, p, strict=True)])
    y, p = y.ravel(), p.ravel()
    gaps = bin_sums(p, y - p)
    draws = np.random.default_rng(0).random((N_DRAWS, len(p))) < p
    drawn = [bin_sums(p, draw - p) for draw in draws]
    row: dict[str, Any] = {
        "pooled_auc": roc_auc_score(y, p), "mean_auc": mean_auc, "log_loss": log_loss(y, p.clip(1e-6, 1 - 1e-6)),
        "overconfidence": np.mean(np.maximum(p, 1 - p)) - np.mean((p > 0.5) == y)}
    for n_bins in (100, 10):
        row |= {f"ece_{n_bins}": ece(gaps, len(p), n_bins),
                f"floor_{n_bins}": np.mean([ece(draw, len(p), n_bins) for draw in drawn])}
    # What the ECE of all sets is made of, in one line each.
    sums = {"gaps": gaps, "variances": bin_sums(p, p * (1 - p))}
    return {key: round(float(value), 5) for key, value in row.items()} | {
        "n": len(p), **{key: " ".join(f"{value:.5g}" for value in values) for key, values in sums.items()}}


def compute(args: argparse.Namespace) -> dict[str, Any]:
    """Fill `args.out` with whatever is asked for and not there yet; written after every model of a set."""
    out = Path(args.out)
    results = read_results(out)
    packages = ("torch", "numpy", "scikit-learn", "xgboost", "catboost")
    header = {"versions": {name: version(name) for name in packages}, "scoring": args.scoring,
              "seeds": f"subsets 0 … {N_SUBSETS - 1}; 0 for folds and models"}
    if results["rows"] and results["scoring"] != args.scoring:
        raise SystemExit(f"{out} was tuned by {results['scoring']}, not {args.scoring}; name another file with --out.")
    wanted = [dataset for dataset in read_datasets(args.data) if suits(dataset)]
    wanted = [dataset for dataset in wanted if args.sets is None or dataset.name in args.sets]
    for dataset in tqdm(wanted, disable=None):
        subsets = [subset(dataset, seed) for seed in range(N_SUBSETS)]
        y = np.stack([s.y_test for s in subsets])
        for model in args.models:
            key = f"{dataset.name}/{model}"
            if key in results["rows"] and not args.redo:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                     # convergence, unseen categories, bounds of kernels
                begun = time.process_time()
                p = probabilities(model, subsets, args)
                seconds = time.process_time() - begun
            results["rows"][key] = scores(y, p) | {"seconds": round(seconds, 3)}
            write_results(out, results | header, {model}, where=", one thread")
            results = read_results(out)
    return results


def report(rows: dict[str, dict[str, Any]]) -> str:
    """Two tables in Markdown: ranks and means over the sets that every model has, and the AUC of each set."""
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples([key.split("/") for key in rows], names=["set", "model"])
    models = [model for model in NAMES if model in frame.index.unique("model")]
    complete = frame["n"].unstack()[models].dropna().index
    frame = frame.loc[complete]

    def of(metric: str) -> pd.DataFrame:                            # sets × models
        return frame[metric].unstack()[models]

    rank = {metric: of(metric).rank(axis=1, ascending=metric == "log_loss").mean()
            for metric in ("pooled_auc", "mean_auc", "log_loss")}
    lines = [f"{len(complete)} sets × {N_SUBSETS} subsets; ECE (floor)", "",
             "| model | rank pooled AUC | rank mean AUC | pooled AUC | mean AUC | PFN better in pooled AUC "
             "| log loss | rank log loss | ECE all sets, 100 bins | 10 bins | mean of sets, 100 bins | 10 bins "
             "| overconfidence | CPU s |",
             "|" + "---|" * 14]
    for model in sorted(models, key=rank["pooled_auc"].get):
        own = frame.xs(model, level="model")
        mean, n = own.drop(columns=["gaps", "variances"]).mean(), int(own["n"].sum())
        gaps, variances = (np.sum([np.fromstring(line, sep=" ") for line in own[key]], 0) for key in ("gaps", "variances"))
        better = "–" if model == "pfn" or "pfn" not in models else (of("pooled_auc")["pfn"] > of("pooled_auc")[model]).sum()
        everything = [f"{ece(gaps, n, bins):.3f} ({expected_ece(variances, n, bins):.3f})" for bins in (100, 10)]
        sets = [f"{mean[f'ece_{bins}']:.3f} ({mean[f'floor_{bins}']:.3f})" for bins in (100, 10)]
        lines.append(
            f"| {NAMES[model]} | {rank['pooled_auc'][model]:.2f} | {rank['mean_auc'][model]:.2f} | {mean['pooled_auc']:.4f} "
            f"| {mean['mean_auc']:.4f} | {better} | {mean['log_loss']:.3f} | {rank['log_loss'][model]:.2f} "
            f"| {' | '.join(everything + sets)} | {mean['overconfidence']:+.3f} | {own['seconds'].sum():.0f} |")
    lines += ["", f"| pooled AUC | {' | '.join(NAMES[model] for model in models)} |", "|" + "---|" * (len(models) + 1)]
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |" for name, row in of("pooled_auc").iterrows()]
    return "\n".join(lines)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(here / "data" / "classification"))
    parser.add_argument("--out", default=str(here / "results" / "small_data.json"))
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--sets", nargs="+", help="file names without .npz; all by default")
    parser.add_argument("--scoring", default="neg_log_loss", help="by which baselines are tuned, a name of scikit-learn")
    parser.add_argument("--checkpoint", default="classifier")
    parser.add_argument("--redo", action="store_true", help="compute again what is there already")
    torch.set_num_threads(1)
    print(report(compute(parser.parse_args())["rows"]))
