"""Ten thousand predictions in one process: memory, open files and threads must not grow.

    python benchmarks/soak.py                                        # ten minutes; prints, writes results/soak.json
    python benchmarks/soak.py --predictions 300 --out /tmp/soak.json

A classifier and a regressor predict in turn, for 1 to 20 rows at a time, and are fitted again to another table (8 to 30
rows, 2 to 5 columns, missing values) before every 20th prediction, so that what they keep of a table is replaced.

Growth is the slope of a straight line through the resident memory of the last three tenths of the predictions. The first
seven are the warm-up: torch compiles bfloat16 kernels for every shape that it meets and keeps the last 1024 of each kind,
0.7 GiB here, which is no leak. The environment variables LRU_CACHE_CAPACITY=64 ONEDNN_PRIMITIVE_CACHE_CAPACITY=64 bound it;
precision="float32", which is soaked too, has next to none of it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from estimators import PFNClassifier, PFNRegressor

REFIT_EVERY = 20
LIMIT_MIB = 1.0                                                     # per 1,000 predictions


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def n_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def n_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def table(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    X = rng.normal(size=(rng.integers(8, 31), rng.integers(2, 6)))
    X[:, 0] += np.arange(len(X)) % 2                                # both classes occur
    y = X[:, 0] + 0.3 * X[:, 1] ** 2
    X[rng.random(X.shape) < 0.05] = np.nan
    return X, y


def soak(
    n: int, classifier: PFNClassifier, regressor: PFNRegressor, n_samples: int = 50, progress: bool | None = None
) -> dict[str, Any]:
    """Predict `n` times; resident memory in MiB, open files and threads at `n_samples` moments."""
    rng = np.random.default_rng(0)
    moments, memory, files, threads, n_rows = [], [], [], [], 0
    every = max(n // n_samples, 1)
    for number in tqdm(range(1, n + 1), disable=None if progress is None else not progress, unit="prediction"):
        if number % REFIT_EVERY == 1:
            X, y = table(rng)
            classifier.fit(X, y > np.median(y))
            regressor.fit(X, y)
        query = rng.normal(size=(rng.integers(1, 21), X.shape[1]))
        if number % 2:
            answer = classifier.predict_proba(query)
        else:
            answer = regressor.predict(query, quantiles=[0.1, 0.9]) if number % 4 else regressor.predict(query)
        assert np.isfinite(answer).all()
        n_rows += len(answer)
        if number % every == 0:
            moments.append(number)
            memory.append(resident_mib())
            files.append(n_open_files())
            threads.append(n_threads())
    warm = 7 * len(moments) // 10
    slope = np.polyfit(moments[warm:], memory[warm:], 1)[0]
    return {
        "predictions": n, "rows": n_rows, "fits": 2 * -(-n // REFIT_EVERY),
        "mib_per_1000_predictions": round(1000 * float(slope), 3),
        "mib_after_warm_up": round(memory[warm], 1), "mib_at_the_end": round(memory[-1], 1),
        "open_files": [files[warm], files[-1]], "threads": [threads[warm], threads[-1]],
        "mib": [round(one, 1) for one in memory[:: max(len(memory) // 20, 1)]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "soak.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, object] = {
        "date": str(datetime.date.today()), "machine": f"{os.cpu_count()} cores, {platform.machine()}, one thread",
        "torch": torch.__version__}
    grew = False
    for precision in ("float32", "auto"):                           # in this order: kernels of "auto" stay
        settings = {"n_estimators": 1, "random_state": 0, "precision": precision}
        begun = time.process_time()
        found = soak(args.predictions, PFNClassifier(**settings), PFNRegressor(**settings))
        record[precision] = found | {"cpu_seconds": round(time.process_time() - begun)}
        print(precision, record[precision], flush=True)
        files, threads = found["open_files"], found["threads"]
        grew |= found["mib_per_1000_predictions"] > LIMIT_MIB or files[1] > files[0] or threads[1] > threads[0]
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(grew)


if __name__ == "__main__":
    main()
