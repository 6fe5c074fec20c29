"""Replays of recorded runs: every method spends the same epochs, and the halvings promote whom they should."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

METHODS = ("freeze-thaw", "random search", "random continuation", "successive halving", "Hyperband", "ASHA")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module


@pytest.fixture
def methods(benchmark):
    return benchmark("freeze_thaw_methods")


@pytest.fixture
def predictions(benchmark):
    return benchmark("freeze_thaw_predictions")


@pytest.fixture
def curves(benchmark):
    """Errors of 30 runs over 9 epochs that get better at a rate of their own; every seventh fails at epoch 3."""
    rng = np.random.default_rng(0)
    x = rng.random((30, 2))
    values = 0.9 * np.exp(-np.arange(1, 10) * (0.05 + 0.4 * x[:, :1])) + 0.001 * rng.random((30, 9))
    values[::7, 2:] = np.nan
    make = benchmark("curve_data").CurveSet
    return make("fake/error", "error", True, (0.0, 1.0), np.arange(1.0, 10.0), values, x, ("a", "b"))


@pytest.mark.parametrize("method", METHODS)
def test_epochs_are_counted_and_the_best_is_kept(curves, methods, method, monkeypatch):
    replays = []
    original = methods.Replay
    monkeypatch.setattr(methods, "Replay", lambda *arguments: replays.append(original(*arguments)) or replays[-1])
    record = methods.play(method, curves, 4, seed=1)
    (replay,) = replays
    assert len(record["best"]) == 4 * 9
    assert (np.diff(record["best"]) <= 0).all()
    assert len(replay.trace) == replay.reached.sum() <= 4 * 9
    assert record["best"][-1] == min(np.nanmin(replay.so_far(run)) for run in np.flatnonzero(replay.reached))
    assert (replay.reached[replay.failed] == 3).all()
    assert record["runs"] == (replay.reached > 0).sum()
    assert methods.play(method, curves, 4, seed=1)["best"] == record["best"]


def test_a_run_goes_on_where_it_was(curves, methods):
    replay = methods.Replay(curves, 10)
    np.testing.assert_array_equal(replay.run(1, 2), curves.values[1, :2])
    np.testing.assert_array_equal(replay.run(1, 5), curves.values[1, 2:5])
    failed = replay.run(0, 9)
    np.testing.assert_array_equal(failed, [*curves.values[0, :2], np.nan])
    assert len(replay.run(0, 9)) == 0
    with pytest.raises(methods.Spent):
        replay.run(2, 9)
    assert len(replay.trace) == 10
    assert replay.trace[-1] == min(curves.values[1, :5].min(), curves.values[0, :2].min(), curves.values[2, :2].min())


def test_metrics_that_are_maximised_are_costs(curves, methods):
    mirrored = replace(curves, minimize=False, bounds=(-1.0, 0.0), values=-curves.values)
    np.testing.assert_array_equal(methods.Replay(mirrored, 9).cost, methods.Replay(curves, 9).cost)


def test_halving_continues_the_best_third(curves, methods):
    replay = methods.Replay(curves, 1000)
    assert methods.rungs(replay) == [1, 3, 9]
    numbers = list(range(1, 10))
    methods.halving(replay, numbers, methods.rungs(replay))
    at_one = sorted(numbers, key=lambda run: curves.values[run, 0])[:3]
    at_three = sorted(at_one, key=lambda run: np.nan_to_num(curves.values[run, 2], nan=np.inf))[0]
    assert replay.reached[at_three] == 9
    assert sorted(replay.reached[at_one].tolist()) == [3, 3, 9]
    assert replay.reached.sum() == 9 + 3 * 2 + 6


@pytest.mark.parametrize("n_observed", [5, 50, 1000])
def test_tasks_of_prediction(curves, predictions, n_observed):
    study, new, rows, truth = predictions.task(curves, n_observed, 3, shuffled=False)
    told = sum(len(one.values) + (one.crashed is not None) for one in study.curves)
    assert told <= n_observed
    assert len(study.curves) <= 15
    assert len(new) + len(study.curves) <= 30
    ends = {tuple(x): value for x, value in zip(curves.hyperparameters, curves.values[:, -1], strict=True)}
    low, high = curves.hyperparameters.min(0), curves.hyperparameters.max(0)
    everything = np.concatenate([study.x, new]) * (high - low) + low
    for row, value in zip(rows, truth, strict=True):
        nearest = min(ends, key=lambda x: np.abs(np.array(x) - everything[row]).max())
        assert value == pytest.approx(1 - ends[nearest])
    shuffled = predictions.task(curves, n_observed, 3, shuffled=True)
    assert [one.values for one in shuffled[0].curves] == [one.values for one in study.curves]
    assert not np.array_equal(shuffled[0].x, study.x)


def test_last_values(curves, predictions):
    study, _, rows, _ = predictions.task(curves, 60, 3, shuffled=False)
    mean, std = predictions.last_values(study, rows)
    ends = [1 - one.values[-1] for one in study.curves if one.values]
    for row, expected in zip(rows, mean, strict=True):
        assert expected == pytest.approx(1 - study.curves[row].values[-1] if row < len(study.curves) else np.mean(ends))
    assert (std > 0).all()
