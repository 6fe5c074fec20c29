# %% [markdown]
# # Feasible designs from a hundred labelled ones
#
# Which designs will hold? Often the answer takes a simulation or a test for each design, and a hundred answers are all one
# has. Here a **welded beam**: feasibility is learnt from 100 labelled designs without any training, and designs that fail
# are moved to where they hold, along the gradient of the predicted probability. The true constraints, which the classifier
# never sees, are the judge of everything.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["png"]
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from estimators import PFNClassifier

QUICK = "PFNKIT_QUICK" in os.environ                                            # the tests: fewer repetitions
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 70

# %% [markdown]
# ## The constraints
#
# A bar of thickness `t` and width `b` is welded to a wall by a seam of height `h` and length `l` (inches) and carries 6000
# pounds at its end. It holds if six inequalities do: shear stress in the weld, bending stress in the bar, deflection and
# buckling load within their limits, the seam no higher than the bar is wide, and the price at most 5. We write each as a
# number that is at most 0 when it holds, in shares of its limit. Only one design in forty drawn from the box holds.

# %%
NAMES = ["h", "l", "t", "b"]
LOW, HIGH = np.array([0.125, 0.1, 0.1, 0.1]), np.array([2.0, 10.0, 10.0, 2.0])
LOAD, LENGTH, YOUNG, SHEAR_MODULUS = 6000.0, 14.0, 30e6, 12e6


def constraints(x):
    """(n, 6), each at most 0 where it holds."""
    h, l, t, b = x.T  # noqa: E741
    direct = LOAD / (np.sqrt(2) * h * l)
    radius = np.sqrt(l**2 / 4 + ((h + t) / 2) ** 2)
    inertia = 2 * np.sqrt(2) * h * l * (l**2 / 12 + ((h + t) / 2) ** 2)
    torsion = LOAD * (LENGTH + l / 2) * radius / inertia
    shear = np.sqrt(direct**2 + direct * torsion * l / radius + torsion**2)
    bending = 6 * LOAD * LENGTH / (b * t**2)
    deflection = 4 * LOAD * LENGTH**3 / (YOUNG * t**3 * b)
    slender = 1 - t / (2 * LENGTH) * np.sqrt(YOUNG / (4 * SHEAR_MODULUS))
    buckling = 4.013 * YOUNG * t * b**3 / 6 / LENGTH**2 * slender
    price = 0.10471 * h**2 + 0.04811 * t * b * (14 + l)
    return np.column_stack([shear / 13_600 - 1, bending / 30_000 - 1, deflection / 0.25 - 1, 1 - buckling / LOAD,
                            h / b - 1, price / 5 - 1])


def holds(x):
    return (constraints(x) <= 0).all(1)


def draw(n, rng, share=1 / 3):
    """`n` designs, a share of which hold: those who label designs do not look where nothing works."""
    pool = rng.uniform(LOW, HIGH, size=(60 * n, 4))
    good = holds(pool)
    n_good = round(share * n)
    return rng.permutation(np.vstack([pool[good][:n_good], pool[~good][: n - n_good]]))


rng = np.random.default_rng(0)
print(f"{holds(rng.uniform(LOW, HIGH, size=(200_000, 4))).mean():.1%} of the box holds")
X, X_test = draw(100, rng), draw(500, rng)
y, y_test = holds(X), holds(X_test)
pd.DataFrame(X, columns=NAMES).assign(holds=y).head(4).round(2)

# %% [markdown]
# ## Learning from 100 designs
#
# `fit` stores them, `predict_proba` reads them in one forward pass. Nothing is tuned. Gradients follow below, hence
# `precision="float32"`.

# %%
begun = time.process_time()
clf = PFNClassifier(precision="float32", random_state=0).fit(X, y)
p = clf.predict_proba(X_test)[:, 1]
print(f"F1 {f1_score(y_test, p > 0.5):.3f}, ROC AUC {roc_auc_score(y_test, p):.3f}, log loss {log_loss(y_test, p):.3f}, "
      f"{time.process_time() - begun:.1f} s for fit and 500 predictions")

# %% [markdown]
# ## A map of the probability
#
# Two slices through the design space, thickness and width of the bar, for a strong and a weak weld. The black line is the
# true border, dots are the labelled designs whose weld is similar.

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
t, b = np.meshgrid(np.linspace(LOW[2], HIGH[2], 40), np.linspace(LOW[3], HIGH[3], 40))
for panel, (h, l) in zip(panels, [(0.6, 4.0), (0.25, 3.0)], strict=True):  # noqa: E741
    grid = np.column_stack([np.full(t.size, h), np.full(t.size, l), t.ravel(), b.ravel()])
    p_grid = clf.predict_proba(grid)[:, 1].reshape(t.shape)
    filled = panel.contourf(t, b, p_grid, levels=np.linspace(0, 1, 11), cmap="RdYlGn")
    panel.contour(t, b, constraints(grid).max(1).reshape(t.shape), levels=[0.0], colors="black")
    near = (np.abs(X[:, 0] - h) < 0.3) & (np.abs(X[:, 1] - l) < 2)
    panel.scatter(X[near, 2], X[near, 3], c=np.where(y[near], "darkgreen", "darkred"), s=25, edgecolors="white")
    panel.set(title=f"h = {h}, l = {l}", xlabel="t")
