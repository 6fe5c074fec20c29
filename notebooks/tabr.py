# %% [markdown]
# # TabR: which rows voted?
#
# `PFNClassifier` reads a table as context; that ends at a few thousand rows. `TabRClassifier` is for longer ones: a small
# network is trained on the table, and at prediction looks up the rows whose keys are nearest, 96 by default. Their labels,
# weighted and corrected for how they differ from the query, enter the prediction. So one can ask which rows those were.

# %%
# %matplotlib inline
import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from estimators import TabRClassifier

QUICK = "PFNKIT_QUICK" in os.environ                                            # the tests: seconds of training
X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=300, random_state=0, stratify=y)
time_limit = 4 if QUICK else None
clf = TabRClassifier(time_limit=time_limit, random_state=0).fit(X_train, y_train)
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
late = TabRClassifier(time_limit=time_limit, random_state=0).fit(X_train[few], y_train[few])
is_seven = y_test == 7
print(f"sevens recognised: {late.score(X_test[is_seven], y_test[is_seven]):.3f}")
late.add_candidates(X_train[seven[8:]], y_train[seven[8:]])
print(f"with {len(seven) - 8} more to look up: {late.score(X_test[is_seven], y_test[is_seven]):.3f}"
      f" (all digits {late.score(X_test, y_test):.3f})")
