"""Tasks a second of every prior on one core or one GPU, beside the public TabICL sampler; and a count of non-finite values.

    pip install tabicl einops huggingface_hub                        # optional: the peer, run on the CPU only
    python benchmarks/prior_speed.py                                      # prints the table, writes results/prior-speed.json
    python benchmarks/prior_speed.py --device cuda --out results/prior-speed-cuda.json

On the CPU, rates are per second of CPU time of one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from pfn.recipes import tabular_prior
from priors import Mixture, Prior, RulePrior, SCMPrior, TaskShape
from priors.catalogue import PRIORS

ROWS, FEATURES, BATCH = 512, 12, 32
SEED = 0


def measure(draw: Callable[[], int], clock: Callable[[], float], seconds: float) -> float:
    """Tasks a second of `draw`, which returns how many tasks it drew; the first call is not counted."""
    draw()
    begun, tasks = clock(), 0
    while (spent := clock() - begun) < seconds:
        tasks += draw()
    return tasks / spent


def own(prior: Prior, shape: TaskShape, device: str, counts: dict[str, int]) -> Callable[[], int]:
    generator = torch.Generator(device).manual_seed(SEED)

    def draw() -> int:
        batch = prior.sample(shape, generator=generator)
        bad = batch.x.isinf().sum() + (~batch.y.float().isfinite()).sum()
        counts["values"] += batch.x.numel() + batch.y.numel()
        counts["not finite"] += int(bad)
        return len(batch)

    return draw


def peer(kind: str) -> Callable[[], int]:
    """A sampler of the public TabICL package at the same shape, on one thread, with its defaults."""
    from tabicl.prior import PriorDataset
    from tabicl.prior.graph_lib._config import PriorConfig

    data = iter(PriorDataset(
        batch_size=8, min_features=FEATURES, max_features=FEATURES, max_classes=10, max_seq_len=ROWS, min_train_size=0.5,
        max_train_size=0.5, prior_type=kind, n_jobs=1, device="cpu", config=PriorConfig() if kind == "graph_scm" else None,
    ))

    def draw() -> int:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return len(next(data)[0])

    return draw


def shape_for(name: str, batch: int) -> TaskShape:
    """512 × 12, except where a prior has a shape of its own."""
    entry = PRIORS.get(name)
    if name == "strokes":
        return entry.shape(batch)
    features = 1 if name.startswith("learning-curve") else FEATURES
    return TaskShape(batch, ROWS, features, ROWS // 2)


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = ["| prior | rows × features | tasks/s | not finite |", "|---|---|---|---|"]
    for name, row in rows.items():
        bad = f"{row['not finite']} of {row['values']:.1e}" if "values" in row else ""
        lines.append(f"| {name} | {row['rows']} × {row['features']} | {row['tasks_per_second']} | {bad} |")
    return "\n".join(lines)


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default=str(here / "results" / "prior-speed.json"))
    parser.add_argument("--seconds", type=float, default=4.0, help="for each prior")
    parser.add_argument("--batch", type=int, default=None, help="tasks in a batch; 32 on a CPU, 512 on a GPU")
    args = parser.parse_args()
    on_gpu = args.device != "cpu"
    batch = args.batch or (512 if on_gpu else BATCH)
    torch.set_num_threads(1)

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    graphs = Mixture([(0.75, SCMPrior(10)), (0.25, SCMPrior(10, style="layered"))])
    ours: dict[str, Prior] = {
        "tabular mixture, as pretrained (filtered)": tabular_prior(),
        "tabular mixture, filter off": Mixture([(0.9, graphs), (0.1, RulePrior(max_classes=10))]),
        "scm layered, classes": SCMPrior(10, style="layered"),
    }
    ours |= {name: entry.make() for name, entry in PRIORS.items()}
    rows = {}
    for name, prior in tqdm(ours.items(), disable=None):
        counts = {"values": 0, "not finite": 0}
        shape = shape_for(name, batch)
        rate = measure(own(prior, shape, args.device, counts), clock, args.seconds)
        rows[name] = {"rows": shape.n_rows, "features": shape.n_features, "tasks_per_second": round(rate, 1)} | counts
    if not on_gpu:
        for kind in ("graph_scm", "mix_scm", "mlp_scm", "tree_scm"):
            try:
                rate = measure(peer(kind), clock, 10 * args.seconds)       # its tasks differ much in what they cost
            except ModuleNotFoundError as error:
                print(f"no comparison with tabicl: {error}")
                break
            rows[f"tabicl {kind}"] = {"rows": ROWS, "features": FEATURES, "tasks_per_second": round(rate, 2)}
    machine = torch.cuda.get_device_name() if on_gpu else f"one thread of {os.cpu_count()} cores, {platform.machine()}"
    about = {"date": str(datetime.date.today()), "machine": machine, "seed": SEED, "batch": batch}
    Path(args.out).write_text(json.dumps(about | {"priors": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
