"""`make demo`: the bundled networks on real datasets beside baselines, a model tuned, and pictures of what they believe.

Needs no network and no data beyond scikit-learn's. Writes demo-output/decision_regions.png and predictive_intervals.png.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from optuna.distributions import FloatDistribution
from scipy.stats import loguniform
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_moons
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import RandomizedSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from estimators import PFNClassifier, PFNRegressor
from estimators.datasets import Dataset, split_dataset
from estimators.evaluation import baseline_models, fit_and_score
from estimators.search import PFNSearchCV

OUTPUT = Path("demo-output")
SETS = {"breast cancer": load_breast_cancer, "wine": load_wine, "iris": load_iris, "digits": load_digits}


def models() -> dict[str, ClassifierMixin]:
    return {
        "PFNClassifier": PFNClassifier(random_state=0),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "random forest": RandomForestClassifier(random_state=0),
        "gradient boosting": HistGradientBoostingClassifier(random_state=0),
    }


def compare() -> str:
    """Table of ROC AUC, log loss and seconds; half of each dataset, at most 500 rows, is for fitting."""
    rows = []
    for name, load in tqdm(SETS.items(), disable=None):
        X, X_test, y, y_test = _split(*load(return_X_y=True))
        for model_name, model in models().items():
            begun = time.perf_counter()
            p = model.fit(X, y).predict_proba(X_test)
            seconds = time.perf_counter() - begun
            auc = roc_auc_score(y_test, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(y_test, p, multi_class="ovo")
            rows.append((name, f"{len(X)} × {X.shape[1]}", model_name, auc, log_loss(y_test, p), seconds))
    lines = [f"{'dataset':<15}{'fitted on':<12}{'model':<21}{'ROC AUC':>9}{'log loss':>10}{'seconds':>9}"]
    for position, (name, size, model_name, auc, loss, seconds) in enumerate(rows):
        first = position % len(models()) == 0
        where = f"{name:<15}{size:<12}" if first else " " * 27
        lines.append(f"{where}{model_name:<21}{auc:>9.4f}{loss:>10.4f}{seconds:>9.2f}")
    return "\n".join(lines)


def _split(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    half = min(500, len(y) // 2)
    return train_test_split(X, y, train_size=half, test_size=half, random_state=0, stratify=y)


def compare_densities() -> str:
    """Table of RMSE/std, negative log-likelihood and coverage of the 90 % interval on scikit-learn's diabetes data."""
    split = split_dataset(Dataset("diabetes", "regression", *load_diabetes(return_X_y=True), np.empty(0, dtype=int)), seed=0)
    lines = [f"{'diabetes, 221 × 10':<27}{'model':<21}{'RMSE/std':>9}{'NLL':>10}{'in 90 %':>9}"]
    names = {"ridge": "ridge", "forest": "random forest"}
    found = {"PFNRegressor": PFNRegressor(random_state=0)}
    found |= {names[name]: model for name, model in baseline_models("regression", split.categorical).items()}
    for name, model in found.items():
        score = fit_and_score(model, split)
        lines.append(f"{'':<27}{name:<21}{score['rmse']:>9.4f}{score['nll']:>10.4f}{score['coverage']:>9.2f}")
    return "\n".join(lines)


def intervals(path: Path) -> None:
    """Median, half and nine tenths of the mass of two posteriors over a line: noise that grows, and a step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 10, 80))
    examples = [("noise that grows", np.sin(x) + (0.02 + 0.06 * x) * rng.normal(size=80)),
                ("a step", np.where(x > 4, 2.0, 0.0) + 0.1 * rng.normal(size=80))]
    grid = np.linspace(-1, 11, 241)
    kernel = ConstantKernel() * RBF() + WhiteKernel()
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex=True)
    for column, (title, y) in zip(axes.T, examples, strict=True):
        bands = PFNRegressor(random_state=0).fit(x[:, None], y).predict(
            grid[:, None], quantiles=[0.05, 0.25, 0.5, 0.75, 0.95])
        mean, std = GaussianProcessRegressor(kernel, normalize_y=True).fit(x[:, None], y).predict(
            grid[:, None], return_std=True)
        gaussian = mean[:, None] + std[:, None] * np.array([-1.645, -0.674, 0.0, 0.674, 1.645])
        for axis, name, q in zip(column, ("PFNRegressor", "Gaussian process"), (bands, gaussian), strict=True):
            axis.fill_between(grid, q[:, 0], q[:, 4], color="C0", alpha=0.2, linewidth=0)
            axis.fill_between(grid, q[:, 1], q[:, 3], color="C0", alpha=0.35, linewidth=0)
            axis.plot(grid, q[:, 2], color="C0")
            axis.plot(x, y, "k.", markersize=4)
            axis.set_title(f"{name}: {title}")
    figure.suptitle("Median, and intervals of 50 and 90 %")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def picture(path: Path) -> None:
    """Probabilities over the plane for two moons and for two measures of iris, 60 rows each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    iris = load_iris()
    examples = [
        ("two moons, 60 rows", *make_moons(60, noise=0.25, random_state=0), ("x₁", "x₂")),
        ("iris petals, 50 rows", iris.data[::3, 2:], iris.target[::3], tuple(iris.feature_names[2:])),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(10, 8.4), layout="constrained")
    colours = np.array(matplotlib.colormaps["tab10"].colors[:3])
    for column, (title, X, y, labels) in zip(axes.T, examples, strict=True):
        low, high = X.min(0) - 0.6, X.max(0) + 0.6
        grid = np.stack(np.meshgrid(*(np.linspace(a, b, 60) for a, b in zip(low, high, strict=True))), -1)
        for axis, model in zip(column, (PFNClassifier(random_state=0), RandomForestClassifier(random_state=0)), strict=True):
            p = model.fit(X, y).predict_proba(grid.reshape(-1, 2))
            # White where the model does not know, full colour where it is certain.
            confidence = ((p.max(1) - 1 / p.shape[1]) / (1 - 1 / p.shape[1]))[:, None]
            image = 1.0 - 0.75 * confidence * (1.0 - p @ colours[: p.shape[1]])
            axis.imshow(image.reshape(60, 60, 3), origin="lower", extent=(low[0], high[0], low[1], high[1]), aspect="auto",
                        interpolation="bilinear")
            axis.scatter(*X.T, c=colours[y], edgecolor="white", s=28)
            axis.set(title=f"{type(model).__name__}: {title}", xlabel=labels[0], ylabel=labels[1])
    figure.suptitle("Decision regions; the paler, the less certain")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def tune() -> None:
    """An SVM on wine: 15 configurations by the optimiser, and by chance."""
    X, y = load_wine(return_X_y=True)
    space = {"C": FloatDistribution(1e-2, 1e3, log=True), "gamma": FloatDistribution(1e-6, 1.0, log=True)}
    ours = PFNSearchCV(SVC(), space, n_iter=15, cv=3, random_state=0).fit(X, y)
    ranges = {name: loguniform(d.low, d.high) for name, d in space.items()}
    chance = RandomizedSearchCV(SVC(), ranges, n_iter=15, cv=3, random_state=0).fit(X, y)
    print("\nTuning an SVM on wine, accuracy in cross-validation after 15 configurations: "
          f"{ours.best_score_:.3f} with PFNSearchCV, {chance.best_score_:.3f} at random")


def main() -> None:
    print(compare())
    print(f"\n{compare_densities()}")
    tune()
    for draw, target in ((picture, OUTPUT / "decision_regions.png"), (intervals, OUTPUT / "predictive_intervals.png")):
        draw(target)
        print(f"\npicture: {target}")


if __name__ == "__main__":
    main()
