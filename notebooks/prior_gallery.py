# %% [markdown]
# # The priors
#
# What the networks can learn from. For every prior of the catalogue: four tasks (one feature: the target over it, context
# rows dark; more: the two most informative columns, coloured by target; images: four of each class), and, at the end, one
# table of what 100 tasks of each look like in numbers. On the command line: `pfn sample NAME --plot`, `pfn sample NAME`.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["png"]
import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import display

from pfn.recipes import tabular_prior
from priors.catalogue import PRIORS, Entry
from priors.gallery import plot_gallery
from priors.summary import summarise

torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 48


def show(*names):
    for name in names:
        shape = PRIORS[name].shape(4)
        display(plot_gallery(PRIORS[name].make(), shape, generator=torch.Generator().manual_seed(0), title=name))


# %% [markdown]
# ## Tables
#
# Structural causal models, on random graphs and in layers, and explicit rules: parity, lookup tables, trees.

# %%
show("scm", "scm-layered", "scm-classes", "rules")

# %% [markdown]
# The recipe of the bundled classifier mixes them, and gives their columns what real ones have: noise columns and copies,
# skew, rounding, categories and gaps.

# %%
PRIORS = PRIORS | {"classifier's recipe": Entry(tabular_prior, rows=200, features=8, context=100)}
show("classifier's recipe")

# %% [markdown]
# ## Gaussian processes
#
# With a fixed kernel, whose posterior is known; with random hyper-parameters; and those of Bayesian optimisation, alone
# and with constraints. Cut at random levels, any regression prior becomes one of classes.

# %%
show("gp", "gp-hyperpriors", "gp-classes", "hebo", "constrained-hebo")

# %% [markdown]
# ## Networks
#
# Bayesian neural networks with random architectures, for regression, for Bayesian optimisation and for tables.

# %%
show("bnn", "bnn-bo", "bnn-tabular")

# %% [markdown]
# ## Function classes
#
# Of in-context learning studies and of textbooks; many with an exact posterior.

# %%
show("linear", "linear-conjugate", "sparse-linear", "linear-classes", "quadratic")

# %%
show("mixture-of-regressions", "decision-tree", "two-layer-net", "dirichlet")

# %% [markdown]
# ## Learning curves and images

# %%
show("learning-curve", "learning-curve-extended", "strokes")

# %% [markdown]
# ## In numbers
#
# Means over tasks (of skewness and excess kurtosis: medians over columns or tasks, as their means are those of a few).
# *signal* is the share of the target's variance that a simple learner predicts on rows it has not seen.

# %%
rows = {}
for name, entry in sorted(PRIORS.items()):
    shape = entry.shape(50 if entry.features == 784 else 100)
    summary = summarise(entry.make(), shape, generator=torch.Generator().manual_seed(1))
    rows[name] = {"rows": shape.n_rows, "features": shape.n_features} | {
        statistic: median if "skewness" in statistic or "kurtosis" in statistic else mean
        for statistic, mean, _, median, _ in summary.rows()
    }
short = {
    "feature skewness, by column": "feature skew", "feature excess kurtosis, by column": "feature kurtosis",
    "whole-numbered columns (codes, counts)": "whole-numbered", "missing cells": "missing", "classes": "classes",
    "|correlation| of two features": "|correlation|", "target skewness": "target skew",
    "target excess kurtosis": "target kurtosis", "share of the largest class": "largest class",
    "share of the rarest class": "rarest class", "learnable (signal > 0.1)": "learnable",
}
pd.DataFrame.from_dict(rows, orient="index").rename(columns=short).astype(float).map("{:.3g}".format).replace("nan", "")
