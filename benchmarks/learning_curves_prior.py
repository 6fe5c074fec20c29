"""A network, MCMC and importance sampling on curves of the released prior: log-likelihood, calibration, seconds.

    pip install emcee
    OMP_NUM_THREADS=1 python benchmarks/learning_curves_prior.py [--model FILE] [--cache FOLDER] [--oracles-only]

Of a curve of 100 steps the first 10, 20, 40 or 80 are observed. The cache holds the oracles' scores curve by curve: a run
that was stopped resumes. Writes results/learning-curves-prior.json and .png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curve_mcmc import DOMHAN, MCMC, ImportanceSampler, Setting
from paired import TaskScores, circumstances, clock, mean_and_interval, show, use_one_thread, write_json

from pfn import PFN, BarDistribution, BarPosterior, load_pretrained
from pfn.curves import ObservedCurves
from priors import LearningCurvePrior, TaskShape

HORIZON = 100
CUTS = (10, 20, 40, 80)
LONGER = Setting(walkers=50, steps=5000, burn_in=1000)
PRIORS = {"network": 0.0, "network, either prior": 0.5}               # the feature that says which prior to assume
# Adriaensen et al., "Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks", NeurIPS 2023:
# mean log-likelihood at 10, 20, 40, 80 %, seconds a curve.
REPORTED = {
    "MCMC, Domhan's setting": ((1.628, 1.939, 2.265, 2.469), 54.4),
    "MCMC, best of a grid": ((1.642, 1.956, 2.285, 2.486), 103.2),
    "LC-PFN, 3 layers of 256": ((1.65, 2.04, 2.35, 2.49), 0.006),
    "LC-PFN, largest": ((1.76, 2.13, 2.40, 2.52), 0.050),
}
LEVELS = (0.5, 0.8, 0.95)


def draw_curves(seed: int) -> np.ndarray:
    """(10 000, 100). Always so many: curves depend on the size of their batch, and the oracles' are its first."""
    shape = TaskShape(10_000, HORIZON, 1, CUTS[0])
    return LearningCurvePrior().sample(shape, generator=torch.Generator().manual_seed(seed)).y.double().numpy()


# Oracles


def mcmc_score(
    mcmc: MCMC, curve: np.ndarray, cut: int, seed: int, setting: Setting, vectorize: bool = True
) -> dict[str, float]:
    query = np.arange(cut + 1, HORIZON + 1)
    posterior = mcmc.predict(np.arange(1, cut + 1), curve[:cut], query, setting=setting, seed=seed, vectorize=vectorize)
    return {"log_prob": posterior.log_prob(curve[cut:]).mean(), "samples": len(posterior.f)}


def importance_score(sampler: ImportanceSampler, curve: np.ndarray, cut: int) -> dict[str, float]:
    posterior, ess = sampler.predict(np.arange(1, cut + 1), curve[:cut], np.arange(cut + 1, HORIZON + 1))
    return {"log_prob": posterior.log_prob(curve[cut:]).mean(), "ess": ess}


