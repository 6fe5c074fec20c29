"""Which network and recipe learn most from the same compute? Each alternative changes one thing of the default.

Every run gets the same compute for pretraining: the default network's number of steps divided by the relative cost of a
step, sampling included, which is measured before by letting both take steps in turn, on one thread. Prior and schedule are
the same. The score is on real data: ROC AUC and log
loss of one ensemble member, without calibration, on halves of the classification sets in `benchmarks/data` (at most 500
context and 500 query rows). Inference cost is the CPU time of one member for 500 × 10, 1000 × 50 and 3000 × 30 (as many
rows predicted as read), as a ratio to the default network's.

    python benchmarks/bakeoff.py                                   # run what is not there (hours), print the table
    python benchmarks/bakeoff.py --print                           # only print it
    python benchmarks/bakeoff.py --variants default rank --seeds 0 1 2 --steps 600
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bakeoff_networks as networks
import numpy as np
import torch
from torch import nn

from estimators import PFNClassifier
from estimators.datasets import Split, read_datasets, split_dataset
from estimators.distribution import PredictiveDistribution
from estimators.inference import Pass, run_passes
from estimators.metrics import classification_scores, regression_scores
from estimators.table import TableEncoder
from pfn import PFN, BarDistribution, PFNConfig, PretrainConfig, TaskSizes, pretrain, state, training
from pfn.checkpoint import build_model, read_tensors
from pfn.encoder import Scaling
from pfn.optimizer import make_optimizers
from pfn.recipes import tabular_prior
from pfn.tasks import task_loss
from priors import Prior, TaskBatch, TaskShape

DATA = Path(__file__).resolve().parent / "data"
MAX_ROWS, MAX_CLASSES = 500, 10
INFERENCE = {"500x10": (500, 10), "1000x50": (1000, 50), "3000x30": (3000, 30)}


def default() -> PretrainConfig:
    return PretrainConfig(
        prior=tabular_prior(),
        model=PFNConfig(embed_dim=128, n_layers=4, n_heads=2, hidden_dim=256, dense_features=24),
        sizes=TaskSizes(rows=(24, 512), features=(1, 32), cells=4096, n_shapes=16),
        warmup_steps=50,
        batches_per_step=1,
        ema_decay=0.99,
    )


def with_rows(low: int, high: int) -> PretrainConfig:
    return replace(default(), sizes=replace(default().sizes, rows=(low, high)))


def regression() -> PretrainConfig:
    config = default()
    return replace(config, prior=tabular_prior(0), model=replace(config.model, task="regression", n_outputs=256))


@dataclass(frozen=True)
class EitherTask:
    """Batches of classification and of regression tasks, by the toss of a coin."""

    classes: Prior
    reals: Prior

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        heads = bool(torch.rand((), generator=generator, device=generator.device) < 0.5)
        return (self.classes if heads else self.reals).sample(shape, generator=generator)


def adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)]


@dataclass(frozen=True)
class Variant:
    """What differs from `default`: the configuration, the network, or another part exchanged while it runs."""

    what: str
    config: Callable[[], PretrainConfig] = default
    network: type[PFN] = PFN
    exchange: tuple[tuple[Any, Any], ...] = ()
    budget: float = 1.0                                             # in units of the common one
    same_cost: bool = False                                         # inference costs what the default network's does


def changed_model(**changes: Any) -> Callable[[], PretrainConfig]:
    return lambda: replace(default(), model=replace(default().model, **changes))


VARIANTS = {
    "default": Variant("two-axis cells: a token a feature up to 24, groups of 3, 16 thinking rows, residual decay .95, "
                       "1 + s·ln n, Muon"),
    "three-stage": Variant("column ISAB (64 wide, 32 inducing) → 4 summary tokens → 4 rows-only layers, 256 wide",
                           network=networks.ThreeStage),
    "no-thinking": Variant("without thinking rows", changed_model(n_thinking_rows=0)),
    "plain-softmax": Variant("without scaling by the context length", network=networks.PlainSoftmax),
    "qassmax": Variant("QASSMax in place of 1 + s·ln n", network=networks.QASSMax),
    "rmsnorm": Variant("RMSNorm in place of bias-free LayerNorm", network=networks.RMSNorm),
    "no-decay": Variant("residual decay 1", changed_model(residual_decay=1.0), same_cost=True),
    "retrieval": Variant("retrieval decoder", network=networks.Retrieval),
    "no-groups": Variant("one feature a token", network=networks.SingleFeatures,
                         exchange=((PFNConfig.n_tokens, lambda _, n_features: 1 + n_features),)),
    "pairs": Variant("tokens at every second feature, groups of 3 all the same", changed_model(dense_features=1)),
    "fourier": Variant("8 learned Fourier frequencies a cell", network=networks.Fourier),
    "rank": Variant("the cell's rank in its column as an input", network=networks.Rank,
                    exchange=((Scaling, networks.RankScaling),)),
    "adamw": Variant("AdamW for all weights", exchange=((make_optimizers, adamw),), same_cost=True),
    "large-tasks": Variant("tasks of 256 – 512 rows only",
                           lambda: with_rows(256, 512), same_cost=True),
    "small-tasks": Variant("tasks of 24 – 128 rows only",
                           lambda: with_rows(24, 128), same_cost=True),
    "wide-and-shallow": Variant("2 layers, 192 wide", changed_model(embed_dim=192, n_layers=2, n_heads=3, hidden_dim=384)),
    "narrow-and-deep": Variant("8 layers, 96 wide", changed_model(embed_dim=96, n_layers=8, hidden_dim=192)),
    "regression": Variant("the default network on regression tasks", regression),
    "two-heads": Variant("one body for both tasks, twice the budget, half of its tasks each",
                         lambda: replace(default(), prior=EitherTask(tabular_prior(), tabular_prior(0))),
                         network=networks.TwoHeads, exchange=((task_loss, networks.either_loss),), budget=2.0,
                         same_cost=True),
}


@contextmanager
def exchanged(variant: Variant) -> Iterator[None]:
    """Put the variant's parts wherever a module of `pfn` holds the original."""
    pairs = [*variant.exchange, *([(PFN, variant.network)] if variant.network is not PFN else [])]
    holders = [module for name, module in sys.modules.items() if name == "pfn" or name.startswith("pfn.")]
    with ExitStack() as stack:
        for original, substitute in pairs:
            for holder in [*holders, PFNConfig]:
                for name in [name for name, value in vars(holder).items() if value is original]:
                    stack.enter_context(patch.object(holder, name, substitute))
        yield


