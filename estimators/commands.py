"""Sub-commands of `pfn` that need the estimators; pyproject.toml announces them to `pfn.cli`."""

from __future__ import annotations

import argparse
import datetime
from dataclasses import replace
from typing import Any

from estimators.evaluation import dataset_means, evaluate
from pfn.checkpoint import read_tensors, write_tensors


def add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pfn evaluate` to the sub-commands."""
    command = commands.add_parser("evaluate", help="compare a checkpoint with baselines on real datasets")
    command.add_argument("checkpoint", metavar="CKPT", help="a path, or the name of bundled weights")
    command.add_argument("--data", metavar="DIR",
                         help="folder of .npz files with X, y, task and cat_idx; default: the datasets of scikit-learn")
    command.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="one split for each; default 0")
    command.add_argument("--max-train", type=int, default=1000, metavar="N", help="most training rows; default 1000")
    command.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True,
                         help="also fit a linear model and a random forest")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    command.add_argument("--json", action="store_true", help="print the metrics by dataset, seed and model")
    command.add_argument("--record", metavar="NAME",
                         help="also write the network's means into the file's model card, as its score on NAME")
    command.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    tensors, card = read_tensors(args.checkpoint) if args.record is not None else ({}, None)
    result = evaluate(args.checkpoint, args.data, seeds=args.seeds, max_train=args.max_train, baselines=args.baselines,
                      device=args.device)
    print(result.to_json() if args.json else result)
    if card is not None:
        means = dataset_means(result.rows, result.task, ["pfn"])
        score: dict[str, Any] = {metric: round(float(frame["pfn"].mean()), 4) for metric, frame in means.items()}
        score |= {"datasets": len(next(iter(means.values()))), "splits": len(args.seeds), "max_train": args.max_train,
                  "date": str(datetime.date.today())}
        write_tensors(args.checkpoint, tensors, replace(card, scores=card.scores | {args.record: score}))
