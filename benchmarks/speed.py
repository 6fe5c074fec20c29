"""Fit and predict times of PFNClassifier and PFNRegressor, beside CatBoost's classifier, in one process on one machine.

Every time includes loading the weights. "first" is the first call at this size in the process, when kernels are planned;
the others are medians of five, above 1000 rows a single one. As many rows are predicted as are fitted; "one more row" is one
row predicted by the fitted estimator, whose context is kept. Everything is at its defaults.

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
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from estimators import PFNClassifier, PFNRegressor


def seconds(model: Any, X: np.ndarray, y: np.ndarray, X_test: np.ndarray) -> float:
    begun = time.perf_counter()
    model.fit(X, y)
    model.predict_distribution(X_test) if isinstance(model, PFNRegressor) else model.predict_proba(X_test)
    return time.perf_counter() - begun


def measure(n_rows: int, n_features: int) -> dict[str, float | str]:
    from catboost import CatBoostClassifier

    rng = np.random.default_rng(0)
    X, X_test = rng.normal(size=(2, n_rows, n_features))
    y = (X[:, 0] + X[:, 1] * X[:, -1] + 0.3 * rng.normal(size=n_rows) > 0).astype(int)

    def median(make: Callable[[], Any], target: np.ndarray) -> float:
        return statistics.median(seconds(make(), X, target, X_test) for _ in range(5 if n_rows <= 1000 else 1))

    first = seconds(PFNClassifier(random_state=0), X, y, X_test)
    pfn = median(lambda: PFNClassifier(random_state=0), y)
    catboost = median(lambda: CatBoostClassifier(verbose=False, allow_writing_files=False, random_seed=0), y)
    fitted = PFNClassifier(random_state=0)
    seconds(fitted, X, y, X_test)
    fitted.predict_proba(X_test[:1])
    one_row = statistics.median(timeit.repeat(lambda: fitted.predict_proba(X_test[:1]), number=1, repeat=9))
    row = {"first": first, "pfn": pfn, "one_row": one_row, "one_row_ratio": pfn / one_row,
           "pfn_one_member": median(lambda: PFNClassifier(n_estimators=1, random_state=0), y),
           "regressor": median(lambda: PFNRegressor(random_state=0), X[:, 0] + y),
           "catboost": catboost, "ratio": pfn / catboost}
    return {"size": f"{n_rows} × {n_features}"} | {name: round(value, 3) for name, value in row.items()}


def measure_many(n_tables: int, n_rows: int, n_features: int) -> dict[str, float | str]:
    """As many tables one after another and in one call, 20 queries each."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_tables, n_rows + 20, n_features))
    tables = [(x[:n_rows], (x[:n_rows, 0] > 0).astype(int), x[n_rows:]) for x in X]

    def loop() -> None:
        for X_one, y, query in tables:
            PFNClassifier(random_state=0).fit(X_one, y).predict_proba(query)

    single, together = (
        statistics.median(timeit.repeat(run, number=1, repeat=4)[1:])
        for run in (loop, lambda: PFNClassifier(random_state=0).predict_proba_many(tables))
    )
    return {"tables": f"{n_tables} of {n_rows} × {n_features}", "one_by_one": round(single, 3),
            "together": round(together, 3), "ratio": round(single / together, 2)}


def tables(record: dict[str, Any]) -> str:
    lines = ["| rows × features | first call, s | PFN, s | one more row, s | ratio | one member, s | PFNRegressor, s "
             "| CatBoost, s | PFN / CatBoost |", "|---|---|---|---|---|---|---|---|---|",
             *(f"| {' | '.join(map(str, row.values()))} |" for row in record["rows"])]
    if record["many"]:
        lines += ["", "| tables | one by one, s | together, s | ratio |", "|---|---|---|---|",
                  *(f"| {' | '.join(map(str, row.values()))} |" for row in record["many"])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "speed.json"))
    parser.add_argument("--sizes", nargs="+", default=["100x5", "500x10", "1000x50", "3000x30", "10000x20"],
                        metavar="ROWSxFEATURES")
    parser.add_argument("--tables", type=int, default=32, help="in one call")
    args = parser.parse_args()
    rows = [measure(*map(int, size.split("x"))) for size in args.sizes]
    many = [measure_many(args.tables, 50, 5), measure_many(args.tables, 200, 10)]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, bfloat16 {torch.cpu.get_capabilities().get('avx512_bf16')}"
    record = {"date": str(datetime.date.today()), "machine": machine, "torch": torch.__version__, "rows": rows, "many": many}
    Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
    print(tables(record))


if __name__ == "__main__":
    main()
