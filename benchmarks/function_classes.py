"""One network over five function classes, in context: is it as good on each as the predictor that knows the class?

5 features, noise variance 0.25, contexts of 1 … 50 rows; those of a task are nested. Tasks of a class are the same for all
predictors, errors are squared, of noisy targets, and intervals are bootstraps over tasks. Recipe `functions`.

- The predictor that knows the class: exact posteriors of linear functions (ridge), sparse linear functions (all supports),
  the mixture of regressions and decision trees (all of them, by recursion over splits); for two-layer nets the best one that
  is linear in y, a Gaussian process with the nets' covariance, which the posterior mean approaches as their width grows.
- `all classes`: these five averaged by their evidence and the recipe's weights, which is what the network was trained to be:
  Bayes' rule where the class is unknown. Finding it out takes rows, so no such network equals ridge on few linear rows.
- Baselines: least squares (of minimum norm), ridge, Lasso, k nearest neighbours and greedy trees. The penalty, k and the
  depth are those that turn out best for each class and context size on the very tasks: no choice could do better.
- Iterations on linear tasks: gradient descent on the ridge objective from 0, and Newton's iteration for its inverse Hessian,
  M ← M (2 - S M) from M = αI, each with the best of several steps in units of 1 / the largest eigenvalue.

    OMP_NUM_THREADS=1 python benchmarks/function_classes.py --checkpoint functions.safetensors

References: S. Garg et al., NeurIPS 2022 (classes, baselines); R. Pathak et al., ICLR 2024 (mixture of regressions); J. von
Oswald et al., ICML 2023 (gradient descent); D. Fu et al., NeurIPS 2024 (Newton).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from function_oracles import BASELINES, ORACLES, Prediction, average, class_weights, descended
from paired import circumstances, mean_and_interval, show, use_one_thread, write_json
from torch import Tensor
from tqdm import tqdm

from pfn import PFN, load_pretrained
from pfn.studies import FUNCTION_CLASSES, NOISE
from priors import TaskShape

D, N_QUERIES, TASKS_AT_ONCE = 5, 20, 100
CONTEXTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
STEPS = tuple(0.1 * j for j in range(1, 20))                        # in units of 1 / the largest eigenvalue
MOST_ITERATIONS = 512
EVERY_CLASS, NETWORK = "all classes", "network"


# Errors and their comparison


def draw_tasks(name: str, n_tasks: int, seed: int) -> tuple[Tensor, Tensor]:
    """x (B, rows, d) and y (B, rows): the context of the largest size first, then the queries."""
    generator = torch.Generator().manual_seed(seed)
    shape = TaskShape(n_tasks, CONTEXTS[-1] + N_QUERIES, D, CONTEXTS[-1])
    batch = FUNCTION_CLASSES[name].sample(shape, generator=generator)
    return batch.x, batch.y


def network_prediction(model: PFN, x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Prediction:
    posterior = model.posterior(x, y, x_query)
    return Prediction(posterior.mean.double(), posterior.log_prob(y_query).double())


def class_scores(model: PFN, name: str, x: Tensor, y: Tensor, n: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Squared errors and log likelihoods by predictor, means over the queries of each task, (tasks,)."""
    errors: dict[str, list[Tensor]] = {}
    log_probs: dict[str, list[Tensor]] = {}
    settings: dict[str, list[Tensor]] = {}
    for start in range(0, len(x), TASKS_AT_ONCE):
        part = slice(start, start + TASKS_AT_ONCE)
        data = x[part, :n], y[part, :n], x[part, -N_QUERIES:], y[part, -N_QUERIES:]
        found = {oracle: predict(*data) for oracle, predict in ORACLES.items()}
        found[EVERY_CLASS] = average(list(found.values()), class_weights())
        found[NETWORK] = network_prediction(model, *data)
        for key, prediction in found.items():
            errors.setdefault(key, []).append((prediction.mean - data[3]).square().mean(1))
            assert prediction.log_prob is not None
            log_probs.setdefault(key, []).append(prediction.log_prob.mean(1))
        for key, predict_all in BASELINES[name].items():
            settings.setdefault(key, []).append(
                torch.stack([(mean - data[3]).square().mean(1) for mean in predict_all(*data[:3])]))
    scores = {key: torch.cat(values) for key, values in errors.items()}
    for key, values in settings.items():
        each = torch.cat(values, 1)                                                                      # (settings, tasks)
        scores[key] = each[each.mean(1).argmin()]
    return scores, {key: torch.cat(values) for key, values in log_probs.items()}


