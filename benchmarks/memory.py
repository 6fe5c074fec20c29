"""Peak memory and time of a long table at the defaults, each estimator in a process of its own.

    python benchmarks/memory.py                                      # 50,000 × 20; prints, writes results/memory.json
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
from pathlib import Path

import numpy as np

from estimators import PFNClassifier, PFNRegressor


def measure(kind: str, n_rows: int, n_features: int, n_queries: int) -> dict[str, float]:
    """CPU seconds and the process's peak memory in GiB."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows + n_queries, n_features))
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=len(X))
    model = PFNRegressor(random_state=0) if kind == "regressor" else PFNClassifier(random_state=0)
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
    parser.add_argument("--worker", choices=["classifier", "regressor"], help="measure this one and print JSON")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker, args.rows, args.features, args.queries)))
        return
    sizes = ["--rows", str(args.rows), "--features", str(args.features), "--queries", str(args.queries)]
    found = {}
    for kind in ("classifier", "regressor"):
        command = [sys.executable, "-W", "ignore", __file__, "--worker", kind, *sizes]
        found[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(kind, found[kind], flush=True)
    record = {"date": str(datetime.date.today()), "machine": f"{os.cpu_count()} cores, {platform.machine()}",
              "table": f"{args.rows} × {args.features}", "queries": args.queries, "memory_limit": 8.0, "results": found}
    out = Path(__file__).resolve().parent / "results" / "memory.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
