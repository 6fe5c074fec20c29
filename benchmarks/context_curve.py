"""Does the network gain from more context, up to 2000 rows and beyond what it was trained on?

The datasets of `benchmarks/data` with at least 2,900 rows: 500 test rows, and nested contexts of 50 … 2000 of the others.
One ensemble member, no calibration, so that the curve is the network's own; a random forest beside it. Classification is
scored by ROC AUC, accuracy and log loss, regression by RMSE/std and NLL of the standardised target.

    python benchmarks/context_curve.py                              # prints both curves, writes results/context-curve.json
    python benchmarks/context_curve.py --tasks regression --regressor trunk.safetensors
"""

from __future__ import annotations

import argparse
import datetime
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from tqdm import tqdm

from estimators import PFNClassifier, PFNRegressor
from estimators.datasets import Dataset, read_datasets
from estimators.metrics import classification_scores, regression_scores

SIZES = (50, 100, 200, 500, 1000, 2000)
N_TEST, SMALLEST = 500, 2900


def scores(dataset: Dataset, size: int, checkpoint: str) -> dict[str, float]:
    order = np.random.default_rng(0).permutation(len(dataset.y))
    test, train = order[:N_TEST], order[N_TEST : N_TEST + size]
    X, y, X_test, y_test = dataset.X[train], dataset.y[train], dataset.X[test], dataset.y[test]
    common: dict[str, Any] = {"n_estimators": 1, "model": checkpoint, "max_context": size, "random_state": 0}
    if dataset.task == "regression":
        forest = make_pipeline(SimpleImputer(), RandomForestRegressor(random_state=0)).fit(X, y)
        posterior = PFNRegressor(**common).fit(X, y).predict_distribution(X_test)
        found = regression_scores(y_test, posterior, float(dataset.y[order[N_TEST:]].std()))
        error = np.sqrt(np.mean((forest.predict(X_test) - y_test) ** 2)) / y_test.std()
        return {"rmse": found["rmse"], "nll": found["nll"], "forest_rmse": float(error)}
    row = {}
    for name, model in (("", PFNClassifier(temperature=1.0, **common)),
                        ("forest_", make_pipeline(SimpleImputer(), RandomForestClassifier(random_state=0)))):
        model.fit(X, y)
        p = np.full((N_TEST, dataset.n_classes), 1e-6)              # a class that 50 rows do not show has no chance
        p[:, model.classes_] = model.predict_proba(X_test).clip(1e-6)
        found = classification_scores(y_test, p)
        row |= {f"{name}{metric}": found[metric] for metric in ("auc", "accuracy", "log_loss")}
    return row


def table(task: str, rows: dict[str, dict[str, float]]) -> str:
    """Means over the datasets by context size, in Markdown."""
    metrics = list(next(iter(rows.values())))
    sizes = sorted({int(key.split("/")[1]) for key in rows})
    lines = [f"{task}, {len(rows) // len(sizes)} datasets", "", f"| context rows | {' | '.join(metrics)} |",
             "|---" * (len(metrics) + 1) + "|"]
    for size in sizes:
        means = [np.mean([row[metric] for key, row in rows.items() if key.endswith(f"/{size}")]) for metric in metrics]
        lines.append(f"| {size} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(here / "data"))
    parser.add_argument("--out", default=str(here / "results" / "context-curve.json"))
    parser.add_argument("--tasks", nargs="+", default=["classification", "regression"])
    parser.add_argument("--classifier", default="classifier")
    parser.add_argument("--regressor", default="regressor")
    args = parser.parse_args()
    checkpoints = {"classification": args.classifier, "regression": args.regressor}
    out = Path(args.out)
    record: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    record["torch"] = torch.__version__
    for task in args.tasks:
        datasets = [d for d in read_datasets(Path(args.data) / task) if len(d.y) >= SMALLEST and d.n_classes <= 10]
        rows: dict[str, dict[str, float]] = {}
        for dataset in tqdm(datasets, disable=None):
            for size in SIZES:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")                 # columns without any value in a small context
                    rows[f"{dataset.name}/{size}"] = scores(dataset, size, checkpoints[task])
        record[task] = {"date": str(datetime.date.today()), "checkpoint": checkpoints[task], "rows": rows}
        out.write_text(json.dumps(record, indent=0, sort_keys=True) + "\n")
    for task in args.tasks:
        print("\n" + table(task, record[task]["rows"]))


if __name__ == "__main__":
    main()
