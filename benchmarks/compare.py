"""Two networks on the same real datasets, paired: is B better than A by more than chance?

Takes two files that `classification.py` or `regression.py --models pfn --checkpoint … --out …` wrote:

    python benchmarks/compare.py A.json B.json
    python benchmarks/compare.py A.json B.json --out results/prior-comparison.json --note "what A and B are"
    python benchmarks/compare.py A.json B.json --out results/training-day.json --title "Weights" --note "what A and B are"

With a title the file holds several comparisons. Splits of a dataset are averaged; datasets are resampled for the interval.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

# Sign: +1 if larger is better.
METRICS = {"auc": 1.0, "log_loss": -1.0, "accuracy": 1.0, "ece": -1.0, "rmse": -1.0, "nll": -1.0, "pinball": -1.0}


def metrics(path: str) -> list[str]:
    """The metrics with a sign in the rows of a file: those of its task."""
    row = next(iter(json.loads(Path(path).read_text())["rows"].values()), {})
    return [metric for metric in METRICS if metric in row]


def means(path: str, metric: str) -> dict[str, dict[int, float]]:
    """Value of the network for each dataset and split."""
    found: dict[str, dict[int, float]] = {}
    for key, row in json.loads(Path(path).read_text())["rows"].items():
        name, seed, model = key.split("/")
        if model == "pfn":
            found.setdefault(name, {})[int(seed)] = row[metric]
    return found


def compare(first: str, second: str, metric: str, n_resamples: int = 10_000) -> dict[str, Any]:
    """Means of both, the mean gain of the second with its 95 % bootstrap interval, and on how many sets it is better."""
    a, b = means(first, metric), means(second, metric)
    pairs = []
    for name in sorted(a.keys() & b.keys()):
        seeds = sorted(a[name].keys() & b[name].keys())
        if seeds:
            pairs.append([np.mean([side[name][seed] for seed in seeds]) for side in (a, b)])
    values = np.array(pairs)
    gain = METRICS[metric] * (values[:, 1] - values[:, 0])
    resampled = np.random.default_rng(0).choice(gain, (n_resamples, len(gain))).mean(1)
    return {
        "datasets": len(gain), "A": round(float(values[:, 0].mean()), 5), "B": round(float(values[:, 1].mean()), 5),
        "gain": round(float(gain.mean()), 5),
        "interval": [round(float(q), 5) for q in np.quantile(resampled, [0.025, 0.975])],
        "better": int((gain > 0).sum()), "worse": int((gain < 0).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("A")
    parser.add_argument("B")
    parser.add_argument("--out", help="write the comparison, and both files' rows, here")
    parser.add_argument("--title", help="keep the other comparisons of the file, which have other titles")
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    shared = [metric for metric in metrics(args.A) if metric in metrics(args.B)]
    if not shared:
        raise SystemExit(f"{args.A} and {args.B} share no metric; compare two files of the same task.")
    result = {metric: compare(args.A, args.B, metric) for metric in shared}
    print("| metric | A | B | gain of B (95 %) | better / worse |\n|---|---|---|---|---|")
    for metric, row in result.items():
        low, high = row["interval"]
        print(f"| {metric} | {row['A']:.4f} | {row['B']:.4f} | {row['gain']:+.4f} ({low:+.4f} … {high:+.4f}) "
              f"| {row['better']} / {row['worse']} of {row['datasets']} |")
    if args.out:
        rows = {side: json.loads(Path(path).read_text()) for side, path in (("A", args.A), ("B", args.B))}
        record = {"note": args.note, "comparison": result} | rows
        path = Path(args.out)
        if args.title:
            record = (json.loads(path.read_text()) if path.exists() else {}) | {args.title: record}
        path.write_text(json.dumps(record, indent=0) + "\n")


if __name__ == "__main__":
    main()
