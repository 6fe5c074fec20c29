"""Predictions of the bundled weights under two sets of versions of torch, NumPy, scikit-learn, pandas, SciPy and Optuna.

    old/bin/python benchmarks/versions.py --save /tmp/old.npz        # in an environment with the oldest versions
    new/bin/python benchmarks/versions.py --save /tmp/new.npz
    new/bin/python benchmarks/versions.py --compare /tmp/old.npz /tmp/new.npz    # prints, writes results/versions.json

All in float32; "auto" is bfloat16 on some CPUs, with a torch that can tell which. Differences are the largest of any
prediction, for targets in standard deviations of the predictions; the exit code is 1 if one is above 1e-4.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from optuna.distributions import FloatDistribution
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

import pfn.curves
from estimators import BayesianOptimizer, LearningCurveExtrapolator, PFNClassifier, PFNImputer, PFNRegressor

TOLERANCE = 1e-4
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "optuna", "safetensors")


def predictions() -> dict[str, np.ndarray]:
    found = {}
    X, y = load_breast_cancer(return_X_y=True)
    clf = PFNClassifier(random_state=0, precision="float32").fit(X[:200], y[:200])
    found["classifier, two classes"] = clf.predict_proba(X[200:260])
    X, y = load_iris(return_X_y=True)
    found["classifier, three classes"] = (
        PFNClassifier(random_state=0, precision="float32").fit(X[::2], y[::2]).predict_proba(X[1::2]))
    X, y = load_diabetes(return_X_y=True)
    reg = PFNRegressor(random_state=0, precision="float32").fit(X[:200], y[:200])
    found["regressor, mean"] = reg.predict(X[200:260])
    found["regressor, quantiles"] = reg.predict(X[200:260], quantiles=[0.05, 0.5, 0.95])
    gappy = X[:40, :4].copy()
    gappy[::5, 1] = np.nan
    found["imputer"] = PFNImputer(n_estimators=1, random_state=0, precision="float32").fit_transform(gappy)
    pfn.curves.prefers_bfloat16 = lambda: False
    curve = LearningCurveExtrapolator(horizon=50).fit(range(1, 9), [0.31, 0.42, 0.50, 0.55, 0.58, 0.61, 0.62, 0.64])
    found["learning curve, quantiles"] = curve.predict([12, 20, 50], quantiles=[0.05, 0.5, 0.95])
    optimizer = BayesianOptimizer({"x": FloatDistribution(-2, 2), "y": FloatDistribution(-2, 2)}, random_state=0)
    for _ in range(14):
        (params,) = optimizer.ask()
        optimizer.tell(params, (params["x"] - 1) ** 2 + abs(params["y"]))
    found["Bayesian optimiser, trials"] = np.array([[trial.params["x"], trial.params["y"]] for trial in optimizer.trials_])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, metavar="FILE")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.save:
        versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
        np.savez(args.save, versions=json.dumps(versions), **predictions())
    if args.compare:
        first, second = (np.load(file) for file in args.compare)
        gaps = {name: float(np.abs(first[name] - second[name]).max() / (second[name].std() if "regressor" in name else 1.0))
                for name in first.files if name != "versions"}
        record = {"date": str(datetime.date.today()), "machine": platform.machine(),
                  "versions": [json.loads(str(one["versions"])) for one in (first, second)], "largest_difference": gaps}
        out = Path(__file__).resolve().parent / "results" / "versions.json"
        out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record, indent=1))
        sys.exit(max(gaps.values()) > TOLERANCE)


if __name__ == "__main__":
    main()
