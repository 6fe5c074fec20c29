"""Pictures of the demonstration, and the one of the README: `python benchmarks/demo_pictures.py --readme`.

Needs no network and no data beyond scikit-learn's.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from sklearn.datasets import load_digits, load_iris, make_moons
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from estimators import BayesianOptimizer, LearningCurveExtrapolator, PFNClassifier, PFNRegressor
from estimators.plots import plot_slice, plot_trace

matplotlib.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]
README = Path(__file__).resolve().parent.parent / "docs" / "readme.png"


def growing_noise() -> tuple[np.ndarray, np.ndarray]:
    """80 points of a sine whose noise grows with x."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 10, 80))
    return x, np.sin(x) + (0.02 + 0.06 * x) * rng.normal(size=80)


def step() -> tuple[np.ndarray, np.ndarray]:
    """80 points of a step at x = 4."""
    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(0, 10, 80))
    return x, np.where(x > 4, 2.0, 0.0) + 0.1 * rng.normal(size=80)


def train_digits(learning_rate: float, n_epochs: int, seed: int = 0) -> np.ndarray:
    """Validation accuracy (n_epochs,) of a small neural network, trained on 400 handwritten digits with `partial_fit`."""
    X, y = load_digits(return_X_y=True)
    X_train, X_val, y_train, y_val = train_test_split(X / 16, y, train_size=400, random_state=0)
    net = MLPClassifier((24,), learning_rate_init=learning_rate, batch_size=32, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        nets = (net.partial_fit(X_train, y_train, classes=np.arange(10)) for _ in range(n_epochs))
        return np.array([now.score(X_val, y_val) for now in nets])


def draw_regions(ax: Axes, model: Any, X: np.ndarray, y: np.ndarray, margin: float = 0.6) -> None:
    """Probabilities of up to three classes over the plane: full colour where the model is certain, white where it is not."""
    colours = np.array(matplotlib.colormaps["tab10"].colors[:3])
    low, high = X.min(0) - margin, X.max(0) + margin
    grid = np.stack(np.meshgrid(*(np.linspace(a, b, 60) for a, b in zip(low, high, strict=True))), -1)
    p = model.fit(X, y).predict_proba(grid.reshape(-1, 2))
    confidence = ((p.max(1) - 1 / p.shape[1]) / (1 - 1 / p.shape[1]))[:, None]
    image = 1.0 - 0.75 * confidence * (1.0 - p @ colours[: p.shape[1]])
    ax.imshow(image.reshape(60, 60, 3), origin="lower", extent=(low[0], high[0], low[1], high[1]), aspect="auto",
              interpolation="bilinear")
    ax.scatter(*X.T, c=colours[y], edgecolor="white", s=28)


def draw_bands(ax: Axes, grid: np.ndarray, quantiles: np.ndarray, colour: str = "C0") -> None:
    """Median and intervals of 50 and 90 % from `quantiles` (n, 5) at `grid` (n,)."""
    ax.fill_between(grid, quantiles[:, 0], quantiles[:, 4], color=colour, alpha=0.2, linewidth=0, label="90 %")
    ax.fill_between(grid, quantiles[:, 1], quantiles[:, 3], color=colour, alpha=0.35, linewidth=0, label="50 %")
    ax.plot(grid, quantiles[:, 2], color=colour, label="median")


def draw_forecast(ax: Axes, values: np.ndarray, n_seen: int, colour: str = "C0") -> None:
    """The first steps of a curve, what is forecast of the others, and how it went on."""
    n_steps = len(values)
    steps = np.arange(n_seen, n_steps + 1)
    curve = LearningCurveExtrapolator(horizon=n_steps).fit(np.arange(1, n_seen + 1), values[:n_seen])
    draw_bands(ax, steps, curve.predict(steps, QUANTILES), colour)
    ax.plot(np.arange(1, n_seen + 1), values[:n_seen], "k.", markersize=5, label="seen")
    ax.plot(np.arange(n_seen + 1, n_steps + 1), values[n_seen:], ".", color="0.45", markersize=3, label="what happened")


def decision_regions(path: Path) -> None:
    """Two moons, and two measures of iris, by the network and by a forest."""
    iris = load_iris()
    examples = [
        ("two moons, 60 rows", *make_moons(60, noise=0.25, random_state=0), ("x₁", "x₂")),
        ("iris petals, 50 rows", iris.data[::3, 2:], iris.target[::3], tuple(iris.feature_names[2:])),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(10, 8.4), layout="constrained")
    for column, (title, X, y, labels) in zip(axes.T, examples, strict=True):
        for axis, model in zip(column, (PFNClassifier(random_state=0), RandomForestClassifier(random_state=0)), strict=True):
            draw_regions(axis, model, X, y)
            axis.set(title=f"{type(model).__name__}: {title}", xlabel=labels[0], ylabel=labels[1])
    figure.suptitle("Decision regions; the paler, the less certain")
    save(figure, path)


def predictive_intervals(path: Path) -> None:
    """Noise that grows, and a step, by the network and by a Gaussian process."""
    grid = np.linspace(-1, 11, 241)
    kernel = ConstantKernel() * RBF() + WhiteKernel()
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex=True)
    for column, (title, (x, y)) in zip(axes.T, {"noise that grows": growing_noise(), "a step": step()}.items(), strict=True):
        ours = PFNRegressor(random_state=0).fit(x[:, None], y).predict(grid[:, None], quantiles=QUANTILES)
        process = GaussianProcessRegressor(kernel, normalize_y=True).fit(x[:, None], y)
        mean, std = process.predict(grid[:, None], return_std=True)
        gaussian = mean[:, None] + std[:, None] * np.array([-1.645, -0.674, 0.0, 0.674, 1.645])
        for axis, name, q in zip(column, ("PFNRegressor", "Gaussian process"), (ours, gaussian), strict=True):
            draw_bands(axis, grid, q)
            axis.plot(x, y, "k.", markersize=4)
            axis.set_title(f"{name}: {title}")
    figure.suptitle("Median, and intervals of 50 and 90 %")
    save(figure, path)


