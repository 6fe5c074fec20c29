"""Quality on real data as a function of the tasks seen: is more pretraining still worth it?

Takes checkpoints that a run left behind, evaluates each on `benchmarks/data` (one split, at most 500 training rows, one
ensemble member, no calibration: the network itself) and keeps the result by run and step:

    python benchmarks/training_curve.py --run regressor runs/copies/*.safetensors
    python benchmarks/training_curve.py                            # prints what is there, draws results/training-curve.png
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from tqdm import tqdm

from estimators import PFNClassifier, PFNRegressor
from estimators.datasets import read_datasets, split_dataset
from estimators.evaluation import fit_and_score
from pfn import load_pretrained

matplotlib.use("Agg")
SHOWN = {"classification": ("log_loss", "log loss"), "regression": ("nll", "NLL of the standardised target")}


def evaluate(checkpoint: str, data: Path) -> dict[str, Any]:
    """Mean metrics of a checkpoint's averaged weights, and what it had seen."""
    network = load_pretrained(checkpoint)
    assert network.card is not None
    task, training = network.config.task, network.card.training
    found = []
    for dataset in tqdm(read_datasets(data / task), disable=None):
        if dataset.n_classes > 10:
            continue
        if task == "classification":
            estimator: Any = PFNClassifier(n_estimators=1, model=network, temperature=1.0, random_state=0)
        else:
            estimator = PFNRegressor(n_estimators=1, model=network, random_state=0)
        found.append(fit_and_score(estimator, split_dataset(dataset, seed=0, max_train=500)))
    row: dict[str, Any] = {metric: round(float(np.mean([scores[metric] for scores in found])), 5) for metric in found[0]}
    row |= {name: training[name] for name in ("step", "tasks", "n_steps", "decay_steps", "validation_loss")}
    return row | {"task": task, "minutes": round(training["seconds"] / 60, 1), "datasets": len(found),
                  "date": str(datetime.date.today())}


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel for each run, the metric over the tasks seen; decayed checkpoints are filled."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(5 * len(results), 3.6), squeeze=False)
    for axis, (run, rows) in zip(axes[0], results.items(), strict=True):
        ordered = sorted(rows.values(), key=lambda row: row["tasks"])
        metric, label = SHOWN[ordered[0]["task"]]
        axis.plot([row["tasks"] for row in ordered], [row[metric] for row in ordered], "-", color="0.6")
        for row in ordered:
            decayed = row["step"] == row["n_steps"] and row["decay_steps"] > 0
            axis.plot(row["tasks"], row[metric], "o", color="C0", fillstyle="full" if decayed else "none")
        axis.set(title=f"{run}, {ordered[0]['datasets']} real datasets", xlabel="tasks seen", ylabel=label)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def tables(results: dict[str, dict[str, Any]]) -> str:
    parts = []
    for run, rows in results.items():
        ordered = sorted(rows.values(), key=lambda row: row["tasks"])
        metrics = [name for name in ordered[0] if isinstance(ordered[0][name], (int, float))]
        parts.append("\n".join([run, "", f"| {' | '.join(metrics)} |", "|---" * len(metrics) + "|",
                                *(f"| {' | '.join(f'{row[name]:,}' for name in metrics)} |" for row in ordered)]))
    return "\n\n".join(parts)


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--run", help="name of the run that the checkpoints belong to")
    parser.add_argument("--data", type=Path, default=here / "data")
    parser.add_argument("--out", type=Path, default=here / "results" / "training-curve.json")
    args = parser.parse_args()
    if args.checkpoints and args.run is None:
        parser.error("say with --run which run the checkpoints belong to.")
    results: dict[str, dict[str, Any]] = json.loads(args.out.read_text()) if args.out.exists() else {}
    for checkpoint in args.checkpoints:
        row = evaluate(checkpoint, args.data)
        results.setdefault(args.run, {})[str(row["tasks"])] = row
        args.out.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(tables(results))
    if results:
        draw(results, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
