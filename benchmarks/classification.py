"""Real-data classification: PFNClassifier beside five baselines at their defaults, paired over datasets.

Protocol (benchmarks/data/README.md): 50/50 stratified split, at most 1000 training rows, at most 10 classes; ROC AUC
one-versus-one (macro), log loss, accuracy, expected calibration error (15 bins). Every model gets the same matrix, in
which categories are integer codes and gaps are NaN (imputed for the two models that need it); logistic regression gets
the categories one-hot. Results are kept per dataset, seed and model, so a run only computes what is missing:

    python benchmarks/classification.py                             # print the table; compute what is not there
    python benchmarks/classification.py --models pfn --redo         # after a change of the weights
    python benchmarks/classification.py --models pfn --checkpoint trunk.safetensors --out /tmp/trunk.json
"""

from __future__ import annotations

from pathlib import Path

from real_data import MAX_CLASSES, Models, common_models, main

from estimators.datasets import Split, read_dataset, split_dataset
from estimators.evaluation import baseline_models

NAMES = {"pfn": "PFNClassifier", "catboost": "CatBoost", "lightgbm": "LightGBM", "xgboost": "XGBoost",
         "forest": "random forest", "logistic": "logistic regression"}


def load(path: Path, seed: int) -> Split | None:
    """The split of a dataset; None if it has too many classes."""
    dataset = read_dataset(path)
    return split_dataset(dataset, seed) if dataset.n_classes <= MAX_CLASSES else None


MODELS: Models = {
    **common_models("classification"),
    "logistic": lambda split, _: baseline_models("classification", split.categorical)["logistic"],
}

if __name__ == "__main__":
    main(__doc__, "classification", MODELS, NAMES, checkpoint="classifier")
