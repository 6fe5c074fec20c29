"""The spaces in which TabR's paper tuned it, for `PFNSearchCV`, `BayesianOptimizer` or Optuna."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

#: TabR-S. The paper tries a weight decay of 0 half of the time, too.
TABR_S_SEARCH_SPACE: dict[str, BaseDistribution] = {
    "width": IntDistribution(96, 384, step=8),
    "context_dropout": FloatDistribution(0.0, 0.6),
    "dropout": FloatDistribution(0.0, 0.6),
    "learning_rate": FloatDistribution(3e-5, 1e-3, log=True),
    "weight_decay": FloatDistribution(1e-6, 1e-4, log=True),
}

#: TabR, with `embedding="periodic"`.
TABR_SEARCH_SPACE: dict[str, BaseDistribution] = TABR_S_SEARCH_SPACE | {
    "n_encoder_blocks": IntDistribution(0, 1),
    "n_predictor_blocks": IntDistribution(1, 2),
    "n_frequencies": IntDistribution(16, 96),
    "frequency_scale": FloatDistribution(0.01, 100.0, log=True),
    "embedding_width": IntDistribution(16, 64),
}
