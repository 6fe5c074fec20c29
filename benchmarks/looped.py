"""One layer gone through 14 times, beside 14 different layers: what do tied weights cost?

Networks of the recipes `layers` and `loops`, on linear functions (noise variance 0.25) and Gaussian processes (0.01), both
of 3 features. NLL in nats of noisy targets on the same tasks, beside the exact posterior of the class; contexts of a task
are nested, intervals are bootstraps over tasks. The networks' own prior mixes both classes, but their features (normal, and
uniform on [0, 1]) tell them apart from a few rows on.

- `relative` is the difference in units of the untied network's |NLL|, as the target has it; it says little where that is
  near 0, as for the Gaussian process. `share lost` is it in units of what the context tells: NLL of the best prediction
  without context minus the exact NLL.
- Ridge: squared error on linear tasks with n = 2d context rows over that of the posterior mean, which is ridge regression.
  These networks know from the features that a task is linear.
- Loops at inference: the same weights gone through more or less often than in training.

    OMP_NUM_THREADS=1 python benchmarks/looped.py --layers layers.safetensors --loops loops.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from function_classes import ratio_and_interval
from paired import circumstances, mean_and_interval, show, use_one_thread, write_json
from torch import Tensor
from tqdm import tqdm

from pfn import PFN, load_pretrained
from pfn.studies import FUNCTION_CLASSES
from priors import GPPrior, TaskBatch, TaskShape

PRIORS: dict[str, Any] = {"linear": FUNCTION_CLASSES["linear"], "Gaussian process": GPPrior(noise=0.01)}
D, N_QUERIES, TASKS_AT_ONCE = 3, 20, 200
CONTEXTS = (1, 3, 10, 30, 60)
BOTH = "both classes"
LOOPS = (1, 2, 4, 7, 10, 12, 13, 14, 15, 16, 18, 21, 28, 42)
MOST_OVER_RIDGE = 1.05
MOST_PARAMETERS, MOST_LOSS = 0.10, 0.05                             # of the untied network's, and relative


def normal_nll(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * ((y.double() - mean).square() / variance + (2 * torch.pi * variance).log())


def draw_tasks(name: str, n_tasks: int, seed: int) -> TaskBatch:
    """The context of the largest size first, then the queries."""
    generator = torch.Generator().manual_seed(1000 * seed + list(PRIORS).index(name))
    return PRIORS[name].sample(TaskShape(n_tasks, CONTEXTS[-1] + N_QUERIES, D, CONTEXTS[-1]), generator=generator)


def parts(batch: TaskBatch, n: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """x, y, x_query, y_query of a few tasks at a time."""
    pieces = zip(batch.x.split(TASKS_AT_ONCE), batch.y.split(TASKS_AT_ONCE), strict=True)
    return [(x[:, :n], y[:, :n], x[:, -N_QUERIES:], y[:, -N_QUERIES:]) for x, y in pieces]


def exact_nll(name: str, batch: TaskBatch, n: int) -> np.ndarray:
    """Means over the queries of each task, (tasks,)."""
    found = [normal_nll(y_query, *PRIORS[name].posterior(x, y, x_query)) for x, y, x_query, y_query in parts(batch, n)]
    return torch.cat(found).mean(1).numpy()


def network_nll(model: PFN, batch: TaskBatch, n: int) -> np.ndarray:
    found = [-model.posterior(x, y, x_query).log_prob(y_query) for x, y, x_query, y_query in parts(batch, n)]
    return torch.cat(found).double().mean(1).numpy()


def blind_nll(name: str, batch: TaskBatch) -> float:
    """Of the best prediction without context; a Gaussian, of variance |x|² + noise or 1 + noise."""
    x, y = batch.x[:, -N_QUERIES:].double(), batch.y[:, -N_QUERIES:]
    prior = PRIORS[name]
    signal = x.square().sum(-1) if name == "linear" else torch.full_like(y, prior.outputscale, dtype=torch.float64)
    return normal_nll(y, torch.zeros(()), signal + prior.noise).mean().item()


def looped(model: PFN, n_loops: int) -> PFN:
    """The same weights, gone through so often."""
    other = PFN(replace(model.config, n_loops=n_loops))
    other.load_state_dict(model.state_dict())
    return other.eval().requires_grad_(False)


def compare(untied: PFN, tied: PFN, n_tasks: int, seed: int) -> dict[str, Any]:
    """Scores of both by class and context size, and over all context sizes, and over both classes."""
    record: dict[str, Any] = {}
    totals, blinds = [], []
    for name in PRIORS:
        batch = draw_tasks(name, n_tasks, seed)
        blind = blind_nll(name, batch)
        scores = {}
        for n in tqdm(CONTEXTS, desc=name, disable=None):
            scores[str(n)] = exact_nll(name, batch, n), network_nll(untied, batch, n), network_nll(tied, batch, n)
        scores["all"] = tuple(np.mean([row[j] for row in scores.values()], axis=0) for j in range(3))
        record[name] = {"rows": {n: compared(*row, blind) for n, row in scores.items()}}
        totals.append(scores["all"])
        blinds.append(blind)
    exact, layers, loops = np.mean(totals, axis=0)
    record[BOTH] = {"rows": {"all": compared(exact, layers, loops, float(np.mean(blinds)))}}
    return record


def compared(exact: np.ndarray, layers: np.ndarray, loops: np.ndarray, blind: float) -> dict[str, Any]:
    """Of NLLs (tasks,) of the same tasks; `blind` is the NLL without context."""
    difference = mean_and_interval(loops - layers)
    return {
        "blind": blind, "exact": float(exact.mean()), "layers": float(layers.mean()), "loops": float(loops.mean()),
        "gap_of_layers": mean_and_interval(layers - exact), "gap_of_loops": mean_and_interval(loops - exact),
        "difference": difference, "relative": difference[0] / abs(float(layers.mean())),
        "share_lost": difference[0] / (blind - float(exact.mean())),
    }


def other_loops(tied: PFN, n_tasks: int, seed: int) -> dict[str, dict[str, float]]:
    """NLL by class and number of loops, over all context sizes, on the first of the tasks."""
    found: dict[str, dict[str, float]] = {}
    for name in PRIORS:
        batch = draw_tasks(name, n_tasks, seed)
        for n_loops in tqdm(LOOPS, desc=f"{name}, loops", disable=None):
            model = looped(tied, n_loops)
            nll = float(np.mean([network_nll(model, batch, n) for n in CONTEXTS]))
            found.setdefault(name, {})[str(n_loops)] = round(nll, 5)
        found[name]["exact"] = round(float(np.mean([exact_nll(name, batch, n) for n in CONTEXTS])), 5)
    return found


def against_ridge(models: dict[str, PFN], n_tasks: int, seed: int) -> dict[str, list[float]]:
    """Ratios of squared errors on noisy targets of linear tasks, with intervals."""
    errors: dict[str, list[Tensor]] = {}
    for x, y, x_query, y_query in parts(draw_tasks("linear", n_tasks, seed), 2 * D):
        means = {name: model.posterior(x, y, x_query).mean for name, model in models.items()}
        means["ridge"] = PRIORS["linear"].posterior(x, y, x_query)[0]
        for name, mean in means.items():
            errors.setdefault(name, []).append((mean - y_query).square().mean(1))
    joined = {name: torch.cat(found) for name, found in errors.items()}
    return {name: ratio_and_interval(joined[name], joined["ridge"]) for name in models}


def tables(record: dict[str, Any]) -> str:
    heads = ("", "n", "exact", "14 layers", "one layer, 14 times", "gap of layers", "gap of loops", "difference, nats",
             "relative", "share lost")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, found in record["comparison"].items():
        for n, row in found["rows"].items():
            numbers = [f"{row[key]:.3f}" for key in ("exact", "layers", "loops")]
            intervals = [show(row[key]) for key in ("gap_of_layers", "gap_of_loops", "difference")]
            shares = [f"{row[key]:+.1%}" for key in ("relative", "share_lost")]
            lines.append(f"| {name} | {' | '.join([n, *numbers, *intervals, *shares])} |")
    lines += ["", f"Loops at inference (trained with {record['trained_loops']}), NLL over all context sizes", ""]
    rows = record["other_loops"]
    lines += [f"| loops | {' | '.join(rows)} |", "|---" * (len(rows) + 1) + "|"]
    lines += [f"| {k} | {' | '.join(f'{row[k]:.3f}' for row in rows.values())} |" for k in next(iter(rows.values()))]
    return "\n".join(lines)


def verdict(record: dict[str, Any]) -> str:
    share = record["parameters"]["loops"] / record["parameters"]["layers"]
    counts = "{loops:,} of {layers:,}".format(**record["parameters"])
    lines = [f"parameters: {counts}, {share:.1%}, target ≤ {MOST_PARAMETERS:.0%}: "
             f"{'met' if share <= MOST_PARAMETERS else 'missed'}"]
    for name, found in record["comparison"].items():
        row = found["rows"]["all"]
        lines.append(f"{name}: NLL {row['loops']:.3f} against {row['layers']:.3f}, {row['relative']:+.1%}, target ≤ "
                     f"{MOST_LOSS:.0%}: {'met' if row['relative'] <= MOST_LOSS else 'missed'} "
                     f"({show(row['difference'])} nats; {row['share_lost']:+.1%} of what the context tells)")
    for name, ratio in record["against_ridge"].items():
        lines.append(f"{name}, linear, n = {2 * D}: {show(ratio)} × ridge, target ≤ {MOST_OVER_RIDGE}: "
                     f"{'met' if ratio[0] <= MOST_OVER_RIDGE else 'missed'}")
    return "\n".join(lines)


def draw(record: dict[str, Any], path: Path) -> None:
    """NLL above the exact posterior's: by context size, and by loops at inference."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for color, name in enumerate(PRIORS):
        found = record["comparison"][name]
        for style, key, label in (("--", "gap_of_layers", "14 layers"), ("-", "gap_of_loops", "one layer, 14 times")):
            gaps = [found["rows"][str(n)][key] for n in CONTEXTS]
            left.plot(CONTEXTS, [gap[0] for gap in gaps], style, marker="o", ms=3, color=f"C{color}",
                      label=f"{name}, {label}")
        row = record["other_loops"][name]
        right.plot(LOOPS, [row[str(k)] - row["exact"] for k in LOOPS], "-o", ms=3, color=f"C{color}", label=name)
    left.set(xlabel="context rows", ylabel="NLL above the exact posterior's, nats", xscale="log")
    right.set(xlabel="loops at inference", xscale="log", yscale="log")
    right.axvline(record["trained_loops"], color="0.8", zorder=0)
    for axis in (left, right):
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", required=True, help="checkpoint of the recipe `layers`")
    parser.add_argument("--loops", required=True, help="checkpoint of the recipe `loops`")
    parser.add_argument("--tasks", type=int, default=2000, help="of each class")
    parser.add_argument("--loop-tasks", type=int, default=500, help="of them, for other numbers of loops")
    parser.add_argument("--seed", type=int, default=9_002)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "looped.json")
    args = parser.parse_args()
    use_one_thread()
    untied, tied = load_pretrained(args.layers), load_pretrained(args.loops)
    with torch.inference_mode():
        comparison = compare(untied, tied, args.tasks, args.seed)
        ridge = against_ridge({"layers": untied, "loops": tied}, args.tasks, args.seed)
        loops = other_loops(tied, min(args.loop_tasks, args.tasks), args.seed)
    record = circumstances(args.seed) | {
        "checkpoints": {"layers": Path(args.layers).name, "loops": Path(args.loops).name},
        "parameters": {"layers": untied.n_parameters, "loops": tied.n_parameters},
        "trained_loops": tied.config.n_loops, "tasks": args.tasks, "loop_tasks": args.loop_tasks, "queries": N_QUERIES,
        "comparison": comparison, "against_ridge": ridge, "other_loops": loops,
    }
    write_json(args.out, record)
    draw(record, args.out.with_suffix(".png"))
    print(tables(record), verdict(record), sep="\n\n")


if __name__ == "__main__":
    main()