def fill_oracles(curves: np.ndarray, args: argparse.Namespace) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Scores by oracle and cut-off, each a dict of arrays (curves,)."""
    mcmc, sampler = MCMC(HORIZON), None
    tables: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name, file, count, cuts, setting in (
        ("MCMC", "mcmc.json", args.mcmc_curves, CUTS, Setting()),
        ("MCMC, longer", "mcmc-longer.json", args.longer_curves, CUTS, LONGER),
        ("MCMC as published", "mcmc-domhan.json", args.longer_curves, CUTS, DOMHAN),
        ("importance sampling", "importance.json", args.importance_curves, CUTS, None),
    ):
        cache = TaskScores(args.cache / file)
        # All cut-offs advance together, so that what a stopped run leaves can be compared.
        for end in [*range(50, count, 50), count]:
            for cut in cuts:
                def compute(index: int, cut: int = cut, setting: Setting | None = setting) -> dict[str, float]:
                    nonlocal sampler
                    if setting is not None:
                        return mcmc_score(mcmc, curves[index], cut, index, setting)
                    sampler = sampler or ImportanceSampler(args.importance_draws)
                    return importance_score(sampler, curves[index], cut)
                rows = cache.fill(f"{name} {cut} %", end, compute)
                tables.setdefault(name, {})[cut] = {key: np.array(values) for key, values in rows.items()}
    return tables


# The network


def network_posterior(model: PFN, y: torch.Tensor, steps: torch.Tensor, extended: float) -> BarPosterior:
    """Predictions (curves, steps) given the first values y (curves, cut) of curves, with nothing added to the network."""
    n, cut = y.shape
    t, seen = torch.arange(1.0, cut + 1).expand(n, -1), torch.ones(n, cut, dtype=torch.bool)
    observed = ObservedCurves.read(model, t, y, seen, torch.full((n, 1), float(HORIZON)), torch.full((n, 1), extended))
    posterior = BarDistribution(model.borders.float()).posterior(observed.logits(steps.float().expand(n, -1)))
    scale = observed.bar_scale
    return posterior.affine(scale.spread.float(), scale.level.float())


def network_scores(model: PFN, curves: np.ndarray, cut: int, extended: float) -> dict[str, np.ndarray]:
    """Mean log-likelihood (curves,), and probability integral transforms (curves, later steps) of the values."""
    steps = torch.arange(cut + 1, HORIZON + 1)
    log_prob, pit = [], []
    for part in torch.from_numpy(curves).float().split(250):
        posterior = network_posterior(model, part[:, :cut], steps, extended)
        log_prob.append(posterior.log_prob(part[:, cut:]).double().mean(1))
        pit.append(posterior.cdf(part[:, cut:]))
    return {"log_prob": torch.cat(log_prob).numpy(), "pit": torch.cat(pit).double().numpy()}


def calibration(pit: np.ndarray) -> dict[str, Any]:
    """Coverage of central intervals over all steps, and the largest gap between the PIT's distribution function and u."""
    ordered = np.sort(pit, axis=None)
    gap = np.abs(ordered - (np.arange(len(ordered)) + 0.5) / len(ordered)).max()
    coverage = {f"{level:.0%}": round(float((np.abs(2 * pit - 1) <= level).mean()), 4) for level in LEVELS}
    return {"coverage": coverage, "pit_deviation": round(float(gap), 4)}


# Seconds