def optimisation_trace(path: Path, optimizer: BayesianOptimizer, by_chance: np.ndarray, along: str, ylabel: str) -> None:
    """All trials, the best feasible one by chance (n,), and what the network believes along one parameter."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    plot_trace(optimizer, ax=left)
    left.step(np.arange(1, len(by_chance) + 1), by_chance, ":", where="post", color="tab:red", label="best, by chance")
    left.set_ylabel(ylabel)
    left.legend()
    plot_slice(optimizer, along, ax=right)
    right.set(ylabel=ylabel, title=f"belief along {along}, through the best trial")
    save(figure, path)


def learning_curve(path: Path, curves: dict[str, np.ndarray], n_seen: int) -> None:
    """Forecasts of some runs from their first steps, and how they went on."""
    figure, axes = plt.subplots(1, len(curves), figsize=(3.3 * len(curves), 3.2), layout="constrained", sharey=True)
    for axis, (name, values) in zip(axes, curves.items(), strict=True):
        draw_forecast(axis, values, n_seen)
        axis.set(title=name, xlabel="epoch")
    axes[0].set_ylabel("validation accuracy")
    axes[-1].legend(loc="lower right", fontsize=8)
    save(figure, path)


def own_prior(path: Path, draws: np.ndarray, posteriors: dict[str, np.ndarray], seen: np.ndarray, rest: np.ndarray) -> None:
    """Draws (k, n) from a prior over a day, and quantiles (n, 5) of posteriors; `rest` are the rows that were not seen."""
    hours = np.linspace(0, 24, draws.shape[1])
    figure, (first, *others) = plt.subplots(1, 1 + len(posteriors), figsize=(3.3 * (1 + len(posteriors)), 3.2),
                                            layout="constrained")
    first.plot(hours, draws.T, linewidth=1)
    first.set(title="draws from the prior", xlabel="hour")
    for axis, (name, quantiles) in zip(others, posteriors.items(), strict=True):
        draw_bands(axis, hours, quantiles)
        axis.plot(*rest.T, ".", color="0.6", markersize=2, zorder=0)
        axis.plot(*seen.T, "ko", markersize=5)
        axis.set(title=name, xlabel="hour", ylim=(rest[:, 1].min() - 0.5, rest[:, 1].max() + 0.5))
    others[0].set_ylabel("log of cars per hour")
    save(figure, path)


def readme(path: Path = README) -> None:
    """Three panels: classification, regression, and a learning curve."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    draw_regions(left, PFNClassifier(random_state=0), *make_moons(60, noise=0.25, random_state=0))
    left.set_title("classify: 60 rows; pale is uncertain")
    x, y = growing_noise()
    grid = np.linspace(-1, 11, 241)
    draw_bands(middle, grid, PFNRegressor(random_state=0).fit(x[:, None], y).predict(grid[:, None], quantiles=QUANTILES))
    middle.plot(x, y, "k.", markersize=4)
    middle.set_title("regress: noise that grows, 80 rows")
    middle.legend(fontsize=8)
    draw_forecast(right, train_digits(0.003, 50), 10)
    right.set(title="extrapolate: 10 of 50 epochs seen", xlabel="epoch", ylabel="validation accuracy")
    right.legend(fontsize=8, loc="lower right")
    save(figure, path, dpi=100, n_colours=128)


def save(figure: Any, path: Path, dpi: int = 110, n_colours: int = 0) -> None:
    """Write a figure; with `n_colours` in a palette, which takes a fraction of the bytes."""
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
    if n_colours:
        from PIL import Image  # comes with matplotlib

        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(n_colours, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
    print(f"picture: {path}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", action="store_true", help=f"draw {README.name} in docs/")
    if parser.parse_args().readme:
        readme()
    else:
        parser.error("nothing to draw; the demonstration's pictures are drawn by demo.py, the README's with --readme.")