panels[0].set_ylabel("b")
figure.colorbar(filled, ax=panels, label="probability that it holds");

# %% [markdown]
# ## How many designs are enough?
#
# F1 on the 500 test designs, mean over three draws of the labelled ones, beside three classifiers of scikit-learn at their
# defaults.

# %%
judged = {
    "PFNClassifier": lambda: PFNClassifier(random_state=0),
    "SVM, RBF": lambda: make_pipeline(StandardScaler(), SVC()),
    "random forest": lambda: RandomForestClassifier(random_state=0),
    "gradient boosting": lambda: HistGradientBoostingClassifier(random_state=0),
}
sizes = [25, 50, 100, 200, 400]
rows = []
for seed in range(1 if QUICK else 3):
    X_seed = draw(max(sizes), np.random.default_rng(seed + 1))
    for n in sizes:
        for name, make in judged.items():
            predicted = make().fit(X_seed[:n], holds(X_seed[:n])).predict(X_test)
            rows.append((name, n, f1_score(y_test, predicted)))
scores = pd.DataFrame(rows, columns=["model", "designs", "F1"])
curve = scores.groupby(["designs", "model"])["F1"].mean().unstack()[[*judged]]
axes = curve.plot(marker="o", logx=True, figsize=(6, 3.2), ylabel="F1")
axes.set_xticks(sizes, sizes)
axes.minorticks_off()
curve.round(3)

# %% [markdown]
# ## Repairing designs that fail
#
# `torch_predict_proba` is `predict_proba` for tensors, and differentiable. Forty designs that fail, drawn from the whole
# box, climb the logarithm of the probability, less the squared distance from their origin in shares of the box, each until
# it is 95 % sure to hold.

# %%
def unit(x):
    return (x - LOW) / (HIGH - LOW)


def repair(clf, X, steps=50, rate=0.04, enough=0.95):
    """Designs on the way up the probability, each as it is when that first reaches `enough` or at the end."""
    low, width = torch.from_numpy(LOW), torch.from_numpy(HIGH - LOW)
    start = torch.from_numpy(unit(X))
    z = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=rate)
    done = torch.zeros(len(X), dtype=torch.bool)
    found = start.clone()
    for _ in range(steps):
        p = clf.torch_predict_proba(low + width * z)[:, 1]
        newly = (p >= enough) & ~done
        found[newly], done = z.detach()[newly], done | newly
        if done.all():
            break
        optimizer.zero_grad()
        ((z - start).square().sum(1) - p.log()).sum().backward()
        optimizer.step()
        z.data.clamp_(0, 1)
    found[~done] = z.detach()[~done]
    return (low + width * found).numpy(), done.numpy()


# %% [markdown]
# The true constraints judge every design that is proposed. Climbing finds where the classifier is wrong, too: a hundred
# designs do not pin down a border in four dimensions. But each proposal that was tested is one more labelled design, `fit`
# costs nothing, and those that still fail start again from where they were.

# %%
broken = draw(10 if QUICK else 40, rng, share=0.0)
repaired, waiting = broken.copy(), np.arange(len(broken))
X_known, y_known = X, y
for attempt in range(1, 5):
    if not len(waiting):
        break
    clf = PFNClassifier(precision="float32", random_state=0).fit(X_known, y_known)
    proposed, sure = repair(clf, broken[waiting])
    works = holds(proposed)
    print(f"round {attempt}, {len(y_known)} labelled: {len(waiting)} proposals, {works.sum()} hold "
          f"({(works & sure).sum()} of the {sure.sum()} that reached 95 %)")
    repaired[waiting] = proposed
    X_known, y_known = np.vstack([X_known, proposed]), np.append(y_known, works)
    waiting = waiting[~works]
way = np.linalg.norm(unit(repaired) - unit(broken), axis=1)

# %% [markdown]
# The control goes as far from the same designs, in 200 random directions. The nearest of the hundred labelled designs that
# hold needs no model and is about as near here, but there are only 33 of them to choose from.

# %%
directions = rng.normal(size=(len(broken), 200, 4))
directions *= way[:, None, None] / np.linalg.norm(directions, axis=2, keepdims=True)
control = LOW + (HIGH - LOW) * (unit(broken)[:, None] + directions).clip(0, 1)
nearest = np.linalg.norm(unit(X[y]) - unit(broken)[:, None], axis=2).min(1)
by_chance = holds(control.reshape(-1, 4)).mean()
print(f"{holds(repaired).sum()} of {len(broken)} hold; as far in a random direction {by_chance:.1%}")
print(f"median way in the unit box {np.median(way):.2f}; to the nearest labelled design that holds {np.median(nearest):.2f}")
limits = ["shear", "bending", "deflection", "buckling", "seam", "price"]
before, after = ((constraints(x) > 0).sum(0) for x in (broken, repaired))
print(pd.DataFrame({"designs that violate it": before, "after repair": after}, index=limits).T.to_string())
assert holds(repaired).mean() > 5 * by_chance

# %%
table = pd.DataFrame(np.hstack([broken, repaired])[:5], columns=pd.MultiIndex.from_product([["drawn", "repaired"], NAMES]))
table["holds", ""] = holds(repaired)[:5]
table.round(2)
