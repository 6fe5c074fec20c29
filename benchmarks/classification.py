"""Real-data classification: PFNClassifier beside five baselines at their defaults, paired over datasets.

Protocol (../shared/data/README.md): 50/50 stratified split, at most 1000 training rows, at most 10 classes; ROC AUC
one-versus-one (macro), log loss, accuracy, expected calibration error (15 bins). Every model gets the same matrix, in
which categories are integer codes and gaps are NaN (imputed for the two models that need it); logistic regression gets
the categories one-hot. Results are kept per dataset, seed and model, so a run only computes what is missing:

    python benchmarks/classification.py                             # print the table; compute what is not there
    python benchmarks/classification.py --models pfn --redo         # after a change of the weights
    python benchmarks/classification.py --models pfn --checkpoint trunk.safetensors --out /tmp/trunk.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tqdm import tqdm

MAX_TRAIN, MAX_CLASSES = 1000, 10
NAMES = {"pfn": "PFNClassifier", "catboost": "CatBoost", "lightgbm": "LightGBM", "xgboost": "XGBoost",
         "forest": "random forest", "logistic": "logistic regression"}
METRICS = ("auc", "log_loss", "accuracy", "ece")


@dataclass(frozen=True)
class Task:
    """One split of one dataset; `categorical` are the columns that hold category codes."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    categorical: np.ndarray


def load(path: Path, seed: int) -> Task | None:
    """Stratified halves of a dataset, the training half cut to `MAX_TRAIN` rows; None if it has too many classes."""
    with np.load(path, allow_pickle=False) as data:
        X, y, categorical = data["X"], data["y"], data["cat_idx"]
    if y.max() >= MAX_CLASSES:
        return None
    train, test = train_test_split(np.arange(len(y)), test_size=0.5, random_state=seed, stratify=y)
    if len(train) > MAX_TRAIN:
        train, _ = train_test_split(train, train_size=MAX_TRAIN, random_state=seed, stratify=y[train])
    return Task(X[train], y[train], X[test], y[test], categorical)


def _logistic(task: Task, _: argparse.Namespace) -> Any:
    one_hot = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numeric = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((one_hot, list(task.categorical)), remainder=numeric)
    return make_pipeline(columns, LogisticRegression(max_iter=1000))


def _forest(task: Task, _: argparse.Namespace) -> Any:
    return make_pipeline(SimpleImputer(), RandomForestClassifier(random_state=0))


def _xgboost(task: Task, _: argparse.Namespace) -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(random_state=0, n_jobs=1)


def _lightgbm(task: Task, _: argparse.Namespace) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(random_state=0, verbose=-1, n_jobs=1)


def _catboost(task: Task, _: argparse.Namespace) -> Any:
    from catboost import CatBoostClassifier

    return CatBoostClassifier(random_seed=0, verbose=False, thread_count=1, allow_writing_files=False)


def _pfn(task: Task, args: argparse.Namespace) -> Any:
    from estimators import PFNClassifier

    return PFNClassifier(model=args.checkpoint, random_state=0)


MODELS: dict[str, Callable[[Task, argparse.Namespace], Any]] = {
    "pfn": _pfn, "catboost": _catboost, "lightgbm": _lightgbm, "xgboost": _xgboost, "forest": _forest,
    "logistic": _logistic,
}


def scores(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """AUC, log loss, accuracy and expected calibration error of `probabilities` (n, n_classes)."""
    p = probabilities / probabilities.sum(1, keepdims=True)
    auc = roc_auc_score(y, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(y, p, multi_class="ovo")
    confidence, correct = p.max(1), p.argmax(1) == y
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs(confidence[bins == b].sum() - correct[bins == b].sum()) for b in range(15)) / len(y)
    return {"auc": float(auc), "log_loss": float(log_loss(y, p, labels=np.arange(p.shape[1]))),
            "accuracy": float(correct.mean()), "ece": float(ece)}


def compute(args: argparse.Namespace) -> dict[str, Any]:
    """Fill `args.out` with whatever is asked for and not there yet; written after every dataset."""
    out = Path(args.out)
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    files = sorted(Path(args.data).glob("*.npz"))
    if not files:
        raise SystemExit(f"no .npz files in {args.data!r}; give the folder of datasets with --data.")
    files = files if args.sets is None else [file for file in files if file.stem in args.sets]
    done: set[str] = set()
    for file in tqdm(files, disable=None):
        for seed in args.seeds:
            task = load(file, seed)
            for model in args.models if task is not None else ():
                key = f"{file.stem}/{seed}/{model}"
                if key in results["rows"] and not args.redo:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")                 # feature names of LightGBM, convergence
                    probabilities = MODELS[model](task, args).fit(task.X, task.y).predict_proba(task.X_test)
                results["rows"][key] = scores(task.y_test, probabilities)
                done.add(model)
        if done:
            when = {model: f"{datetime.date.today()} on {os.cpu_count()} cores, {platform.machine()}" for model in done}
            results["computed"] = results.get("computed", {}) | when
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(results, indent=0, sort_keys=True) + "\n")
    return results


def table(results: dict[str, Any], models: list[str]) -> str:
    """Means over the datasets that every model has, PFN's paired wins in AUC and log loss, mean ranks."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for key, row in results["rows"].items():
        name, _, model = key.split("/")
        if model in models:
            cell = values.setdefault(name, {}).setdefault(model, {metric: [] for metric in METRICS})
            for metric in METRICS:
                cell[metric].append(row[metric])
    names = sorted(name for name, cells in values.items() if set(cells) == set(models))
    mean = {metric: pd.DataFrame({model: [np.mean(values[n][model][metric]) for n in names] for model in models},
                                 index=names) for metric in METRICS}
    lines = [f"{len(names)} datasets", "",
             "| model | AUC | log loss | accuracy | ECE | rank AUC | rank log loss | PFN better in AUC / log loss |",
             "|---|---|---|---|---|---|---|---|"]
    rank_auc = mean["auc"].rank(axis=1, ascending=False).mean()
    rank_loss = mean["log_loss"].rank(axis=1).mean()
    for model in models:
        versus = "–"
        if model != "pfn" and "pfn" in models:
            wins = (mean["auc"]["pfn"] > mean["auc"][model]).sum(), (mean["log_loss"]["pfn"] < mean["log_loss"][model]).sum()
            versus = f"{wins[0]} / {wins[1]}"
        cells = [f"{mean[metric][model].mean():.4f}" for metric in ("auc", "log_loss", "accuracy", "ece")]
        lines.append(f"| {NAMES[model]} | {' | '.join(cells)} | {rank_auc[model]:.2f} | {rank_loss[model]:.2f} | {versus} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--data", default=str(here.parent.parent / "shared" / "data" / "classification"))
    parser.add_argument("--out", default=str(here / "results" / "classification.json"))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--sets", nargs="+", help="file names without .npz; all by default")
    parser.add_argument("--checkpoint", default="classifier")
    parser.add_argument("--redo", action="store_true", help="compute again what is there already")
    args = parser.parse_args()
    print(table(compute(args), args.models))


if __name__ == "__main__":
    main()