def real_splits(task: str) -> Iterator[Split]:
    """Halves of each dataset; rows beyond `MAX_ROWS` on either side are left out, and classes that one side lacks."""
    for dataset in read_datasets(DATA / task):
        if dataset.n_classes > MAX_CLASSES:
            continue
        split = split_dataset(dataset, seed=0, max_train=len(dataset.y))
        train, test = (np.random.default_rng(0).permutation(len(part))[:MAX_ROWS] for part in (split.y, split.y_test))
        if task == "classification":
            test = test[np.isin(split.y_test[test], split.y[train])]
            train = train[np.isin(split.y[train], split.y_test[test])]
        yield replace(split, X=split.X[train], y=split.y[train], X_test=split.X_test[test], y_test=split.y_test[test])


def classify(model: PFN) -> dict[str, float]:
    """Mean AUC and log loss on the classification sets."""
    found = []
    for split in real_splits("classification"):
        clf = PFNClassifier(n_estimators=1, model=model, temperature=1.0, max_context=MAX_ROWS, random_state=0)
        p = clf.fit(split.X, split.y).predict_proba(split.X_test)
        found.append(classification_scores(np.searchsorted(clf.classes_, split.y_test), p))
    return {metric: float(np.mean([scores[metric] for scores in found])) for metric in ("auc", "log_loss")}


def regress(model: PFN) -> dict[str, float]:
    """Mean RMSE/std and NLL on the regression sets; without `PFNRegressor`, since `TwoHeads` is a classifier to it."""
    found = []
    bars = BarDistribution(model.borders.double())
    for split in real_splits("regression"):
        encoder, location, scale = TableEncoder().fit(split.X), float(split.y.mean()), float(split.y.std())
        z = ((split.y - location) / scale).astype(np.float32)
        x, x_test = (torch.from_numpy(encoder.transform(part)) for part in (split.X, split.X_test))
        logits = run_passes(model, [Pass(x, torch.from_numpy(z), None, x_test)])[0]
        posterior = PredictiveDistribution(bars.posterior(logits), location, scale)
        found.append(regression_scores(split.y_test, posterior, scale))
    return {metric: float(np.mean([scores[metric] for scores in found])) for metric in ("rmse", "nll")}


def inference_seconds(model: PFN) -> dict[str, float]:
    """CPU seconds of one member."""
    seconds = {}
    for name, (rows, features) in INFERENCE.items():
        X, X_test = np.random.default_rng(0).normal(size=(2, rows, features))
        clf = PFNClassifier(n_estimators=1, model=model, temperature=1.0, max_context=rows, random_state=0)
        times = []
        for _ in range(3 if rows < 3000 else 2):                     # the first compiles
            begun = time.process_time()
            clf.fit(X, (X[:, 0] > 0).astype(int)).predict_proba(X_test)
            times.append(time.process_time() - begun)
        seconds[name] = min(times)
    return seconds


