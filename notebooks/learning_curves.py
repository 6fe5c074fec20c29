# %% [markdown]
# # Learning curves: how will this run end?
#
# The bundled network `learning-curve` has seen a million synthetic curves. Shown the beginning of a real one, it says in a
# single forward pass how it may go on: an approximate Bayesian posterior where samplers need seconds to minutes.

# %%
# %matplotlib inline
import os
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import optuna
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from estimators import LearningCurveExtrapolator
from estimators.early_stopping import CurveStopper
from estimators.optuna import LearningCurvePruner

QUICK = "PFNKIT_QUICK" in os.environ                                           # the tests: fewer trials
optuna.logging.set_verbosity(optuna.logging.WARNING)

# %% [markdown]
# ## Real curves
#
# Twelve small neural networks with random settings, trained for 60 epochs on a few hundred digits; after every epoch we note
# accuracy and log loss on held-out images.

# %%
X, y = load_digits(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X / 16, y, train_size=400, random_state=0)
rng, n_epochs = np.random.default_rng(1), 60
accuracy, loss = np.empty((12, n_epochs)), np.empty((12, n_epochs))
for run in range(12):
    net = MLPClassifier(
        hidden_layer_sizes=(int(rng.integers(4, 64)),), learning_rate_init=10 ** rng.uniform(-3.2, -1.5),
        batch_size=int(rng.choice([16, 64])), alpha=10 ** rng.uniform(-5, -1), random_state=run,
    )
    for epoch in range(n_epochs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net.partial_fit(X_train, y_train, classes=np.arange(10))
        p = net.predict_proba(X_val)
        accuracy[run, epoch], loss[run, epoch] = (p.argmax(1) == y_val).mean(), log_loss(y_val, p, labels=np.arange(10))
epochs = np.arange(1, n_epochs + 1)

# %% [markdown]
# ## One curve
#
# The first 8 epochs of a run, and what the network makes of them. `bounds` and `minimize` say what kind of metric it is.

# %%
run = int(np.argsort(accuracy[:, -1])[7])
curve = LearningCurveExtrapolator(horizon=n_epochs).fit(epochs[:8], accuracy[run, :8])
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
curve.plot(ax=axes[0])
axes[0].plot(epochs[8:], accuracy[run, 8:], ".", color="0.5", ms=3)
axes[0].set(title="accuracy", xlabel="epoch")
lossy = LearningCurveExtrapolator(minimize=True, bounds=(0, np.inf), horizon=n_epochs).fit(epochs[:8], loss[run, :8])
lossy.plot(ax=axes[1])
axes[1].plot(epochs[8:], loss[run, 8:], ".", color="0.5", ms=3)
axes[1].set(title="log loss", xlabel="epoch");

# %%
low, median, high = curve.predict([n_epochs], quantiles=[0.05, 0.5, 0.95])[0]
print(f"after {n_epochs} epochs: {median:.3f}, 90 % between {low:.3f} and {high:.3f}; it was {accuracy[run, -1]:.3f}")
print(f"P(accuracy > 0.95 at the end) = {curve.prob_better(0.95, [n_epochs])[0]:.2f}")
print(f"can the prior explain the beginning? p = {curve.misfit():.2f}")

# %% [markdown]
# ## All of them at once
#
# Ragged lists of curves go through the network together. Here every run has been watched for a different time; the dots are
# what happened. Forecasts are poorest for slow starters: that accuracy will take off later cannot be seen before it does.

# %%
cut = rng.integers(3, 30, size=12)
begun = time.perf_counter()
seen = [a[:n] for a, n in zip(accuracy, cut, strict=True)]
many = LearningCurveExtrapolator(horizon=n_epochs).fit([epochs[:n] for n in cut], seen)
bands = many.predict(epochs, quantiles=[0.05, 0.5, 0.95])
seconds = time.perf_counter() - begun
inside = np.concatenate([((b[n:, 0] <= a[n:]) & (a[n:] <= b[n:, 2])) for a, b, n in zip(accuracy, bands, cut, strict=True)])
print(f"{seconds:.2f} s for 12 curves; {inside.mean():.0%} of all later values lie in the 90 % bands")
fig, axes = plt.subplots(3, 4, figsize=(11, 6), sharex=True, sharey=True, layout="constrained")
for ax, a, b, n in zip(axes.flat, accuracy, bands, cut, strict=True):
    ax.fill_between(epochs, b[:, 0], b[:, 2], alpha=0.25, lw=0)
    ax.plot(epochs, b[:, 1])
    ax.plot(epochs[n:], a[n:], ".", color="0.5", ms=2)
    ax.plot(epochs[:n], a[:n], "k.", ms=3)
fig.supxlabel("epoch")
fig.supylabel("accuracy");

# %% [markdown]
# ## When to stop
#
# `CurveStopper` asks after each step whether a gain worth having is still to be expected, here 0.01. The twelve runs from
# above, each stopped when it says so:

# %%
spent, lost = [], []
for a in accuracy:
    stopper = CurveStopper(horizon=n_epochs, min_gain=0.01)
    n = next((n for n in range(1, n_epochs) if stopper.should_stop(a[:n])), n_epochs)
    spent.append(n)
    lost.append(a.max() - a[:n].max())
print(f"epochs: {spent}, {np.sum(spent) / accuracy.size:.0%} of all; accuracy lost: median {np.median(lost):.3f}, "
      f"at most {max(lost):.3f}")

# %% [markdown]
# ## Pruning a study
#
# In a search most runs cannot win. `LearningCurvePruner` stops a trial of an Optuna study if its forecast stays below the
# best complete trial at every later step, with 95 % probability; curves that its prior cannot explain go on. The same
# random configurations, trained with it and without:

# %%
def objective(trial):
    net = MLPClassifier(
        hidden_layer_sizes=(trial.suggest_int("width", 4, 64, log=True),), random_state=trial.number,
        learning_rate_init=trial.suggest_float("rate", 1e-4, 0.3, log=True),
        batch_size=trial.suggest_int("batch", 16, 128, log=True),
    )
    for epoch in range(1, 41):
        value = net.partial_fit(X_train, y_train, classes=np.arange(10)).score(X_val, y_val)
        trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


studies = {}
pruners = {"no pruner": optuna.pruners.NopPruner(), "LearningCurvePruner": LearningCurvePruner(horizon=40)}
for name, pruner in pruners.items():
    studies[name] = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    studies[name].optimize(objective, n_trials=12 if QUICK else 40)
    n_steps = sum(len(trial.intermediate_values) for trial in studies[name].trials)
    best = studies[name].best_trial
    print(f"{name:<20} best accuracy {best.value:.3f} (trial {best.number}), {n_steps} epochs")

# %% [markdown]
# Red: where trials were pruned; grey: what would have come, which the other study trained to the end.

# %%
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for whole, trial in zip(studies["no pruner"].trials, studies["LearningCurvePruner"].trials, strict=True):
    seen = list(trial.intermediate_values.values())
    ax.plot(list(whole.intermediate_values), list(whole.intermediate_values.values()), color="0.8", lw=0.7)
    ax.plot(range(1, len(seen) + 1), seen, color="tab:blue", lw=0.8)
    if trial.state is optuna.trial.TrialState.PRUNED:
        ax.plot(len(seen), seen[-1], "r.", ms=5)
ax.set(xlabel="epoch", ylabel="accuracy");
