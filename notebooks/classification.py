# %% [markdown]
# # Classification: a table goes in as it is
#
# `PFNClassifier` has read hundreds of thousands of synthetic tables in pretraining. Shown the rows of a real one, with their
# labels, it outputs class probabilities for new rows in a forward pass: nothing is trained, tuned, encoded or imputed. Here
# is what that is good for.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["png"]
import os
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.calibration import CalibrationDisplay
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, make_moons
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from estimators import PFNClassifier
from estimators.datasets import read_dataset

QUICK = "PFNKIT_QUICK" in os.environ                                           # the tests: fewer repetitions
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 70
DATA = next(folder for folder in (Path("benchmarks/data"), Path("../benchmarks/data")) if folder.exists()) / "classification"

# %% [markdown]
# ## 294 patients
#
# The Hungarian part of the UCI heart-disease data: who had a coronary artery narrowed by more than half? Strings, numbers,
# and 782 values that are missing, most of them in the last three columns. We put the names back in place of their codes.

# %%
NAMES = {
    "sex": ["female", "male"], "chest_pain": ["typical angina", "asymptomatic", "not anginal", "atypical angina"],
    "fbs": ["high", "normal"], "restecg": ["hypertrophy", "normal", "ST-T abnormal"], "exang": ["no", "yes"],
    "slope": ["up", "flat", "down"], "thal": ["fixed defect", "normal", "reversible defect"],
}
raw = read_dataset(DATA / "28_heart-hungarian.npz")
columns = ["age", "sex", "chest_pain", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca",
           "thal"]
patients = pd.DataFrame(raw.X, columns=columns)
for name, values in NAMES.items():
    patients[name] = patients[name].map(dict(enumerate(values)))
ill = np.where(raw.y == 1, "narrowed", "not narrowed")
patients.head(4)

# %% [markdown]
# ## Cross-validation in one call
#
# `predict_proba_many` fits and predicts many tables, here ten folds; tables of equal size share forward passes. The other
# two models need a pipeline that imputes and encodes. Logistic regression is the best of the three here, as on a
# minority of the tables of our benchmark (README).

# %%
prepare = make_column_transformer(
    (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")),
     make_column_selector(dtype_exclude="number")),
    remainder=make_pipeline(SimpleImputer(), StandardScaler()),
)
folds = list(StratifiedKFold(10, shuffle=True, random_state=0).split(patients, ill))
begun = time.process_time()
held_out = PFNClassifier(random_state=0).predict_proba_many(
    (patients.iloc[train], ill[train], patients.iloc[test]) for train, test in folds)
seconds = time.process_time() - begun
p = {"PFNClassifier": np.empty(len(ill))}
for (_, test), answer in zip(folds, held_out, strict=True):
    p["PFNClassifier"][test] = answer[:, 0]                                # columns are sorted: "narrowed" is the first
for model in (RandomForestClassifier(random_state=0), LogisticRegression(max_iter=1000)):
    p[type(model).__name__] = cross_val_predict(
        make_pipeline(prepare, model), patients, ill, cv=folds, method="predict_proba")[:, 0]
print(f"{seconds:.1f} s of one core for ten fits of {len(folds[0][0])} rows")
pd.DataFrame({name: {
    "ROC AUC": roc_auc_score(ill == "narrowed", one), "log loss": log_loss(ill == "narrowed", one),
    "Brier score": brier_score_loss(ill == "narrowed", one), "accuracy": ((one > 0.5) == (ill == "narrowed")).mean(),
} for name, one in p.items()}).T.round(3)

# %% [markdown]
# Can one take the probabilities at their word? Of the patients who got about 30 %, about 30 % should be ill. Each point
# below is a sixth of the patients, so that even a perfect model would leave the diagonal by 0.06 or so.

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for name in ("PFNClassifier", "RandomForestClassifier"):
    CalibrationDisplay.from_predictions(ill == "narrowed", p[name], n_bins=6, strategy="quantile", name=name, ax=axes[0])
    axes[1].hist(p[name], bins=np.linspace(0, 1, 21), histtype="step", label=name)
