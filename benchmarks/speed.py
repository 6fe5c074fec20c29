"""Fit and predict times of PFNClassifier and PFNRegressor, beside CatBoost's classifier, in one process on one machine.

Every time includes loading the weights. "first" is the first call at this size in the process, when kernels are planned;
the others are medians of five. As many rows are predicted as are fitted. Everything is at its defaults: of 3000 rows each
ensemble member reads 1000.

    python benchmarks/speed.py                                       # prints the table, writes results/speed.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from catboost import CatBoostClassifier

from estimators import PFNClassifier, PFNRegressor


def seconds(model: Any, X: np.ndarray, y: np.ndarray, X_test: np.ndarray) -> float:
    begun = time.perf_counter()
    model.fit(X, y)
    model.predict_distribution(X_test) if isinstance(model, PFNRegressor) else model.predict_proba(X_test)
    return time.perf_counter() - begun


def measure(n_rows: int, n_features: int) -> dict[str, float | str]:
    rng = np.random.default_rng(0)
    X, X_test = rng.normal(size=(2, n_rows, n_features))
    y = (X[:, 0] + X[:, 1] * X[:, -1] + 0.3 * rng.normal(size=n_rows) > 0).astype(int)
    first = seconds(PFNClassifier(random_state=0), X, y, X_test)
    pfn = statistics.median(seconds(PFNClassifier(random_state=0), X, y, X_test) for _ in range(5))
    single = statistics.median(seconds(PFNClassifier(n_estimators=1, random_state=0), X, y, X_test) for _ in range(5))
    regressor = statistics.median(seconds(PFNRegressor(random_state=0), X, X[:, 0] + y, X_test) for _ in range(5))
    catboost = statistics.median(
        seconds(CatBoostClassifier(verbose=False, allow_writing_files=False, random_seed=0), X, y, X_test) for _ in range(3)
    )
    return {"size": f"{n_rows} × {n_features}", "first": round(first, 3), "pfn": round(pfn, 3),
            "pfn_one_member": round(single, 3), "regressor": round(regressor, 3),
            "catboost": round(catboost, 3), "ratio": round(pfn / catboost, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "speed.json"))
    parser.add_argument("--sizes", nargs="+", default=["100x5", "500x10", "1000x50", "3000x30"], metavar="ROWSxFEATURES")
    args = parser.parse_args()
    rows = [measure(*map(int, size.split("x"))) for size in args.sizes]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, bfloat16 {torch.cpu.get_capabilities().get('avx512_bf16')}"
    record = {"date": str(datetime.date.today()), "machine": machine, "torch": torch.__version__, "rows": rows}
    Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
    print("| rows × features | first call, s | PFN, s | one member, s | PFNRegressor, s | CatBoost, s | PFN / CatBoost |")
    print("|---|---|---|---|---|---|---|")
    names = ("size", "first", "pfn", "pfn_one_member", "regressor", "catboost", "ratio")
    for row in rows:
        print(f"| {' | '.join(str(row[name]) for name in names)} |")


if __name__ == "__main__":
    main()
