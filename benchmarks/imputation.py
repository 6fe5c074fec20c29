"""Missing values of real tables: 20 % of the cells hidden at random, or the large ones more often, and imputed.

    OMP_NUM_THREADS=1 python benchmarks/imputation.py [--data DIR] [--out FILE] [--models pfn iterative …] [--seeds 0 1]

Tables keep at most 300 random rows; the columns of their targets are left out. Under "mcar" every cell is hidden with
probability 0.2, under "mnar" with 0.4 × the relative rank of its value in the column. `rmse` is over the hidden numbers,
in units of the columns' standard deviations; `accuracy` over the hidden categories. Each imputer fits and transforms
the same table. Results are kept by "dataset/mechanism/seed/imputer"; what is there already is not computed again.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from real_data import read_results, write_results
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from estimators.datasets import Dataset, read_dataset
from estimators.imputer import PFNImputer

SETS = (
    "regression/00_diabetes-progression", "regression/02_puma8NH", "regression/03_stock", "regression/04_bodyfat",
    "regression/05_autohorse", "regression/10_strike", "regression/13_machine-cpu", "regression/17_space-ga",
    "regression/18_wind", "regression/20_pm10", "regression/27_hitters", "regression/28_carseats",
    "regression/33_windsor-houses", "classification/01_wine", "classification/12_saheart",
    "classification/23_vertebral-column", "classification/25_ecoli", "classification/26_glass",
    "classification/27_heart-cleveland", "classification/52_penguins",
)
MECHANISMS = ("mcar", "mnar")
KEYS = ("dataset", "mechanism", "seed", "model")
MAX_ROWS, MAX_CATEGORIES = 300, 10


def scaled(imputer: Any, x: np.ndarray, categorical: list[int]) -> np.ndarray:
    """Standardise, impute, and take the imputed codes of categories to the nearest that occurs."""
    scaler = StandardScaler().fit(x)
    filled = scaler.inverse_transform(imputer.fit_transform(scaler.transform(x)))
    for j in categorical:
        codes = np.unique(x[~np.isnan(x[:, j]), j])
        filled[:, j] = codes[np.abs(filled[:, [j]] - codes).argmin(1)]
    return filled


def most_frequent(x: np.ndarray, categorical: list[int]) -> np.ndarray:
    filled = SimpleImputer().fit_transform(x)
    filled[:, categorical] = SimpleImputer(strategy="most_frequent").fit_transform(x)[:, categorical]
    return filled


def forest() -> Any:
    """Close to missForest, with 20 trees and three rounds."""
    return IterativeImputer(ExtraTreesRegressor(20, random_state=0), max_iter=3, random_state=0)


MODELS = {
    "pfn": lambda x, categorical: PFNImputer(categorical_features=categorical, random_state=0).fit_transform(x),
    "pfn, one pass": lambda x, c: PFNImputer(categorical_features=c, n_passes=1, random_state=0).fit_transform(x),
    "iterative": lambda x, categorical: scaled(IterativeImputer(random_state=0), x, categorical),
    "forest": lambda x, categorical: scaled(forest(), x, categorical),
    "knn": lambda x, categorical: scaled(KNNImputer(), x, categorical),
    "mean": most_frequent,
}


def hidden(dataset: Dataset, mechanism: str, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A sample of rows, which of its cells to hide, and the columns of categories; constant columns are left out."""
    rng = np.random.default_rng([seed, MECHANISMS.index(mechanism)])
    x = dataset.X[rng.permutation(len(dataset.X))[:MAX_ROWS]].astype(np.float64)
    levels = np.array([len(np.unique(column[~np.isnan(column)])) for column in x.T])
    categorical = np.isin(np.arange(x.shape[1]), dataset.categorical)
    keep = (levels > 1) & ~(categorical & (levels > MAX_CATEGORIES))
    x = x[:, keep]
    rank = pd.DataFrame(x).rank(pct=True).fillna(0).to_numpy()
    probability = np.full(x.shape, 0.2) if mechanism == "mcar" else 0.4 * rank
    hide = (rng.random(x.shape) < probability) & ~np.isnan(x)
    return x, hide, np.flatnonzero(categorical[keep]).tolist()


def score(x: np.ndarray, hide: np.ndarray, categorical: list[int], filled: np.ndarray) -> dict[str, float]:
    """Of the hidden cells."""
    is_category = np.isin(np.arange(x.shape[1]), categorical)
    scores = {}
    numbers, categories = hide & ~is_category, hide & is_category
    if numbers.any():
        scores["rmse"] = float(np.sqrt(np.mean(((filled - x) / np.nanstd(x, axis=0))[numbers] ** 2)))
    if categories.any():
        scores["accuracy"] = float(np.mean((filled == x)[categories]))
    return scores


def summary(rows: dict[str, dict[str, float]]) -> str:
    """A table for each mechanism: means, mean ranks, and the datasets in which the PFN is better, equal, worse."""
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples([key.split("/") for key in rows], names=KEYS)
    mean = frame.groupby(["mechanism", "dataset", "model"]).mean()
    lines = []
    for mechanism in MECHANISMS:
        for metric, sign in (("rmse", -1), ("accuracy", 1)):
            if metric not in mean:                                  # no column with categories
                continue
            table = mean.loc[mechanism][metric].unstack().dropna(how="all")
            table = table[[model for model in MODELS if model in table]].dropna()
            rank = (-sign * table).rank(axis=1).mean()
            lines += ["", f"{mechanism}, {metric}, {len(table)} datasets", "",
                      "| imputer | mean | mean rank | PFN wins, ties, losses |", "|---|---|---|---|"]
            for model in table:
                gain = np.sign(sign * (table["pfn"] - table[model]))
                versus = "–" if model == "pfn" else " ".join(str((gain == value).sum()) for value in (1, 0, -1))
                lines.append(f"| {model} | {table[model].mean():.4f} | {rank[model]:.2f} | {versus} |")
    return "\n".join(lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--data", default=str(here / "data"))
    parser.add_argument("--out", default=str(here / "results" / "imputation.json"))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="all by default")
    parser.add_argument("--redo", action="store_true", help="compute again what is there already")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(args.out)
    results = read_results(out)
    for name in tqdm(args.sets, disable=None):
        dataset = read_dataset(Path(args.data) / f"{name}.npz")
        done = set()
        for mechanism in MECHANISMS:
            for seed in args.seeds:
                x, hide, categorical = hidden(dataset, mechanism, seed)
                for model in args.models:
                    key = f"{dataset.name}/{mechanism}/{seed}/{model}"
                    if key in results["rows"] and not args.redo:
                        continue
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")             # the iterative imputer need not have converged
                        filled = MODELS[model](np.where(hide, np.nan, x), categorical)
                    results["rows"][key] = score(x, hide, categorical, filled)
                    done.add(model)
        if done:
            write_results(out, results, done)
    print(summary(results["rows"]))


if __name__ == "__main__":
    main()
