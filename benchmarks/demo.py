"""`make demo`: the bundled classifier on real datasets beside three baselines, and a picture of what it believes.

Needs no network and no data beyond scikit-learn's. Writes demo-output/decision_regions.png.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_moons
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from estimators import PFNClassifier

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


def main() -> None:
    print(compare())
    target = OUTPUT / "decision_regions.png"
    picture(target)
    print(f"\npicture: {target}")


if __name__ == "__main__":
    main()
