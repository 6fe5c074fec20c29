"""Processes that write files, killed with SIGKILL at random moments: what is at the final path must always load.

    python benchmarks/killed_runs.py                                 # 200 trials, 2 minutes; writes results/killed-runs.json
    python benchmarks/killed_runs.py --trials 15 --out /tmp/k.json

Each trial forks a process that pretrains a tiny network with a checkpoint after every step, or saves a checkpoint, a fitted
estimator or a Bayesian optimiser again and again. Half of the kills come a random time after the start, the others a random
time after a write has begun. Afterwards

- the file at the final path loads, and is the last one that was complete or the one being written, never an older one;
- a process that was killed before it wrote anything, as while it resumed, has not changed a byte;
- a pretraining run is resumed, killed again and so on, and ends with the weights of an undisturbed run, bit for bit;
- what the killed processes leave beside the file is gone after the next write, ten minutes later.
"""

from __future__ import annotations

import argparse
import datetime
import json
import mmap
import multiprocessing
import os
import platform
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from optuna.distributions import FloatDistribution
from tqdm import tqdm

import pfn.training
from estimators import BayesianOptimizer, PFNRegressor
from pfn import PFN, Envelope, ModelCard, PFNConfig, PretrainConfig, TaskSizes, load_pretrained, pretrain, save_checkpoint
from pfn.checkpoint import read_tensors
from pfn.files import STALE_SECONDS
from priors import SCMPrior

FORK = multiprocessing.get_context("fork")                          # fast, and safe as this process has a single thread
NETWORK = PFNConfig(n_outputs=3, embed_dim=16, n_layers=2, n_heads=2, hidden_dim=32, n_thinking_rows=2)
RUN = PretrainConfig(SCMPrior(max_classes=3), NETWORK, TaskSizes(rows=(12, 24), features=(1, 3), cells=256, row_step=4),
                     n_steps=12, warmup_steps=2, decay_steps=4, precision="float32")
CARD = ModelCard(replace(NETWORK, embed_dim=128, hidden_dim=256), "a prior", Envelope(24, 3, 3))
Counts = memoryview                                                 # [number of the write begun last, completed last]


class Killed(AssertionError):
    """A kill that did harm."""


@dataclass(frozen=True)
class Kind:
    """Something that writes files: `write` goes on from a file if there is one, `read` gives the number of a file."""

    write: Callable[[Path, Counts], None]
    read: Callable[[Path], int]


def write_checkpoints(path: Path, counts: Counts) -> None:
    model = PFN(CARD.config)
    for number in range(counts[1] + 1, 10**6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(number)
        counts[0] = number
        save_checkpoint(model, path, replace(CARD, training={"step": number}))
        counts[1] = number


def read_checkpoint(path: Path) -> int:
    model = load_pretrained(path)
    values = {value for parameter in model.parameters() for value in parameter.unique().tolist()}
    if values != {model.card.training["step"]}:
        raise Killed(f"{path} mixes the writes {values}")
    return int(model.card.training["step"])


def write_estimators(path: Path, counts: Counts) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 10))
    reg = PFNRegressor(n_estimators=1).fit(X, X[:, 0])
    for number in range(counts[1] + 1, 10**6):
        reg.random_state = number
        counts[0] = number
        reg.save(path)
        counts[1] = number


def write_optimizers(path: Path, counts: Counts) -> None:
    optimizer = BayesianOptimizer({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}, random_state=0)
    for x, y in np.random.default_rng(0).random((100, 2)).tolist():
        optimizer.tell({"x": x, "y": y}, x + y)
    for number in range(counts[1] + 1, 10**6):
        optimizer.tell({"x": 0.5, "y": 0.5}, float(number))
        counts[0] = number
        optimizer.save(path)
        counts[1] = number


def write_run(path: Path, counts: Counts) -> None:
    def write(out: Path, tensors: dict[str, torch.Tensor], card: ModelCard) -> None:
        counts[0] = card.training["step"]
        write_tensors(out, tensors, card)
        counts[1] = card.training["step"]

    write_tensors, pfn.training.write_tensors = pfn.training.write_tensors, write
    pretrain(RUN, out=path, resume=path if path.exists() else None, checkpoint_every=-1.0, log_every=1, progress=False)


