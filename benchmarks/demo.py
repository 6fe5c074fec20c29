"""`make demo`: classify, regress with uncertainty, optimise, extrapolate learning curves, train on a prior of one's own.

All on real data: scikit-learn's, and tables in benchmarks/data. Needs no network; writes its pictures to demo-output/.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from pathlib import Path
from typing import Any

import demo_pictures as pictures
import numpy as np
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import cross_val_score
from threadpoolctl import threadpool_limits

from estimators import BayesianOptimizer, LearningCurveExtrapolator, PFNClassifier, PFNRegressor, SearchSpace
from estimators.datasets import Dataset, bundled_datasets, read_dataset, split_dataset
from estimators.evaluation import baseline_models, fit_and_score
from pfn import PFN, PFNConfig, PretrainConfig, TaskSizes, pretrain
from priors import FunctionPrior, TaskShape
from priors.draw import Draw

OUTPUT = Path("demo-output")
DATA = Path(__file__).resolve().parent / "data"


def compare(datasets: list[Dataset], metric: str, ours: Any, others: dict[str, Any]) -> None:
    """Table of a metric, smaller is better; half of each dataset, at most 500 rows, is fitted."""
    task = datasets[0].task
    found: dict[str, list[float]] = {}
    coverage = []
    heads = ["rows × columns", type(ours).__name__, *others, *baseline_models(task, np.empty(0, dtype=int)), "seconds, ours"]
    print(f"   {'':<20}" + "".join(f"{head:>16}" for head in heads))
    for dataset in datasets:
        split = split_dataset(dataset, seed=0, max_train=500)
        models = {type(ours).__name__: ours} | others | baseline_models(task, split.categorical)
        begun = time.perf_counter()
        for name, model in models.items():
            score = fit_and_score(model, split)
            found.setdefault(name, []).append(score[metric])
            if model is ours:
                seconds = time.perf_counter() - begun
                coverage.append(score.get("coverage", math.nan))
        name, size = re.sub(r"^\d+_", "", dataset.name), f"{len(split.y)} × {split.X.shape[1]}"
        cells = "".join(f"{found[model][-1]:>16.3f}" for model in models)
        print(f"   {name:<20}{size:>16}{cells}{seconds:>16.1f}", flush=True)
    values = np.array(list(found.values()))
    print(f"   → best of {len(values)} models on {(values.argmin(0) == 0).sum()} of {len(datasets)} tables", end="")
    print(f"; its 90 % intervals hold {np.mean(coverage):.0%} of the test rows" if task == "regression" else "")


def classify() -> None:
    heading("1  Classify", "log loss on the other half of each table")
    datasets = [one for one in bundled_datasets("classification") if one.name in ("breast_cancer", "wine")]
    datasets += [read_dataset(DATA / "classification" / f"{name}.npz")
                 for name in ("27_heart-cleveland", "24_dermatology", "42_vowel")]
    boosting = HistGradientBoostingClassifier(random_state=0)
    compare(datasets, "log_loss", PFNClassifier(random_state=0), {"boosting": boosting})
    pictures.decision_regions(OUTPUT / "decision_regions.png")


def regress() -> None:
    heading("2  Regress with uncertainty",
            "negative log-likelihood in nats; others get normal distributions as wide as their held-out errors")
    datasets = bundled_datasets("regression")
    datasets += [read_dataset(DATA / "regression" / f"{name}.npz") for name in ("19_no2", "04_bodyfat", "03_stock")]
    compare(datasets, "nll", PFNRegressor(random_state=0), {"boosting": HistGradientBoostingRegressor(random_state=0)})
    pictures.predictive_intervals(OUTPUT / "predictive_intervals.png")


MOST_LEAVES = 150
SPACE = {
    "learning_rate": FloatDistribution(0.01, 1.0, log=True),
    "n_estimators": IntDistribution(5, 60, log=True),
    "max_leaf_nodes": IntDistribution(2, 16, log=True),
    "min_samples_leaf": IntDistribution(1, 40),
    "max_features": FloatDistribution(0.1, 1.0),
}


def train_boosting(params: dict[str, Any]) -> tuple[float, list[float]]:
    """Cross-validated log loss, and by how much the model has too many leaves to fit the device; satisfied at ≤ 0."""
    X, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingClassifier(**params, subsample=0.7, random_state=0)
    loss = -cross_val_score(model, X, y, scoring="neg_log_loss", cv=3).mean()
    n_leaves = sum(tree.get_n_leaves() for tree in model.fit(X, y).estimators_.ravel())
    return loss, [math.log(n_leaves / MOST_LEAVES)]


def optimise(n_trials: int = 25) -> None:
    heading("3  Optimise", f"boosting on breast cancer, five hyper-parameters, at most {MOST_LEAVES} leaves in all; "
            f"{n_trials} trials")
    optimizer = BayesianOptimizer(SPACE, n_constraints=1, random_state=0)
    begun, waited = time.perf_counter(), 0.0
    for _ in range(n_trials):
        asked = time.perf_counter()
        (params,) = optimizer.ask()
        waited += time.perf_counter() - asked
        optimizer.tell(params, *train_boosting(params))
    seconds = time.perf_counter() - begun
    space = SearchSpace(SPACE)
    chance = [train_boosting(point) for point in space.decode(space.sample(n_trials, np.random.default_rng(0)))]
    by_chance = np.fmin.accumulate([loss if violation <= 0 else math.nan for loss, (violation,) in chance])
    n_feasible = sum(trial.is_feasible for trial in optimizer.trials_)
    print(f"   best feasible log loss {optimizer.best_value_:.4f}; of random trials {by_chance[-1]:.4f}")
    print(f"   feasible trials: {n_feasible}; of random ones {sum(v <= 0 for _, (v,) in chance)}")
    print(f"   → {waited:.1f} of {seconds:.1f} s went into deciding what to try; nothing was trained for that")
    pictures.optimisation_trace(OUTPUT / "optimisation_trace.png", optimizer, by_chance, "learning_rate", "log loss")


def extrapolate(n_seen: int = 10, n_epochs: int = 50) -> None:
    heading("4  Extrapolate a learning curve",
            f"validation accuracy of networks on digits; {n_seen} epochs seen, forecast of epoch {n_epochs}")
    curves = {f"learning rate {rate:g}": pictures.train_digits(rate, n_epochs) for rate in (0.0003, 0.001, 0.003, 0.02)}
    begun = time.perf_counter()
    many = LearningCurveExtrapolator(horizon=n_epochs)
    many.fit(np.arange(1, n_seen + 1), np.array([values[:n_seen] for values in curves.values()]))
    forecast = many.predict([n_epochs], quantiles=[0.05, 0.5, 0.95])[:, 0]
    seconds = time.perf_counter() - begun
    print(f"   {'':<22}{'last seen':>10}{'forecast':>10}{'90 % interval':>16}{'truth':>8}")
    for (name, values), (low, median, high) in zip(curves.items(), forecast, strict=True):
        print(f"   {name:<22}{values[n_seen - 1]:>10.3f}{median:>10.3f}{f'{low:.3f} – {high:.3f}':>16}{values[-1]:>8.3f}")
    inside = sum(low <= values[-1] <= high for values, (low, _, high) in zip(curves.values(), forecast, strict=True))
    print(f"   → {inside} of {len(curves)} truths in their intervals; {seconds:.2f} s for all forecasts")
    pictures.learning_curve(OUTPUT / "learning_curve.png", curves, n_seen)


def waves(day: torch.Tensor) -> torch.Tensor:
    """A constant, and sines and cosines of three harmonics, (..., 7), of a time of day in [0, 1]."""
    harmonic = torch.arange(1, 4, dtype=day.dtype)
    angle = 2 * math.pi * day.unsqueeze(-1) * harmonic
    return torch.cat([torch.ones_like(day).unsqueeze(-1), angle.cos() / harmonic, angle.sin() / harmonic], -1)


@FunctionPrior
def daily_cycles(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    """What we know: the curve repeats every day and is smooth. Its shape and its noise are unknown."""
    tasks, rows, _ = x.shape
    noise = draw.log_uniform(tasks, 1, low=0.15, high=0.8)
    return (waves(x[:, :, 0]) * draw.normal(tasks, 1, 7)).sum(-1) + noise * draw.normal(tasks, rows)


def pretrain_own() -> PFN:
    """A network of 28,000 parameters that has seen 70,000 daily cycles."""
    network = PFNConfig(task="regression", n_outputs=64, embed_dim=32, n_layers=3, n_heads=4, hidden_dim=64,
                        n_thinking_rows=2, row_features=1)
    sizes = TaskSizes(rows=(24, 48), features=(1, 1), context_share=(0.2, 0.7), cells=3072, n_shapes=8, row_step=8)
    return pretrain(PretrainConfig(
        daily_cycles, network, sizes, n_steps=700, decay_steps=420, warmup_steps=20, batches_per_step=1, learning_rate=0.01,
        ema_decay=0.98, precision="float32"))


def exact(day: np.ndarray, y: np.ndarray, query: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Log density (m, k) of `values` (m, k) at m times under Bayes' rule for the prior; over the noise by a grid of 40."""
    seen, asked = (waves(torch.from_numpy(part)).numpy() for part in (day, query))
    evidence, density = [], []
    for noise in np.geomspace(0.15, 0.8, 40):
        covariance = seen @ seen.T + noise**2 * np.eye(len(y))
        gain = np.linalg.solve(covariance, seen @ asked.T)
        variance = (asked**2).sum(1) - ((seen @ asked.T) * gain).sum(0) + noise**2
        evidence.append(-0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1]))
        density.append(norm.logpdf(values, (gain.T @ y)[:, None], np.sqrt(variance)[:, None]))
    log_weight = np.array(evidence) - np.logaddexp.reduce(evidence)
    return np.logaddexp.reduce(log_weight[:, None, None] + np.array(density))


