"""The settings from which the bundled weights were made, by name."""

from __future__ import annotations

from collections.abc import Callable

from pfn.network import PFNConfig
from pfn.sizes import TaskSizes
from pfn.training import PretrainConfig
from priors import (
    GPPrior,
    Mixture,
    Prior,
    RulePrior,
    SCMPrior,
    as_classification,
    with_categoricals,
    with_distractors,
    with_missing,
    with_warps,
)


def tabular_prior(max_classes: int = 10) -> Prior:
    """Classification tables: causal graphs, rules and Gaussian processes, with columns such as real tables have."""
    tasks = Mixture(
        [
            (0.86, SCMPrior(max_classes=max_classes)),
            (0.10, RulePrior(max_classes=max_classes)),
            (0.04, as_classification(GPPrior(lengthscale=0.4, noise=1e-2), max_classes=max_classes)),
        ]
    )
    return with_missing(with_categoricals(with_warps(with_distractors(tasks))))


def classifier() -> PretrainConfig:
    """The bundled `classifier`."""
    return PretrainConfig(
        prior=tabular_prior(),
        model=PFNConfig(task="classification", n_outputs=10, embed_dim=192, n_layers=4, n_heads=3, hidden_dim=384),
        sizes=TaskSizes(rows=(64, 1024), features=(1, 64), cells=10_240),
        n_steps=3_600,
        decay_steps=900,
    )


RECIPES: dict[str, Callable[[], PretrainConfig]] = {"classifier": classifier}
