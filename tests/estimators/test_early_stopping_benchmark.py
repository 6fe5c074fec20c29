"""The bookkeeping of benchmarks/early_stopping.py on runs that are known by heart."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module("early_stopping")


@pytest.fixture
def methods(benchmark):
    return importlib.import_module("early_stopping_methods")


RUNS = np.array([
    [0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.1, 0.1, 0.1, 0.1], [0.3, 0.5, 0.6, 0.7, 0.8], [0.2] + 4 * [math.nan],
    [0.4, 0.6, 0.8, 0.9, 0.9], [0.5, 0.4, 0.3, 0.2, 0.1],
])


def test_no_stopping_spends_all_steps_of_runs_that_do_not_diverge(benchmark, methods):
    assert benchmark.spend(methods.Method(RUNS), np.arange(6)) == [(5, 0.5), (15, 0.8), (22, 0.9)]


def test_foresight_completes_new_bests_only(benchmark, methods):
    assert benchmark.spend(methods.Foresight(RUNS), np.arange(6)) == [(5, 0.5), (14, 0.8), (21, 0.9)]


def test_patience_counts_the_value_at_which_it_stops(benchmark, methods):
    patience = methods.Patience(RUNS, 1)
    ends = [patience.end(run, [], 0.0) for run in range(6)]
    assert ends == [(5, True), (3, True), (5, True), (2, False), (5, True), (3, True)]


def test_a_run_that_diverges_at_its_last_step_does_not_count(benchmark, methods):
    assert methods.Method(np.array([[0.1, 0.2, math.nan]])).end(0, [], 0.0) == (3, False)


def test_median_stops_what_is_behind_the_middle_of_complete_runs(benchmark, methods):
    median = methods.Median(RUNS, n_startup=3)
    assert median.end(1, [0, 2], 0.8) == (5, True)
    assert median.end(1, [0, 2, 4], 0.9) == (1, False)                       # 0.1 against the median of 0.1, 0.3, 0.4
    assert median.end(5, [0, 2, 4], 0.9) == (3, False)                       # its best is 0.5 against 0.6 at step 3


def test_halving_keeps_a_quarter_at_each_rung(benchmark, methods):
    values = np.linspace(0, 1, 8)[:, None] * np.ones(20)
    halving = methods.Halving(values)
    halving.begin()
    # Falling order: the first is the best at every rung, so that the others stop at once.
    assert [halving.end(run, [7], 1.0)[0] for run in range(7, -1, -1)] == [20] + [1] * 7
    halving.begin()
    assert [halving.end(run, [0], 0.0)[0] for run in range(8)] == [20] * 8


def table(methods, optimistic, misfit=1.0):
    """Forecasts at steps 1 … 4 that are the same for every delta."""
    n = optimistic.shape[1]
    optimistic = np.repeat(optimistic[:, :, None], len(methods.DELTAS), 2)
    return methods.Forecasts(np.arange(1, 5), optimistic, np.zeros((4, n, 2)), np.array([0.0, 1.0]), np.full((4, n), misfit))


def test_a_run_ends_where_the_best_is_out_of_reach(benchmark, methods):
    optimistic = np.full((4, 6), 0.9)
    optimistic[:, 1], optimistic[:, 5] = [0.9, 0.6, 0.3, 0.1], [0.9, 0.6, 0.4, 0.2]
    rule = methods.Rule(RUNS, table(methods, optimistic), least=1)
    assert [rule.end(run, [0], 0.5)[0] for run in range(6)] == [5, 3, 5, 2, 5, 3]
    assert rule.end(1, [], -math.inf) == (5, True)
    assert methods.Rule(RUNS, table(methods, optimistic), least=4).end(1, [0], 0.5) == (4, False)
    assert methods.Rule(RUNS, table(methods, optimistic), cutoffs=[1, 4]).end(1, [0], 0.5) == (4, False)
    assert methods.Rule(RUNS, table(methods, optimistic, misfit=0.005), least=1).end(1, [0], 0.5) == (5, True)
    assert methods.Rule(RUNS, table(methods, optimistic), least=1).end(5, [0], 0.45) == (3, False)   # 0.5 is ahead at step 1


def test_scores_compare_the_steps_to_the_same_value(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "N_RUNS", 4)                              # a budget of 20 steps
    baseline = [[(5, 0.5), (20, 0.8)], [(10, 0.9)]]
    faster = [[(5, 0.5), (8, 0.8)], [(10, 0.8), (25, 0.9)]]
    found = benchmark.score(RUNS, baseline, faster)
    assert found["same value, mean"] == pytest.approx((20 / 8 + 10 / 25) / 2)
    assert found["final"] == pytest.approx(100 * (0.8 / 0.9 - 1) / 2)
    assert found["regret of no stopping"] == pytest.approx(0.05)
    assert found["regret"] == pytest.approx(0.1)
    assert found["published"] == 0                                           # never within the budget
    assert benchmark.score(RUNS, baseline, [[(4, 0.9)], [(5, 0.7)]])["published"] == pytest.approx(0)
    assert benchmark.score(RUNS, baseline, [[(4, 0.9)], [(5, 0.8)]])["published"] == pytest.approx(20 / 5)
