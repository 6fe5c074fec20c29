"""Settings of the small networks whose priors have a known posterior, or a best known predictor.

Each trains on one CPU thread in 5 to 55 minutes, `gp` in 100. The measured `functions` had an earlier stage of 4,200
steps, whose decayed end this run resumed; `gp` went on from weights that had seen 843,753 tasks (`pfn info gp`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pfn.config import PretrainConfig
from pfn.network import PFNConfig
from pfn.sizes import TaskSizes
from priors import BNNPrior, GPPrior, LinearPrior, Mixture, Prior, StrokePrior
from priors.functions import DecisionTreePrior, MixtureOfRegressionsPrior, SparseLinearPrior, TwoLayerNetPrior

NOISE = 0.25                # variance in all function classes
FUNCTION_CLASSES: dict[str, Prior] = {
    "linear": LinearPrior(bias_variance=0.0, noise=NOISE),
    "sparse linear": SparseLinearPrior(sparsity=2, noise=NOISE),
    "mixture of regressions": MixtureOfRegressionsPrior(noise=NOISE),
    "two-layer net": TwoLayerNetPrior(noise=NOISE),
    "decision tree": DecisionTreePrior(depth=3, noise=NOISE),
}


def _rows(task: Any, n_features: int, n_outputs: int, **changes: Any) -> PFNConfig:
    """One token a row, in the units of the prior."""
    settings: dict[str, Any] = {"embed_dim": 128, "n_layers": 6, "n_heads": 4, "hidden_dim": 256, "n_thinking_rows": 4}
    return PFNConfig(task=task, n_outputs=n_outputs, row_features=n_features, scaling="prior",
                     normal_base=task == "regression", **(settings | changes))


def _sizes(n_features: tuple[int, int], rows: tuple[int, int], cells: int = 4096) -> TaskSizes:
    """As many tasks of one or two context rows as of fifty to a hundred."""
    return TaskSizes(rows=rows, features=n_features, context_share=(0.9 / rows[1], 0.8), log_share=True, cells=cells,
                     row_step=8)


def gp_fixed(n_features: int) -> PretrainConfig:
    """Gaussian process of known lengthscale 0.6, variance 1 and noise 1e-4."""
    if n_features == 1:                                             # posteriors a hundred times narrower than the prior
        return PretrainConfig(GPPrior(), _rows("regression", 1, 1024), _sizes((1, 1), (32, 160)), n_steps=6_000,
                              decay_steps=3_000, batches_per_step=1, learning_rate=2e-3, precision="float32")
    sizes = TaskSizes(rows=(64, 160), features=(n_features, n_features), context_share=(0.02, 0.75), row_step=8, cells=8192)
    return PretrainConfig(GPPrior(), _rows("regression", n_features, 1024, n_layers=8), sizes, n_steps=4_500,
                          decay_steps=2_500, batches_per_step=1, learning_rate=2e-3)


def gp() -> PretrainConfig:
    """The bundled `gp`: Matérn-5/2 with unknown lengthscales, variance and noise, one to four features on [0, 1]."""
    model = _rows("regression", 4, 2048, embed_dim=64, hidden_dim=128, n_layers=10)
    sizes = TaskSizes(rows=(16, 96), features=(1, 4), context_share=(0.1, 0.8), cells=4096, row_step=8)
    return PretrainConfig(GPPrior.with_hyperpriors(), model, sizes, n_steps=18_000, decay_steps=3_000, batches_per_step=1,
                          learning_rate=1.5e-3, precision="float32")


def bnn() -> PretrainConfig:
    """Bayesian neural network of 8 features and 64 tanh units, two classes."""
    model = _rows("classification", 8, 2, embed_dim=64, hidden_dim=128, n_layers=4)
    return PretrainConfig(BNNPrior.big(), model, _sizes((8, 8), (64, 256)),
                          n_steps=3_500, decay_steps=1_700, batches_per_step=1, learning_rate=2e-3)


def functions() -> PretrainConfig:
    """Five function classes at once, 5 features; the network has to find out which one it sees."""
    prior = Mixture([(1.0, one) for one in FUNCTION_CLASSES.values()])
    return PretrainConfig(prior, _rows("regression", 5, 256, n_layers=8), _sizes((5, 5), (48, 128)),
                          n_steps=7_000, decay_steps=2_000, batches_per_step=1, learning_rate=2e-3)


def loops(n_loops: int) -> PretrainConfig:
    """Linear regression and Gaussian processes, 3 features, by 14 layers: different ones, or one layer 14 times."""
    prior = Mixture([(0.5, FUNCTION_CLASSES["linear"]), (0.5, GPPrior(noise=0.01))])
    model = _rows("regression", 3, 64, embed_dim=96, hidden_dim=192, n_layers=14 // n_loops, n_loops=n_loops,
                  residual_decay=1.0)
    return PretrainConfig(prior, model, _sizes((3, 3), (32, 96)),
                          n_steps=1_600, decay_steps=800, batches_per_step=1, learning_rate=2e-3)


def smooth_classes() -> PretrainConfig:
    """Two classes with smooth probabilities, 5 features, at most 256 context rows: to study what lies beyond."""
    prior = BNNPrior(n_hidden_layers=1, width=32, weight_std=1.0, noise_std=0.0, output_noise_std=0.0, target="softmax")
    model = _rows("classification", 5, 2, embed_dim=64, hidden_dim=128, n_layers=4)
    return PretrainConfig(prior, model, _sizes((5, 5), (64, 320)),
                          n_steps=3_000, decay_steps=1_000, batches_per_step=1, learning_rate=2e-3)


def strokes() -> PretrainConfig:
    """Five classes of drawings, 8 × 8 pixels, mostly five shots of each."""
    model = _rows("classification", 64, 5, embed_dim=192, hidden_dim=384)
    sizes = TaskSizes(rows=(40, 64), features=(64, 64), context_share=(0.3, 0.7), cells=4096, row_step=8)
    return PretrainConfig(StrokePrior(n_classes=5, image_size=8), model, sizes,
                          n_steps=1_600, decay_steps=800, batches_per_step=1, learning_rate=1e-3)


STUDIES: dict[str, Callable[[], PretrainConfig]] = {
    "gp": gp,
    "gp-1d": lambda: gp_fixed(1),
    "gp-5d": lambda: gp_fixed(5),
    "bnn": bnn,
    "functions": functions,
    "layers": lambda: loops(1),
    "loops": lambda: loops(14),
    "smooth-classes": smooth_classes,
    "strokes": strokes,
}
