"""Real-data classification: PFNClassifier beside five baselines at their defaults, paired over datasets.

Protocol (../shared/data/README.md): 50/50 stratified split, at most 1000 training rows, at most 10 classes; ROC AUC
one-versus-one (macro), log loss, accuracy, expected calibration error (15 bins). Every model gets the same matrix, in
which categories are integer codes and gaps are NaN (imputed for the two models that need it); logistic regression gets
the categories one-hot. Results are kept per dataset, seed and model, so a run only computes what is missing:

    python benchmarks/classification.py                             # print the table; compute what is not there
    python benchmarks/classification.py --models pfn --redo         # after a change of the weights
    python benchmarks/classification.py --models pfn --checkpoint trunk.safetensors --out /tmp/trunk.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from real_data import MAX_CLASSES, Models, main

from estimators.datasets import Split, read_dataset, split_dataset
from estimators.evaluation import baseline_models

NAMES = {"pfn": "PFNClassifier", "catboost": "CatBoost", "lightgbm": "LightGBM", "xgboost": "XGBoost",
         "forest": "random forest", "logistic": "logistic regression"}


def load(path: Path, seed: int) -> Split | None:
    """The split of a dataset; None if it has too many classes."""
    dataset = read_dataset(path)
    return split_dataset(dataset, seed) if dataset.n_classes <= MAX_CLASSES else None


def _pfn(split: Split, args: argparse.Namespace) -> Any:
    from estimators import PFNClassifier

    return PFNClassifier(model=args.checkpoint, random_state=0)


def _catboost(split: Split, _: argparse.Namespace) -> Any:
    from catboost import CatBoostClassifier

    return CatBoostClassifier(random_seed=0, verbose=False, thread_count=1, allow_writing_files=False)


def _lightgbm(split: Split, _: argparse.Namespace) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(random_state=0, verbose=-1, n_jobs=1)


def _xgboost(split: Split, _: argparse.Namespace) -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(random_state=0, n_jobs=1)


MODELS: Models = {
    "pfn": _pfn,
    "catboost": _catboost,
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
    "forest": lambda split, _: baseline_models("classification", split.categorical)["forest"],
    "logistic": lambda split, _: baseline_models("classification", split.categorical)["logistic"],
}

if __name__ == "__main__":
    main(__doc__, "classification", MODELS, NAMES, checkpoint="classifier")
