"""How much can be learned from a task: the prior's tasks beside real tables.

The measure is the share of the majority class's error that the better of a random forest and logistic regression removes
on unseen rows; 0 is pure noise, 1 a deterministic target that is easy to find. A prior whose tasks are noisier than real
tables teaches a network to doubt.

    python benchmarks/learnability.py                                # prints the table, writes results/learnability.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import warnings
from pathlib import Path

import numpy as np
import torch
from classification import load
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from pfn.recipes import tabular_prior
from priors import TaskShape

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def gain(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray) -> float:
    """(accuracy - majority share) / (1 - majority share) of the better of two models."""
    majority = np.bincount(y_test).max() / len(y_test)
    if majority == 1.0:
        return 0.0
    models = (
        make_pipeline(SimpleImputer(keep_empty_features=True), RandomForestClassifier(50, random_state=0)),
        make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=200)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                             # convergence
        best = max(model.fit(X, y).score(X_test, y_test) for model in models)
    return (best - majority) / (1.0 - majority)


def prior_gains(n_features: int, n_tasks: int, seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    batch = tabular_prior().sample(TaskShape(n_tasks, 600, n_features, 400), generator=generator)
    tables = zip(batch.x.numpy(), batch.y.numpy(), strict=True)
    return [gain(x[:400], y[:400], x[400:], y[400:]) for x, y in tqdm(list(tables), disable=None)]


def table(gain: dict[str, dict[str, float]]) -> str:
    lines = [f"| share of error removed, quantile | {' | '.join(str(q) for q in QUANTILES)} |",
             "|---" * (len(QUANTILES) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{value:.2f}' for value in row.values())} |" for name, row in gain.items()]
    return "\n".join(lines)


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(here / "data" / "classification"))
    parser.add_argument("--out", default=str(here / "results" / "learnability.json"))
    parser.add_argument("--tasks", type=int, default=40, help="tasks drawn from the prior, for each number of features")
    args = parser.parse_args()
    tasks = [load(path, seed=0) for path in sorted(Path(args.data).glob("*.npz"))]
    gains = {
        "real tables": [gain(t.X, t.y, t.X_test, t.y_test) for t in tqdm(tasks, disable=None) if t is not None],
        "prior, 8 features": prior_gains(8, args.tasks, seed=0),
        "prior, 30 features": prior_gains(30, args.tasks, seed=1),
    }
    record = {name: {str(q): round(float(np.quantile(values, q)), 3) for q in QUANTILES} for name, values in gains.items()}
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    seeds = {"real": 0, "prior": [0, 1]}
    about = {"date": str(datetime.date.today()), "machine": machine, "tasks": args.tasks, "seeds": seeds}
    Path(args.out).write_text(json.dumps(about | {"gain": record}, indent=1) + "\n")
    print(table(record))


if __name__ == "__main__":
    main()
