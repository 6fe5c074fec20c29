# %% [markdown]
# # Learning curves: how will this run end?
#
# The bundled network `learning-curve` has seen a million synthetic curves. Shown the beginning of a real one, it says in a
# single forward pass how it may go on: an approximate Bayesian posterior where samplers need seconds to minutes.

# %%
# %matplotlib inline
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from estimators import LearningCurveExtrapolator

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
