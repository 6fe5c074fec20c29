"""Seconds in which the extrapolator forecasts 1, 100 and 1,000 curves: 50 steps seen, 50 asked, three quantiles.

    python benchmarks/learning_curves_speed.py

On an otherwise idle machine, with torch's own number of threads. Each number is the median of five runs of fit and predict,
after one that does not count. Writes results/learning-curves-speed.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from paired import circumstances, write_json

from estimators import LearningCurveExtrapolator
from priors import LearningCurvePrior, TaskShape

SEED = 0


def seconds(values: np.ndarray) -> float:
    steps, found = np.arange(1, 101), []
    for _ in range(6):
        start = time.perf_counter()
        curves = LearningCurveExtrapolator(horizon=100).fit(steps[:50], values[:, :50])
        curves.predict(steps[50:], quantiles=[0.05, 0.5, 0.95])
        found.append(time.perf_counter() - start)
    return float(np.median(found[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "learning-curves-speed.json"))
    parser.add_argument("--curves", nargs="+", type=int, default=[1, 100, 1000])
    args = parser.parse_args()
    shape = TaskShape(max(args.curves), 100, 1, 50)
    values = LearningCurvePrior().sample(shape, generator=torch.Generator().manual_seed(SEED)).y.clamp(0, 1).numpy()
    found = {f"{n} curves": round(seconds(values[:n]), 4) for n in args.curves}
    print(found)
    about = circumstances(SEED, "scikit-learn")
    about |= {"threads": torch.get_num_threads(), "seconds_are": "wall clock, idle machine"}
    write_json(args.out, about | {"seconds": found})


if __name__ == "__main__":
    main()
