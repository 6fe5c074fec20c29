"""Seconds per suggestion: ours, Optuna's GPSampler and BoTorch's log expected improvement, interleaved in one run.

    python benchmarks/bayesopt_speed.py [--threads 1] [--repeats 7] [--print]

Every method gets the same observations, quasi-random points of a problem, and suggests one point; then all observe a further
point, and so on. BoTorch runs twice: fitting from its initial hyper-parameters each time, with 10 restarts of 512 raw points
as in its own examples, and as in `bayesopt.py`, where a fit starts from where the last one ended and has 8 restarts of 256.
CPU time of the process, and the wall clock of ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from bo_methods import METHODS, BoTorch, Method
from bo_problems import Problem, engineering_problems, synthetic_problems
from paired import circumstances, clock, write_json

RESULTS = Path(__file__).parent / "results"
PROBLEMS = ("hartmann-6", "welded-beam", "ackley-10", "cantilever")
COUNTS = (50, 100)


class FreshBoTorch(BoTorch):
    """Without what earlier fits have found."""

    n_restarts, n_raw = 10, 512

    def suggest(self) -> Any:
        self.fitted = {}
        return super().suggest()


METHODS_TIMED = {name: METHODS[name] for name in ("pfnkit", "gpsampler", "botorch")} | {"botorch-fresh": FreshBoTorch}


def time_problem(problem: Problem, n_observed: int, n_repeats: int) -> dict[str, list[float]]:
    """Seconds of each method's suggestions, and the wall clock of ours; the first suggestion, a warm-up, is left out."""
    methods: dict[str, Method] = {name: make(problem, 0) for name, make in METHODS_TIMED.items()}
    points = problem.initial_points(n_observed + n_repeats + 1, 0)
    for method in methods.values():
        for params in points[:n_observed]:
            method.observe(params, *problem.evaluate_params(params))
    seconds: dict[str, list[float]] = {name: [] for name in [*methods, "pfnkit-wall"]}
    for number in range(n_repeats + 1):
        for name, method in methods.items():
            start, wall = clock(), time.perf_counter()
            params = method.suggest()
            took, wall = clock() - start, time.perf_counter() - wall
            method.observe(params, *problem.evaluate_params(params))
            if number:
                seconds[name].append(took)
                if name == "pfnkit":
                    seconds["pfnkit-wall"].append(wall)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--problems", nargs="+", default=PROBLEMS)
    parser.add_argument("--out", default=str(RESULTS / "bayesopt-speed.json"))
    parser.add_argument("--print", action="store_true", help="do not write the results")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    problems = engineering_problems() | synthetic_problems()
    rows = []
    for name in arguments.problems:
        for n_observed in COUNTS:
            seconds = time_problem(problems[name], n_observed, arguments.repeats)
            medians = {method: round(statistics.median(values), 4) for method, values in seconds.items()}
            ratios = {f"{method} / pfnkit": round(medians[method] / medians["pfnkit"], 2)
                      for method in ("gpsampler", "botorch", "botorch-fresh")}
            rows.append({"problem": name, "parameters": len(problems[name].space),
                         "constraints": problems[name].n_constraints, "observations": n_observed,
                         "seconds": medians, "ratios": ratios})
            print(name, n_observed, medians, ratios, flush=True)
    if not arguments.print:
        write_json(arguments.out, {
            "what": "median seconds per suggestion, CPU time unless it says wall", "threads": arguments.threads,
            "repeats": arguments.repeats, "circumstances": circumstances(0, "torch", "botorch", "optuna"), "rows": rows,
        })


if __name__ == "__main__":
    main()
