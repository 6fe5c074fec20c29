"""The sampling and the calibration error of benchmarks/small_data.py."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from estimators.datasets import Dataset


@pytest.fixture
def small_data(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module("small_data")


def table(n_rows=(60, 80), n_features=2):
    x = np.arange(sum(n_rows) * n_features, dtype=np.float32).reshape(-1, n_features)
    return Dataset("table", "classification", x, np.repeat([0, 1], n_rows), np.empty(0, dtype=np.int64))


def test_subsets_are_balanced_disjoint_and_their_own(small_data):
    split = small_data.subset(table(), 0)
    assert np.bincount(split.y).tolist() == [15, 15]
    assert np.bincount(split.y_test).tolist() == [35, 35]
    assert len(np.unique(np.concatenate([split.X, split.X_test])[:, 0])) == 100
    assert not np.array_equal(split.X, small_data.subset(table(), 1).X)
    np.testing.assert_array_equal(split.X_test, small_data.subset(table(), 0).X_test)


@pytest.mark.parametrize(("dataset", "expected"), [
    (table(), True), (table((49, 80)), False), (table(n_features=101), False), (table(n_features=100), True)])
def test_which_sets_take_part(small_data, dataset, expected):
    assert small_data.suits(dataset) is expected
    dataset.X[3, 0] = np.nan
    assert not small_data.suits(dataset)


def brute_force_ece(y, p, n_bins):
    total = 0.0
    for low in np.arange(n_bins) / n_bins:
        inside = (p >= low) & ((p < low + 1 / n_bins) | ((low + 1 / n_bins > 1 - 1e-9) & (p == 1)))
        total += inside.mean() * abs(y[inside].mean() - p[inside].mean()) if inside.any() else 0
    return total


@pytest.mark.parametrize("n_bins", [100, 10])
def test_ece_agrees_with_brute_force_and_adds_up_over_sets(small_data, n_bins):
    rng = np.random.default_rng(0)
    p = np.append(rng.beta(0.6, 0.4, 3999), 1.0)
    y = rng.random(4000) < p**2
    gaps = small_data.bin_sums(p, y - p)
    assert small_data.ece(gaps, 4000, n_bins) == pytest.approx(brute_force_ece(y, p, n_bins), abs=1e-9)
    parts = sum(small_data.bin_sums(q, z - q) for q, z in zip(np.split(p, 4), np.split(y, 4), strict=True))
    assert small_data.ece(parts, 4000, n_bins) == pytest.approx(small_data.ece(gaps, 4000, n_bins))


def test_floors_agree_with_the_ece_of_calibrated_predictions(small_data):
    rng = np.random.default_rng(1)
    p = rng.beta(2, 2, (20, 1000))
    measured = [small_data.scores((rng.random(p.shape) < p).astype(int), p) for _ in range(20)]
    variances = small_data.bin_sums(p.ravel(), (p * (1 - p)).ravel())
    for n_bins in (100, 10):
        mean = np.mean([row[f"ece_{n_bins}"] for row in measured])
        assert measured[0][f"floor_{n_bins}"] == pytest.approx(mean, rel=0.1)
        assert small_data.expected_ece(variances, p.size, n_bins) == pytest.approx(mean, rel=0.1)


def test_overconfidence_has_the_right_sign(small_data):
    y = np.tile([0, 1], (2, 50))
    sure = np.where(np.arange(100) % 4 < 2, y, 1 - y)               # half of them are wrong
    assert small_data.scores(y, np.clip(sure, 0.1, 0.9))["overconfidence"] == pytest.approx(0.4)
    assert small_data.scores(y, np.where(y, 0.6, 0.4))["overconfidence"] == pytest.approx(-0.4)
