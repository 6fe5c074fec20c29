"""A network trained on Bayesian neural networks beside variational inference and the no-U-turn sampler: NLL and seconds.

    pip install numpyro
    OMP_NUM_THREADS=1 python benchmarks/bnn_certificate.py --bnn FILE --cache FILE      # see reference_bnn.py

FILE of `--bnn` is a checkpoint. The cache holds the scores of all tasks; seconds come from this run, in which every method
predicts the first `--timed` tasks one at a time, and the network also all of them at once. Compilation, once for each
number of samples, does not count. Writes results/bnn_certificate.json and .png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import TaskScores, circumstances, clock, mean_and_interval, show, use_one_thread, write_json
from reference_bnn import N_CONTEXT, N_FEATURES, N_QUERIES, Methods, add_arguments, plan

from pfn import PFN, load_pretrained


def network_nll(model: PFN, methods: Methods, part: slice) -> torch.Tensor:
    """(tasks,)."""
    x, y = methods.batch.x[part], methods.batch.y[part]
    log_p = model(x, y[:, :N_CONTEXT])[..., :2].float().log_softmax(-1)
    return -log_p.gather(-1, y[:, N_CONTEXT:, None]).squeeze(-1).double().mean(1)


def network_seconds(model: PFN, methods: Methods, size: int, repeats: int) -> float:
    """Of a task, predicted together with size - 1 others."""
    network_nll(model, methods, slice(size))
    start = clock()
    for _ in range(repeats):
        network_nll(model, methods, slice(size))
    return (clock() - start) / repeats / size


def baseline_seconds(methods: Methods, name: str, n_timed: int) -> float:
    methods.compile(name)
    methods.score(name, 0)
    start = clock()
    for index in range(n_timed):
        methods.score(name, index)
    return (clock() - start) / n_timed


def first_as_good(table: dict[str, dict[str, Any]], kind: str, pfn_seconds: dict[str, float]) -> dict[str, Any]:
    """The fastest setting of a method whose NLL is not above the network's on the same tasks, and how much slower it is.

    If none is as good, the one with the least NLL.
    """
    rows = {name: row for name, row in table.items() if name.startswith(kind)}
    good = [name for name, row in rows.items() if row["pfn_minus"][0] >= 0]
    best = min(rows, key=lambda name: -rows[name]["pfn_minus"][0])
    name = min(good, key=lambda name: rows[name]["seconds"]) if good else best
    ratios = {way: rows[name]["seconds"] / value for way, value in pfn_seconds.items()}
    return {"setting": name, "is_as_good": bool(good), "pfn_minus": rows[name]["pfn_minus"], "times_slower": ratios}


def certify(model: PFN, args: argparse.Namespace) -> dict[str, Any]:
    methods, scores = Methods(args.tasks, args.seed), TaskScores(args.cache)
    pfn = torch.cat([network_nll(model, methods, slice(i, i + 10)) for i in range(0, args.tasks, 10)]).numpy()
    table = {}
    print("| method | tasks | NLL | PFN's NLL minus its, nats | seconds a task |\n|---|---|---|---|---|")
    for name, count in plan(args.tasks, args.long, args.most_samples).items():
        nll = np.array(methods.fill(scores, name, count)["nll"])
        table[name] = {
            "tasks": count, "nll": mean_and_interval(nll), "pfn_minus": mean_and_interval(pfn[:count] - nll),
            "seconds": baseline_seconds(methods, name, args.timed),
        }
        print(f"| {name} | {count} | {show(table[name]['nll'])} | {show(table[name]['pfn_minus'])} | "
              f"{table[name]['seconds']:.4f} |", flush=True)
    seconds = {"alone": network_seconds(model, methods, 1, 20), "in a batch": network_seconds(model, methods, args.tasks, 2)}
    own = mean_and_interval(pfn)
    print(f"| PFN | {args.tasks} | {show(own)} | – | {seconds['alone']:.4f}, in a batch {seconds['in a batch']:.5f} |\n")
    equal = {kind: first_as_good(table, kind, seconds) for kind in ("SVI", "NUTS")}
    for kind, row in equal.items():
        verdict = "is the fastest that is as good as the PFN" if row["is_as_good"] else "is the best, but worse than the PFN"
        slower = ", ".join(f"{ratio:.1f} times slower than it {way}" for way, ratio in row["times_slower"].items())
        print(f"{kind}: {row['setting']} {verdict}; {slower}")
    return {
        "tasks": args.tasks, "context": N_CONTEXT, "queries": N_QUERIES, "features": N_FEATURES, "timed": args.timed,
        "pfn": {"nll": own, "seconds": seconds}, "methods": table, "equal_nll": equal,
        "compile_seconds": {name: round(value, 2) for name, value in methods.compile_seconds.items()},
    }


def draw_figure(results: dict[str, Any], path: Path) -> None:
    """NLL against seconds a task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    for kind, colour in (("SVI", "C0"), ("NUTS", "C1")):
        rows = [row for name, row in results["methods"].items() if name.startswith(kind)]
        axes.plot([row["seconds"] for row in rows], [row["nll"][0] for row in rows], "o-", color=colour, ms=3, label=kind)
    for (way, seconds), marker in zip(results["pfn"]["seconds"].items(), "*D", strict=True):
        axes.plot(seconds, results["pfn"]["nll"][0], marker, color="C2", ms=9 if marker == "*" else 5, label=f"PFN, {way}")
    axes.axhline(results["pfn"]["nll"][0], color="C2", lw=0.8, ls=":")
    axes.set(xscale="log", xlabel="seconds a task, one CPU thread", ylabel="NLL of queries, nats",
             ylim=(None, min(1.2, max(row["nll"][0] for row in results["methods"].values()))))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--bnn", metavar="FILE", required=True)
    parser.add_argument("--timed", type=int, default=5, help="tasks on which seconds are taken")
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "bnn_certificate.json"))
    args = parser.parse_args()
    if args.quick:
        args.tasks, args.long, args.most_samples, args.timed = 3, 2, 16, 2
    with torch.inference_mode():
        part = certify(load_pretrained(args.bnn).eval(), args)
    results = circumstances(args.seed, "numpyro", "jax") | {"checkpoint": Path(args.bnn).name} | part
    write_json(args.out, results)
    draw_figure(results, Path(args.out).with_suffix(".png"))


if __name__ == "__main__":
    use_one_thread()
    main()
