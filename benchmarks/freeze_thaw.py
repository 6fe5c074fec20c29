"""Freeze-thaw optimisation of recorded runs: how good the best run is after so many epochs, and how good predictions are.

Regret is (best value so far - best of the table) / (median last value - best of the table), clipped to [0, 1], over all
epochs of all runs: a checkpoint of any epoch counts. A budget of k means as many epochs as k complete runs have.

    python benchmarks/freeze_thaw.py --cache DIR [--model CKPT] [--sets development] [--methods freeze-thaw ASHA]
    python benchmarks/freeze_thaw.py --cache DIR --report

The first fills the cache, the second writes results/freeze-thaw.json and .png. Runs that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from curve_data import CurveSet, all_sets
from freeze_thaw_methods import METHODS, play
from freeze_thaw_predictions import PREDICTORS, scores
from paired import circumstances, mean_and_interval, show, use_one_thread, write_json
from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"
N_RUNS = 20
BUDGETS = (1, 2, 5, 10, 20)
OBSERVED = (10, 30, 100, 300, 1000)
N_POINTS = 400                                                      # of a curve of regret
PREDICTION_SEEDS = 10
Record = dict[str, Any]


def chosen_sets(part: str, names: list[str] | None) -> list[CurveSet]:
    """One metric of each task: its loss if it has one, as that tells runs apart best."""
    sets: dict[str, CurveSet] = {}
    for one in all_sets(part):
        task = one.name.split("/")[0]
        if task not in sets or one.minimize:
            sets[task] = one
    return [one for task, one in sets.items() if names is None or task in names or one.name in names]


class Cache:
    """JSON files by method; each is a mapping from "set seed" to a record."""

    def __init__(self, directory: str, method: str) -> None:
        self.path = Path(directory) / f"{method.replace(' ', '-')}.json"
        self.records: dict[str, Record] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, key: str, record: Record) -> None:
        self.records[key] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.records))


def fill(directory: str, sets: list[CurveSet], methods: list[str], n_seeds: int, model: str) -> None:
    """Run what is not there, seed by seed: whenever it stops, sets have nearly the same seeds."""
    caches = {method: Cache(directory, method) for method in methods}
    jobs = [(seed, one, method) for seed in range(n_seeds) for one in sets for method in methods
            if f"{one.name} {seed}" not in caches[method].records]
    for seed, one, method in tqdm(jobs, disable=None):
        if method in PREDICTORS:
            record = {str(n): scores(method, one, n, PREDICTION_SEEDS * seed, PREDICTION_SEEDS, model) for n in OBSERVED}
        else:
            record = play(method, one, N_RUNS, seed, **({"model": model} if method == "freeze-thaw" else {}))
            record["regret"] = np.round(thinned(regret(one, np.array(record.pop("best")))), 6).tolist()
        caches[method].add(f"{one.name} {seed}", record)


def regret(curves: CurveSet, best: np.ndarray) -> np.ndarray:
    cost = np.where(curves.minimize, 1.0, -1.0) * curves.values
    least, typical = np.nanmin(cost), np.nanmedian(cost[:, -1])
    return ((best - least) / (typical - least)).clip(0.0, 1.0)


def thinned(curve: np.ndarray) -> np.ndarray:
    """At N_POINTS equal shares of the budget."""
    return curve[np.ceil(np.arange(1, N_POINTS + 1) / N_POINTS * len(curve)).astype(int) - 1]


def report(directory: str, sets: list[CurveSet], methods: list[str], n_seeds: int, folder: Path) -> None:
    curves, seconds = {}, {}
    for method in (one for one in methods if one not in PREDICTORS):
        records = Cache(directory, method).records
        curves[method] = np.array([[records[f"{one.name} {seed}"]["regret"] for seed in range(n_seeds)] for one in sets])
        seconds[method] = float(np.mean([records[f"{one.name} 0"]["seconds"] for one in sets]))
    results = circumstances(0, "optuna", "scikit-learn") | {
        "sets": [one.name for one in sets], "seeds": n_seeds, "complete_runs": N_RUNS, "intervals_over": "sets",
        "optimisation": summarise(curves, seconds, [one.name for one in sets]),
        "predictions": {method: predictions(directory, method, sets, n_seeds) for method in methods if method in PREDICTORS},
    }
    write_json(folder / "freeze-thaw.json", results)
    print_tables(results)
    draw(folder / "freeze-thaw.png", curves, [one.name for one in sets])


def summarise(curves: dict[str, np.ndarray], seconds: dict[str, float], names: list[str]) -> Record:
    """Mean regrets at the budgets, and over all of them; mean ranks; epochs that reach random search's last regret."""
    from scipy.stats import rankdata

    at = [round(N_POINTS * budget / N_RUNS) - 1 for budget in BUDGETS]
    means = {method: curve.mean(1) for method, curve in curves.items()}                                # (sets, points)
    ranks = rankdata(np.round([curve.mean(2) for curve in curves.values()], 6), axis=0).mean(2)        # (methods, sets)
    goal = means["random search"][:, -1] if "random search" in means else None
    summary = {}
    for number, (method, mean) in enumerate(means.items()):
        summary[method] = {
            "regret": {str(b): mean_and_interval(mean[:, i]) for b, i in zip(BUDGETS, at, strict=True)},
            "area": mean_and_interval(mean.mean(1)), "rank_of_area": mean_and_interval(ranks[number]),
            "cpu_seconds_per_run_of_all_epochs": round(seconds[method], 3),
            "by_set": {name: [round(float(v), 4) for v in row[at]] for name, row in zip(names, mean, strict=True)},
        }
        if goal is not None:
            first = np.array([(row <= limit + 1e-9).argmax() if (row <= limit + 1e-9).any() else N_POINTS
                              for row, limit in zip(mean, goal, strict=True)])
            summary[method]["speedup_to_random_search"] = mean_and_interval(N_POINTS / (first + 1))
    return summary


