"""Peak memory and time of a long table at the defaults, ours and two peers', each estimator in a process of its own.

    python benchmarks/memory.py                                      # 50,000 × 20; prints, writes results/memory.json
    python benchmarks/memory.py --models catboost forest             # the others stay as they are if the table is the same
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {               # module, class, arguments
    "classifier": ("estimators", "PFNClassifier", {"random_state": 0}),
    "regressor": ("estimators", "PFNRegressor", {"random_state": 0}),
    "catboost": ("catboost", "CatBoostClassifier", {"random_seed": 0, "verbose": False, "allow_writing_files": False}),
    "lightgbm": ("lightgbm", "LGBMClassifier", {"random_state": 0, "verbose": -1}),
    "forest": ("sklearn.ensemble", "RandomForestClassifier", {"random_state": 0}),
}


def measure(kind: str, n_rows: int, n_features: int, n_queries: int) -> dict[str, float]:
    """CPU seconds and the process's peak memory in GiB."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows + n_queries, n_features))
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=len(X))
    module, name, arguments = MODELS[kind]
    model = getattr(import_module(module), name)(**arguments)
    target = y if kind == "regressor" else (y > 0).astype(int)
    seconds = []
    for step in (lambda: model.fit(X[:n_rows], target[:n_rows]), lambda: model.predict(X[n_rows:])):
        begun = time.process_time()
        step()
        seconds.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"fit_seconds": round(seconds[0], 1), "predict_seconds": round(seconds[1], 1), "peak_gib": round(peak, 2),
            "score": round(model.score(X[n_rows:], target[n_rows:]), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "memory.json"))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--worker", choices=list(MODELS), help="measure this one and print JSON")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker, args.rows, args.features, args.queries)))
        return
    sizes = ["--rows", str(args.rows), "--features", str(args.features), "--queries", str(args.queries)]
    out, table = Path(args.out), {"table": f"{args.rows} × {args.features}", "queries": args.queries}
    before: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    kept = before["results"] if table.items() <= before.items() else {}
    found = {kind: {"date": before["date"]} | row for kind, row in kept.items()}
    for kind in args.models:
        command = [sys.executable, "-W", "ignore", __file__, "--worker", kind, *sizes]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found[kind] = {"date": str(datetime.date.today())} | measured
        print(kind, found[kind], flush=True)
    record = {"date": str(datetime.date.today()), "machine": f"{os.cpu_count()} cores, {platform.machine()}",
              "memory_limit": 8.0, "results": found} | table
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
