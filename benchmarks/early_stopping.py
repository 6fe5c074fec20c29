"""What early stopping by extrapolated curves saves, and what it costs: recorded runs in random orders, and Optuna studies.

    OMP_NUM_THREADS=1 python benchmarks/early_stopping.py [--model CHECKPOINT] [--part all] [--out FILE]

Model selection as in LC-PFN's section 5.3: runs of a set come in a random order, and a budget of 20 complete runs is spent.
A run that is stopped early leaves more of it to later ones, but its values do not count. Runs that diverge end there.
Regret is the distance to the best final value of the set. Speed-ups are

    published    20 complete runs / steps until the mean regret over the orders is that of no stopping after 20 runs
    same value   of one order: steps until no stopping has its best final value / steps until there is one as good

and `final` is the best final value within the budget against that of no stopping, in percent.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from curve_data import CurveSet, all_sets, load
from early_stopping_methods import Forecasts, Method, check, forecast, goodness, methods
from early_stopping_studies import Trace, steps_to, studies
from paired import circumstances, use_one_thread, write_json

from pfn import load_pretrained

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N_RUNS = 20                             # the budget, in complete runs


def spend(method: Method, order: np.ndarray) -> Trace:
    """Runs in this order until all have been seen."""
    method.begin()
    spent, best, trace, complete = 0, -math.inf, [], []
    for run in order:
        end, counts = method.end(run, complete, best)
        spent += end
        if counts:
            complete.append(run)
            if method.values[run, end - 1] > best:
                best = float(method.values[run, end - 1])
                trace.append((spent, best))
    return trace


def best_at(trace: Trace, steps: float, nothing: float) -> float:
    """The best final value after so many steps, or `nothing`."""
    return max((value for spent, value in trace if spent <= steps), default=nothing)


def score(values: np.ndarray, baseline: list[Trace], traces: list[Trace]) -> dict[str, float]:
    """What the module's first lines define; regrets in units of the metric."""
    finals = values[np.isfinite(values[:, -1]), -1]
    budget, oracle, nothing = N_RUNS * values.shape[1], finals.max(), finals.min()
    known = np.array([best_at(trace, budget, nothing) for trace in baseline])
    found = np.array([best_at(trace, budget, nothing) for trace in traces])
    target = np.mean(oracle - known)

    def regret(steps: float) -> float:
        return float(np.mean([oracle - best_at(trace, steps, nothing) for trace in traces]))

    moments = sorted({spent for trace in traces for spent, _ in trace if spent <= budget})
    reached = next((steps for steps in moments if regret(steps) <= target + 1e-12), math.inf)
    ratios = np.array([
        steps_to(old, value) / steps_to(new, value) for old, new, value in zip(baseline, traces, known, strict=True)
    ])
    final = 100 * (found - known) / np.abs(known)
    return {
        "published": budget / reached, "same value, median": float(np.median(ratios)),
        "same value, mean": float(ratios.mean()), "never": float(np.mean(ratios == 0)),
        "final": float(final.mean()), "final, worst order": float(final.min()),
        "regret": regret(budget), "regret of no stopping": float(target),
    }


def select(curves: CurveSet, forecasts: Forecasts, n_orders: int) -> dict[str, dict[str, float]]:
    """Scores of all methods on one set."""
    values = goodness(curves)
    orders = [np.random.default_rng(seed).permutation(len(values)) for seed in range(n_orders)]
    traces = {name: [spend(method, order) for order in orders] for name, method in methods(curves, forecasts).items()}
    return {name: score(values, traces["no stopping"], rows) for name, rows in traces.items()}


def summary(sets: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Means over the sets, by method; a speed-up of 0 says that the value was not reached."""
    rows = {}
    for name in next(iter(sets.values())):
        column = [one[name] for one in sets.values()]
        means = {key: float(np.mean([row[key] for row in column])) for key in column[0]}
        lost = [key for key, one in sets.items() if one[name]["final"] < -1]
        rows[name] = means | {"published, median": float(np.median([row["published"] for row in column])), "lost": lost}
    return rows


def plot(sets: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    shown = ["patience 10", "median", "successive halving", "delta 0.05", "delta 0.1", "perfect foresight"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.28 * len(sets) + 1.6), layout="constrained", sharey=True)
    for name in shown:
        marks = {"marker": "x" if name == "perfect foresight" else "o", "linestyle": "none", "alpha": 0.75, "label": name}
        left.plot([one[name]["published"] for one in sets.values()], range(len(sets)), **marks)
        right.plot([max(one[name]["final"], -10) for one in sets.values()], range(len(sets)), **marks)
    left.set_yticks(range(len(sets)), list(sets), fontsize=7)
    left.set_xlabel("speed-up (0: not reached)")
    left.axvline(1, color="grey", linewidth=0.8)
    right.set_xlabel("best final value against no stopping, % (at least -10)")
    right.axvline(0, color="grey", linewidth=0.8)
    right.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show(results: dict[str, Any]) -> None:
    for part, rows in results["selection"].items():
        print(f"\n{part}: mean over sets\n{'':34s}published (median)  same value: median mean never   final %  sets lost")
        for name, row in rows.items():
            print(f"{name:34s}{row['published']:9.2f} {row['published, median']:8.2f}  {row['same value, median']:18.2f} "
                  f"{row['same value, mean']:4.2f} {row['never']:5.2f} {row['final']:+9.2f}  {len(row['lost'])}")
    for name, rows in results["studies"].items():
        print(f"\n{name}: steps, best, same value (median over seeds)")
        for pruner, row in rows.items():
            ratio = np.median(row["same value"])
            print(f"{pruner:22s}{np.mean(row['steps']):9.0f} {np.mean(row['best']):9.4f} {ratio:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="learning-curve")
    parser.add_argument("--prior", default="auto")
    parser.add_argument("--part", choices=("development", "held out", "all"), default="all")
    parser.add_argument("--sets", nargs="*", help="names of sets, in place of a part")
    parser.add_argument("--orders", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5, help="of studies; 0 for none")
    parser.add_argument("--trials", type=int, default=40, help="of a study")
    parser.add_argument("--replay", nargs="*", default=["taskset-vrnn/log_loss"], help="sets on which studies are run")
    parser.add_argument("--cache", type=Path, help="folder in which forecasts are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "early-stopping.json")
    args = parser.parse_args()
    use_one_thread()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start, model, by_set = time.process_time(), load_pretrained(args.model), {}
    for curves in all_sets(args.part) if args.sets is None else map(load, args.sets):
        kept = args.cache and args.cache / f"{curves.name.replace('/', '-')}.npz"
        if kept and kept.exists():
            forecasts = Forecasts(**np.load(kept))
        else:
            forecasts = forecast(curves, model, args.prior)
            check(curves, forecasts, model, args.prior)
            if kept:
                args.cache.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(kept, **vars(forecasts))
        by_set[curves.name] = select(curves, forecasts, args.orders)
    parts = {
        part: {name: rows for name, rows in by_set.items() if load(name).is_development == is_development}
        for part, is_development in (("development", True), ("held out", False))
    }
    results = circumstances(0, "optuna", "scikit-learn") | {
        "model": str(args.model), "orders": args.orders, "seconds": time.process_time() - start,
        "selection": {part: summary(sets) for part, sets in parts.items() if sets}, "sets": by_set,
        "studies": studies(
            args.replay, model=model, prior=args.prior, n_trials=args.trials, n_seeds=args.seeds
        ) if args.seeds else {},
    }
    show(results)
    write_json(args.out, results)
    if by_set:
        plot(by_set, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