def gaussian_process() -> GaussianProcessRegressor:
    """RBF kernel, hyper-parameters fitted, told how large the noise can be."""
    kernel = ConstantKernel() * RBF(0.2) + WhiteKernel(0.1, (0.15**2, 0.8**2))
    return GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)


def own_prior(n_seen: int = 12, n_draws: int = 40) -> None:
    heading("5  Train on a prior of your own", "cars per hour on a road in Oslo by the time of day, from 12 of 500 hours")
    begun = time.perf_counter()
    model = pretrain_own()
    print(f"   pretrained for {time.perf_counter() - begun:.0f} s: {model.n_parameters:,} parameters, "
          f"{model.card.training['tasks']:,} tasks")
    road = read_dataset(DATA / "regression" / "19_no2.npz").X.astype(np.float64)
    day, cars = road[:, 5:6] / 24, road[:, 0]
    regressors = {"your network": PFNRegressor(1, model=model, precision="float32"),
                  "bundled regressor": PFNRegressor(random_state=0)}
    scores: dict[str, list[float]] = {}
    for permutation in [np.random.default_rng(seed).permutation(len(cars)) for seed in range(n_draws)]:
        few, rest = permutation[:n_seen], permutation[n_seen:]
        location, scale = cars[few].mean(), cars[few].std()              # the exact posterior reads units of its prior
        y = (cars - location) / scale
        for name, regressor in regressors.items():
            log_density = regressor.fit(day[few], y[few]).predict_distribution(day[rest]).log_prob(y[rest])
            scores.setdefault(name, []).append(log_density.mean())
        log_density = exact(day[few, 0], y[few], day[rest, 0], y[rest, None])
        scores.setdefault("exact posterior", []).append(log_density.mean())
        mean, std = gaussian_process().fit(day[few], y[few]).predict(day[rest], return_std=True)
        scores.setdefault("Gaussian process", []).append(norm.logpdf(y[rest], mean, std).mean())
    what = f"log density of the other {len(rest)} hours"
    print(f"   {what:<36}{'mean':>8}{'worst':>8}   ({n_draws} draws of {n_seen} hours)")
    for name, values in scores.items():
        print(f"   {name:<36}{np.mean(values):>8.2f}{np.min(values):>8.2f}")
    gap = np.mean(scores["exact posterior"]) - np.mean(scores["your network"])
    print(f"   → the exact posterior of the prior is {gap:.2f} nats an hour ahead of your network")
    draw_own(model, day, cars, n_seen)


