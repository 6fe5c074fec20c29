# %% [markdown]
# # From a prior of one's own to an estimator
#
# You know something about your data that no general model knows. Here: it is a **damped oscillation**, whose frequency is
# known to an octave, of unknown phase and damping, under noise of unknown size. We write that down as a prior, pretrain a
# small network on it, and use it as a scikit-learn regressor, which then does Bayesian inference over all four unknowns in
# one forward pass. Gaussian processes with tuned hyper-parameters and the exact posterior are the judges.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["png"]
import math
import os
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, ExpSineSquared, WhiteKernel

from estimators import PFNRegressor
from pfn import PFNConfig, PretrainConfig, TaskSizes, pretrain
from priors import FunctionPrior, TaskShape
from priors.draw import Draw
from priors.gallery import plot_gallery
from priors.testing import check_prior

QUICK = "PFNKIT_QUICK" in os.environ                                            # the tests: few steps, few tasks
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 70
warnings.simplefilter("ignore", ConvergenceWarning)

# %% [markdown]
# ## The prior
#
# A function from features and a source of randomness to targets, for a whole batch of tasks at once: `(tasks, 1)` draws
# one number a task, `(tasks, rows)` one a row.

# %%
def parameters(tasks, draw):
    frequency = draw.log_uniform(tasks, 1, low=1.5, high=3.0)
    phase = draw.uniform(tasks, 1, high=2 * math.pi)
    damping = draw.uniform(tasks, 1, high=4.0)
    noise = draw.log_uniform(tasks, 1, low=0.1, high=0.4)
    return frequency, phase, damping, noise


def signal(t, frequency, phase, damping):
    return torch.exp(-damping * t) * torch.sin(2 * math.pi * frequency * t + phase)


@FunctionPrior
def damped_oscillations(x, draw):
    tasks, rows, _ = x.shape
    *unknowns, noise = parameters(tasks, draw)
    return signal(x[:, :, 0], *unknowns) + noise * draw.normal(tasks, rows)


check_prior(damped_oscillations)                                  # shapes, seeds, finiteness, leaks, …
plot_gallery(damped_oscillations, TaskShape(8, 60, 1, 20), generator=torch.Generator().manual_seed(0))

# %% [markdown]
# ## Pretraining
#
# A network of width 32 with four layers, on tasks of 24 to 48 rows. With so little time many tasks matter more than much
# network.

# %%
config = PretrainConfig(
    prior=damped_oscillations,
    model=PFNConfig(
        task="regression", n_outputs=64, embed_dim=32, n_layers=4, n_heads=4, hidden_dim=64, n_thinking_rows=2
    ),
    sizes=TaskSizes(rows=(24, 48), features=(1, 1), context_share=(0.3, 0.7), cells=4096, n_shapes=8, row_step=8),
    n_steps=100 if QUICK else 1250,
    warmup_steps=20,
    decay_steps=60 if QUICK else 750,
    batches_per_step=1,
    learning_rate=0.012,
    ema_decay=0.98,
    precision="float32",
)
wall, cpu = time.perf_counter(), time.process_time()
model = pretrain(config, progress=False)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(f"{model.n_parameters:,} parameters, {model.card.training['tasks']:,} tasks")
print(f"{cpu:.0f} s of CPU time on one thread ({wall:.0f} s on the clock of a machine that had other work, too)")

# %% [markdown]
# ## The judges
#
# Two Gaussian processes, whose hyper-parameters are optimised on each task with three restarts: the usual RBF kernel with
# white noise, and one that has been told of periodicity and of the range of frequencies. And the exact posterior
# predictive: 200,000 draws of the unknowns from the prior, weighted by the likelihood of the context.

# %%
noise_kernel = WhiteKernel(0.05, (1e-4, 1.0))
rbf = ConstantKernel(1.0) * RBF(0.2, (0.01, 10.0)) + noise_kernel
wave = ExpSineSquared(1.0, 0.45, (0.1, 10.0), (1 / 3.0, 1 / 1.5))
periodic = ConstantKernel(1.0) * RBF(0.5, (0.05, 10.0)) * wave + noise_kernel


def gaussian_process(kernel):
    def predict(x, y, x_query, y_query):
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=3, random_state=0).fit(x, y)
        mean, std = process.predict(x_query, return_std=True)
        return mean, norm.logpdf(y_query, mean, std)
    return predict


def pfn(x, y, x_query, y_query):
    posterior = PFNRegressor(n_estimators=1, model=model, precision="float32").fit(x, y).predict_distribution(x_query)
    return posterior.mean, posterior.log_prob(y_query)


unknowns = parameters(200_000, Draw(torch.Generator().manual_seed(7)))


def exact(x, y, x_query, y_query):
    *rest, noise = unknowns
    t, t_query, y, y_query = (torch.from_numpy(a).float().flatten() for a in (x, x_query, y, y_query))
    log_weight = (-0.5 * ((y - signal(t, *rest)) / noise) ** 2 - noise.log()).sum(1).double()
    weight = log_weight.softmax(0)
    kept = weight > 1e-8
    *rest, noise = (value[kept].double() for value in unknowns)
    weight = weight[kept].unsqueeze(1) / weight[kept].sum()
    mean = signal(t_query, *rest)
    density = torch.exp(-0.5 * ((y_query - mean) / noise) ** 2) / (noise * math.sqrt(2 * math.pi))
    return (weight * mean).sum(0).numpy(), (weight * density).sum(0).log().numpy()


