"""Real-data regression: PFNRegressor beside seven baselines at their defaults, paired over datasets.

Protocol (benchmarks/data/README.md): 50/50 split, at most 1000 training rows. RMSE/std(y); negative log-likelihood of y in
units of the training targets' standard deviation, in nats; pinball loss over the quantiles 0.1 … 0.9 in the same units;
coverage of the central 90 % interval. Every model gets the same matrix, in which categories are integer codes and gaps are
NaN; forest, ridge and Gaussian process get them imputed, the last two also categories one-hot and numbers standardised.

PFN, the Gaussian process (constant × isotropic RBF + white noise) and CatBoost with uncertainty have distributions of their
own; the latter is a normal for each row, from `RMSEWithUncertainty` on the standardised y. As its variances are those of
the training rows, too small after the default 1000 iterations, the number of iterations is the best one on a held-out fifth.
The others predict points: a homoscedastic normal is put around them, whose standard deviation is the root mean square error
on a held-out fifth of the training rows. Either way all training rows serve in the final fit. Results are kept per dataset,
seed and model, so a run only computes what is missing:

    python benchmarks/regression.py                                 # print the table; compute what is not there
    python benchmarks/regression.py --models pfn --redo             # after a change of the weights
    python benchmarks/regression.py --models pfn --checkpoint trunk.safetensors --out /tmp/trunk.json
"""

from __future__ import annotations

from typing import Any

import numpy as np
from real_data import Models, common_models, main
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import train_test_split

from estimators.evaluation import baseline_models, for_linear_models
from estimators.metrics import Normal

NAMES = {"pfn": "PFNRegressor", "catboost": "CatBoost", "catboost-uncertainty": "CatBoost with uncertainty",
         "lightgbm": "LightGBM", "xgboost": "XGBoost", "forest": "random forest", "ridge": "ridge",
         "gp": "Gaussian process"}


class UncertainCatBoost:
    """CatBoost that predicts mean and variance; its loss depends on the units of y, so y is standardised."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> UncertainCatBoost:
        self.location, self.scale = y.mean(), y.std()
        z = (y - self.location) / self.scale
        rest, fifth = train_test_split(np.arange(len(z)), test_size=0.2, random_state=0)
        trial = self._booster().fit(X[rest], z[rest], eval_set=(X[fifth], z[fifth]), use_best_model=True)
        self.model = self._booster(iterations=trial.tree_count_).fit(X, z)
        return self

    def _booster(self, **arguments: Any) -> Any:
        from catboost import CatBoostRegressor

        return CatBoostRegressor(loss_function="RMSEWithUncertainty", random_seed=0, verbose=False, thread_count=1,
                                 allow_writing_files=False, **arguments)

    def predict_distribution(self, X: np.ndarray) -> Normal:
        mean, variance = self.model.predict(X, prediction_type="RMSEWithUncertainty").T
        return Normal(self.location + self.scale * mean, self.scale * np.sqrt(variance))


class GaussianProcess:
    """A Gaussian process on standardised inputs, categories one-hot."""

    def __init__(self, categorical: np.ndarray) -> None:
        self.columns = for_linear_models(categorical, sparse_threshold=0)

    def fit(self, X: np.ndarray, y: np.ndarray) -> GaussianProcess:
        x = self.columns.fit_transform(X)
        kernel = ConstantKernel() * RBF(length_scale=x.shape[1] ** 0.5) + WhiteKernel(0.1)
        self.model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x, y)
        return self

    def predict_distribution(self, X: np.ndarray) -> Normal:
        return Normal(*self.model.predict(self.columns.transform(X), return_std=True))


MODELS: Models = {
    **common_models("regression"),
    "catboost-uncertainty": lambda split, _: UncertainCatBoost(),
    "ridge": lambda split, _: baseline_models("regression", split.categorical)["ridge"],
    "gp": lambda split, _: GaussianProcess(split.categorical),
}

if __name__ == "__main__":
    main(__doc__, "regression", MODELS, NAMES, checkpoint="regressor")
