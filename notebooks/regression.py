# %% [markdown]
# # Regression: a distribution for every row
#
# `PFNRegressor` reads a table as context and outputs, in one forward pass, an approximation of the posterior predictive
# distribution of each new row: a whole density, not a number with an error bar. Mean, quantiles, probabilities and scores
# follow from it in closed form.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["png"]
import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from sklearn.datasets import load_diabetes, load_linnerud
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from estimators import PFNImputer, PFNRegressor
from estimators.datasets import read_dataset
from estimators.plots import plot_bands

QUICK = "PFNKIT_QUICK" in os.environ                                           # the tests: fewer folds
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 70
warnings.simplefilter("ignore", ConvergenceWarning)
DATA = next(folder for folder in (Path("benchmarks/data"), Path("../benchmarks/data")) if folder.exists()) / "regression"

# %% [markdown]
# ## Bands that follow the data
#
# Noise that grows, a step, and a target with two branches; 80 rows each. A Gaussian process with a fitted RBF kernel, below,
# assumes one noise level and one smoothness for all of the line. Bands hold 50 and 90 %.

# %%
rng = np.random.default_rng(0)
x = np.sort(rng.uniform(0, 10, 80))
examples = {
    "noise that grows": np.sin(x) + (0.02 + 0.06 * x) * rng.normal(size=80),
    "a step": np.where(x > 4, 2.0, 0.0) + 0.1 * rng.normal(size=80),
    "two branches": rng.choice([-1, 1], 80) * np.sqrt(x) + 0.1 * rng.normal(size=80),
}
grid = np.linspace(-1, 11, 121)[:, None]
fitted = {}
fig, axes = plt.subplots(2, 3, figsize=(12, 5.5), layout="constrained", sharex=True, sharey="col")
for (top, bottom), (name, y) in zip(axes.T, examples.items(), strict=True):
    fitted[name] = PFNRegressor(random_state=0).fit(x[:, None], y)
    plot_bands(fitted[name], grid, ax=top)
    process = GaussianProcessRegressor(ConstantKernel() * RBF() + WhiteKernel(), normalize_y=True).fit(x[:, None], y)
    mean, std = process.predict(grid, return_std=True)
    for width in (1.645, 0.674):
        bottom.fill_between(grid[:, 0], mean - width * std, mean + width * std, color="tab:orange", alpha=0.2, lw=0)
    bottom.plot(grid, mean, color="tab:orange")
    top.set_title(name)
    for axis in (top, bottom):
        axis.plot(x, y, "k.", ms=3)
        axis.set_xlabel("")
axes[0, 1].get_legend().remove()
axes[0, 2].get_legend().remove()
axes[0, 0].set_ylabel("PFNRegressor")
axes[1, 0].set_ylabel("Gaussian process");

# %% [markdown]
# Intervals hide what the third example is about. The density at two places shows it: near 0 there is one mode, at 8 there
# are two, with next to nothing between them.

# %%
posterior = fitted["two branches"].predict_distribution([[0.2], [8.0]])
values = np.linspace(-4.5, 4.5, 400)
density = np.exp(posterior.log_prob(np.tile(values, (2, 1))))
fig, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
axis.plot(values, density.T, label=["x = 0.2", "x = 8"])
axis.set(xlabel="y", ylabel="density")
axis.legend()
within = posterior.cdf([[1.5], [1.5]]) - posterior.cdf([[-1.5], [-1.5]])
print(f"P(|y| < 1.5): {within[0, 0]:.2f} at x = 0.2, {within[1, 0]:.2f} at x = 8")

# %% [markdown]
# ## Diabetes, scored as distributions
#
# The progress of 442 patients' disease in a year, ten measures, five-fold cross-validation (`predict_many` fits all folds).
# The forest's and the ridge regression's predictions become normal distributions as wide as their errors on a held-out
# fifth of the training rows. Log density in nats and the continuous ranked probability score judge the whole distribution;
# of the 90 % intervals, 90 % should hold the truth.