def network_seconds(model: PFN, curves: np.ndarray, cut: int, size: int, first: int | None = None) -> float:
    """Of a curve, all steps from `first` on (None: all later ones), together with size - 1 others; median of nine times."""
    y, steps = torch.from_numpy(curves[:size, :cut]).float(), torch.arange(first or cut + 1, HORIZON + 1)
    repeats, times = max(1, 20 // size), []
    for _ in range(10):
        start = clock()
        for _ in range(repeats):
            network_posterior(model, y, steps, 0.0)
        times.append((clock() - start) / repeats / size)
    return float(np.median(times[1:]))


def published_seconds(curves: np.ndarray, args: argparse.Namespace) -> dict[int, float]:
    """Of a curve, by cut-off, in the published setting, one walker at a time; what comes out is the same."""
    timed, mcmc = TaskScores(args.cache / "mcmc-domhan-timed.json"), MCMC(HORIZON)
    return {cut: float(np.median(timed.fill(f"{cut} %", args.published_curves, lambda index, cut=cut: mcmc_score(
        mcmc, curves[index], cut, index, DOMHAN, vectorize=False))["seconds"])) for cut in CUTS}


def timings(model: PFN, curves: np.ndarray, oracles: dict[str, Any], published: dict[int, float]) -> dict[str, Any]:
    """Seconds a curve by cut-off: of the network now, of MCMC as run, of emcee as published."""
    table = {}
    for cut in CUTS:
        table[f"{cut} %"] = {
            "network alone": network_seconds(model, curves, cut, 1),
            "network, 100 together": network_seconds(model, curves, cut, 100),
            "network, 100 together, last step": network_seconds(model, curves, cut, 100, HORIZON),
            "MCMC": float(np.median(oracles["MCMC"][cut]["seconds"])),
            "MCMC, longer": float(np.median(oracles["MCMC, longer"][cut]["seconds"])),
            "MCMC as published": published[cut],
        }
    return table


# Table, figure


def compare(model: PFN, curves: np.ndarray, oracles: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Log-likelihood of every method on the curves that it predicted, and the network's gain on the same ones."""
    table: dict[str, Any] = {}
    for cut in CUTS:
        scores = {name: network_scores(model, curves, cut, extended) for name, extended in PRIORS.items()}
        own = scores["network"]["log_prob"]
        print(f"\n{cut} % observed\n| method | curves | log-likelihood | network's gain |\n|---|---|---|---|")
        rows: dict[str, Any] = {}
        others = {name: by_cut[cut] for name, by_cut in oracles.items() if cut in by_cut}
        for name, row in (scores | others).items():
            n = min(len(row["log_prob"]), args.mcmc_curves)
            rows[name] = {"curves": n, "log_prob": mean_and_interval(row["log_prob"][:n])}
            if name != "network":
                rows[name]["network_minus"] = mean_and_interval(own[:n] - row["log_prob"][:n])
            if "ess" in row:
                enough = row["ess"] > 100
                rows[name] |= {"ess_above_100": round(float(enough.mean()), 3), "where_ess_above_100": {
                    "curves": int(enough.sum()), "log_prob": mean_and_interval(row["log_prob"][enough]),
                    "network_minus": mean_and_interval(own[:n][enough] - row["log_prob"][enough])}}
            gain = show(rows[name]["network_minus"]) if name != "network" else "–"
            print(f"| {name} | {n} | {show(rows[name]['log_prob'])} | {gain} |")
        for name, (reported, _) in REPORTED.items():
            print(f"| {name}, reported | 10000 | {reported[CUTS.index(cut)]} | |")
        rows["network"] |= {"all_curves": len(own), "log_prob_all": mean_and_interval(own, n_resamples=500)}
        rows["network"] |= calibration(scores["network"]["pit"])
        whole = rows["network"]
        print(f"network, {len(own)} curves: {show(whole['log_prob_all'])}; coverage {whole['coverage']}, "
              f"PIT within {whole['pit_deviation']} of uniform", flush=True)
        table[f"{cut} %"] = rows
    return table


def draw_figure(results: dict[str, Any], path: Path) -> None:
    """Gain over MCMC with its interval, and seconds a curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    methods = results["methods"]
    cuts = list(methods)
    for offset, name, colour in ((-1.5, "MCMC", "C1"), (1.5, "MCMC, longer", "C3"), (0, "importance sampling", "C0")):
        known = [cut for cut in cuts if name in methods[cut]]
        x = np.array([int(cut[:-2]) for cut in known]) + offset
        gain = np.array([methods[cut][name]["network_minus"] for cut in known])
        left.errorbar(x, gain[:, 0], np.abs(gain[:, 1:] - gain[:, :1]).T, fmt="o", ms=3, color=colour, label=f"over {name}")
    left.axhline(0, color="0.6", lw=0.8)
    left.set(xlabel="steps observed of 100", ylabel="network's gain, nats a value", xticks=[int(cut[:-2]) for cut in cuts])
    left.legend(frameon=False, fontsize=7)
    for name in next(iter(results["seconds"].values())):
        right.plot([int(cut[:-2]) for cut in cuts], [results["seconds"][cut][name] for cut in cuts], "o-", ms=3, label=name)
    right.set(yscale="log", xlabel="steps observed of 100", ylabel="seconds a curve, one CPU thread")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="learning-curve", metavar="FILE")
    parser.add_argument("--cache", type=Path, default=Path("runs/learning-curves"), metavar="FOLDER")
    parser.add_argument("--oracles-only", action="store_true", help="fill the cache and stop")
    parser.add_argument("--mcmc-curves", type=int, default=2000)
    parser.add_argument("--longer-curves", type=int, default=100)
    parser.add_argument("--importance-curves", type=int, default=1000)
    parser.add_argument("--importance-draws", type=int, default=400_000)
    parser.add_argument("--published-curves", type=int, default=3)
    parser.add_argument("--network-curves", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "learning-curves-prior.json"))
    args = parser.parse_args()
    curves = draw_curves(args.seed)[: args.network_curves]
    oracles, published = fill_oracles(curves, args), published_seconds(curves, args)
    if args.oracles_only:
        return
    with torch.inference_mode():
        model = load_pretrained(args.model).eval()
        methods, seconds = compare(model, curves, oracles, args), timings(model, curves, oracles, published)
    for cut, row in seconds.items():
        print(f"{cut}: seconds {({name: float(f'{value:.2g}') for name, value in row.items()})}; slower than the network "
              "alone, in a batch, and in a batch for the last step only are")
        for name in ("MCMC", "MCMC as published"):
            print(f"    {name}, by factors of {', '.join(f'{row[name] / row[way]:,.0f}' for way in list(row)[:3])}")
    results = circumstances(args.seed, "emcee") | {
        "model": Path(args.model).name, "settings": {"MCMC": vars(Setting()), "MCMC, longer": vars(LONGER),
                                                     "MCMC as published": vars(DOMHAN)},
        "methods": methods, "seconds": seconds, "reported": REPORTED}
    write_json(args.out, results)
    draw_figure(results, Path(args.out).with_suffix(".png"))


if __name__ == "__main__":
    use_one_thread()
    main()