def ratio_and_interval(above: Tensor, below: Tensor, *, seed: int = 0, n_resamples: int = 2000) -> list[float]:
    """Ratio of two means over the same tasks and the ends of its 95 % bootstrap interval."""
    both = torch.stack([above, below]).double().numpy()
    rng = np.random.default_rng(seed)
    means = np.stack([both[:, rng.integers(both.shape[1], size=both.shape[1])].mean(1) for _ in range(n_resamples)])
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return [round(float(v), 4) for v in (both[0].mean() / both[1].mean(), low, high)]


def iterations(x: Tensor, y: Tensor, n: int, error: float) -> dict[str, Any]:
    """Error of gradient descent after 2^k steps, which is Newton's after k, and the fewest steps as good as `error`."""
    x_query, y_query = x[:, -N_QUERIES:], y[:, -N_QUERIES:]

    def best(n_steps: int) -> float:
        """With the best step."""
        means = (descended(x[:, :n], y[:, :n], x_query, step, n_steps) for step in STEPS)
        return min((mean - y_query).square().mean().item() for mean in means)

    grid = [2**k for k in range(int(math.log2(MOST_ITERATIONS)) + 1)]
    curve = {str(k): round(best(k), 5) for k in grid}
    newton = next((k for k, value in enumerate(curve.values()) if value <= error), None)
    descent = None
    if newton is not None:                                          # between half of 2^k steps and all of them
        descent = next(k for k in range(grid[newton] // 2 + 1, grid[newton] + 1) if best(k) <= error)
    return {"n": n, "error_of_network": error, "gradient_descent": curve, "steps_of_gradient_descent": descent,
            "steps_of_newton": newton}


def evaluate(model: PFN, n_tasks: int, seed: int) -> dict[str, Any]:
    record: dict[str, Any] = {"classes": {}}
    for number, name in enumerate(FUNCTION_CLASSES):
        x, y = draw_tasks(name, n_tasks, 1000 * seed + number)
        rows: dict[str, Any] = {}
        for n in tqdm(CONTEXTS, desc=name, disable=None):
            errors, log_probs = class_scores(model, name, x, y, n)
            rows[str(n)] = {
                "error": {key: round(value.mean().item(), 5) for key, value in errors.items()},
                "ratio_to_own": ratio_and_interval(errors[NETWORK], errors[name]),
                "ratio_to_all_classes": ratio_and_interval(errors[NETWORK], errors[EVERY_CLASS]),
                "ratio_of_all_classes_to_own": ratio_and_interval(errors[EVERY_CLASS], errors[name]),
                "excess_over_own": mean_and_interval((errors[NETWORK] - errors[name]).numpy()),
                "nll": {key: round(-value.mean().item(), 5) for key, value in log_probs.items()},
                "gap_to_own": mean_and_interval((log_probs[name] - log_probs[NETWORK]).numpy()),
                "gap_to_all_classes": mean_and_interval((log_probs[EVERY_CLASS] - log_probs[NETWORK]).numpy()),
            }
        record["classes"][name] = rows
        if name == "linear":
            record["iterations"] = iterations(x, y, 2 * D, rows[str(2 * D)]["error"][NETWORK])
    return record


# Tables and figure


def tables(record: dict[str, Any]) -> str:
    lines = []
    for name, rows in record["classes"].items():
        shown = [NETWORK, name, EVERY_CLASS, *BASELINES[name]]
        heads = ["n", *(f"{key}, known" if key == name else key for key in shown), "ratio to known",
                 "ratio to all classes", "NLL gap to known, nats", "NLL gap to all classes"]
        lines += ["", f"{name}: squared error", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for n, row in rows.items():
            cells = [f"{row['error'][key]:.3f}" for key in shown]
            gaps = [show(row[key]) for key in ("ratio_to_own", "ratio_to_all_classes", "gap_to_own", "gap_to_all_classes")]
            lines.append(f"| {n} | {' | '.join(cells + gaps)} |")
    for n in (str(2 * D), str(4 * D)):
        columns = [NETWORK, EVERY_CLASS, *ORACLES]
        lines += ["", f"Squared error at n = {n}: tasks in rows, predictors in columns", "", f"| | {' | '.join(columns)} |",
                  "|---" * (len(columns) + 1) + "|"]
        for name, rows in record["classes"].items():
            lines.append(f"| {name} | " + " | ".join(f"{rows[n]['error'][key]:.3f}" for key in columns) + " |")
    found = record["iterations"]
    curve = ", ".join(f"{k}: {value:.3f}" for k, value in found["gradient_descent"].items())
    descent, newton = found["steps_of_gradient_descent"], found["steps_of_newton"]
    needed = f"{descent} steps of gradient descent, {newton} of Newton's iteration"
    if descent is None:
        needed = f"more than {MOST_ITERATIONS} steps of gradient descent, {math.log2(MOST_ITERATIONS):.0f} of Newton's"
    lines += ["", f"Linear tasks, n = {found['n']}: error of gradient descent after k steps (Newton: log₂ k)  {curve}",
              f"As good as the network, {found['error_of_network']:.3f}: {needed}"]
    return "\n".join(lines[1:])


def verdict(record: dict[str, Any]) -> str:
    rows = record["classes"]
    lines = []
    for name, oracle, target in (("linear", "ridge", 1.05), ("mixture of regressions", "the exact posterior mixture", 1.10)):
        row = rows[name][str(2 * D)]
        ratio, possible = row["ratio_to_own"], row["ratio_of_all_classes_to_own"]
        lines.append(f"{name}, n = {2 * D}: {show(ratio)} × {oracle}, target ≤ {target:.2f}: "
                     f"{'met' if ratio[0] <= target else 'missed'}; Bayes' rule over all classes has {show(possible)}, "
                     f"so the target is {'within' if possible[0] <= target else 'out of'} reach")
    for name, by_n in rows.items():
        ratios = {n: row["ratio_to_all_classes"] for n, row in by_n.items()}
        worst = max(ratios, key=lambda n: ratios[n][0])
        lines.append(f"{name}: {show(ratios[str(2 * D)])} × Bayes' rule over all classes at n = {2 * D}; at worst, "
                     f"n = {worst}, {show(ratios[worst])}")
    for name, by_n in rows.items():
        errors = by_n[str(4 * D)]["error"]
        other = min((key for key in ORACLES if key != name), key=lambda key: errors[key])
        selects = errors[NETWORK] < errors[other]
        lines.append(f"{name}, n = {4 * D}: network {errors[NETWORK]:.3f}, class known {errors[name]:.3f}, best wrong class "
                     f"({other}) {errors[other]:.3f}: {'selects' if selects else 'does not select'} the right class")
    return "\n".join(lines)


def draw(record: dict[str, Any], path: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(ORACLES), figsize=(15, 3.4))
    for axis, (name, rows) in zip(axes, record["classes"].items(), strict=True):
        n = [int(key) for key in rows]
        for color, key in enumerate(BASELINES[name]):
            axis.plot(n, [row["error"][key] for row in rows.values()], "-", color=f"C{color + 1}", lw=1, label=key)
        axis.plot(n, [row["error"][EVERY_CLASS] for row in rows.values()], ":", color="0.3", label=EVERY_CLASS)
        axis.plot(n, [row["error"][name] for row in rows.values()], "--", color="k", label="class known")
        axis.plot(n, [row["error"][NETWORK] for row in rows.values()], "o-", color="C0", ms=3, lw=2, label=NETWORK)
        axis.axhline(NOISE, color="0.8", lw=1, zorder=0)
        top = 1.15 * max(max(row["error"][key] for row in rows.values()) for key in (NETWORK, name))
        axis.set(title=name, xlabel="context rows", xscale="log", yscale="log", ylim=(0.2, top))
        axis.legend(fontsize=7)
    axes[0].set_ylabel("squared error")
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--tasks", type=int, default=2000, help="of each class")
    parser.add_argument("--seed", type=int, default=9_001)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "function_classes.json")
    args = parser.parse_args()
    use_one_thread()
    with torch.inference_mode():
        record = evaluate(load_pretrained(args.checkpoint), args.tasks, args.seed)
    about = {"checkpoint": Path(args.checkpoint).name, "tasks": args.tasks, "queries": N_QUERIES, "noise": NOISE}
    write_json(args.out, circumstances(args.seed, "scikit-learn") | about | record)
    draw(record, args.out.with_suffix(".png"))
    print(tables(record), verdict(record), sep="\n\n")


if __name__ == "__main__":
    main()
