# %% [markdown]
# # How close is one forward pass to Bayes?
#
# A prior-data fitted network claims to output the posterior predictive distribution of its prior. Where that distribution
# can be computed by other means the claim can be checked, and the check has a unit: on tasks drawn from the prior, the mean
# of ln p(y | exact posterior) − ln q(y | network) *is* the expected Kullback–Leibler divergence between the two, in nats a
# prediction. A checkpoint of pfnkit carries such numbers in its header, and `pfn certify` computes them again.
#
# The network here is the bundled `gp`: Gaussian processes with a Matérn-5/2 kernel on [0, 1]ᵈ, whose lengthscales, variance
# and noise are unknown. The exact posterior integrates over these; we get it by importance sampling with thousands of exact
# marginal likelihoods a task. The network has seen neither kernel matrices nor hyper-parameters, only draws.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["png"]
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from estimators import PFNRegressor
from pfn import Case, PFNConfig, PretrainConfig, TaskSizes, certify, load_pretrained, pretrain
from pfn.certificate import Certificate, table
from priors import GPPrior, LinearPrior, TaskShape
from priors.gp_reference import sample_hyperparameters

QUICK = "PFNKIT_QUICK" in os.environ                                            # the tests: fewer tasks, fewer steps
torch.set_num_threads(1)
model = load_pretrained("gp")
prior = GPPrior.with_hyperpriors()
print(f"{model.n_parameters:,} parameters, pretrained for {model.card.training['seconds'] / 60:.0f} minutes "
      f"on {model.card.training['tasks']:,} tasks")

# %% [markdown]
# ## Three tasks
#
# Median and 95 % interval of the network (blue) and of the exact posterior (black, dashed), both of noisy targets, given
# the dots. This is where the network is weakest: noiseless functions of one feature have posteriors a hundred times narrower
# than the prior, and between close points it keeps more doubt than it should. With more features it is much closer.

# %%
generator = torch.Generator().manual_seed(6)
tasks = prior.sample(TaskShape(3, 9, 1, 8), generator=generator)  # all nine are context here
grid = torch.linspace(0, 1, 150).view(-1, 1)
figure, axes = plt.subplots(1, 3, figsize=(11, 2.8), sharex=True)
for axis, x, y in zip(axes, tasks.x, tasks.y, strict=True):
    begun = time.perf_counter()
    with torch.no_grad():
        network = model.posterior(x[None], y[None], grid[None])
    one_pass = time.perf_counter() - begun
    begun = time.perf_counter()
    weighted = sample_hyperparameters(prior, x, y, generator=generator)
    exact = weighted.predict(prior.kernel, x, y, grid)
    sampling = time.perf_counter() - begun
    low, middle, high = network.quantile(torch.tensor([0.025, 0.5, 0.975]))[0].T
    axis.fill_between(grid[:, 0], low, high, alpha=0.25)
    axis.plot(grid[:, 0], middle)
    spread = torch.linspace(float(low.min()), float(high.max()), 150).double()
    below = [torch.special.ndtr((value - exact.component_mean) / exact.component_variance.sqrt()) for value in spread]
    cdf = torch.stack([exact.log_weight.exp() @ share for share in below])                       # (values, grid)
    for level in (0.025, 0.5, 0.975):
        axis.plot(grid[:, 0], spread[(cdf < level).sum(0).clamp(max=149)], "k--", linewidth=0.9)
    axis.plot(x[:, 0], y, "k.")
print(f"last task: {1000 * one_pass:.0f} ms for the network, {1000 * sampling:.0f} ms for {len(weighted.log_weight):,} "
      f"weighted draws (effective size {weighted.effective_size:.0f})")

# %% [markdown]
# ## The certificate in the header
#
# `gap` is the divergence, with 1.96 standard errors over tasks; *in 50 %* is the share of targets inside the central 50 %
# interval; KS is the distance of the ranks of the targets in their posteriors from uniform. On the command line,
# `pfn certify gp` draws the same tasks again and compares.