axes[0].set(xlabel="predicted probability", ylabel="share of patients with narrowed arteries")
axes[1].set(xlabel="predicted probability", ylabel="patients");

# %% [markdown]
# ## Which rows carried a prediction?
#
# `context_influence` differentiates the log-probability of the predicted class with respect to the weight of each training
# row: positive rows spoke for the prediction, negative ones against it. Here, for the patient about whom the model is least
# sure:

# %%
train, test = train_test_split(np.arange(len(ill)), test_size=60, random_state=0, stratify=ill)
clf = PFNClassifier(random_state=0).fit(patients.iloc[train], ill[train])
p_test = clf.predict_proba(patients.iloc[test])
unsure = test[[p_test.max(1).argmin()]]
influence = clf.context_influence(patients.iloc[unsure])[0]
order = influence.argsort()
shown = ["age", "sex", "chest_pain", "thalach", "exang", "oldpeak"]
ends = order[[-1, -2, -3, 1, 0]]                                              # three for it, two against it
voters = patients.iloc[train[ends]][shown].assign(label=ill[train[ends]], influence=[f"{v:+.4f}" for v in influence[ends]])
query = patients.iloc[unsure][shown].assign(label=f"predicted: {clf.predict(patients.iloc[unsure])[0]}", influence="")
pd.concat([query, voters])

# %% [markdown]
# It is a derivative, so it can be checked: raise the weight of the strongest row by a tenth and compare.

# %%
weight = np.ones(len(train))
weight[order[-1]] = 1.1
fixed = PFNClassifier(random_state=0, precision="float32", temperature=1.0)
before, after = (fixed.fit(patients.iloc[train], ill[train], sample_weight=w).predict_log_proba(patients.iloc[unsure]).max()
                 for w in (np.ones(len(train)), weight))
predicted = fixed.fit(patients.iloc[train], ill[train]).context_influence(patients.iloc[unsure])[0, order[-1]] * np.log(1.1)
print(f"log-probability changed by {after - before:.5f}, influence said {predicted:.5f}")

# %% [markdown]
# ## Weights
#
# An integer weight is exactly that many copies of a row, 0 leaves it out; weights in between interpolate. If the rows were
# collected with other shares of the classes than will be met, weights say so. Here a tenth of those to be met are ill:

# %%
weight = np.where(ill[train] == "narrowed", 0.1, 0.9) / np.where(ill[train] == "narrowed", *[
    (ill[train] == label).mean() for label in ("narrowed", "not narrowed")])
rare = PFNClassifier(random_state=0).fit(patients.iloc[train], ill[train], sample_weight=weight)
twice = PFNClassifier(random_state=0).fit(patients.iloc[train], ill[train], sample_weight=np.where(train % 2, 2, 1))
copies = np.repeat(train, np.where(train % 2, 2, 1))
same = PFNClassifier(random_state=0).fit(patients.iloc[copies], ill[copies])
print(f"mean probability of the illness: {clf.predict_proba(patients.iloc[test])[:, 0].mean():.2f} "
      f"as collected, {rare.predict_proba(patients.iloc[test])[:, 0].mean():.2f} as weighted")
print("largest difference between weights and copies: "
      f"{np.abs(twice.predict_proba(patients.iloc[test]) - same.predict_proba(patients.iloc[test])).max():.1e}")

# %% [markdown]
# ## Few rows
#
# From 5 to 300 rows of three tables: measures of tumours (30 columns), two bent clusters (2 columns), and which of two
# brands of orange juice was bought (16 columns). Means of four draws of the rows (two of 300), tested on 200 others. A
# linear model suits the first and the third, a forest the second; the pretrained network need not be told.

# %%
tables = {"breast cancer": load_breast_cancer(return_X_y=True)}
for name, file in {"banana": "03_banana.npz", "orange juice": "53_orange-juice.npz"}.items():
    tables[name] = read_dataset(DATA / file).X, read_dataset(DATA / file).y
