"""Bayesian optimisation on engineering problems with constraints, synthetic functions and tuning of models.

Each run starts from ten points of a scrambled Sobol sequence, which are the same for all methods with a seed, and ends
after `--evaluations` of the objective. Regret is (best feasible value so far − best known) / scale, clipped to [0, 1], and
1 before the first feasible point. The scale of a problem is the median value of random feasible points − best known; where
fewer than 100 of 2²⁰ uniform points are feasible, they are what descents of the squared violation reach from random points.
The best known value of a tuning task is the best in any run. Methods are compared on the seeds that all of them have.

    python benchmarks/bayesopt.py --cache DIR --suite engineering tuning --methods random tpe          # fill the caches
    python benchmarks/bayesopt.py --cache DIR --suite engineering --report                             # results, figure

A run that is in the cache is not repeated. There is a file for each method, so methods can run at once in two processes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from bo_methods import METHODS, Run, run_method
from bo_problems import SUITES, Array, Problem
from paired import circumstances, mean_and_interval, show, use_one_thread, write_json
from tqdm import tqdm

N_INITIAL = 10
RESULTS = Path(__file__).parent / "results"
ALL_METHODS = [*METHODS, "differential-evolution"]
Record = dict[str, Any]
Key = tuple[str, str, int]                                          # suite, problem, seed


def record_of(run: Run) -> Record:
    """What is kept of a run: the best feasible value after each evaluation (None before there is one) and the time."""
    trace: list[float | None] = []
    for value, constraints in zip(run.values, run.constraints, strict=True):
        best = trace[-1] if trace else None
        feasible = np.isfinite(value) and all(c <= 0 for c in constraints)
        trace.append(value if feasible and (best is None or value < best) else best)
    first = next((i + 1 for i, best in enumerate(trace) if best is not None), None)
    return {"best": trace, "first_feasible": first, "seconds": float(np.mean(run.seconds))}


class Cache:
    """Finished runs of one method, a line of JSON each; a line that was cut off is dropped."""

    def __init__(self, directory: str | os.PathLike[str], method: str) -> None:
        self.path = Path(directory) / f"{method}.jsonl"
        self.runs: dict[Key, Record] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            self.runs[record["suite"], record["problem"], record["seed"]] = record

    def has(self, key: Key, n_evaluations: int) -> bool:
        return key in self.runs and len(self.runs[key]["best"]) >= n_evaluations

    def add(self, key: Key, record: Record) -> None:
        record = dict(zip(("suite", "problem", "seed"), key, strict=True)) | record
        self.runs[key] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write("\n" * torn + json.dumps(record) + "\n")


def fill(directory: str, suites: list[str], methods: list[str], names: list[str] | None, n_seeds: int,
         n_evaluations: int) -> None:
    """Run what is not there, seed by seed: whenever it stops, problems have the same seeds."""
    problems = [(suite, p) for suite in suites for p in chosen(suite, names)]
    caches = {method: Cache(directory, method) for method in methods}
    jobs = [(seed, suite, problem, method) for seed in range(n_seeds) for suite, problem in problems for method in methods
            if not caches[method].has((suite, problem.name, seed), n_evaluations)]
    for seed, suite, problem, method in tqdm(jobs, disable=None):
        run = run_method(method, problem, n_evaluations, problem.initial_points(N_INITIAL, seed), seed)
        caches[method].add((suite, problem.name, seed), record_of(run))


def chosen(suite: str, names: list[str] | None) -> list[Problem]:
    """The suite's problems; those "as coded" only by name."""
    problems = SUITES[suite]()
    return [p for p in problems.values() if (p.name in names if names else not p.name.endswith("as-coded"))]


def typical_value(problem: Problem, *, seed: int = 0) -> float:
    """Median objective of random feasible points."""
    rng = np.random.default_rng(seed)
    if problem.best_value is None:
        points = [problem.from_unit(u) for u in rng.random((100, len(problem.space)))]      # of a tuning task
        return float(np.median([problem.evaluate_params(params)[0] for params in points]))
    low, high = problem.bounds.T
    values: list[Array] = []
    for _ in range(16):
        value, constraints = problem.evaluate(low + rng.random((2**16, len(low))) * (high - low))
        values.append(value[(constraints <= 0).all(1)])
    if sum(len(v) for v in values) >= 100:
        return float(np.median(np.concatenate(values)))
    return float(np.median(restored_values(problem, rng)))