def predictions(directory: str, method: str, sets: list[CurveSet], n_seeds: int) -> Record:
    """Mean scores over sets, by number of observations, of runs that were begun and of new ones."""
    records, found = Cache(directory, method).records, {}
    for n in OBSERVED:
        rows = [[records[f"{one.name} {seed}"][str(n)] for seed in range(n_seeds)] for one in sets]
        found[str(n)] = {name: mean_and_interval([np.mean([record[name] for record in row]) for row in rows])
                         for name in rows[0][0]}
    return found


def print_tables(results: Record) -> None:
    heads = "".join(f"{b:>10}" for b in BUDGETS)
    print(f"{'regret after':24}{heads}{'area':>24}{'rank':>7}{'speed-up':>10}{'CPU s':>8}")
    for method, row in sorted(results["optimisation"].items(), key=lambda item: item[1]["area"][0]):
        print(f"{method:24}" + "".join(f"{row['regret'][str(b)][0]:10.3f}" for b in BUDGETS) + f"{show(row['area']):>24}"
              f"{row['rank_of_area'][0]:7.2f}{row.get('speedup_to_random_search', [np.nan])[0]:10.1f}"
              f"{row['cpu_seconds_per_run_of_all_epochs']:8.1f}")
    for method, row in results["predictions"].items():
        for n, measured in row.items():
            cells = "".join(f"{name}: {show(value):26}" for name, value in measured.items())
            print(f"{method:22}{n:>5} observations  {cells}")


def draw(path: Path, curves: dict[str, np.ndarray], names: list[str]) -> None:
    """A panel for all sets and one for each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n_columns = 4
    shape = -(-(len(names) + 1) // n_columns), n_columns
    figure, axes = plt.subplots(*shape, figsize=(3.2 * shape[1], 2.3 * shape[0]), squeeze=False, layout="constrained")
    budget = np.arange(1, N_POINTS + 1) * N_RUNS / N_POINTS
    for number, axis in enumerate(axes.flat):
        if number > len(names):
            axis.set_axis_off()
            continue
        for i, (method, curve) in enumerate(curves.items()):
            line = curve.mean((0, 1)) if number == 0 else curve[number - 1].mean(0)
            axis.plot(budget, line, color=f"C{i}", lw=2.2 if method == "freeze-thaw" else 1.2, label=method)
        axis.set(title="mean of all" if number == 0 else names[number - 1], xscale="log", ylim=(0, 1))
    figure.supxlabel("epochs, in complete runs")
    figure.supylabel("normalised regret")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, metavar="DIR")
    parser.add_argument("--part", choices=["development", "held out", "all"], default="all")
    parser.add_argument("--sets", nargs="+", help="tasks, by name")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *PREDICTORS], default=[*METHODS, *PREDICTORS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="freeze-thaw", help="name or checkpoint")
    parser.add_argument("--report", action="store_true", help="write results and figure from the cache, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where they are written")
    args = parser.parse_args()
    use_one_thread()
    sets = chosen_sets(args.part, args.sets)
    if args.report:
        report(args.cache, sets, args.methods, args.seeds, args.results)
    else:
        fill(args.cache, sets, args.methods, args.seeds, args.model)


if __name__ == "__main__":
    main()
