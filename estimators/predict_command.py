"""`pfn predict`: tables from files in, predictions out; pyproject.toml announces it to `pfn.cli`."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier
from tqdm import tqdm

from estimators.classifier import PFNClassifier
from estimators.distribution import checked_probabilities
from estimators.regressor import PFNRegressor
from estimators.table_files import read_table, table_format, write_table
from estimators.tabr import TabRClassifier, TabRRegressor
from pfn.checkpoint import CheckpointError

_ROWS_AT_ONCE = 1000
_MOST_CLASSES = 10                                                  # of a column of integers whose task was not said
_USAGE = """\
pfn predict TRAIN QUERY --target COLUMN [options]
       pfn predict --fitted FILE QUERY [options]"""
_EXAMPLES = """\
examples:
  pfn predict train.csv test.csv --target species > predictions.csv
  pfn predict train.parquet test.parquet --target price --std --quantiles 0.05 0.95 --out prices.parquet
  pfn predict train.csv test.csv --target churn --drop id --keep id --out churn.csv --save churn.safetensors
  pfn predict --fitted churn.safetensors new.csv --keep id --out new-churn.csv

columns of the result:
  classes   prediction, and p(CLASS) for each class
  numbers   prediction (the mean), std with --std, q0.05 with --quantiles 0.05, …

Columns are matched by name. Text is read as categories, ISO 8601 dates as dates, empty cells as missing. If QUERY has the
target too, the predictions are scored against it.
"""


def add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pfn predict` to the sub-commands."""
    command = commands.add_parser(
        "predict", help="predict a column of a table from another table, CSV or Parquet", usage=_USAGE, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Predict a column of QUERY from the rows of TRAIN, in which it is known.",
    )
    command.add_argument("tables", nargs="+", metavar="TABLE",
                         help="TRAIN and QUERY, files ending in .csv, .tsv (or these with .gz) or .parquet")
    command.add_argument("--target", metavar="COLUMN", help="what to predict")
    command.add_argument("--task", choices=["classification", "regression"], help="default: by the values of the target")
    command.add_argument("--model", metavar="NAME_OR_CKPT",
                         help="bundled weights or a checkpoint; default: 'classifier' or 'regressor'")
    command.add_argument("--quantiles", nargs="+", type=float, metavar="Q",
                         help="of numbers: also these quantiles, in [0, 1]")
    command.add_argument("--std", action="store_true", help="of numbers: also standard deviations")
    command.add_argument("--drop", nargs="+", default=[], metavar="COL",
                         help="columns of TRAIN that say nothing, such as id")
    command.add_argument("--keep", nargs="+", default=[], metavar="COL",
                         help="columns of QUERY to put before the predictions")
    command.add_argument("--out", metavar="FILE", help="write there, in the format of its ending; default: print CSV")
    command.add_argument("--save", metavar="FITTED", help="also save the fitted estimator, by convention as .safetensors")
    command.add_argument("--fitted", metavar="FITTED", help="an estimator saved before, in place of TRAIN")
    command.add_argument("--seed", type=int, help="of the estimator; default 0")
    command.add_argument("--device", help="auto, cpu, cuda, …; default auto")
    command.set_defaults(run=partial(_predict, command))


