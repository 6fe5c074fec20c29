"""Real learning curves for the benchmarks: scikit-learn models trained on real tables, and Task Set's text classifiers.

    OMP_NUM_THREADS=1 python benchmarks/curve_data.py --make [--taskset FILE] [--only NAME ...]

trains anew and writes data/curves/*.npz, one file a task. Task Set's need FILE, `taskset_imdb_rnn.npz` (its source is in
data/curves/README.md): arrays `loss_K` and `hyperparameters_K` of the K-th task and `hyperparameter_names`.
Everything else only reads them: `load` and `all_sets`.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

FOLDER = Path(__file__).resolve().parent / "data" / "curves"
METRICS = {"accuracy": (False, (0.0, 1.0)), "log_loss": (True, (0.0, math.inf)), "mse": (True, (0.0, math.inf))}
# A design that was chosen by looking at curves may use those of the first only. The halves share no table, but that all of
# Task Set's runs classify the same texts.
DEVELOPMENT = (
    "mlp-digits", "mlp-spambase", "sgd-digits", "sgd-spambase", "boosting-digits", "boosting-spambase",
    "taskset-lstm", "taskset-irnn",
)
HELD_OUT = (
    "mlp-breast_cancer", "mlp-satimage", "mlp-diabetes", "sgd-satimage", "sgd-waveform", "boosting-breast_cancer",
    "boosting-waveform", "taskset-lstm32", "taskset-vrnn",
)
TASKSET = {"taskset-lstm": 0, "taskset-irnn": 1, "taskset-lstm32": 2, "taskset-vrnn": 3}
LARGEST_LOSS = 1e6                    # a run beyond it has diverged


@dataclass(frozen=True)
class CurveSet:
    """Curves of one metric of one task, a row each.

    Parameters
    ----------
    name : str
        "task/metric".
    metric : str
    minimize : bool
    bounds : (float, float)
        What the metric can be.
    steps : array of shape (m,)
        1 … m.
    values : array of shape (n, m), float64
        NaN from where a run diverged.
    hyperparameters : array of shape (n, p)
        In coordinates in which they were drawn (nearly) uniformly, as their names say.
    names : tuple of str
        Of the hyper-parameters.
    """

    name: str
    metric: str
    minimize: bool
    bounds: tuple[float, float]
    steps: np.ndarray
    values: np.ndarray
    hyperparameters: np.ndarray
    names: tuple[str, ...]

    @property
    def is_development(self) -> bool:
        return self.name.split("/")[0] in DEVELOPMENT

    def complete(self) -> np.ndarray:
        """Which curves (n,) have a value at every step."""
        return np.isfinite(self.values).all(axis=1)


def load(name: str) -> CurveSet:
    """The set "task/metric", for example "mlp-digits/accuracy"."""
    task, _, metric = name.partition("/")
    path = FOLDER / f"{task}.npz"
    if not path.exists():
        raise ValueError(f"name={name!r}: there is no {path.name}; the tasks are {', '.join(DEVELOPMENT + HELD_OUT)}.")
    with np.load(path, allow_pickle=False) as data:
        if metric not in data.files or metric not in METRICS:
            known = [metric for metric in METRICS if metric in data.files]
            raise ValueError(f"name={name!r}: {task} has no metric {metric!r}, but {', '.join(known)}.")
        values = data[metric].astype(np.float64)
        minimize, bounds = METRICS[metric]
        return CurveSet(name, metric, minimize, bounds, np.arange(1.0, values.shape[1] + 1), values,
                        data["hyperparameters"].astype(np.float64), tuple(map(str, data["hyperparameter_names"])))


def all_sets(part: str = "all") -> list[CurveSet]:
    """Every set of a part: "development", "held out" or "all"."""
    tasks = {"development": DEVELOPMENT, "held out": HELD_OUT, "all": DEVELOPMENT + HELD_OUT}[part]
    sets = []
    for task in tasks:
        with np.load(FOLDER / f"{task}.npz", allow_pickle=False) as data:
            metrics = [metric for metric in METRICS if metric in data.files]
        sets += [load(f"{task}/{metric}") for metric in metrics]
    return sets


# Making them

Configuration = dict[str, float]
Table = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]        # X, y of training; X, y of validation


def table(name: str) -> Table:
    """At most 1000 rows for training and 1000 for validation; features standardised by the former."""
    builtin = {"digits": load_digits, "breast_cancer": load_breast_cancer, "diabetes": load_diabetes}
    if name in builtin:
        X, y = builtin[name](return_X_y=True)
    else:
        (path,) = (FOLDER.parent / "classification").glob(f"*_{name}.npz")
        with np.load(path, allow_pickle=False) as data:
            X, y = data["X"], np.unique(data["y"], return_inverse=True)[1]
    size = min(1000, len(X) // 2)
    stratify = None if name == "diabetes" else y
    X, X_valid, y, y_valid = train_test_split(X, y, train_size=size, test_size=size, random_state=0, stratify=stratify)
    scaler = StandardScaler().fit(X)
    if name == "diabetes":
        mean, std = y.mean(), y.std()
        y, y_valid = (y - mean) / std, (y_valid - mean) / std
    return scaler.transform(X), y, scaler.transform(X_valid), y_valid


def uniform(rng: np.random.Generator, **ranges: tuple[float, float]) -> Configuration:
    return {name: float(rng.uniform(*ends)) for name, ends in ranges.items()}


def mlp(rng: np.random.Generator, table: Table, seed: int) -> tuple[Configuration, Iterator[np.ndarray]]:
    drawn = uniform(rng, log10_learning_rate=(-4, -1), log2_width=(3, 8), log10_alpha=(-6, 0), log2_batch_size=(4, 8))
    drawn |= {"n_layers": float(rng.integers(1, 3)), "adam": float(rng.integers(2))}
    is_regression = not np.issubdtype(table[1].dtype, np.integer)
    model = (MLPRegressor if is_regression else MLPClassifier)(
        hidden_layer_sizes=(round(2 ** drawn["log2_width"]),) * int(drawn["n_layers"]),
        solver="adam" if drawn["adam"] else "sgd",
        # Plain gradient descent wants about ten times the rate.
        learning_rate_init=10 ** (drawn["log10_learning_rate"] + (0 if drawn["adam"] else 1)),
        alpha=10 ** drawn["log10_alpha"], batch_size=round(2 ** drawn["log2_batch_size"]), random_state=seed,
    )
    return drawn, epochs(model, table, is_regression)


def sgd(rng: np.random.Generator, table: Table, seed: int) -> tuple[Configuration, Iterator[np.ndarray]]:
    drawn = uniform(rng, log10_eta0=(-4.5, 0.5), log10_alpha=(-6, -1), power_t=(0.05, 0.6))
    drawn |= {"decays": float(rng.integers(2)), "l1_ratio": float(rng.choice([0.0, 0.15, 0.5]))}
    model = SGDClassifier(
        loss="log_loss", penalty="elasticnet", l1_ratio=drawn["l1_ratio"], alpha=10 ** drawn["log10_alpha"],
        learning_rate="invscaling" if drawn["decays"] else "constant", eta0=10 ** drawn["log10_eta0"],
        power_t=drawn["power_t"], random_state=seed,
    )
    return drawn, epochs(model, table, is_regression=False)


def boosting(rng: np.random.Generator, table: Table, seed: int) -> tuple[Configuration, Iterator[np.ndarray]]:
    drawn = uniform(rng, log10_learning_rate=(-2.5, 0.2), subsample=(0.2, 1.0), max_features=(0.05, 0.5),
                    log2_min_samples_leaf=(0, 5))
    drawn |= {"max_depth": float(rng.integers(1, 6))}
    model = GradientBoostingClassifier(
        learning_rate=10 ** drawn["log10_learning_rate"], n_estimators=150, subsample=drawn["subsample"],
        max_depth=int(drawn["max_depth"]), max_features=drawn["max_features"],
        min_samples_leaf=round(2 ** drawn["log2_min_samples_leaf"]), random_state=seed,
    )
    return drawn, model.fit(table[0], table[1]).staged_predict_proba(table[2])


def epochs(model: MLPClassifier | MLPRegressor | SGDClassifier, table: Table, is_regression: bool) -> Iterator[np.ndarray]:
    """What a model predicts for the validation rows after each epoch, until it diverges."""
    X, y, X_valid, _ = table
    rng = np.random.default_rng(model.random_state)
    while True:
        order = rng.permutation(len(X))
        try:
            if is_regression:
                yield model.partial_fit(X[order], y[order]).predict(X_valid)
            else:
                yield model.partial_fit(X[order], y[order], classes=np.unique(y)).predict_proba(X_valid)
        except ValueError as error:
            if not any(word in str(error) for word in ("finite", "overflow", "NaN")):
                raise
            return                                                           # weights have overflowed


# Algorithm: how it is drawn and run, steps, configurations.
Algorithm = Callable[[np.random.Generator, Table, int], tuple[Configuration, Iterator[np.ndarray]]]
ALGORITHMS: dict[str, tuple[Algorithm, int, int]] = {
    "mlp": (mlp, 100, 80), "sgd": (sgd, 60, 100), "boosting": (boosting, 150, 60),
}


def scores(predictions: Iterable[np.ndarray], y: np.ndarray, n_steps: int) -> dict[str, np.ndarray]:
    """Metrics (n_steps,) after each step; NaN from the first that is not finite or too large."""
    rows: dict[str, np.ndarray] = {}
    for step, p in zip(range(n_steps), predictions, strict=False):
        if not np.isfinite(p).all():
            break
        if p.ndim == 1:
            row = {"mse": float(np.mean((p - y) ** 2))}
        else:
            row = {"accuracy": accuracy_score(y, p.argmax(1)), "log_loss": log_loss(y, p, labels=range(p.shape[1]))}
        if max(row.values()) > LARGEST_LOSS:
            break
        for name, value in row.items():
            rows.setdefault(name, np.full(n_steps, math.nan))[step] = value
    return rows


def make(task: str) -> dict[str, np.ndarray]:
    algorithm, name = task.split("-")
    start, n_steps, n_curves = ALGORITHMS[algorithm]
    data, runs = table(name), []
    for index in range(n_curves):
        seed = 1000 * (DEVELOPMENT + HELD_OUT).index(task) + index
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")                                  # runs that diverge are wanted, as they occur
            drawn, predictions = start(np.random.default_rng(seed), data, seed)
            runs.append((seed, drawn, scores(predictions, data[3], n_steps)))
    metrics = max((set(rows) for _, _, rows in runs), key=len)
    nothing = np.full(n_steps, math.nan)
    return {
        metric: np.array([rows.get(metric, nothing) for _, _, rows in runs], dtype=np.float32) for metric in sorted(metrics)
    } | {
        "hyperparameters": np.array([list(drawn.values()) for _, drawn, _ in runs], dtype=np.float32),
        "hyperparameter_names": np.array(list(runs[0][1])), "seeds": np.array([seed for seed, _, _ in runs]),
    }


def copy_taskset(task: str, file: Path) -> dict[str, np.ndarray]:
    """From a file of Task Set's curves, with hyper-parameters in logarithms, of 1 - β for the two momenta."""
    with np.load(file, allow_pickle=False) as data:
        index = TASKSET[task]
        values, raw = data[f"loss_{index}"], data[f"hyperparameters_{index}"].astype(np.float64)
        names = [str(name) for name in data["hyperparameter_names"]]
    is_beta = np.array([name.startswith("beta") for name in names])
    labels = [f"log10_one_minus_{name}" if beta else f"log10_{name}" for name, beta in zip(names, is_beta, strict=True)]
    diverged = np.maximum.accumulate(~(values <= LARGEST_LOSS), axis=1)      # ~ as NaN has diverged too
    return {
        "log_loss": np.where(diverged, np.float32(math.nan), values),
        "hyperparameters": np.log10(np.where(is_beta, 1 - raw, raw)).astype(np.float32),
        "hyperparameter_names": np.array(labels), "seeds": np.arange(len(values)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", action="store_true", required=True)
    parser.add_argument("--taskset", type=Path, metavar="FILE", help="needed for the taskset-* files only")
    parser.add_argument("--only", nargs="+", default=DEVELOPMENT + HELD_OUT, metavar="NAME")
    args = parser.parse_args()
    if args.taskset is None and not TASKSET.keys().isdisjoint(args.only):
        parser.error("the taskset-* files need --taskset FILE; or name others by --only.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for task in args.only:
        start = time.process_time()
        arrays = copy_taskset(task, args.taskset) if task in TASKSET else make(task)
        np.savez_compressed(FOLDER / f"{task}.npz", **arrays)
        ends = {name: np.nanquantile(arrays[name][:, -1], [0, 0.5, 1]).round(3) for name in METRICS if name in arrays}
        print(f"{task}: {time.process_time() - start:.0f} s, last values {ends}", flush=True)


if __name__ == "__main__":
    main()
