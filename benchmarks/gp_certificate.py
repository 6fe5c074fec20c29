"""Networks trained on Gaussian processes beside the exact posterior predictive, on the same draws.

    OMP_NUM_THREADS=1 python benchmarks/gp_certificate.py --fixed1 FILE --fixed5 FILE   # 1 and 5 features
    pip install numpyro
    OMP_NUM_THREADS=1 python benchmarks/gp_certificate.py --hyper FILE --cache FILE     # see reference_gp.py

Each file but the cache is a checkpoint. Parts of results/gp_certificate.json that are not asked for stay as they are. On
tasks of the prior, the mean of NLL(network) - NLL(exact) is the expected Kullback–Leibler divergence from the exact
predictive to the network's. Intervals are 95 %, by bootstrap over tasks. `PIT KS` is the largest distance between the
distribution of the network's P(Y ≤ y) and the uniform one; `coverage` is of central intervals.

With unknown hyper-parameters, the cache holds the scores of all tasks; seconds come from this run, in which every method
predicts the first `--timed` tasks one at a time, and the network also all of them at once.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from paired import TaskScores, circumstances, clock, mean_and_interval, show, use_one_thread, write_json
from reference_gp import GRID, LEAST_EFFECTIVE_SIZE, N_QUERIES, Methods, add_arguments, draw_tasks, plan
from torch import Tensor

from pfn import PFN, load_pretrained
from priors import GPPrior

FIXED = GPPrior()                                                   # RBF, lengthscale 0.6, outputscale 1, noise 1e-4
FIXED_CONTEXTS = {1: (1, 2, 5, 10, 20, 50, 100), 5: (1, 2, 5, 10, 20, 50, 100, 200)}
LARGEST_GAP = {1: 0.02, 5: 0.05}                                    # nats, up to 100 context rows
LARGEST_COVERAGE_ERROR = 0.02
LEVELS = (0.5, 0.8, 0.95)
PAPER_GRID = (32, 256)                                              # samples of NUTS in the paper on PFNs
PFN_WAYS = ("PFN", "PFN in a batch")
_TASKS_AT_ONCE = 50


def gaussian_crps(mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
    """σ (z (2Φ(z) - 1) + 2φ(z) - 1/√π) with z = (y - mean) / σ, in units of y."""
    std = variance.sqrt()
    z = (y - mean) / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def fixed_scores(model: PFN, prior: GPPrior, n: int, n_features: int, n_tasks: int, seed: int) -> dict[str, Tensor]:
    """NLL, CRPS and PIT of the network and of the exact predictive, (tasks, queries) each."""
    batch = draw_tasks(prior, n, n_features, n_tasks, seed)
    parts: dict[str, list[Tensor]] = {}
    for x, y in zip(batch.x.split(_TASKS_AT_ONCE), batch.y.split(_TASKS_AT_ONCE), strict=True):
        target = y[:, n:]
        network = model.posterior(x[:, :n], y[:, :n], x[:, n:])
        mean, variance = prior.posterior(x[:, :n], y[:, :n], x[:, n:])
        exact = torch.distributions.Normal(mean, variance.sqrt())
        values = {
            "nll": -network.log_prob(target), "exact nll": -exact.log_prob(target.double()),
            "crps": network.crps(target), "exact crps": gaussian_crps(mean, variance, target.double()),
            "pit": network.cdf(target), "exact pit": exact.cdf(target.double()),
        }
        for name, value in values.items():
            parts.setdefault(name, []).append(value.double())
    return {name: torch.cat(values) for name, values in parts.items()}


def fixed_row(scores: dict[str, Tensor]) -> dict[str, Any]:
    """What the table says of one context size."""
    def of_tasks(value: Tensor) -> list[float]:
        return mean_and_interval(value.mean(1).numpy())

    row: dict[str, Any] = {
        "nll": of_tasks(scores["nll"]), "exact_nll": of_tasks(scores["exact nll"]),
        "gap": of_tasks(scores["nll"] - scores["exact nll"]),
        "crps_gap": of_tasks(scores["crps"] - scores["exact crps"]), "exact_crps": of_tasks(scores["exact crps"]),
    }
    for name, prefix in (("pit", ""), ("exact pit", "exact_")):
        row[f"{prefix}pit_ks"] = float(scipy.stats.kstest(scores[name].flatten().numpy(), "uniform").statistic)
        row[f"{prefix}coverage"] = {
            str(level): of_tasks(((scores[name] - 0.5).abs() <= level / 2).double()) for level in LEVELS
        }
    return row


def fixed(model: PFN, n_features: int, n_tasks: int, seed: int) -> dict[str, Any]:
    """Known hyper-parameters: a row for each context size, and whether all pass."""
    print(f"\nKnown hyper-parameters, {n_features} features, {n_tasks} tasks of {N_QUERIES} queries\n")
    print("| n | NLL | exact NLL | gap, nats | coverage of 50, 80, 95 % | PIT KS (exact) | CRPS gap (exact CRPS) | passes |")
    print("|---|---|---|---|---|---|---|---|")
    rows = {}
    for n in FIXED_CONTEXTS[n_features]:
        row = fixed_row(fixed_scores(model, FIXED, n, n_features, n_tasks, seed))
        errors = [abs(row["coverage"][str(level)][0] - level) for level in LEVELS]
        row["passes"] = {
            "gap": row["gap"][0] <= LARGEST_GAP[n_features] if n <= 100 else None,
            "coverage": max(errors) <= LARGEST_COVERAGE_ERROR,
        }
        rows[str(n)] = row
        covered = ", ".join(f"{100 * row['coverage'][str(level)][0]:.1f}" for level in LEVELS)
        said = {True: "yes", False: "no", None: "–"}
        verdict = ", ".join(f"{name} {said[value]}" for name, value in row["passes"].items())
        print(f"| {n} | {row['nll'][0]:.3f} | {row['exact_nll'][0]:.3f} | {show(row['gap'])} | {covered} | "
              f"{row['pit_ks']:.4f} ({row['exact_pit_ks']:.4f}) | {row['crps_gap'][0]:.4f} ({row['exact_crps'][0]:.4f}) | "
              f"{verdict} |", flush=True)
    return {"tasks": n_tasks, "queries": N_QUERIES, "contexts": rows}


def network_scores(model: PFN, methods: Methods, n_tasks: int) -> list[float]:
    """NLL of the network in the first tasks."""
    n, nll = methods.n, []
    x, y = methods.batch.x[:n_tasks], methods.batch.y[:n_tasks]
    for some_x, some_y in zip(x.split(_TASKS_AT_ONCE), y.split(_TASKS_AT_ONCE), strict=True):
        posterior = model.posterior(some_x[:, :n], some_y[:, :n], some_x[:, n:])
        nll.append(-posterior.log_prob(some_y[:, n:]).double().mean(1))
    return torch.cat(nll).tolist()


def seconds(model: PFN, methods: Methods, names: list[str], n_timed: int) -> dict[str, float]:
    """Of a task: every method on the first `n_timed`, one at a time; the network also in one batch of at most 100."""
    n, batch = methods.n, methods.batch
    result = {}
    for name in names:
        if name.startswith("NUTS"):
            methods.compiled(name)
        methods.score(name, 0)
        start = clock()
        for index in range(n_timed):
            methods.score(name, index)
        result[name] = (clock() - start) / n_timed
    for name, size in zip(PFN_WAYS, (1, min(100, len(batch))), strict=True):
        repeats = max(n_timed, 10) if size == 1 else 3
        network_scores(model, methods, 1)
        start = clock()
        for index in range(repeats):
            part = slice(index % len(batch), index % len(batch) + 1) if size == 1 else slice(size)
            posterior = model.posterior(batch.x[part, :n], batch.y[part, :n], batch.x[part, n:])
            posterior.log_prob(batch.y[part, n:])
        result[name] = (clock() - start) / repeats / size
    return result


def compared(rows: dict[str, dict[str, list[float]]]) -> tuple[dict[str, dict[str, Any]], int]:
    """Every method beside the reference and the network, on the tasks of both; and the tasks left out."""
    is_used = np.array(rows["reference"]["effective_size"]) >= LEAST_EFFECTIVE_SIZE
    table = {}
    for name, row in rows.items():
        count = len(row["nll"])
        nll, pfn, exact = (np.array(rows[other]["nll"])[:count][is_used[:count]] for other in (name, "PFN", "reference"))
        table[name] = {
            "tasks": len(nll), "nll": mean_and_interval(nll), "gap": mean_and_interval(nll - exact),
            "median_gap": round(float(np.median(nll - exact)), 5), "pfn_minus": mean_and_interval(pfn - nll),
        }
        if "r_hat" in row:
            table[name]["share_r_hat_below_1.01"] = float(np.mean(np.array(row["r_hat"]) < 1.01))
    return table, int((~is_used).sum())


def hyper_context(model: PFN, methods: Methods, scores: TaskScores, args: argparse.Namespace) -> dict[str, Any]:
    """Of one context size."""
    counts = plan(args.tasks, args.chained, args.long)
    rows = {"PFN": {"nll": network_scores(model, methods, args.tasks)}}
    rows |= {name: methods.fill(scores, name, count) for name, count in counts.items()}
    table, excluded = compared(rows)
    # The number of samples at which NUTS is nearest to the network.
    equal = min(GRID, key=lambda count: abs(table[f"NUTS {count}"]["pfn_minus"][0]))
    chains = [f"NUTS {count}" for count in GRID if count in (equal, *PAPER_GRID)]       # compiling each takes ten seconds
    time = seconds(model, methods, ["reference", "MAP", "MLE-II", *chains, "NUTS long"], args.timed)
    for name in table:
        table[name]["seconds"] = time.get(name)                     # None where it was not taken
    slower = {name: {way: time[name] / time[way] for way in PFN_WAYS} for name in ["MAP", "MLE-II", *chains, "NUTS long"]}
    return {
        "methods": table, "pfn_seconds": {way: time[way] for way in PFN_WAYS}, "times_slower": slower,
        "nuts_at_equal_nll": f"NUTS {equal}", "excluded": excluded,
        "least_effective_size": round(min(rows["reference"]["effective_size"]), 1),
        "compile_seconds": {name: round(chain.nuts.compile_seconds, 2) for name, chain in methods.chains.items()},
    }


def hyper(model: PFN, args: argparse.Namespace) -> dict[str, Any]:
    """Unknown hyper-parameters: a table for each context size."""
    scores = TaskScores(args.cache)
    print(f"\nUnknown hyper-parameters, {args.features} features, {N_QUERIES} queries a task\n")
    print("| n | method | tasks | NLL | gap to the reference, nats | PFN's NLL minus its | seconds a task |")
    print("|---|---|---|---|---|---|---|")
    results = {}
    for n in args.contexts:
        part = hyper_context(model, Methods(n, args.features, args.tasks, args.seed), scores, args)
        for name, row in part["methods"].items():
            shown = "–" if row["seconds"] is None else f"{row['seconds']:.4f}"
            print(f"| {n} | {name} | {row['tasks']} | {row['nll'][0]:.3f} | {show(row['gap'])} | {show(row['pfn_minus'])} | "
                  f"{shown} |", flush=True)
        print(f"| {n} | PFN in a batch | | | | | {part['pfn_seconds']['PFN in a batch']:.5f} |")
        results[str(n)] = part
    for n, part in results.items():
        alone, together = (part["times_slower"][part["nuts_at_equal_nll"]][way] for way in PFN_WAYS)
        print(f"\nn={n}: the NLL of {part['nuts_at_equal_nll']} is nearest to the PFN's; it takes {alone:.1f} times its "
              f"seconds, one task at a time, and {together:.1f} times those in a batch; {part['excluded']} tasks excluded.")
    return {"tasks": args.tasks, "features": args.features, "queries": N_QUERIES, "timed": args.timed, "contexts": results}


@torch.inference_mode()
def certify(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Add to `results` what was asked for."""
    def load(path: str) -> PFN:
        return load_pretrained(path).eval()

    for n_features, path in ((1, args.fixed1), (5, args.fixed5)):
        if path:
            part = fixed(load(path), n_features, args.fixed_tasks, args.seed)
            results[f"fixed{n_features}"] = circumstances(args.seed, "scipy") | {"checkpoint": Path(path).name} | part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixed1", metavar="FILE")
    parser.add_argument("--fixed5", metavar="FILE")
    parser.add_argument("--hyper", metavar="FILE")
    parser.add_argument("--fixed-tasks", type=int, default=2000, help="of each context size, with known hyper-parameters")
    parser.add_argument("--timed", type=int, default=10, help="tasks on which seconds are taken")
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "gp_certificate.json"))
    add_arguments(parser)
    args = parser.parse_args()
    use_one_thread()
    if args.quick:
        args.tasks, args.chained, args.long, args.fixed_tasks, args.timed = 8, 4, 2, 20, 2
    out = Path(args.out)
    results = json.loads(out.read_text()) if out.exists() else {}
    certify(args, results)
    if args.hyper:                                                  # MAP needs gradients, so not in inference mode
        model = load_pretrained(args.hyper).eval().requires_grad_(False)
        part = hyper(model, args)
        checkpoint = {"checkpoint": Path(args.hyper).name}
        results["hyper"] = circumstances(args.seed, "scipy", "numpyro", "jax") | checkpoint | part
    write_json(out, results)


if __name__ == "__main__":
    main()