def read_run(path: Path) -> int:
    load_pretrained(path)
    lines = path.with_suffix(".jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines[:-1]]       # the last one may be cut short
    if steps != list(range(1, len(steps) + 1)):
        raise Killed(f"the log of {path} has the steps {steps}")
    return int(read_tensors(path)[1].training["step"])


KINDS = {
    "pretrain": Kind(write_run, read_run),
    "save_checkpoint": Kind(write_checkpoints, read_checkpoint),
    "estimator.save": Kind(write_estimators, lambda path: PFNRegressor.load(path).random_state),
    "BayesianOptimizer.save": Kind(write_optimizers, lambda path: int(BayesianOptimizer.load(path).trials_[-1].value)),
}


def kill_once(kind: Kind, path: Path, rng: np.random.Generator) -> str:
    """One process, killed; returns the moment at which it was. Raises `Killed` if the file at `path` suffered."""
    counts = memoryview(mmap.mmap(-1, 16)).cast("q")                # shared with the fork, readable after its death
    existed = path.exists()
    before = kind.read(path) if existed else 0
    content = path.read_bytes() if existed else b""
    counts[0] = counts[1] = before
    process = FORK.Process(target=kind.write, args=(path, counts))
    process.start()
    in_a_write, deadline = rng.random() < 0.5, time.monotonic() + 60.0
    if in_a_write:
        wanted = before + int(rng.integers(1, 4))
        while process.is_alive() and not counts[0] >= wanted and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(rng.uniform(0.0, 0.006))
    else:
        time.sleep(0.001 * 1000.0 ** rng.random())
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise Killed(f"the process ended by itself, with {process.exitcode}")
    begun, done = counts[0], counts[1]
    if begun == before:
        if path.exists() != existed or (existed and path.read_bytes() != content):
            raise Killed(f"{path} changed before anything was written")
        return "while it started or resumed, a file standing" if existed else "before the first write"
    if (done or existed) and not path.exists():
        raise Killed(f"{path} is gone")
    if path.exists() and kind.read(path) not in (done, begun):
        raise Killed(f"{path} is write {kind.read(path)}, but {done} was complete and {begun} begun")
    if process.exitcode == 0:
        return "after the end"
    return "in a write" if begun > done else "between writes"


def litter(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.name.startswith(".")]


def sweep(kind: Kind, path: Path) -> int:
    """How many folders the killed processes left; raises `Killed` if the next write, ten minutes later, leaves any."""
    left = litter(path.parent)
    for folder in left:
        for entry in (*folder.iterdir(), folder):
            os.utime(entry, (time.time() - 2 * STALE_SECONDS,) * 2)
    counts = memoryview(mmap.mmap(-1, 16)).cast("q")
    process = FORK.Process(target=kind.write, args=(path, counts))
    process.start()
    while process.is_alive() and counts[1] < 1:
        time.sleep(0.001)
    process.kill()
    process.join()
    kept = set(left) & set(litter(path.parent))
    if kept:
        raise Killed(f"{sorted(kept)} are still there")
    return len(left)


def same_weights(path: Path, expected: PFN) -> bool:
    found = load_pretrained(path).state_dict()
    return all(torch.equal(found[name], value) for name, value in expected.state_dict().items())


def trials(n: int, folder: Path, seed: int = 0, progress: bool | None = None) -> dict[str, object]:
    """Run `n` trials in turn through `KINDS`; counts of kills by kind and moment."""
    rng, moments = np.random.default_rng(seed), {name: Counter() for name in KINDS}
    expected = pretrain(RUN, progress=False)
    runs, left, most = 0, 0, 0
    paths = {name: folder / f"{number}-0" / "file.safetensors" for number, name in enumerate(KINDS)}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    for trial in tqdm(range(n), disable=None if progress is None else not progress, unit="kill"):
        name = ("pretrain", "save_checkpoint", "pretrain", "estimator.save", "BayesianOptimizer.save")[trial % 5]
        kind, path = KINDS[name], paths[name]
        if rng.random() < 0.1:
            path.unlink(missing_ok=True)                            # to begin anew, beside what is there
        moments[name][kill_once(kind, path, rng)] += 1
        most = max(most, len(litter(path.parent)))
        if name == "pretrain" and path.exists() and kind.read(path) == RUN.n_steps:
            if not same_weights(path, expected):
                raise Killed(f"{path}: the weights are not those of a run without kills")
            runs += 1
            paths[name] = folder / f"0-{runs}" / "file.safetensors"  # a new run
            paths[name].parent.mkdir()
    for name, path in paths.items():
        if path.exists() and name != "pretrain":
            left += sweep(KINDS[name], path)
    return {"trials": n, "harmed": 0, "moments": {name: dict(sorted(found.items())) for name, found in moments.items()},
            "runs_finished_with_the_expected_weights": runs, "most_temporary_folders_beside_a_file": most,
            "temporary_folders_at_the_end": left, "of_these_after_the_next_write": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "killed-runs.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = trials(args.trials, Path(folder), args.seed)
    record = {"date": str(datetime.date.today()), "machine": f"{os.cpu_count()} cores, {platform.machine()}",
              "torch": torch.__version__, "seed": args.seed, "seconds": round(time.monotonic() - begun), **found}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