judged = {
    "PFNClassifier": PFNClassifier(random_state=0),
    "random forest": RandomForestClassifier(random_state=0),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
}
rows = []
for table, (X, y) in tables.items():
    for n in (5, 10, 20, 50, 100, 300):
        for seed in range(1 if QUICK else 4 if n < 300 else 2):
            few, rest = train_test_split(np.arange(len(y)), train_size=n, test_size=200, random_state=seed, stratify=y)
            for name, model in judged.items():
                rows.append((table, name, n, log_loss(y[rest], model.fit(X[few], y[few]).predict_proba(X[rest]))))
scores = pd.DataFrame(rows, columns=["table", "model", "rows", "log loss"])
scores = scores.groupby(["table", "rows", "model"], sort=False).mean()
fig, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
for axis, table in zip(axes, tables, strict=True):
    curve = scores["log loss"].loc[table].unstack()[list(judged)]
    curve.plot(marker="o", ms=4, logx=True, ax=axis, title=table, legend=axis is axes[0])
    axis.set_xticks(curve.index, curve.index)
    axis.minorticks_off()
axes[0].set_ylabel("log loss")
print(scores["log loss"].unstack()[list(judged)].groupby("rows").mean().round(3).to_string())

# %% [markdown]
# ## What it believes
#
# Two moons, 60 rows. The network's borders are smooth, those of trees run along the axes.

# %%
X, y = make_moons(60, noise=0.25, random_state=0)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for axis, model in zip(axes, (PFNClassifier(random_state=0), RandomForestClassifier(random_state=0)), strict=True):
    DecisionBoundaryDisplay.from_estimator(
        model.fit(X, y), X, response_method="predict_proba", grid_resolution=50, eps=1.5, ax=axis, cmap="RdBu",
        levels=np.linspace(0, 1, 11), class_of_interest=1)
    axis.scatter(*X.T, c=y, cmap="RdBu", edgecolor="k", s=25)
    axis.set_title(type(model).__name__)

# %% [markdown]
# ## More than ten classes
#
# The network has ten outputs. Beyond, the classes are divided into groups of groups, and each choice between them is a
# forward pass. Soybean diseases: 19 of them, 35 categorical columns, 2,337 gaps, half of the rows to learn from.

# %%
beans = read_dataset(DATA / "39_soybean.npz")
train, test = train_test_split(np.arange(len(beans.y)), test_size=0.5, random_state=0, stratify=beans.y)
forest = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"),
                       RandomForestClassifier(random_state=0))
for name, model in {"PFNClassifier": PFNClassifier(n_estimators=2, random_state=0), "random forest": forest}.items():
    answer = model.fit(beans.X[train], beans.y[train]).predict_proba(beans.X[test])
    accuracy = (answer.argmax(1) == beans.y[test]).mean()
    print(f"{name:<14} accuracy {accuracy:.3f}, log loss {log_loss(beans.y[test], answer):.3f}")

# %% [markdown]
# ## On disk, and in service
#
# `save` writes safetensors, and nothing is unpickled in `load`. A fitted classifier keeps its encoded context: rows that
# come one by one cost little.

# %%
with tempfile.TemporaryDirectory() as folder:
    clf.save(Path(folder) / "heart.safetensors")
    loaded = PFNClassifier.load(Path(folder) / "heart.safetensors")
begun = time.perf_counter()
first = loaded.predict_proba(patients[:1])
cold = time.perf_counter() - begun
begun = time.perf_counter()
for row in range(1, 21):
    loaded.predict_proba(patients[row : row + 1])
warm = (time.perf_counter() - begun) / 20
print(f"the same probabilities: {(first == clf.predict_proba(patients[:1])).all()}")
print(f"first row {1e3 * cold:.0f} ms, each further row {1e3 * warm:.0f} ms: {cold / warm:.0f} times as fast")
