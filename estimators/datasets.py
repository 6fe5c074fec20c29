"""Real tables to judge networks on: .npz files, the sets that scikit-learn brings along, and their splits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn.datasets
from sklearn.model_selection import train_test_split


@dataclass(frozen=True)
class Dataset:
    """A table of numbers X (n, f), NaN where missing, with targets y (n,) and the columns that hold category codes."""

    name: str
    task: str
    X: np.ndarray
    y: np.ndarray
    categorical: np.ndarray

    @property
    def n_classes(self) -> int:
        return int(self.y.max()) + 1 if self.task == "classification" else 0


@dataclass(frozen=True)
class Split:
    """Training and test rows of a dataset."""

    task: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    categorical: np.ndarray


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read a .npz file: `X` (n, f), `y` (n,), `task` ("classification" or "regression"), optionally `cat_idx`.

    Labels of classes can be of any type that NumPy stores without pickling; they become 0 … K-1 in sorted order.

    Raises
    ------
    ValueError
        If an array is missing, or `X` and `y` do not fit together.
    """
    with np.load(path, allow_pickle=False) as data:
        missing = {"X", "y", "task"} - set(data.files)
        if missing:
            raise ValueError(f"{os.fspath(path)!r} has no array {min(missing)!r}; save it with "
                             "np.savez(path, X=X, y=y, task='classification' or 'regression', cat_idx=[…]).")
        X, y, task = data["X"], data["y"], str(data["task"])
        categorical = data["cat_idx"] if "cat_idx" in data.files else np.empty(0, dtype=np.int64)
    if task not in ("classification", "regression"):
        raise ValueError(f"{os.fspath(path)!r} has task={task!r}; use 'classification' or 'regression'.")
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"{os.fspath(path)!r} has X of shape {X.shape} and y of shape {y.shape}; save (n, f) and (n,).")
    y = np.unique(y, return_inverse=True)[1] if task == "classification" else y.astype(np.float64)
    return Dataset(Path(path).stem, task, X, y, categorical)


def read_datasets(data: str | os.PathLike[str]) -> list[Dataset]:
    """All .npz files of a folder, by name; see `read_dataset`."""
    files = sorted(Path(data).glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"no .npz files in data={os.fspath(data)!r}; give a folder of datasets.")
    return [read_dataset(file) for file in files]


def bundled_datasets(task: str) -> list[Dataset]:
    """The real datasets that come with scikit-learn: four to classify, one for regression."""
    names = {"classification": ("iris", "wine", "breast_cancer", "digits"), "regression": ("diabetes",)}[task]
    tables = {name: getattr(sklearn.datasets, f"load_{name}")(return_X_y=True) for name in names}
    return [Dataset(name, task, X, y, np.empty(0, dtype=np.int64)) for name, (X, y) in tables.items()]


def split_dataset(dataset: Dataset, seed: int, max_train: int = 1000) -> Split:
    """Random halves, stratified by class; of the training half at most `max_train` rows are kept.

    Raises
    ------
    ValueError
        If a class has too few rows to be in both halves, or the training targets are constant.
    """
    X, y = dataset.X, dataset.y
    labels = y if dataset.task == "classification" else None
    try:
        train, test = train_test_split(np.arange(len(y)), test_size=0.5, random_state=seed, stratify=labels)
        if len(train) > max_train:
            labels = None if labels is None else labels[train]
            train, _ = train_test_split(train, train_size=max_train, random_state=seed, stratify=labels)
    except ValueError as error:
        raise ValueError(f"dataset {dataset.name!r} cannot be split with max_train={max_train}: {error}") from error
    if len(np.unique(y[train])) < 2:
        raise ValueError(f"dataset {dataset.name!r} has the same y in all {len(train)} training rows; leave it out.")
    return Split(dataset.task, X[train], y[train], X[test], y[test], dataset.categorical)
