"""Extrapolation of real learning curves: a network, MCMC on its prior, and simple rules; ranks, errors, coverage.

    pip install emcee
    OMP_NUM_THREADS=1 python benchmarks/learning_curves_real.py [--model FILE] [--cache FILE]
    python benchmarks/learning_curves_real.py --sets dev --curves 30 --no-mcmc --out ""      # a minute; compares checkpoints

Of every curve 10, 20, 40, 60 or 80 % of the steps are observed. Scores are means over the later steps: log-likelihood in
units of the metric, and the error of the median. All methods but the network work on values that the extrapolator's own
normalisation takes to [0, 1], and their densities are truncated there, as the network's is. No normalised log density counts
less than -10: what a method would get that reserved a probability of 1/22 000 for surprises. Curves are complete ones; runs
that diverged to infinity are left out.

A rank is that of a method among all for one curve, 1 is the best; ranks are averaged over curves of a set, then over sets.
MCMC predicts `--mcmc-curves` of each set, so there are two tables: all methods on those, all but MCMC on all curves.
Writes results/learning-curves-real.json and .png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from curve_baselines import BASELINES
from curve_data import CurveSet, all_sets
from curve_mcmc import MCMC, NormalMixture, Setting
from paired import TaskScores, circumstances, mean_and_interval, use_one_thread, write_json
from scipy.stats import rankdata

from estimators.curve_metric import CurveMetric
from estimators.learning_curves import LearningCurveExtrapolator

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)
PARTS = {"dev": ("development",), "held-out": ("held out",), "all": ("development", "held out")}
LEAST_LOG_DENSITY = -10.0                                             # of normalised values
SMALLEST = 1e-9                                                       # normalised median; 0 may be an infinite loss
LEVEL = 0.9                                                           # of the interval whose coverage is counted
NETWORK, ORACLE = "network", "MCMC"
Rows = dict[str, np.ndarray]                                          # by score, (curves,)


def n_observed(curves: CurveSet, share: float) -> int:
    return max(2, round(share * len(curves.steps)))


def metric_of(curves: CurveSet, values: np.ndarray) -> CurveMetric:
    """The normalisation of curves of which `values` (n, k) have been observed."""
    return CurveMetric.of(list(values), curves.minimize, curves.bounds, None)


def summary(log_prob: np.ndarray, slope: np.ndarray, median: np.ndarray, pit: np.ndarray, truth: np.ndarray) -> Rows:
    """Scores (n,) of predictions for values (n, later steps), from log densities of normalised values and ln |dg / dy|."""
    log_prob, error = np.maximum(log_prob, LEAST_LOG_DENSITY), np.abs(median - truth)
    return {
        "log_prob": (log_prob + slope).mean(axis=1), "normalised_log_prob": log_prob.mean(axis=1),
        "error": error.mean(axis=1), "last_error": error[:, -1],
        "covered": (np.abs(2 * pit - 1) <= LEVEL).mean(axis=1),
    }


def network_scores(extrapolator: LearningCurveExtrapolator, curves: CurveSet, values: np.ndarray, k: int) -> Rows:
    posterior = extrapolator.fit(curves.steps[:k], values[:, :k]).predict_distribution(curves.steps[k:])
    later = values[:, k:]
    slope = metric_of(curves, values[:, :k]).log_slope(later)
    return summary(posterior.log_prob(later) - slope, slope, posterior.median, posterior.cdf(later), later)


def mixture_scores(
    predict: Callable[[int, np.ndarray], NormalMixture], curves: CurveSet, values: np.ndarray, k: int
) -> Rows:
    """Of a method that gives a mixture for the index of a curve and its normalised observations."""
    metric = metric_of(curves, values[:, :k])
    g, slope = metric.forward(values), metric.log_slope(values[:, k:])
    log_prob, median, pit = (np.empty((len(values), len(curves.steps) - k)) for _ in range(3))
    for index, own in enumerate(g):
        mixture = predict(index, own[:k])
        below, above = mixture.cdf(np.zeros(len(own) - k)), mixture.cdf(np.ones(len(own) - k))
        inside = np.maximum(above - below, 1e-9)
        log_prob[index] = mixture.log_prob(own[k:]) - np.log(inside)
        median[index] = mixture.quantile(0.5)            # of the whole mixture, as truncation would move it off the fit
        pit[index] = (mixture.cdf(own[k:]) - below) / inside
    return summary(log_prob, slope, metric.inverse(np.clip(median, SMALLEST, 1.0)), pit, values[:, k:])


def baseline_scores(name: str, curves: CurveSet, values: np.ndarray, k: int) -> Rows:
    t, later = curves.steps[:k], curves.steps[k:]
    return mixture_scores(lambda _, g: BASELINES[name](t, g, later), curves, values, k)


class CachedMCMC:
    """Scores of MCMC curve by curve, kept in a file."""

    SETTING = Setting(keep=400)

    def __init__(self, path: Path | None) -> None:
        self._cache = TaskScores(path)
        self._samplers: dict[int, MCMC] = {}

    def scores(self, curves: CurveSet, values: np.ndarray, k: int, n_curves: int) -> Rows:
        horizon = len(curves.steps)

        def compute(index: int) -> dict[str, float]:
            if horizon not in self._samplers:
                self._samplers[horizon] = MCMC(horizon)
            steps = np.arange(1, horizon + 1)
            one = mixture_scores(
                lambda _, g: self._samplers[horizon].predict(steps[:k], g, steps[k:], setting=self.SETTING, seed=index),
                curves, values[index : index + 1], k)
            return {name: row[0] for name, row in one.items()}

        rows = self._cache.fill(f"{curves.name} {k}", min(n_curves, len(values)), compute)
        return {name: np.array(row) for name, row in rows.items()}


def chosen_curves(curves: CurveSet, most: int | None, seed: int) -> np.ndarray:
    """Complete curves (n, m) in random order; the first ones are those that MCMC predicts."""
    complete = curves.values[curves.complete()]
    return complete[np.random.default_rng(seed).permutation(len(complete))][:most]


def ranks(scores: dict[str, Rows]) -> dict[str, Rows]:
    """Rank of each method for each curve, by log-likelihood and by both errors; ties share theirs."""
    found: dict[str, Rows] = {name: {} for name in scores}
    for score, sign in (("log_prob", -1), ("error", 1), ("last_error", 1)):
        table = rankdata([sign * rows[score].round(9) for rows in scores.values()], axis=0)
        for name, row in zip(scores, table, strict=True):
            found[name][score] = row
    return found


def means(rows: Rows, chosen: np.ndarray | slice = slice(None)) -> dict[str, float]:
    return {score: round(float(row[chosen].mean()), 5) for score, row in rows.items() if score != "seconds"}


def judge(
    curves: CurveSet, extrapolator: LearningCurveExtrapolator, oracle: CachedMCMC | None, args: argparse.Namespace
) -> dict[str, Any]:
    """By share observed, and by method: means over curves, on all, on those of MCMC, and on the best tenth."""
    values = chosen_curves(curves, args.curves, args.seed)
    best = np.argsort(values[:, -1] * (1 if curves.minimize else -1))[: max(1, len(values) // 10)]
    result: dict[str, Any] = {}
    for share in SHARES:
        k = n_observed(curves, share)
        scores = {NETWORK: network_scores(extrapolator, curves, values, k)}
        scores |= {name: baseline_scores(name, curves, values, k) for name in BASELINES}
        assert all(np.isfinite(row).all() for rows in scores.values() for row in rows.values())
        table = {name: {"ranks": means(row), "ranks_best_tenth": means(row, best)} for name, row in ranks(scores).items()}
        for name, rows in scores.items():
            table[name] |= {"scores": means(rows), "scores_best_tenth": means(rows, best)}
            table[name]["medians"] = {score: float(np.median(row)) for score, row in rows.items() if score != "covered"}
        if oracle is not None:
            few = {ORACLE: oracle.scores(curves, values, k, args.mcmc_curves)}
            n = len(few[ORACLE]["error"])
            few |= {name: {score: row[:n] for score, row in rows.items()} for name, rows in scores.items()}
            for name, row in ranks(few).items():
                table.setdefault(name, {})["ranks_beside_mcmc"] = means(row)
            table[ORACLE]["scores"] = means(few[ORACLE])
        result[f"{share:.0%}"] = {"curves": len(values), "observed": k, "methods": table}
    return result


def averages(by_set: dict[str, Any], share: str) -> dict[str, dict[str, list[float]]]:
    """By method: means over sets, with intervals from resampling the sets; "covered, pooled" is a mean over curves."""
    table: dict[str, dict[str, list[float]]] = {}
    for name, first in next(iter(by_set.values()))[share]["methods"].items():
        rows = [result[share]["methods"][name] for result in by_set.values()]
        table[name] = {
            f"{kind}: {score}": mean_and_interval([row[kind][score] for row in rows])
            for kind in first if kind != "medians" for score in first[kind]
            if not (kind.startswith("scores") and score in ("error", "last_error", "log_prob"))   # of different units
        }
        counts = [result[share]["curves"] for result in by_set.values()]
        pooled = np.average([row["scores"]["covered"] for row in rows], weights=counts)
        table[name]["covered, pooled"] = [round(float(pooled), 4)]
    return table


def by_method(result: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """What is kept of a set: by method and score, a number for each share."""
    wanted = [("ranks", "log_prob"), ("ranks", "error"), ("ranks", "last_error"), ("ranks_beside_mcmc", "log_prob"),
              ("ranks_beside_mcmc", "error"), ("ranks_beside_mcmc", "last_error"), ("scores", "covered"),
              ("scores", "normalised_log_prob"), ("medians", "error"), ("medians", "last_error")]
    shares = [row["methods"] for row in result.values()]
    return {
        name: {f"{kind}: {score}": [float(f"{share[name][kind][score]:.4g}") for share in shares]
               for kind, score in wanted if kind in first}
        for name, first in shares[0].items()
    }


COLUMNS = {
    "rank LL": "ranks: log_prob", "rank error": "ranks: error", "rank last": "ranks: last_error",
    "LL with MCMC": "ranks_beside_mcmc: log_prob", "error with": "ranks_beside_mcmc: error",
    "last with": "ranks_beside_mcmc: last_error", "best tenth LL": "ranks_best_tenth: log_prob",
    "best tenth error": "ranks_best_tenth: error", "covered": "covered, pooled",
    "best tenth covered": "scores_best_tenth: covered", "LL, normalised": "scores: normalised_log_prob",
}


def show_table(part: str, share: str, table: dict[str, Any]) -> None:
    columns = {title: key for title, key in COLUMNS.items() if any(key in row for row in table.values())}
    print(f"\n{part}, {share} observed\n| method | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, row in table.items():
        cells = (f"{row[key][0]:.3f}" if key in row else "–" for key in columns.values())
        print(f"| {name} | {' | '.join(cells)} |")


def draw_figure(results: dict[str, Any], path: Path) -> None:
    """Mean ranks, and the network's coverage set by set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    part = list(results["averages"])[-1]
    by_share = results["averages"][part]
    shares = [int(share[:-1]) for share in by_share]
    for axis, score, title in ((axes[0], "log_prob", "log-likelihood"), (axes[1], "error", "error of the median")):
        key = f"ranks_beside_mcmc: {score}" if results["mcmc_curves"] else f"ranks: {score}"
        for name in next(iter(by_share.values())):
            rank = [by_share[share][name][key][0] for share in by_share]
            axis.plot(shares, rank, "o-", ms=3, lw=2 if name == NETWORK else 1, label=name)
        axis.set(xlabel="% observed", ylabel=f"mean rank, {title}", title=f"{part} sets")
        axis.invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    for name, methods in results["sets"].items():
        axes[2].plot(shares, methods[NETWORK]["scores: covered"], lw=0.8, color="C1" if name.startswith("taskset") else "C0")
    axes[2].axhspan(0.85, 0.95, color="0.9")
    axes[2].set(xlabel="% observed", ylabel="coverage of 90 % intervals", title="every set (orange: Task Set)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="learning-curve", metavar="FILE")
    parser.add_argument("--prior", default="auto", choices=["auto", "released", "extended"])
    parser.add_argument("--sets", default="all", choices=list(PARTS))
    parser.add_argument("--curves", type=int, help="of each set, at random; all by default")
    parser.add_argument("--no-mcmc", action="store_true")
    parser.add_argument("--mcmc-curves", type=int, default=20, help="of each set")
    parser.add_argument("--cache", type=Path, default=Path("runs/learning-curves/mcmc-real.json"), metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "learning-curves-real.json"))
    args = parser.parse_args()
    oracle = None if args.no_mcmc else CachedMCMC(args.cache)
    results = circumstances(args.seed, "emcee", "scikit-learn") | {
        "model": Path(args.model).name, "prior": args.prior, "mcmc_curves": 0 if args.no_mcmc else args.mcmc_curves,
        "averages": {}, "sets": {}}
    for part in PARTS[args.sets]:
        by_set = {}
        for curves in all_sets(part):
            extrapolator = LearningCurveExtrapolator(
                curves.minimize, curves.bounds, curves.steps[-1], prior=args.prior, model=args.model, device="cpu")
            by_set[curves.name] = judge(curves, extrapolator, oracle, args)
        results["sets"] |= {name: by_method(result) for name, result in by_set.items()}
        results["averages"][part] = {f"{share:.0%}": averages(by_set, f"{share:.0%}") for share in SHARES}
        for share, table in results["averages"][part].items():
            show_table(part, share, table)
        print(f"\ncoverage of the network's 90 % intervals at {SHARES}:")
        for name, by_cut in by_set.items():
            covered = [round(row["methods"][NETWORK]["scores"]["covered"], 2) for row in by_cut.values()]
            print(f"    {name}: {covered}", flush=True)
    if args.out:
        write_json(args.out, results)
        draw_figure(results, Path(args.out).with_suffix(".png"))


if __name__ == "__main__":
    use_one_thread()
    main()
