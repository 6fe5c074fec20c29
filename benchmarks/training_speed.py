"""Training speed: whole optimiser steps beside the public training code of nanoTabPFN and TabICL at equal parameter counts.

One step is forward, loss, backward, clipping, optimiser (ours with the moving average of the weights). Each system runs its
own loop, on the same tasks: `pfn.pretrain`; `train` of nanoTabPFN; `Trainer.run_batch` of TabICL. The systems take turns, so
that other work on the machine hits all alike; on one CPU thread, seconds are those of the process (CPU time).

    pip install tabicl einops wandb transformers                        # optional: TabICL and what its trainer imports
    pip install schedulefree h5py                                       # optional: what nanoTabPFN's train.py imports
    python benchmarks/training_speed.py --nano PATH                     # writes results/training-speed.json
    python benchmarks/training_speed.py --nano PATH --device cuda --out results/training-speed-cuda.json

PATH is a checkout of github.com/automl/nanoTabPFN (`model.py` and `train.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import itertools
import json
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from pfn import PFN, PFNConfig, PretrainConfig, TaskSizes, pretrain
from pfn.cpu import tune_for_training
from pfn.recipes import tabular_prior
from priors import TaskBatch, TaskShape

SHAPES = [(24, 150, 5), (6, 256, 12), (2, 512, 24)]             # tasks of a step, rows, features; 150 × 5 is nanoTabPFN's
CONTEXT_SHARE = 0.7
# Width, layers, heads, hidden width of ours and nanoTabPFN; TabICL's width, column, row and in-context blocks.
NETWORKS = {
    "0.36 M": {"pfnkit": (96, 3, 2, 192), "nanoTabPFN": (96, 3, 4, 192), "TabICL": (32, 1, 1, 2)},
    "1.9 M": {"pfnkit": (192, 4, 3, 384), "nanoTabPFN": (192, 4, 6, 384), "TabICL": (32, 3, 3, 12)},
}
Block = Callable[[int], tuple[list[float], list[float]]]         # n steps -> seconds and loss of each


class Enough(Exception):
    """The steps to be timed are done."""


def make_clock(device: str, threads: int) -> Callable[[], float]:
    """Seconds now: of the process on one CPU thread, else of the wall."""
    if device == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def synchronized() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronized


class Source:
    """A prior that draws tasks, notes when and for how long, and hands out the two halves of the same batch instead."""

    def __init__(self, clock: Callable[[], float], batch: TaskBatch, n_steps: int) -> None:
        self.clock, self.batch, self.n_steps = clock, batch, n_steps
        self.prior, self.calls = tabular_prior(), 0
        self.stamps: list[float] = []                              # beginnings of steps, which begin by drawing
        self.drawing: list[float] = []                             # seconds of it in each step

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        begun, which = self.clock(), self.calls % 2
        self.calls += 1
        if which == 0:
            self.stamps.append(begun)
            if len(self.stamps) > self.n_steps:
                raise Enough
            self.drawing.append(0.0)
        self.prior.sample(shape, generator=generator)
        self.drawing[-1] += self.clock() - begun
        return self.batch.select(torch.arange(shape.batch_size, device=self.batch.x.device) + which * shape.batch_size)


def own(config: PFNConfig, batch: TaskBatch, device: str, clock: Callable[[], float], drawing: list[float]) -> Block:
    """`pfn.pretrain`, two batches a step as in the recipes. Seconds of drawing tasks go to `drawing`, uncounted."""
    tasks, (n_rows, n_features) = len(batch) // 2, batch.x.shape[1:]
    sizes = TaskSizes(
        (n_rows, n_rows), (n_features, n_features), (CONTEXT_SHARE, CONTEXT_SHARE),
        cells=tasks * n_rows * config.n_tokens(n_features), n_shapes=1, row_step=1,
    )

    def block(n: int) -> tuple[list[float], list[float]]:
        source = Source(clock, batch, n)
        settings = PretrainConfig(source, config, sizes, n_steps=n + 1, warmup_steps=1, decay_steps=0)
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run.safetensors"
            with contextlib.suppress(Enough):
                pretrain(settings, device=device, out=run, checkpoint_every=math.inf, log_every=1, progress=False,
                         prefetch=False)
            lines = run.with_suffix(".jsonl").read_text().splitlines()
        drawing.extend(source.drawing)
        steps = [total - part for total, part in zip(differences(source.stamps), source.drawing, strict=True)]
        return steps, [json.loads(line)["loss"] for line in lines]

    return block


def differences(stamps: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(stamps)]


def nano(network: nn.Module, batch: TaskBatch, device: str, clock: Callable[[], float], autocast: bool) -> Block:
    """`train` of the public train.py, all tasks in one batch; its losses are what it prints."""
    from train import train

    table = {"x": batch.x, "y": batch.y.float(), "train_test_split_index": batch.n_context}

    def block(n: int) -> tuple[list[float], list[float]]:
        stamps = []

        def prior() -> Iterator[dict[str, Any]]:
            for _ in range(n):
                stamps.append(clock())
                yield table
            stamps.append(clock())

        printed = io.StringIO()
        mixed = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast)
        with contextlib.redirect_stdout(printed), mixed:
            train(network, prior(), lr=4e-3, device=torch.device(device), steps_per_eval=1)
        return differences(stamps), [float(x) for x in re.findall(r"loss\s+(\S+)", printed.getvalue())]

    return block


def tabicl_trainer(widths: tuple[int, ...], n_tasks: int, device: str) -> Any:
    """The public trainer with the options of its scripts/train_v2_clf_stage1.sh, but for the network's size.

    That script has micro-batches of 4 larger tasks; here all tasks are one.
    """
    from tabicl.train._run import Trainer
    from tabicl.train._train_config import build_parser

    width, column, row, context = widths
    options = f"""--device {device} --dtype float16 --max_steps 500000 --batch_size {n_tasks} --micro_batch_size {n_tasks}
        --lr 8e-4 --muon True --beta1 0.9 --weight_decay 0.01 --scheduler cosine_with_restarts --cosine_lr_end 1e-7
        --warmup_proportion 0 --gradient_clipping 10 --prior_type graph_scm --max_classes 10 --embed_dim {width}
        --col_num_blocks {column} --col_nhead 8 --col_num_inds 128 --col_affine False --col_feature_group same
        --col_target_aware True --col_ssmax True --row_num_blocks {row} --row_nhead 8 --row_num_cls 4
        --row_rope_interleaved False --icl_num_blocks {context} --icl_nhead 8 --icl_ssmax True
        --ssmax_type qassmax-mlp-elementwise --zero_init False"""
    with contextlib.redirect_stdout(io.StringIO()):
        return Trainer(build_parser().parse_args(options.split()))


def tabicl(trainer: Any, batch: TaskBatch, device: str, clock: Callable[[], float], autocast: bool) -> Block:
    """`Trainer.run_batch`. On CPUs its mixed precision is off; `autocast` puts bfloat16 in its place."""
    if autocast:
        trainer.amp_ctx = torch.autocast(torch.device(device).type, torch.bfloat16)
    counts = [torch.full((len(batch),), value) for value in (*batch.x.shape[:0:-1], batch.n_context)]
    tables = [batch.x, batch.y.float(), *counts]                   # features, rows and context rows of each task

    def block(n: int) -> tuple[list[float], list[float]]:
        seconds, losses = [], []
        for _ in range(n):
            begun = clock()
            losses.append(trainer.run_batch(tables)["ce"])
            seconds.append(clock() - begun)
        return seconds, losses

    return block


def flops(step: Callable[[], object]) -> int:
    """Operations of the matrix products of forward and backward; attention is written out so that it is counted."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def peak(device: str, clock: Callable[[], float], dtype: torch.dtype) -> float:
    """Operations a second of one 2048³ matrix product."""
    a, b = torch.randn(2, 2048, 2048, device=device, dtype=dtype)
    a @ b
    begun = clock()
    for _ in range(3):
        a @ b
    return 3 * 2 * 2048**3 / (clock() - begun)