def _predict(command: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    _check_usage(command, args)
    _check_outputs(args)
    estimator = _fitted(args) if args.fitted is None else _load(args.fitted)
    if (args.std or args.quantiles) and not hasattr(estimator, "predict_distribution"):
        hint = "leave them out, or use --task regression" if is_classifier(estimator) else "leave them out"
        raise ValueError(f"--std and --quantiles need a density, which {type(estimator).__name__} does not give; {hint}.")
    query, path = read_table(args.tables[-1], _text_columns(estimator)), args.tables[-1]
    if not len(query):
        raise ValueError(f"{path!r} has no rows.")
    X = _columns_of(query, estimator, path, {args.target, *args.drop, *args.keep})
    kept = query[_checked_names("--keep", args.keep, query, path)]
    answer = _answers(estimator, X, args)
    for name in kept.columns.intersection(answer.columns):
        raise ValueError(f"--keep {name} has the name of a result; rename the column of {path!r}.")
    if args.save is not None:
        estimator.save(args.save)
    write_table(pd.concat([kept, answer], axis=1), args.out)
    if args.target in query.columns:
        _score(estimator, query[args.target], answer["prediction"])


def _check_usage(command: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.fitted is not None:
        for name in ("task", "model", "drop", "save", "seed", "device"):
            if getattr(args, name) not in (None, []):
                command.error(f"--{name} belongs to fitting; leave it out with --fitted")
        if len(args.tables) != 1:
            command.error(f"--fitted takes one table, QUERY, got {len(args.tables)}")
    elif len(args.tables) != 2:
        command.error(f"expected two tables, TRAIN and QUERY, got {len(args.tables)}")
    elif args.target is None:
        command.error("--target COLUMN says which column of TRAIN to predict")
    if args.quantiles is not None:
        checked_probabilities(args.quantiles)


def _check_outputs(args: argparse.Namespace) -> None:
    """That what will be written is no input and has a place, before anything is computed."""
    inputs = [path for path in (*args.tables, args.fitted, args.model) if path is not None]
    outputs = {"--out": args.out, "--save": args.save}
    for name, path in outputs.items():
        if path is None:
            continue
        if any(_same(path, other) for other in inputs):
            raise ValueError(f"{name} {path} would overwrite an input; give another name.")
        if os.path.isdir(path) or not Path(path).absolute().parent.is_dir():
            raise ValueError(f"{name} {path} is a folder or lies in none; give the name of a file in a folder that exists.")
    if args.out is not None:
        table_format(args.out)
        if args.save is not None and _same(args.out, args.save):
            raise ValueError(f"--out and --save are both {args.out}; give two names.")


def _same(path: str, other: str) -> bool:
    if os.path.exists(path) and os.path.exists(other):
        return os.path.samefile(path, other)
    return os.path.realpath(path) == os.path.realpath(other)


def _fitted(args: argparse.Namespace) -> Any:
    path = args.tables[0]
    frame = read_table(path)
    _checked_names("--target", [args.target], frame, path)
    _checked_names("--drop", args.drop, frame, path)
    if args.target in args.drop:
        raise ValueError(f"--drop {args.target} is the target; drop other columns.")
    known = frame[args.target].notna()
    if not known.all():
        _say(f"{path}: {(~known).sum()} of {len(frame)} rows have no {args.target!r} and are left out")
        frame = frame[known]
    if not len(frame):
        raise ValueError(f"{path!r} has no row with a value of {args.target!r}.")
    y = _whole(frame[args.target].infer_objects())
    task = args.task
    if task is None:
        task = _task_of(y)
        _say(f"{args.target!r} has {y.nunique()} different values: {task} (--task overrides this)")
    X = frame.drop(columns=[args.target, *args.drop])
    if not X.shape[1]:
        raise ValueError(f"{path!r} has no column besides the target and those dropped.")
    _check_finite(X, path)
    shared: dict[str, Any] = {"device": args.device or "auto", "random_state": args.seed or 0}
    if task == "classification":
        return PFNClassifier(model=args.model or "classifier", **shared).fit(X, y.to_numpy())
    _check_finite(y.to_frame(), path)
    return PFNRegressor(model=args.model or "regressor", **shared).fit(X, y.to_numpy())


def _load(path: str) -> Any:
    """Whatever estimator the file holds."""
    for kind in (PFNClassifier, PFNRegressor, TabRClassifier, TabRRegressor):
        try:
            estimator: Any = kind.load(path)
        except CheckpointError as error:
            reason = error
        else:
            if hasattr(estimator, "estimators_"):
                raise ValueError(f"{path!r} predicts several targets; call it from Python.")
            return estimator
    raise reason


def _whole(y: pd.Series) -> pd.Series:
    """Integers that became floats because of a gap, as integers."""
    if pd.api.types.is_float_dtype(y.dtype) and bool(((y % 1 == 0) & (y.abs() < 2**53)).all()):
        return y.astype(np.int64)
    return y


def _task_of(y: pd.Series) -> str:
    """Numbers are regressed on, unless they are few integers that occur three times each, on average."""
    if not pd.api.types.is_numeric_dtype(y.dtype) or pd.api.types.is_bool_dtype(y.dtype):
        return "classification"
    few = y.nunique() <= min(_MOST_CLASSES, len(y) // 3)
    return "classification" if few and pd.api.types.is_integer_dtype(y.dtype) else "regression"


def _text_columns(estimator: Any) -> list[str]:
    """Names of the columns whose values were categories in `fit`."""
    encoder = estimator._table.encoder_ if hasattr(estimator._table, "encoder_") else estimator._encoder
    names = getattr(estimator, "feature_names_in_", None)
    return [] if names is None else [str(names[i]) for i in encoder.categories_]


def _columns_of(query: pd.DataFrame, estimator: Any, path: str, known: set[str | None]) -> pd.DataFrame:
    """The columns that the estimator was fitted on, in that order; others that are not `known` to the user are named."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        raise ValueError("the saved estimator was fitted on a table without column names; fit it on a data frame.")
    missing = [name for name in names if name not in query.columns]
    if missing:
        raise ValueError(f"{path!r} has no column {', '.join(map(repr, missing))}, which the training table has.")
    extra = [name for name in query.columns if name not in names and name not in known]
    if extra:
        _say(f"{path}: columns that the training table has not are ignored: {', '.join(extra)}")
    X = query[list(names)]
    _check_finite(X, path)
    return X


def _answers(estimator: Any, X: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """Predictions of some rows after the other, with a bar on a terminal."""
    parts = []
    with tqdm(total=len(X), unit="row", disable=None, leave=False) as bar:
        for start in range(0, len(X), _ROWS_AT_ONCE):
            part = X.iloc[start : start + _ROWS_AT_ONCE]
            parts.append(_answer(estimator, part, args.std, args.quantiles or []))
            bar.update(len(part))
    return pd.concat(parts, ignore_index=True)


def _answer(estimator: Any, X: pd.DataFrame, std: bool, quantiles: list[float]) -> pd.DataFrame:
    if is_classifier(estimator):
        p = estimator.predict_proba(X)
        columns: dict[str, Any] = {"prediction": estimator.classes_[p.argmax(1)]}
        return pd.DataFrame(columns | {f"p({label})": p[:, k] for k, label in enumerate(estimator.classes_)})
    if not std and not quantiles:
        return pd.DataFrame({"prediction": estimator.predict(X)})
    posterior = estimator.predict_distribution(X)
    columns = {"prediction": posterior.mean} | ({"std": posterior.std} if std else {})
    return pd.DataFrame(columns | {f"q{q}": posterior.quantile([q])[:, 0] for q in quantiles})


def _score(estimator: Any, truth: pd.Series, predicted: pd.Series) -> None:
    truth = truth if is_classifier(estimator) else pd.to_numeric(truth, errors="coerce")
    known = truth.notna().to_numpy()
    if not known.any():
        return
    truth, predicted = _whole(truth[known].infer_objects()), predicted[known]
    if is_classifier(estimator):
        right = truth.map(str).to_numpy() == predicted.map(str).to_numpy()
        score = f"accuracy {np.mean(right):.4g}"
    else:
        error = truth.to_numpy(dtype=np.float64) - predicted.to_numpy()
        score = f"RMSE {np.sqrt(np.mean(error**2)):.4g}, mean absolute error {np.mean(np.abs(error)):.4g}"
    _say(f"{score} on {known.sum()} rows whose {truth.name!r} is known")


def _checked_names(option: str, names: list[str], frame: pd.DataFrame, path: str) -> list[str]:
    for name in names:
        if name not in frame.columns:
            raise ValueError(f"{option} {name} is no column of {path!r}, which has {', '.join(map(repr, frame.columns))}.")
    return names


def _check_finite(frame: pd.DataFrame, path: str) -> None:
    for name in frame.select_dtypes("number").columns:
        infinite = np.flatnonzero(np.isinf(frame[name].to_numpy(dtype=np.float64, na_value=np.nan)))
        if len(infinite):
            row = frame.index[infinite[0]] + 1
            raise ValueError(f"{path!r} has an infinite value in column {name!r}, row {row}; leave the cell empty instead.")


def _say(text: str) -> None:
    print(f"pfn predict: {text}", file=sys.stderr)