def draw_own(model: PFN, day: np.ndarray, cars: np.ndarray, n_seen: int) -> None:
    """Draws from the prior; posteriors of the network, of Bayes' rule and of a Gaussian process from the same hours."""
    few = np.random.default_rng(0).permutation(len(cars))[:n_seen]
    location, scale = cars[few].mean(), cars[few].std()
    y = (cars[few] - location) / scale
    grid = np.linspace(0, 1, 97)
    values = np.linspace(-4, 4, 801)
    cdf = np.exp(exact(day[few, 0], y, grid, np.tile(values, (len(grid), 1)))).cumsum(1) * (values[1] - values[0])
    bayes = np.stack([values[(cdf < q).sum(1).clip(max=800)] for q in pictures.QUANTILES], 1)
    mean, std = gaussian_process().fit(day[few], y).predict(grid[:, None], return_std=True)
    network = PFNRegressor(1, model=model, precision="float32").fit(day[few], y)
    network = network.predict(grid[:, None], quantiles=pictures.QUANTILES)
    posteriors = {"your network": network, "exact posterior": bayes,
                  "Gaussian process": mean[:, None] + std[:, None] * norm.ppf(pictures.QUANTILES)}
    tasks = daily_cycles.sample(TaskShape(5, 97, 1, 48), generator=torch.Generator().manual_seed(1))
    order = tasks.x[..., 0].argsort(1)
    others = np.setdiff1d(np.arange(len(cars)), few)
    seen, rest = (np.column_stack([24 * day[rows, 0], cars[rows]]) for rows in (few, others))
    pictures.own_prior(OUTPUT / "own_prior.png", tasks.y.gather(1, order).numpy(),
                       {name: location + scale * q for name, q in posteriors.items()}, seen, rest)


def heading(title: str, what: str) -> None:
    print(f"\n{title}: {what}", flush=True)


def main() -> None:
    begun = time.perf_counter()
    warnings.simplefilter("ignore", ConvergenceWarning)              # of the Gaussian processes
    torch.set_num_threads(1)                                         # a second gains little, and waits on a busy machine
    with threadpool_limits(1):
        for part in (classify, regress, optimise, extrapolate, own_prior):
            part()
    print(f"\n{time.perf_counter() - begun:.0f} s in all, on one thread; pictures in {OUTPUT}/")


if __name__ == "__main__":
    main()