judged = {
    "PFN (this prior)": pfn,
    "GP, RBF": gaussian_process(rbf),
    "GP, RBF × periodic": gaussian_process(periodic),
    "exact posterior": exact,
}

# %% [markdown]
# ## 120 fresh tasks
#
# 40 tasks each of 10, 20 and 30 context rows, 40 query rows in each. Log-likelihoods are in nats a query row, of noisy
# targets; so is the error, which the noise alone keeps above its own size.

# %%
rows = []
n_tasks = 4 if QUICK else 40
tasks = {n: damped_oscillations.sample(TaskShape(n_tasks, n + 40, 1, n), generator=torch.Generator().manual_seed(2026 + n))
         for n in (10, 20, 30)}
for n_context, batch in tasks.items():
    for x, y in zip(batch.x.double().numpy(), batch.y.double().numpy(), strict=True):
        for name, predict in judged.items():
            begun = time.process_time()
            mean, log_prob = predict(x[:n_context], y[:n_context], x[n_context:], y[n_context:])
            squared = ((mean - y[n_context:]) ** 2).mean()
            rows.append((name, n_context, log_prob.mean(), squared, 1e3 * (time.process_time() - begun)))
results = pd.DataFrame(rows, columns=["model", "context rows", "log-likelihood", "squared error", "ms"])


def table(group):
    return pd.Series({
        "log-likelihood, mean": group["log-likelihood"].mean(),
        "median task": group["log-likelihood"].median(),
        "RMSE": group["squared error"].mean() ** 0.5,
        "ms a task": group["ms"].mean(),
    })


by_model = results.groupby("model", sort=False)[["log-likelihood", "squared error", "ms"]].apply(table)
print(by_model.round(3).to_string())
by_size = results.groupby(["context rows", "model"], sort=False)[["log-likelihood", "squared error", "ms"]].apply(table)
print("\n" + by_size.round(3).to_string())

# %%
ours = results[results["model"] == "PFN (this prior)"]
for name in ("GP, RBF", "GP, RBF × periodic"):
    other = results[results["model"] == name]
    better = (ours["log-likelihood"].to_numpy() > other["log-likelihood"].to_numpy()).mean()
    print(f"better log-likelihood than {name} on {better:.0%} of the tasks")
    gain = by_model.loc["PFN (this prior)"] - by_model.loc[name]
    assert QUICK or (gain["log-likelihood, mean"] > 0 and gain["median task"] > 0 and gain["RMSE"] < 0)

# %% [markdown]
# The network is ahead of both processes in log-likelihood and in error, most of all where data are scarce: it knows what
# to expect, and where a process is sure of itself and wrong, it is not. The exact posterior shows how much a longer
# pretraining could still gain.

# %% [markdown]
# ## Posteriors
#
# Four tasks with 10 context rows (black): the 90 % band and the mean of the network, and of the RBF process (dashed). The
# network knows that what it sees is an oscillation that dies away; the process must learn even that.

# %%
grid = np.linspace(0, 1, 120).reshape(-1, 1)
figure, panels = plt.subplots(1, 4, figsize=(12, 2.8), sharey=True, layout="constrained")
for panel, x, y in zip(panels, tasks[10].x.double().numpy(), tasks[10].y.double().numpy(), strict=False):
    posterior = PFNRegressor(n_estimators=1, model=model, precision="float32").fit(x[:10], y[:10]).predict_distribution(grid)
    low, high = posterior.quantile([0.05, 0.95]).T
    process = GaussianProcessRegressor(rbf, normalize_y=True, n_restarts_optimizer=3, random_state=0).fit(x[:10], y[:10])
    mean, std = process.predict(grid, return_std=True)
    panel.fill_between(grid[:, 0], low, high, color="tab:blue", alpha=0.25, linewidth=0, label="PFN, 90 %")
    panel.plot(grid[:, 0], posterior.mean, color="tab:blue", label="PFN, mean")
    for bound in (-1.645, 0.0, 1.645):
        panel.plot(grid[:, 0], mean + bound * std, color="tab:orange", linestyle="--", linewidth=0.8 if bound else 1.4,
                   label=None if bound else "GP, RBF")
    panel.scatter(x[10:, 0], y[10:], s=6, color="0.6", label="query rows")
    panel.scatter(x[:10, 0], y[:10], s=18, color="black", zorder=3, label="context rows")
    panel.set_ylim(-1.8, 1.8)
panels[0].legend(fontsize=7, loc="lower right");

# %% [markdown]
# `pfn.save_checkpoint(model, "oscillations.safetensors", model.card)` keeps the network; from then on
# `PFNRegressor(model="oscillations.safetensors")` is all that a user of it has to know.
