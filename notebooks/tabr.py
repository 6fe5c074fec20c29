# %% [markdown]
# # TabR: which rows voted?
#
# `PFNClassifier` reads a table as context; that ends at a few thousand rows. `TabRClassifier` is for longer ones: a small
# network is trained on the table, and at prediction looks up the rows whose keys are nearest, 96 by default. Their labels,
# weighted and corrected for how they differ from the query, enter the prediction. So one can ask which rows those were.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from estimators import TabRClassifier, TabRRegressor

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=300, random_state=0, stratify=y)
clf = TabRClassifier(random_state=0).fit(X_train, y_train)
p = clf.predict_proba(X_test)
print(f"accuracy {clf.score(X_test, y_test):.3f}, epochs {clf.n_epochs_}, seconds {np.round(clf.fit_times_)}")

# %% [markdown]
# Two networks were trained, the first with periodic embeddings of the numbers, each on other four fifths of the rows; the
# weights of the epoch with the best validation score were kept.

# %%
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for scores, n_epochs, name in zip(clf.validation_scores_, clf.n_epochs_, ["periodic", "plain"], strict=True):
    (line,) = ax.semilogy(np.arange(1, len(scores) + 1), scores, label=name)
    ax.plot(n_epochs, scores[n_epochs - 1], "o", color=line.get_color())
ax.set(xlabel="epoch", ylabel="validation log loss")
ax.legend();

# %% [markdown]
# ## The voters
#
# `kneighbors` returns weights, from large to small, and row numbers of the training table. A query that was easy, and the
# three with the least confident predictions:

# %%
def show_voters(rows, n_voters=8):
    weight, index = clf.kneighbors(X_test[rows], n_neighbors=n_voters)
    size = (1.1 * (n_voters + 1), 1.4 * len(rows))
    _, axes = plt.subplots(len(rows), n_voters + 1, figsize=size, layout="constrained")
    for row, axis, w, i in zip(rows, axes, weight, index, strict=True):
        axis[0].imshow(X_test[row].reshape(8, 8), cmap="Blues")
        axis[0].set_title(f"is {y_test[row]}\nsaid {p[row].argmax()}: {p[row].max():.2f}", fontsize=8)
        for cell, share, candidate in zip(axis[1:], w, i, strict=True):
            cell.imshow(X_train[candidate].reshape(8, 8), cmap="Greys")
            cell.set_title(f"{y_train[candidate]}\n{share:.2f}", fontsize=8)
    for cell in axes.flat:
        cell.axis("off")


show_voters(np.argsort(-p.max(1))[[0, -3, -2, -1]])

# %% [markdown]
# All weights of a row sum to 1, and the labels of the voters often tell already what the answer will be:

# %%
weight, index = clf.kneighbors(X_test)
share = np.zeros((len(X_test), 10))
np.add.at(share, (np.arange(len(X_test))[:, None], y_train[index]), weight)
print(f"sum of weights {weight.sum(1).min():.6f} to {weight.sum(1).max():.6f}")
print(f"the label with the largest share is the prediction for {(share.argmax(1) == p.argmax(1)).mean():.1%} of the rows")
print(f"rows that share half of the weight: median {np.median((weight.cumsum(1) < 0.5).sum(1) + 1):.0f}")

# %% [markdown]
# ## Rows that come later
#
# New labelled rows become candidates without training. Here the network saw few sevens; with more of them to look up it
# recognises more:

# %%
seven = np.flatnonzero(y_train == 7)
few = np.setdiff1d(np.arange(len(y_train)), seven[8:])
late = TabRClassifier(random_state=0).fit(X_train[few], y_train[few])
is_seven = y_test == 7
print(f"sevens recognised: {late.score(X_test[is_seven], y_test[is_seven]):.3f}")
late.add_candidates(X_train[seven[8:]], y_train[seven[8:]])
print(f"with {len(seven) - 8} more to look up: {late.score(X_test[is_seven], y_test[is_seven]):.3f}"
      f" (all digits {late.score(X_test, y_test):.3f})")

# %% [markdown]
# ## Rows in order of time
#
# A price drifts. If training rows may look up later ones, the network learns to read the drift from the future, which it
# will not have. `candidate_mask` says which rows may see which.

# %%
rng = np.random.default_rng(0)
n = 1500
times, size = np.arange(n), rng.uniform(0, 1, n)
level = np.cumsum(rng.normal(0, 0.15, n))
price = 2 * size + level + rng.normal(0, 0.1, n)
table, past = np.column_stack([times, size]), times < 1200


def earlier(rows, candidates):
    return times[rows][:, None] > times[candidates]


def error(model, **mask):
    """Of each late row, which may look up all rows before it."""
    return np.sqrt(np.mean((model.predict(table[~past], **mask) - price[~past]) ** 2))


# The validation rows are the last of the past, as the rows to predict are the last of all.
fit = times < 960
held_out = {"X_val": table[past & ~fit], "y_val": price[past & ~fit]}
blind = TabRRegressor(random_state=0).fit(table[fit], price[fit], **held_out)
aware = TabRRegressor(random_state=0).fit(table[fit], price[fit], candidate_mask=earlier, **held_out)
for name, model in {"training rows saw their future": blind, "only earlier rows": aware}.items():
    model.add_candidates(table[~fit], price[~fit])
    late = error(model, candidate_mask=lambda rows, candidates: earlier(rows + 1200, candidates))
    print(f"{name}: error {late:.2f}")
print(f"the last price as the prediction: {np.sqrt(np.mean(np.diff(price[1199:]) ** 2)):.2f}")