class Bench:
    """All systems on one shape, and what was measured of them."""

    def __init__(
        self, networks: dict[str, tuple[int, ...]], shape: tuple[int, int, int], nano_too: bool, tabicl_too: bool,
        device: str, clock: Callable[[], float],
    ) -> None:
        self.shape, self.device, self.clock = shape, device, clock
        n_tasks, n_rows, n_features = shape
        generator = torch.Generator(device).manual_seed(0)
        task_shape = TaskShape(n_tasks, n_rows, n_features, round(CONTEXT_SHARE * n_rows))
        drawn = tabular_prior().sample(task_shape, generator=generator)
        batch = TaskBatch(drawn.x.nan_to_num(), drawn.y, drawn.n_context, drawn.n_classes)   # peers know no missing values
        x, y = batch.x[:1], batch.y[:1, : batch.n_context]              # one task, to count operations

        width, layers, heads, hidden = networks["pfnkit"]
        model = PFN(PFNConfig(embed_dim=width, n_layers=layers, n_heads=heads, hidden_dim=hidden)).to(device)
        self.drawing: list[float] = []
        self.systems = {"pfnkit": own(model.config, batch, device, clock, self.drawing)}
        self.parameters = {"pfnkit": model.n_parameters}
        self.operations = {"pfnkit": flops(lambda: model(x, y).sum().backward())}
        if nano_too:
            from model import NanoTabPFNModel

            width, layers, heads, hidden = networks["nanoTabPFN"]
            for name, autocast in (("nanoTabPFN", False), ("nanoTabPFN, bfloat16 autocast", True)):
                network = NanoTabPFNModel(width, heads, hidden, layers, 10).to(device)
                self.systems[name] = nano(network, batch, device, clock, autocast)
            self.parameters["nanoTabPFN"] = sum(p.numel() for p in network.parameters())
            self.operations["nanoTabPFN"] = flops(lambda: network((x, y.float()), batch.n_context).sum().backward())
            network.zero_grad()
        if tabicl_too:
            for name, autocast in (("TabICL", False), ("TabICL, bfloat16 autocast", True)):
                trainer = tabicl_trainer(networks["TabICL"], n_tasks, device)
                self.systems[name] = tabicl(trainer, batch, device, clock, autocast)
            self.parameters["TabICL"] = sum(p.numel() for p in trainer.model.parameters())
            self.operations["TabICL"] = flops(lambda: trainer.model(x, y.float()).sum().backward())
        self.seconds: dict[str, list[float]] = {name: [] for name in self.systems}
        self.losses: dict[str, list[float]] = {}
        self.peaks: dict[str, list[float]] = {"bfloat16": [], "float32": []}

    def turn(self, n_steps: int) -> None:
        """Every system does its steps. The very first plans kernels and is not counted."""
        for name, block in self.systems.items():
            first = name not in self.losses
            times, losses = block(n_steps + first)
            self.seconds[name] += times[first:]
            self.losses.setdefault(name, losses)
        for name, values in self.peaks.items():
            values.append(peak(self.device, self.clock, getattr(torch, name)))

    def result(self) -> dict[str, Any]:
        reached = {name: statistics.median(values) for name, values in self.peaks.items()}
        own_drawing = self.drawing[1:]                             # the first step is not counted
        drawn_too = [a + b for a, b in zip(self.seconds["pfnkit"], own_drawing, strict=True)]
        first = {"pfnkit": self.seconds["pfnkit"], "pfnkit, tasks drawn in the step": drawn_too}
        rows = {}
        for name, values in (first | self.seconds).items():
            kind, middle = name.split(",")[0], statistics.median(values)
            full = name == "nanoTabPFN" or (name == "TabICL" and self.device == "cpu")
            tasks_per_second, share_of = self.shape[0] / middle, reached["float32" if full else "bfloat16"]
            rows[name] = {
                "parameters": self.parameters[kind], "gflop_per_task": round(self.operations[kind] / 1e9, 2),
                "tasks_per_second": round(tasks_per_second, 2), "seconds_per_step": [round(value, 3) for value in values],
                "share_of_peak": round(self.operations[kind] * tasks_per_second / share_of, 3),
                "losses": [round(loss, 4) for loss in self.losses[kind if kind == "pfnkit" else name]],
            }
        speed = {name: row["tasks_per_second"] for name, row in rows.items()}
        return {
            "tasks": self.shape[0], "rows": self.shape[1], "features": self.shape[2],
            "peak_gflop_per_second": {name: round(value / 1e9, 1) for name, value in reached.items()}, "systems": rows,
            "pfnkit_times_peer": {name: round(speed["pfnkit"] / speed[name], 2) for name in speed if "pfnkit" not in name},
        }


