# %% [markdown]
# # Bayesian optimisation in one forward pass
#
# The bundled network `bayesopt` has seen a million functions in pretraining. Given the trials so far it says what the
# objective and each constraint would be anywhere else; it is not trained again. Here it tunes a gradient-boosting model, and
# finds the cheapest welded beam that holds.

# %%
# %matplotlib inline
import os

import matplotlib.pyplot as plt
import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier

from estimators import BayesianOptimizer, minimize
from estimators.plots import plot_slice, plot_trace
from estimators.search import PFNSearchCV

QUICK = "PFNKIT_QUICK" in os.environ                                            # the tests: fewer trials

# %% [markdown]
# ## Tune a model
#
# `PFNSearchCV` has the interface of `GridSearchCV`. The space is written in Optuna's distributions: logarithmic, integer and
# categorical parameters go in as they are.

# %%
X, y = load_breast_cancer(return_X_y=True)
space = {
    "learning_rate": FloatDistribution(0.005, 0.5, log=True),
    "max_leaf_nodes": IntDistribution(2, 64, log=True),
    "min_samples_leaf": IntDistribution(1, 50),
    "l2_regularization": FloatDistribution(1e-6, 10.0, log=True),
    "max_features": FloatDistribution(0.1, 1.0),
}
model = HistGradientBoostingClassifier(max_iter=60, random_state=0)
search = PFNSearchCV(model, space, n_iter=12 if QUICK else 25, scoring="neg_log_loss", cv=3, random_state=0).fit(X, y)
print(f"cross-validated log loss of the best of 25: {-search.best_score_:.4f}")
search.best_params_

# %%
scores = -np.asarray(search.cv_results_["mean_test_score"])
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(np.arange(1, len(scores) + 1), scores, "o", ms=4, label="trials")
ax.step(np.arange(1, len(scores) + 1), np.minimum.accumulate(scores), where="post", label="best so far")
ax.set(xlabel="trial", ylabel="cross-validated log loss")
ax.legend();

# %% [markdown]
# ## The cheapest welded beam
#
# A bar is welded to a wall and carries 6,000 lb. Weld thickness h, weld length l, bar height t and bar thickness b (inches)
# decide the cost; shear stress in the weld, bending stress, buckling, deflection and geometry are the constraints. Each
# is satisfied at 0 or below.

# %%
LOAD, SPAN, YOUNG, SHEAR = 6000.0, 14.0, 30e6, 12e6


def welded_beam(p):
    h, length, t, b = p["h"], p["l"], p["t"], p["b"]
    cost = 1.10471 * h**2 * length + 0.04811 * t * b * (SPAN + length)
    primary = LOAD / (np.sqrt(2) * h * length)
    moment = LOAD * (SPAN + length / 2)
    radius = np.sqrt(length**2 / 4 + ((h + t) / 2) ** 2)
    polar = np.sqrt(2) * h * length * (length**2 / 12 + ((h + t) / 2) ** 2)
    torsion = moment * radius / polar
    shear = np.sqrt(primary**2 + 2 * primary * torsion * length / (2 * radius) + torsion**2)
    bending = 6 * LOAD * SPAN / (b * t**2)
    deflection = 4 * LOAD * SPAN**3 / (YOUNG * t**3 * b)
    buckling = 4.013 * YOUNG * np.sqrt(t**2 * b**6 / 36) / SPAN**2 * (1 - t / (2 * SPAN) * np.sqrt(YOUNG / (4 * SHEAR)))
    return cost, [shear - 13600, bending - 30000, h - b, deflection - 0.25, LOAD - buckling]


beam = {
    "h": FloatDistribution(0.125, 10), "l": FloatDistribution(0.1, 15),
    "t": FloatDistribution(0.1, 10), "b": FloatDistribution(0.1, 10),
}
result = minimize(welded_beam, beam, n_trials=30 if QUICK else 60, n_constraints=5, random_state=0, progress=False)
print(f"cheapest feasible beam: {result.fun:.3f} (the optimum of this problem is 2.381)")
{name: round(value, 3) for name, value in result.x.items()}

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
plot_trace(result.optimizer, ax=axes[0])
plot_slice(result.optimizer, "t", ax=axes[1])
axes[0].set_title("trace")
axes[1].set_title("what the network believes along t, through the best beam");

# %% [markdown]
# ## Batches, failures, a belief
#
# Evaluations may run in parallel, come back in any order, or fail. A failed one is not forgotten: its surroundings become
# less attractive. `prior` says where you expect the optimum.

# %%
from scipy.stats import norm

optimizer = BayesianOptimizer(
    {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}, random_state=1, prior={"x": norm(0.3, 0.2)}
)


def crashes_beyond(p):
    return None if p["x"] + p["y"] > 1.4 else (p["x"] - 0.5) ** 2 + (p["y"] - 0.7) ** 2


for _ in range(6):
    batch = optimizer.ask(4)                        # four workers
    for params in reversed(batch):                  # the last one finishes first
        optimizer.tell(params, crashes_beyond(params))
failed = [trial.value is None for trial in optimizer.trials_]
print(f"failed: {sum(failed[:12])} of the first 12 trials, {sum(failed[12:])} of the last 12")
optimizer.best_params_, optimizer.best_value_