# %%
X, y = load_diabetes(return_X_y=True)
folds = list(KFold(5, shuffle=True, random_state=0).split(X))[: 1 if QUICK else 5]
kernel = ConstantKernel() * RBF(np.ones(10), (0.1, 100)) + WhiteKernel()


def normal_around(model, train, test):
    rest, fifth = train_test_split(train, test_size=0.2, random_state=0)
    std = np.sqrt(np.mean((y[fifth] - model.fit(X[rest], y[rest]).predict(X[fifth])) ** 2))
    return norm(model.fit(X[train], y[train]).predict(X[test]), std)


def process(train, test):
    model = make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True)).fit(X[train], y[train])
    return norm(*model.predict(X[test], return_std=True))


def normal_scores(q, truth):
    z = (truth - q.mean()) / q.std()
    crps = q.std() * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - np.pi**-0.5)            # Gneiting and Raftery, 2007
    return q.mean() - truth, q.logpdf(truth), crps, q.cdf(truth)


rows = []
answers = PFNRegressor(random_state=0).predict_many((X[train], y[train], X[test]) for train, test in folds)
for (train, test), answer in zip(folds, answers, strict=True):
    truth = y[test]
    rows.append(("PFNRegressor", answer.mean - truth, answer.log_prob(truth), answer.crps(truth), answer.cdf(truth)))
    rows.append(("Gaussian process", *normal_scores(process(train, test), truth)))
    rows.append(("random forest", *normal_scores(normal_around(RandomForestRegressor(random_state=0), train, test), truth)))
    rows.append(("ridge", *normal_scores(normal_around(Ridge(0.1), train, test), truth)))
scored = {name: [np.concatenate([row[k] for row in rows if row[0] == name]) for k in range(1, 5)]
          for name in dict.fromkeys(row[0] for row in rows)}
pd.DataFrame({name: {
    "RMSE": np.sqrt(np.mean(error**2)), "log density": log_density.mean(), "CRPS": crps.mean(),
    "in the 90 % interval": np.mean(np.abs(rank - 0.5) < 0.45), "in the 50 % interval": np.mean(np.abs(rank - 0.5) < 0.25),
} for name, (error, log_density, crps, rank) in scored.items()}).T.round(3)

# %% [markdown]
# In error all four are close, the Gaussian process and the linear model a little ahead: the table is nearly linear, and
# noisy. The network's log density is the best of the four; in CRPS it ties with the process. If a predictive distribution
# is right, the ranks of the truths in it are uniform:

# %%
fig, axes = plt.subplots(1, 4, figsize=(11, 2.2), layout="constrained", sharey=True)
for axis, (name, (*_, rank)) in zip(axes, scored.items(), strict=True):
    axis.hist(rank, bins=np.linspace(0, 1, 11), color="tab:blue", alpha=0.6)
    axis.axhline(len(rank) / 10, color="k", lw=0.8)
    axis.set(title=name, xlabel="rank of the truth in its distribution")

# %% [markdown]
# ## Asking a distribution
#
# `predict_distribution` returns one object for all rows, in the units of y. For three patients, on exact terms: moments,
# quantiles, the probability of more than 200, the expected exceedance of 200, and the interval's cost under a loss that
# weighs underestimates nine times (its best answer is the 90 % quantile).

# %%
reg = PFNRegressor(random_state=0).fit(X[3:], y[3:])
posterior = reg.predict_distribution(X[:3])
draws = posterior.sample(100_000, random_state=0)
pd.DataFrame({
    "truth": y[:3], "mean": posterior.mean, "median": posterior.median, "mode": posterior.mode, "std": posterior.std,
    "5 %": posterior.quantile([0.05])[:, 0], "95 %": posterior.quantile([0.95])[:, 0],
    "P(y > 200)": 1 - posterior.cdf(np.full(3, 200.0)), "of 100,000 draws": (draws > 200).mean(1),
    "E max(y - 200, 0)": posterior.expected_improvement(200.0), "of the draws": (draws - 200).clip(0).mean(1),
    "pinball loss at 90 %": posterior.pinball(y[:3], [0.9])[:, 0],
}).T.round(3)

# %% [markdown]
# ## Gaps
#
# Missing values go in as they are, and may differ between training and test. Here 40 % of all cells of the diabetes table
# are deleted. The linear model stays ahead on this table, and the network loses less than the forest.

