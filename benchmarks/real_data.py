"""What the real-data benchmarks share: models, and results kept per dataset, seed and model; the missing are computed."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from estimators.datasets import Split, read_datasets, split_dataset
from estimators.evaluation import baseline_models, fit_and_score, summary

MAX_CLASSES = 10
Models = dict[str, Callable[[Split, argparse.Namespace], Any]]


def common_models(task: str) -> Models:
    """PFN at its defaults, three boosters at theirs on one thread, and a forest."""
    kind = {"classification": "Classifier", "regression": "Regressor"}[task]

    def model(module: str, prefix: str, **arguments: Any) -> Callable[[Split, argparse.Namespace], Any]:
        # Imported when it is asked for.
        return lambda split, _: getattr(import_module(module), prefix + kind)(**arguments)

    return {
        "pfn": lambda split, args: getattr(import_module("estimators"), f"PFN{kind}")(
            args.n_estimators, model=args.checkpoint, random_state=0),
        "catboost": model("catboost", "CatBoost", random_seed=0, verbose=False, thread_count=1, allow_writing_files=False),
        "lightgbm": model("lightgbm", "LGBM", random_state=0, verbose=-1, n_jobs=1),
        "xgboost": model("xgboost", "XGB", random_state=0, n_jobs=1),
        "forest": lambda split, _: baseline_models(task, split.categorical)["forest"],
    }


def read_results(out: Path) -> dict[str, Any]:
    """What earlier runs have left."""
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    return results


def write_results(out: Path, results: dict[str, Any], done: set[str], where: str = "") -> None:
    """Keep the results, with date and machine for the models in `done`; `where` says more of the machine's use."""
    when = f"{datetime.date.today()} on {os.cpu_count()} cores, {platform.machine()}{where}"
    results["computed"] = results.get("computed", {}) | dict.fromkeys(done, when)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=0, sort_keys=True) + "\n")


def compute(args: argparse.Namespace, models: Models) -> dict[str, Any]:
    """Fill `args.out` with whatever is asked for and not there yet; written after every dataset."""
    out = Path(args.out)
    results = read_results(out)
    done: set[str] = set()
    for dataset in tqdm(read_datasets(args.data), disable=None):
        if dataset.n_classes > MAX_CLASSES or (args.sets is not None and dataset.name not in args.sets):
            continue
        for seed in args.seeds:
            split = split_dataset(dataset, seed)
            for model in args.models:
                key = f"{dataset.name}/{seed}/{model}"
                if key in results["rows"] and not args.redo:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")                 # feature names of LightGBM, convergence
                    results["rows"][key] = fit_and_score(models[model](split, args), split)
                done.add(model)
        if done:
            write_results(out, results, done)
    return results


def main(description: str, task: str, models: Models, names: dict[str, str], checkpoint: str) -> None:
    """The command line of both benchmarks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--data", default=str(here / "data" / task))
    parser.add_argument("--out", default=str(here / "results" / f"{task}.json"))
    parser.add_argument("--models", nargs="+", choices=list(models), default=list(models))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--sets", nargs="+", help="file names without .npz; all by default")
    parser.add_argument("--checkpoint", default=checkpoint)
    parser.add_argument("--n-estimators", type=int, default=4, help="members of the PFN's ensemble")
    parser.add_argument("--redo", action="store_true", help="compute again what is there already")
    args = parser.parse_args()
    print(summary(compute(args, models)["rows"], task, args.models, names))
