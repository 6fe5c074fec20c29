"""The settings from which the bundled weights were made, by name."""

from __future__ import annotations

from collections.abc import Callable

from pfn.curves import N_CURVE_FEATURES, CurveTasks
from pfn.freeze_thaw import N_ROW_FEATURES, FreezeThawTasks
from pfn.network import PFNConfig
from pfn.sizes import TaskSizes
from pfn.studies import STUDIES
from pfn.training import PretrainConfig
from priors import (
    CollinearPrior,
    FactorPrior,
    LearningCurvePrior,
    Mixture,
    OptimizationPrior,
    Prior,
    RulePrior,
    SCMPrior,
    as_classification,
    with_additive_target,
    with_categoricals,
    with_distractors,
    with_learnable,
    with_missing,
    with_normal_scores,
    with_smooth_target,
    with_target_noise,
    with_warps,
)
from priors.curve_families import FAMILIES


def tabular_prior(max_classes: int = 10) -> Prior:
    """Tables: graphs, sums of effects, rules, with columns as in real tables.

    `max_classes=0`: real targets, also smooth functions, and regression on columns that do not cause each other. Of classes
    the like did not make a better network in 2,200 steps (`benchmarks/results/training-day.json`).
    """

    def graphs(classes: int) -> Prior:
        styles = Mixture([(0.75, SCMPrior(classes)), (0.25, SCMPrior(classes, style="layered"))])
        return with_learnable(styles, least=0.05, overdraw=1.2)

    if max_classes == 0:
        tables = Mixture([(0.6, graphs(0)), (0.3, FactorPrior()), (0.1, CollinearPrior())])
        tasks = with_normal_scores(with_target_noise(with_smooth_target(with_additive_target(tables))))
    else:
        sums = with_target_noise(with_additive_target(graphs(0), probability=1.0))
        additive = as_classification(sums, max_classes=max_classes)
        tasks = Mixture([(0.75, graphs(max_classes)), (0.15, additive), (0.1, RulePrior(max_classes=max_classes))])
    return with_missing(with_categoricals(with_warps(with_distractors(tasks, probability=0.25)), probability=0.2))


def classifier() -> PretrainConfig:
    """The bundled `classifier`: the regressor's layers learn to tell classes apart, and to read ranks."""
    return PretrainConfig(
        prior=tabular_prior(),
        model=PFNConfig(task="classification", n_outputs=10, embed_dim=192, n_layers=4, n_heads=3, hidden_dim=384,
                        cell_ranks=True),
        sizes=TaskSizes(rows=(40, 1280), features=(1, 64), cells=10_240),
        late_sizes=TaskSizes(rows=(24, 2048), features=(1, 100), cells=10_240, max_cells=40_960),
        n_steps=3_500,
        decay_steps=800,
        start_from="regressor",
    )


def regressor() -> PretrainConfig:
    """The bundled `regressor`: the classifier's layers learn to output 1,000 bars of the standardised target."""
    return PretrainConfig(
        prior=tabular_prior(max_classes=0),
        model=PFNConfig(task="regression", n_outputs=1000, embed_dim=192, n_layers=4, n_heads=3, hidden_dim=384),
        sizes=TaskSizes(rows=(24, 1024), features=(1, 64), cells=10_240),
        late_sizes=TaskSizes(rows=(24, 2048), features=(1, 100), cells=10_240, max_cells=40_960),
        n_steps=3_300,
        decay_steps=800,
        start_from="classifier",
    )


def bayesopt() -> PretrainConfig:
    """The bundled `bayesopt`: functions on the unit cube of up to 18 features, from up to 230 evaluations."""
    model = PFNConfig(task="regression", n_outputs=1000, row_features=18, scaling="cube", normal_base=True,
                      target_status=True, embed_dim=128, n_layers=8, n_heads=4, hidden_dim=256, n_thinking_rows=8)
    sizes = TaskSizes(rows=(24, 256), features=(1, 18), context_share=(0.15, 0.9), log_share=True, cells=4096, row_step=8)
    return PretrainConfig(OptimizationPrior(), model, sizes, n_steps=14_000, decay_steps=6_000, batches_per_step=1,
                          learning_rate=2e-3)


def learning_curve() -> PretrainConfig:
    """The bundled `learning-curve`: the published prior, and one that is nearer to real curves, told apart by a feature."""
    real = LearningCurvePrior(
        families=tuple(FAMILIES),
        shapes={"slow_start": 0.2, "learning_rate_drops": 0.1, "double_descent": 0.05, "divergence": 0.08,
                "overfitting": 0.1, "decline": 0.15, "small_gain": 0.35},
        noise={"decaying": 0.2, "binomial": 0.05, "autocorrelated": 0.3, "wandering": 0.4, "spikes": 0.05,
               "rounded": 0.15},
        log_noise=(-6.0, 2.0),
    )
    model = PFNConfig(task="regression", n_outputs=640, row_features=N_CURVE_FEATURES, scaling="prior", normal_base=True,
                      embed_dim=128, n_layers=6, n_heads=4, hidden_dim=256, n_thinking_rows=8)
    sizes = TaskSizes(rows=(1, 180), features=(N_CURVE_FEATURES,) * 2, queries=28, cells=4096)
    return PretrainConfig(CurveTasks(extended=real), model, sizes, n_steps=12_000, decay_steps=6_000, batches_per_step=1,
                          learning_rate=2e-3)


def freeze_thaw() -> PretrainConfig:
    """The bundled `freeze-thaw`: partial curves of up to 150 configurations of up to 10 parameters."""
    model = PFNConfig(task="regression", n_outputs=500, row_features=N_ROW_FEATURES, scaling="prior", normal_base=True,
                      embed_dim=96, n_layers=6, n_heads=4, hidden_dim=192, n_thinking_rows=8)
    sizes = TaskSizes(rows=(1, 150), features=(N_ROW_FEATURES,) * 2, queries=32, cells=4096)
    return PretrainConfig(FreezeThawTasks(), model, sizes, n_steps=8_000, decay_steps=4_000, batches_per_step=1,
                          learning_rate=2e-3)


RECIPES: dict[str, Callable[[], PretrainConfig]] = STUDIES | {
    "classifier": classifier, "regressor": regressor, "bayesopt": bayesopt,
    "learning-curve": learning_curve, "freeze-thaw": freeze_thaw,
}
