"""Every alternative of benchmarks/bakeoff.py still fits the package: it builds, learns from a batch, and predicts."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pfn import state, training
from priors import TaskShape
from priors.catalogue import PRIORS

NAMES = (
    "default", "three-stage", "no-thinking", "plain-softmax", "qassmax", "rmsnorm", "no-decay", "retrieval", "no-groups",
    "pairs", "fourier", "rank", "adamw", "large-tasks", "small-tasks", "wide-and-shallow", "narrow-and-deep", "regression",
    "two-heads",
)


@pytest.fixture
def bakeoff(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module("bakeoff")


def test_all_alternatives_are_listed(bakeoff):
    assert tuple(bakeoff.VARIANTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_alternative_learns_and_predicts(bakeoff, generator, name):
    variant = bakeoff.VARIANTS[name]
    config = variant.config()
    prior = PRIORS["linear" if config.model.task == "regression" else "linear-classes"].make()
    batch = prior.sample(TaskShape(2, 12, 5, 8), generator=generator)
    with bakeoff.exchanged(variant), torch.random.fork_rng():
        torch.manual_seed(0)
        model = state.PFN(replace(config.model, n_layers=1))
        training.task_loss(model, batch).backward()
        logits = model(batch.x, batch.y[:, : batch.n_context])
    assert logits.shape == (2, 4, config.model.n_outputs)
    assert logits.isfinite().all()
    learns = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters()]
    assert sum(learns) > len(learns) / 2