def restored_values(problem: Problem, rng: np.random.Generator, n_starts: int = 300) -> Array:
    """Objective at feasible points reached from random ones by least squared violation, each in units of its median size."""
    from scipy.optimize import minimize

    low, high = problem.bounds.T
    starts = rng.random((n_starts, len(low)))
    size = np.median(np.abs(problem.evaluate(low + starts * (high - low))[1]), axis=0)
    values = []
    for start in starts:
        def violation(u: Array) -> float:
            constraints = problem.evaluate((low + u * (high - low))[None])[1][0] / size
            return float(((constraints + 1e-4).clip(0) ** 2).sum())
        u = minimize(violation, start, method="L-BFGS-B", bounds=[(0, 1)] * len(low)).x.clip(0, 1)
        value, constraints = problem.evaluate((low + u * (high - low))[None])
        if (constraints <= 0).all():
            values.append(value[0])
    return np.array(values)


def regrets(records: list[Record], best: float, typical: float, n_evaluations: int) -> Array:
    """(seeds, evaluations), in [0, 1]."""
    traces = [[np.inf if b is None else b for b in record["best"][:n_evaluations]] for record in records]
    return ((np.array(traces, dtype=np.float64) - best) / (typical - best)).clip(0, 1)


def common_runs(caches: dict[str, Cache], suite: str, problem: Problem, n_seeds: int,
                n_evaluations: int) -> dict[str, list[Record]]:
    """By method, the runs of the seeds that all methods have."""
    seeds = [s for s in range(n_seeds) if all(c.has((suite, problem.name, s), n_evaluations) for c in caches.values())]
    if not seeds:
        raise SystemExit(f"{problem.name}: no seed has {n_evaluations} evaluations of each of {', '.join(caches)}")
    return {method: [cache.runs[suite, problem.name, s] for s in seeds] for method, cache in caches.items()}


def finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def score(records: list[Record], curve: Array) -> Record:
    """Of one method on one problem; the median of the first feasible evaluation counts runs without one as endless."""
    first = [r["first_feasible"] or np.inf for r in records]
    return {"regret": mean_and_interval(curve[:, -1]), "area": mean_and_interval(curve[:, N_INITIAL:].mean(1)),
            "feasible": float(np.isfinite(first).mean()), "first_feasible": finite(np.median(first)),
            "seconds": round(float(np.median([r["seconds"] for r in records])), 4)}


def summarise(problems: dict[str, Record], curves: dict[str, dict[str, Array]], methods: list[str]) -> Record:
    """Means over problems, mean ranks of the last regrets, and one-sided Wilcoxon tests of areas, paired by problem."""
    from scipy.stats import rankdata, wilcoxon

    ranks = np.array([rankdata(np.round([curves[p][m][:, -1] for m in methods], 6), axis=0).mean(1) for p in problems])
    areas = np.array([[row["methods"][m]["area"][0] for m in methods] for row in problems.values()])
    summary = {}
    for i, method in enumerate(methods):
        rows = [row["methods"][method] for row in problems.values()]
        first = np.median([r["first_feasible"] or np.inf for r in rows])
        others = [j for j in range(len(methods)) if (areas[:, i] != areas[:, j]).any()]
        summary[method] = {
            "regret": mean_and_interval([r["regret"][0] for r in rows]), "area": mean_and_interval(areas[:, i]),
            "rank": mean_and_interval(ranks[:, i]), "feasible": round(float(np.mean([r["feasible"] for r in rows])), 4),
            "first_feasible": finite(first), "seconds": round(float(np.mean([r["seconds"] for r in rows])), 4),
            "p_of_area_not_less_than_that_of": {
                methods[j]: round(float(wilcoxon(areas[:, i], areas[:, j], alternative="less").pvalue), 4) for j in others}}
    return summary