def table(networks: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| network | tasks × rows × features | system | parameters | GFLOP/task | tasks/s | share of peak "
             "| pfnkit is × |", "|---|---|---|---|---|---|---|---|"]
    for size, results in networks.items():
        for result in results:
            shape = " × ".join(str(result[key]) for key in ("tasks", "rows", "features"))
            for name, row in result["systems"].items():
                lines.append(f"| {size} | {shape} | {name} | {row['parameters']:,} | {row['gflop_per_task']} | "
                             f"{row['tasks_per_second']} | {row['share_of_peak']:.0%} | "
                             f"{result['pfnkit_times_peer'].get(name, '')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nano", metavar="PATH", help="checkout of nanoTabPFN; without it, it is left out")
    parser.add_argument("--nano-source", default="unknown", help="commit of that checkout, for the record")
    parser.add_argument("--no-tabicl", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="timed steps of a system in a round")
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "training-speed.json"))
    args = parser.parse_args()
    tune_for_training()                                            # as `pfn pretrain` does; here it serves the peers as well
    torch.set_num_threads(args.threads)
    if args.nano:
        sys.path.insert(0, args.nano)
    clock = make_clock(args.device, args.threads)
    record: dict[str, Any] = {
        "date": str(datetime.date.today()), "torch": torch.__version__, "threads": args.threads,
        "machine": torch.cuda.get_device_name() if args.device != "cpu" else f"{os.cpu_count()} cores, {platform.machine()}",
        "seconds_are": "CPU time of the process" if clock is time.process_time else "wall time",
        "nanoTabPFN": args.nano_source if args.nano else None, "tabicl": None if args.no_tabicl else version("tabicl"),
    }
    benches = {
        size: [Bench(networks, shape, bool(args.nano), not args.no_tabicl, args.device, clock) for shape in SHAPES]
        for size, networks in NETWORKS.items()
    }
    for number in range(args.rounds):
        for bench in tqdm([bench for row in benches.values() for bench in row], f"round {number + 1}", disable=None):
            bench.turn(args.steps)
            record["networks"] = {size: [done.result() for done in row if done.losses] for size, row in benches.items()}
            Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
    print(table(record["networks"]))


if __name__ == "__main__":
    main()
