"""Long use of fitted estimators leaves nothing behind: a short version of benchmarks/soak.py, with tiny networks."""

import gc
import importlib
import tracemalloc
from pathlib import Path

import pytest
import torch

from estimators import PFNClassifier, PFNRegressor
from pfn import PFN, Envelope, ModelCard, PFNConfig


def network(task, n_outputs):
    config = PFNConfig(task=task, n_outputs=n_outputs, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32)
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = PFN(config).eval().requires_grad_(False)
    model.card = ModelCard(config, "a prior", Envelope(100, 5, n_outputs if task == "classification" else None))
    return model


def test_predictions_leave_no_objects_files_or_threads_behind(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    soak = importlib.import_module("soak").soak
    models = (PFNClassifier(n_estimators=1, model=network("classification", 2), random_state=0, precision="float32"),
              PFNRegressor(n_estimators=1, model=network("regression", 20), random_state=0, precision="float32"))
    soak(100, *models, n_samples=10, progress=False)
    gc.collect()
    tracemalloc.start()
    try:
        soak(40, *models, n_samples=10, progress=False)             # allocated once, and kept
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        found = soak(300, *models, n_samples=10, progress=False)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000                                          # bytes; one table is 2 kB, one context 20 kB
    assert found["predictions"] == 300
    assert found["open_files"][0] == found["open_files"][1]
    assert found["threads"][0] == found["threads"][1]
    assert found["mib_at_the_end"] - found["mib_after_warm_up"] == pytest.approx(0.0, abs=20.0)