def report(directory: str, suite: str, methods: list[str], names: list[str] | None, n_seeds: int,
           n_evaluations: int, results: Path) -> None:
    """Write the suite's results and figure, and print its table."""
    caches = {method: Cache(directory, method) for method in methods}
    problems: dict[str, Record] = {}
    curves: dict[str, dict[str, Array]] = {}
    for problem in tqdm(chosen(suite, names), disable=None):
        runs = common_runs(caches, suite, problem, n_seeds, n_evaluations)
        best = problem.best_value
        if best is None:
            best = min(record["best"][-1] for cache in caches.values() for (s, name, _), record in cache.runs.items()
                       if (s, name) == (suite, problem.name) and record["best"][-1] is not None)
        typical = typical_value(problem)
        curve = curves[problem.name] = {m: regrets(records, best, typical, n_evaluations) for m, records in runs.items()}
        problems[problem.name] = {
            "seeds": sorted(r["seed"] for r in runs[methods[0]]), "best_known": float(best), "typical": typical,
            "methods": {m: score(records, curve[m]) for m, records in runs.items()}}
    summary = summarise(problems, curves, methods)
    write_json(results / f"bayesopt-{suite}.json", circumstances(0, "botorch", "optuna", "scipy", "scikit-learn") | {
        "evaluations": n_evaluations, "initial_points": N_INITIAL, "intervals_over": "seeds; problems in the summary",
        "area": "mean regret after the initial points", "summary": summary, "problems": problems})
    print_table(summary, problems)
    draw(results / f"bayesopt-{suite}.png", curves, methods)


def print_table(summary: Record, problems: Record) -> None:
    print(f"{'method':24}{'regret':>24}{'area':>24}{'rank':>21}{'feasible':>10}{'first':>7}{'s':>8}")
    for method, row in sorted(summary.items(), key=lambda item: item[1]["area"][0]):
        print(f"{method:24}{show(row['regret']):>24}{show(row['area']):>24}{show(row['rank'], 2):>21}{row['feasible']:10.2f}"
              f"{row['first_feasible'] or np.nan:7.1f}{row['seconds']:8.3f}")
    print("\nregret at the end\n" + " " * 24 + "".join(f"{m[:12]:>14}" for m in summary) + "   seeds")
    for name, row in problems.items():
        cells = "".join(f"{row['methods'][m]['regret'][0]:14.4f}" for m in summary)
        print(f"{name:24}{cells}{len(row['seeds']):8}")


def draw(path: Path, curves: dict[str, dict[str, Array]], methods: list[str]) -> None:
    """A panel for each problem: mean regret and its interquartile band over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n_columns = 4 if len(curves) > 6 else 3
    shape = -(-len(curves) // n_columns), n_columns
    figure, axes = plt.subplots(*shape, figsize=(3.2 * shape[1], 2.4 * shape[0]), squeeze=False, layout="constrained")
    for axis, (name, of_method) in zip(axes.flat, curves.items(), strict=False):
        for i, method in enumerate(methods):
            curve = of_method[method].clip(1e-6)
            steps = np.arange(1, curve.shape[1] + 1)
            axis.plot(steps, curve.mean(0), color=f"C{i}", lw=1.4, label=method)
            axis.fill_between(steps, *np.quantile(curve, [0.25, 0.75], axis=0), color=f"C{i}", alpha=0.12, lw=0)
        axis.set(yscale="log", title=name)
        axis.axvline(N_INITIAL, color="0.7", lw=0.8)
    for axis in axes.flat[len(curves):]:
        axis.set_axis_off()
    figure.supxlabel("evaluations")
    figure.supylabel("normalised regret")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=min(len(methods), 4))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, metavar="DIR")
    parser.add_argument("--suite", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("--methods", nargs="+", choices=ALL_METHODS, default=ALL_METHODS)
    parser.add_argument("--problems", nargs="+", help="by name; those as coded take part only so")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--report", action="store_true", help="write results and figures from the caches, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where they are written")
    args = parser.parse_args()
    use_one_thread()
    if args.report:
        for suite in args.suite:
            report(args.cache, suite, args.methods, args.problems, args.seeds, args.evaluations, args.results)
    else:
        fill(args.cache, args.suite, args.methods, args.problems, args.seeds, args.evaluations)


if __name__ == "__main__":
    main()
