"""The settings from which the bundled weights were made, by name."""

from __future__ import annotations

from collections.abc import Callable

from pfn.network import PFNConfig
from pfn.sizes import TaskSizes
from pfn.training import PretrainConfig
from priors import (
    Mixture,
    Prior,
    RulePrior,
    SCMPrior,
    with_additive_target,
    with_categoricals,
    with_distractors,
    with_learnable,
    with_missing,
    with_normal_scores,
    with_target_noise,
    with_warps,
)


def tabular_prior(max_classes: int = 10) -> Prior:
    """Tables: causal graphs and rules, with columns such as real tables have; real targets with `max_classes=0`."""
    graphs = Mixture([(0.75, SCMPrior(max_classes)), (0.25, SCMPrior(max_classes, style="layered"))])
    tasks: Prior = with_learnable(graphs, least=0.05, overdraw=1.2)
    if max_classes == 0:
        tasks = with_normal_scores(with_target_noise(with_additive_target(tasks)))
    else:
        tasks = Mixture([(0.9, tasks), (0.1, RulePrior(max_classes=max_classes))])
    return with_missing(with_categoricals(with_warps(with_distractors(tasks, probability=0.25)), probability=0.2))


def classifier() -> PretrainConfig:
    """The bundled `classifier`."""
    return PretrainConfig(
        prior=tabular_prior(),
        model=PFNConfig(task="classification", n_outputs=10, embed_dim=192, n_layers=4, n_heads=3, hidden_dim=384,
                        dense_features=24),
        sizes=TaskSizes(rows=(24, 1024), features=(1, 64), cells=10_240),
        n_steps=3_600,
        decay_steps=900,
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


RECIPES: dict[str, Callable[[], PretrainConfig]] = {"classifier": classifier, "regressor": regressor}
