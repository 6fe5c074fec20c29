"""TabR on the sets of tabr_data.py, beside boosters, pytabkit's TabR-S, and the PFN with local context.

All are at their library's defaults and see all training rows. "tabr" is the estimator as it comes, two networks;
"tabr-periodic" and "tabr-s" are its first and its second network alone: what `n_estimators=1` gives with and without
periodic embeddings, the latter with another seed. Categorical columns go in as the library wants them: pandas categories
for XGBoost, LightGBM and the PFN, `cat_features` for CatBoost, `cat_indicator` for pytabkit, `categorical_features` for
TabR; pandas' list of categories has those that only test rows have. pytabkit takes no missing numbers; it gets medians.

    python benchmarks/tabr.py                                             # boosters and TabR, what is not in --out yet
    python benchmarks/tabr.py --models pfn-local --sets phoneme nox --seeds 0
    pip install pytabkit==1.7.3 faiss-cpu pytorch-lightning skorch "scikit-learn<1.8"       # beside pfnkit, elsewhere
    python benchmarks/tabr.py --models pytabkit --sets abalone

From 1.8 on scikit-learn's imputer drops all columns that pytabkit's TabR marks missing values of, so it stops at categories.
RMSE is over the standard deviation of the test targets; seconds are of the clock. Sets of more than 15,000 rows have seed 0
only.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from real_data import read_results, write_results
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tabr_data import CACHE, SETS, load, split
from tqdm import tqdm

from estimators.datasets import Split, read_dataset
from estimators.metrics import Normal, classification_scores, regression_scores

BOOSTERS = ("xgboost", "lightgbm", "catboost")
MEMBERS = ("tabr-periodic", "tabr-s")
MODELS = ("tabr", *MEMBERS, *BOOSTERS, "pytabkit", "pfn-local")
LARGE = 15_000                       # rows; larger sets have one seed
SIGNS = {"accuracy": 1, "log_loss": -1, "auc": 1, "rmse": -1}


def as_categories(X: np.ndarray, counts: dict[int, int]) -> pd.DataFrame:
    """A frame with pandas categories 0 … count - 1 in the columns of `counts`."""
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    for column, count in counts.items():
        codes = np.where(np.isnan(X[:, column]), -1, X[:, column]).astype(int)
        frame[f"x{column}"] = pd.Categorical.from_codes(codes, categories=range(count))
    return frame


def as_integers(X: np.ndarray, categorical: np.ndarray) -> pd.DataFrame:
    """A frame with integers in the categorical columns, -1 where missing."""
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    for column in categorical:
        frame[f"x{column}"] = np.where(np.isnan(X[:, column]), -1, X[:, column]).astype(int)
    return frame


def n_categories(split: Split) -> dict[int, int]:
    """How many codes each categorical column has, in training and test rows."""
    X = np.concatenate([split.X, split.X_test])
    return {int(column): int(np.nanmax(X[:, column])) + 1 for column in split.categorical}


class PyTabKit:
    """TabR-S of pytabkit on the CPU or a GPU, at its defaults.

    Parameters
    ----------
    task : {"classification", "regression"}
    categorical : array of int
    n_threads : int
    device : str
    """

    def __init__(self, task: str, categorical: np.ndarray, n_threads: int, device: str = "cpu") -> None:
        kind = {"classification": "Classifier", "regression": "Regressor"}[task]
        estimator = getattr(import_module("pytabkit"), f"TabR_S_D_{kind}")
        self.model = estimator(random_state=0, n_threads=n_threads, device=device)
        self.categorical = categorical
        self.imputer = SimpleImputer(strategy="median")

    def fit(self, X: np.ndarray, y: np.ndarray) -> PyTabKit:
        is_categorical = np.isin(np.arange(X.shape[1]), self.categorical)
        self.model.fit(self._frame(X, self.imputer.fit(X)), y, cat_indicator=list(is_categorical))
        self.classes_ = getattr(self.model, "classes_", None)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict(self._frame(X, self.imputer))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(self._frame(X, self.imputer))

    def _frame(self, X: np.ndarray, imputer: SimpleImputer) -> pd.DataFrame:
        numbers = imputer.transform(X)
        numbers[:, self.categorical] = X[:, self.categorical]
        return as_integers(numbers, self.categorical)


def make_model(name: str, split: Split, threads: int = 2) -> Any:
    """An unfitted model for the rows of a split; `fit`, `predict`, and `predict_proba` of a classifier take its arrays.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    split : Split
    threads : int, default=2
        TabR and the PFN use PyTorch's own number.
    """
    kind = {"classification": "Classifier", "regression": "Regressor"}[split.task]
    if name == "tabr":
        estimator = getattr(import_module("estimators"), f"TabR{kind}")
        return estimator(categorical_features=list(split.categorical), random_state=0)
    if name == "pytabkit":
        return PyTabKit(split.task, split.categorical, threads)
    if name == "pfn-local":
        estimator = getattr(import_module("estimators"), f"PFN{kind}")(context="local", random_state=0)
        return with_frames(estimator, as_categories, counts=n_categories(split))
    if name == "xgboost":
        estimator = getattr(import_module("xgboost"), f"XGB{kind}")(random_state=0, n_jobs=threads, enable_categorical=True)
        return with_frames(estimator, as_categories, counts=n_categories(split))
    if name == "lightgbm":
        estimator = getattr(import_module("lightgbm"), f"LGBM{kind}")(random_state=0, n_jobs=threads, verbose=-1)
        return with_frames(estimator, as_categories, counts=n_categories(split))
    if name == "catboost":
        estimator = getattr(import_module("catboost"), f"CatBoost{kind}")(
            random_seed=0, thread_count=threads, verbose=False, allow_writing_files=False,
            cat_features=[f"x{column}" for column in split.categorical],
        )
        return with_frames(estimator, as_integers, categorical=split.categorical)
    raise ValueError(f"name={name!r} is not a model; the models are {', '.join(MODELS)}.")


def with_frames(estimator: Any, to_frame: Callable[..., pd.DataFrame], **arguments: Any) -> Any:
    return make_pipeline(FunctionTransformer(to_frame, kw_args=arguments), estimator)


def fit_and_score(model: Any, split: Split) -> dict[str, float]:
    """Fit on the training rows, predict the test rows once.

    Returns
    -------
    dict
        `accuracy`, `log_loss` in nats, `auc` and `ece`, or `rmse` over the standard deviation of the test targets and `r2`;
        `seconds_fit` and `seconds_predict` of the clock.
    """
    begun = time.perf_counter()
    model.fit(split.X, split.y)
    fitted = time.perf_counter()
    predicted = model.predict_proba(split.X_test) if split.task == "classification" else model.predict(split.X_test)
    done = time.perf_counter()
    return scores_of(model, split, predicted) | {
        "seconds_fit": round(fitted - begun, 2), "seconds_predict": round(done - fitted, 2)}


def scores_of(model: Any, split: Split, predicted: np.ndarray) -> dict[str, float]:
    """The scores in what `fit_and_score` returns."""
    if split.task == "classification":
        # A rare class may have no training row.
        probabilities = np.zeros((len(predicted), max(split.y.max(), split.y_test.max()) + 1))
        probabilities[:, np.asarray(model.classes_, dtype=int)] = predicted
        return classification_scores(split.y_test, probabilities)
    normal = Normal(np.ravel(predicted).astype(np.float64), 1.0)
    rmse = regression_scores(split.y_test, normal, float(split.y.std()))["rmse"]
    return {"rmse": rmse, "r2": 1 - rmse**2}


def members(model: Any, split: Split) -> dict[str, dict[str, float]]:
    """Scores of each network of a fitted "tabr"."""
    found = {}
    for name, network, seconds in zip(MEMBERS, model._networks, model.fit_times_, strict=True):
        alone = copy.copy(model)
        alone._networks, alone._kept = [network], {}
        begun = time.perf_counter()
        predicted = alone.predict_proba(split.X_test) if split.task == "classification" else alone.predict(split.X_test)
        found[name] = scores_of(alone, split, predicted) | {
            "seconds_fit": round(seconds, 2), "seconds_predict": round(time.perf_counter() - begun, 2)}
    return found


def compute(args: argparse.Namespace) -> dict[str, Any]:
    """Fill `args.out` with whatever is asked for and not there yet; written after every result."""
    out = Path(args.out)
    results = read_results(out)
    for source in tqdm(args.files or args.sets, disable=None):
        dataset = read_dataset(source) if args.files else load(source, args.cache)
        name = dataset.name
        for seed in args.seeds if len(dataset.X) <= LARGE else args.seeds[:1]:
            rows = split(dataset, seed)
            for model in args.models:
                key = f"{name}/{seed}/{model}"
                if key in results["rows"]:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    estimator = make_model(model, rows, args.threads)
                    results["rows"][key] = fit_and_score(estimator, rows)
                    if model == "tabr":
                        found = members(estimator, rows)
                        results["rows"] |= {f"{name}/{seed}/{member}": scores for member, scores in found.items()}
                write_results(out, results, {model}, where=f", {args.threads} thread{'s' * (args.threads > 1)}")
    return results


def table(rows: dict[str, dict[str, float]], models: list[str], classification: str = "accuracy") -> str:
    """Markdown: means over seeds of each set with the seconds of fit and predict in brackets; below, mean ranks.

    Parameters
    ----------
    rows : dict
        Scores by "set/seed/model".
    models : list of str
    classification : {"accuracy", "log_loss", "auc"}
        What classifiers are judged by; regressors are by `rmse`.
    """
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples([key.split("/") for key in rows], names=["set", "seed", "model"])
    mean = frame.groupby(["set", "model"]).mean()
    lines = [f"| set | metric | {' | '.join(models)} |", "|" + "---|" * (len(models) + 2)]
    ranks: dict[str, list[pd.Series]] = {"numeric": [], "all": []}
    others = [name for name in mean.index.unique("set") if name not in SETS]
    for name in (*SETS, *others):
        here = [model for model in models if (name, model) in mean.index]
        if not here:
            continue
        part = mean.loc[name].reindex(models)
        metric = classification if "accuracy" in part and part["accuracy"].notna().any() else "rmse"
        seconds = part["seconds_fit"] + part["seconds_predict"]
        cells = [f"{part[metric][model]:.4f} ({seconds[model]:.0f} s)" if model in here else "–" for model in models]
        lines.append(f"| {name} | {metric} | {' | '.join(cells)} |")
        if len(here) == len(models):
            rank = part[metric].rank(ascending=SIGNS[metric] < 0)
            ranks["all"].append(rank)
            if name in SETS and SETS[name].numeric:
                ranks["numeric"].append(rank)
    for kind, ranked in ranks.items():
        if ranked:
            average = pd.concat(ranked, axis=1).mean(axis=1)
            cells = [f"{average[model]:.2f}" for model in models]
            lines.append(f"| {len(ranked)} set{'s' * (len(ranked) > 1)}, {kind} | mean rank | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the downloaded packages")
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "tabr.json"))
    parser.add_argument("--models", nargs="+", choices=[m for m in MODELS if m not in MEMBERS], default=["tabr", *BOOSTERS])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--files", nargs="+", type=Path, metavar="FILE.npz", help="tables to read in place of these sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--metric", choices=("accuracy", "log_loss", "auc"), default="accuracy", help="of classifiers")
    args = parser.parse_args()
    shown = [*args.models, *(MEMBERS if "tabr" in args.models else ())]
    print(table(compute(args)["rows"], shown, args.metric))


if __name__ == "__main__":
    main()