# %%
kept = [Certificate.from_dict(one) for one in model.card.certificate["found"]]
print(table(kept))

# %% [markdown]
# Other tasks, another seed: the certificate is a property of the network, not of lucky tasks.

# %%
again = certify(model, [Case(prior, 2, (10, 20), share=0.01 if QUICK else 0.05)], seed=7)
print(table(again))

# %% [markdown]
# ## What a gap means
#
# If the network's answer is a normal distribution with the right width whose mean is δ standard deviations off, the gap is
# δ²/2: 0.02 nats are a fifth of a standard deviation. If its mean is right and its width wrong by a factor k, it is
# ln k + 1/2k² − 1/2: 0.02 nats are 15 % too wide.

# %%
shift, factor = np.linspace(0, 0.6, 100), np.linspace(0.7, 1.5, 100)
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
axes[0].plot(shift, shift**2 / 2)
axes[0].set(xlabel="mean off by … standard deviations", ylabel="gap in nats")
axes[1].plot(factor, np.log(factor) + 0.5 / factor**2 - 0.5)
axes[1].set(xlabel="standard deviation wrong by a factor")
for axis in axes:
    axis.axhline(0.02, color="grey", linewidth=0.8)

# %% [markdown]
# ## The posterior is an object with exact algebra
#
# A bar distribution: moments, quantiles, scores and improvements are closed forms, not samples. For the last task above,
# the expected improvement on the largest value seen, against two million draws.

# %%
best = float(tasks.y[2].max())
exactly = network.expected_improvement(best)[0]
draws = network.sample(13_000, generator=torch.Generator().manual_seed(0))[0]
sampled = (draws - best).clamp_min(0).mean(-1)
figure, axis = plt.subplots(figsize=(5, 2.4))
axis.plot(grid[:, 0], sampled, ".", markersize=4, label="Monte Carlo")
axis.plot(grid[:, 0], exactly, label="exact")
axis.set(xlabel="x", ylabel="expected improvement")
axis.legend()
far = network.log_expected_improvement(torch.tensor(best + 1e3))[0]
print(f"a thousand units above the best value its logarithm is still finite: {far.min():.3g} … {far.max():.3g}")

# %% [markdown]
# ## The same network as a scikit-learn regressor
#
# It reads x and y in the units of its prior: x in [0, 1], values of a few units around 0.

# %%
rng = np.random.default_rng(0)
X = rng.uniform(size=(40, 2))
y = 3 * np.sin(5 * X[:, 0]) + X[:, 1]
reg = PFNRegressor(model="gp", random_state=0).fit(X[:25], y[:25])
posterior = reg.predict_distribution(X[25:])
print(f"root mean squared error {np.sqrt(np.mean((posterior.mean - y[25:]) ** 2)):.3f}, "
      f"standard deviation of y {y[25:].std():.3f}")
print("continuous ranked probability score", posterior.crps(y[25:]).mean().round(4))

# %% [markdown]
# ## Certify a network of your own
#
# Any prior with a method `posterior` will do: linear functions of one feature, a network of half a minute.

# %%
line = LinearPrior(noise=0.1)
own = pretrain(
    PretrainConfig(
        line,
        PFNConfig(task="regression", n_outputs=128, embed_dim=32, n_layers=3, n_heads=4, hidden_dim=64, n_thinking_rows=2,
                  row_features=1, scaling="prior", normal_base=True),
        TaskSizes(rows=(16, 48), features=(1, 1), cells=2048, context_share=(0.03, 0.8), log_share=True),
        n_steps=60 if QUICK else 400, decay_steps=30 if QUICK else 250, warmup_steps=20, batches_per_step=1,
        learning_rate=5e-3, ema_decay=0.97,
    ),
    progress=False,
)
print(table(certify(own, [Case(line, 1, (1, 2, 5, 10, 30))])))