# %%
gappy = np.where(rng.uniform(size=X.shape) < 0.4, np.nan, X)
train, test = folds[0]
for name, model in {
    "PFNRegressor, gaps as they are": PFNRegressor(random_state=0),
    "random forest, gaps as they are": RandomForestRegressor(random_state=0),
    "ridge after filling with means": make_pipeline(SimpleImputer(), Ridge(0.1)),
}.items():
    error = model.fit(gappy[train], y[train]).predict(gappy[test]) - y[test]
    print(f"{name:<32} RMSE {np.sqrt(np.mean(error**2)):.1f} (complete table: "
          f"{np.sqrt(np.mean((model.fit(X[train], y[train]).predict(X[test]) - y[test]) ** 2)):.1f})")

# %% [markdown]
# `PFNImputer` fills gaps from all other columns. On five measures of 158 fish, of which a seventh was deleted (the species
# is known), beside two of scikit-learn's imputers; errors in standard deviations of each column:

# %%
fish = read_dataset(DATA / "06_fishcatch.npz")
scaled = StandardScaler().fit_transform(fish.X[:, :6])                          # species, three lengths, height, width
deleted = rng.uniform(size=scaled.shape) < 1 / 7
deleted[:, 0] = False
holes = np.where(deleted, np.nan, scaled)
imputer = PFNImputer(n_estimators=1, categorical_features=[0], random_state=0).fit(holes)
filled = {"PFNImputer": imputer.transform(holes), "5 nearest neighbours": KNNImputer().fit_transform(holes),
          "mean of the column": SimpleImputer().fit_transform(holes)}
for name, table in filled.items():
    print(f"{name:<21} root mean squared error of {deleted.sum()} cells: "
          f"{np.sqrt(np.mean((table[deleted] - scaled[deleted]) ** 2)):.3f}")

# %% [markdown]
# One filled table hides how uncertain its values are; `sample` draws several. Where the draws of a cell agree the filled
# value is right, where they differ it may not be:

# %%
tables = np.stack(imputer.sample(holes, n_imputations=8))[:, deleted]
error, spread = np.abs(tables.mean(0) - scaled[deleted]), tables.std(0)
certain = spread < np.median(spread)
print(f"median error where the draws agree {np.median(error[certain]):.3f}, "
      f"where they differ {np.median(error[~certain]):.3f}")

# %% [markdown]
# ## Several targets
#
# Weight, waist and pulse of twenty men who exercised, from chin-ups, sit-ups and jumps: `y` with three columns. Targets are
# predicted independently of each other. Twenty rows hold little, and the distributions say so: they are about as wide
# as the targets are spread.

# %%
men = load_linnerud()
several = PFNRegressor(random_state=0).fit(men.data[:15], men.target[:15])
mean, std = several.predict(men.data[15:], return_std=True)
print(pd.DataFrame(np.hstack([men.target[15:], mean, std]), columns=pd.MultiIndex.from_product(
    [["truth", "mean", "std"], men.target_names])).round(0).to_string())
print("standard deviations of the 15 targets:", men.target[:15].std(0).round(1))

# %% [markdown]
# ## Where it is not the best choice
#
# Smooth functions without noise: a Gaussian process is exact there, the network keeps more doubt than it should.

# %%
x = rng.uniform(0, 1, (60, 2))
y, truth = (np.sin(5 * a[:, 0]) + a[:, 1] ** 2 for a in (x[:40], x[40:]))
answer = PFNRegressor(random_state=0, precision="float32").fit(x[:40], y).predict_distribution(x[40:])
smooth = ConstantKernel() * RBF([0.5, 0.5], (0.05, 50))
exact = GaussianProcessRegressor(smooth, alpha=1e-8, normalize_y=True)
mean = exact.fit(x[:40], y).predict(x[40:])
print(f"largest error: PFNRegressor {np.abs(answer.mean - truth).max():.4f}, "
      f"Gaussian process {np.abs(mean - truth).max():.4f} (standard deviation of y {y.std():.2f})")