def relative_cost(name: str, n_rounds: int = 2) -> float:
    """CPU time of a step of the variant over that of the default network's, sampling included.

    Both take a step in turn on every shape, so that the load of the machine falls on both; the first round compiles.
    """
    totals = {name: 0.0, "default": 0.0}
    models: dict[str, Any] = {}
    for number in range(n_rounds + 1):
        for shape_number in range(default().sizes.n_shapes):
            for which in totals:
                with exchanged(VARIANTS[which]):
                    config = VARIANTS[which].config()
                    if which not in models:
                        model = state.PFN(config.model)
                        models[which] = model, state.make_optimizers(model, 1e-3, 0.05)
                    model, optimizers = models[which]
                    begun = time.process_time()
                    shape = config.sizes.shape(shape_number, config.model.n_tokens)
                    batch = config.prior.sample(shape, generator=torch.Generator().manual_seed(shape_number))
                    copies = {key: p.to(torch.bfloat16) for key, p in model.named_parameters()}
                    training.task_loss(model, batch, copies).backward()
                    for optimizer in optimizers:
                        optimizer.step()
                    model.zero_grad()
                    if number > 0:
                        totals[which] += time.process_time() - begun
    return totals[name] / totals["default"]


def run(name: str, seed: int, n_steps: int) -> dict[str, Any]:
    variant = VARIANTS[name]
    config = replace(variant.config(), n_steps=n_steps, decay_steps=int(0.4 * n_steps), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.safetensors"
        begun = time.process_time()
        model = pretrain(config, out=out, progress=False, validate_every=10**9, checkpoint_every=1e9)
        seconds = time.process_time() - begun
        tensors, card = read_tensors(out)
    row: dict[str, Any] = {"steps": n_steps, "tasks": card.training["tasks"], "cpu_seconds": round(seconds, 1),
                           "parameters": model.n_parameters, "validation_loss": card.training["validation_loss"]}
    if config.model.task == "classification":
        row |= classify(model)
        raw = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
        if name == "default":
            row["without_average"] = classify(build_model(raw, card, "raw"))
    if config.model.task == "regression" or variant.network is networks.TwoHeads:
        row |= regress(model)
    if seed == 0 and config.model.task == "classification" and not variant.same_cost:
        row["inference"] = inference_seconds(model)
    return row


def table(results: dict[str, Any]) -> str:
    lines = [f"| variant | parameters | tasks | AUC (seeds) | log loss (seeds) | inference, {' / '.join(INFERENCE)} |",
             "|---|---|---|---|---|---|"]
    base = results["rows"].get("default/0", {}).get("inference", {})
    by_name: dict[str, list[dict[str, Any]]] = {}
    for key, row in sorted(results["rows"].items()):
        by_name.setdefault(key.split("/")[0], []).append(row)
    classify = [name for name in VARIANTS if "auc" in by_name.get(name, [{}])[0]]
    for name in sorted(classify, key=lambda name: np.mean([row["log_loss"] for row in by_name[name]])):
        rows, cost = by_name[name], by_name[name][0].get("inference", {})
        cells = [f"{np.mean([row[metric] for row in rows]):.4f} ({', '.join(f'{row[metric]:.4f}' for row in rows)})"
                 for metric in ("auc", "log_loss")]
        ratio = " / ".join(f"{cost[size] / base[size]:.2f}" for size in INFERENCE if size in cost)
        lines.append(f"| **{name}**: {VARIANTS[name].what} | {rows[0]['parameters']:,} | "
                     f"{np.mean([row['tasks'] for row in rows]):,.0f} | {' | '.join(cells)} | {ratio} |")
    raw = [row["without_average"] for row in by_name.get("default", []) if "without_average" in row]
    if raw:
        lines.append(f"default without averaging the weights: AUC {np.mean([row['auc'] for row in raw]):.4f}, "
                     f"log loss {np.mean([row['log_loss'] for row in raw]):.4f}")
    lines += [f"{name}: RMSE/std {np.mean([row['rmse'] for row in rows]):.4f}, "
              f"NLL {np.mean([row['nll'] for row in rows]):.4f}" for name, rows in by_name.items() if "rmse" in rows[0]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "bakeoff.json"))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=600, help="of the default network; others get the same compute")
    parser.add_argument("--print", action="store_true", help="run nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)                                         # so that CPU time means the same for all
    out = Path(args.out)
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    for name in () if args.print else args.variants:
        missing = [seed for seed in args.seeds if f"{name}/{seed}" not in results["rows"]]
        if not missing:
            continue
        cost = 1.0 if name == "default" else relative_cost(name)
        n_steps = round(VARIANTS[name].budget * args.steps / cost)
        with exchanged(VARIANTS[name]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in missing:
                row = run(name, seed, n_steps) | {"relative_cost": round(cost, 3)}
                results["rows"][f"{name}/{seed}"] = row | {"date": str(datetime.date.today())}
                results["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, one thread, torch {torch.__version__}"
                results["steps_of_default"] = args.steps
                out.write_text(json.dumps(results, indent=0, sort_keys=True) + "\n")
                print(name, seed, row, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
