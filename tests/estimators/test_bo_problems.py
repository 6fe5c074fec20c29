"""The problems of benchmarks/bayesopt.py at their known optima, their points in the unit cube, and the cache of runs."""

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module("bayesopt")


@pytest.fixture
def problems(benchmark):
    return benchmark.SUITES["engineering"]()


# Best value, share of 2000 uniform points that are feasible: §8 of shared/specs/bayesian-optimization.md, minimised.
TABLE = {
    "jlh1": (0.03125, 0.29), "jlh2": (-1.82544, 0.62), "gkxwc1": (-2.0, 0.68), "gkxwc2": (0.25324, 0.014),
    "ackley-2": (0.0, 0.17), "ackley-6": (0.0, 0.0035), "ackley-10": (0.0, 0.0), "keane-bump": (-0.79711, 0.9995),
    "three-bar-truss": (263.896, 0.23), "concrete-beam": (358.546, 0.17), "spring": (0.012665, 0.02),
    "pressure-vessel": (5910.06, 0.40), "welded-beam": (2.38113, 0.40), "speed-reducer": (2885.18, 0.0025),
    "heat-exchanger": (7049.25, 0.0), "heat-exchanger-as-coded": (8312.91, 0.0), "cantilever": (63108.7, 0.0),
    "cantilever-as-coded": (None, 0.0), "car": (22.843, 0.09),
}


def test_the_table_names_every_problem(problems):
    assert set(problems) == set(TABLE)


@pytest.mark.parametrize("name", [name for name, (best, _) in TABLE.items() if best is not None])
def test_the_best_point_has_the_best_value_and_is_feasible(problems, name):
    problem, best = problems[name], TABLE[name][0]
    low, high = problem.bounds.T
    x = np.array(problem.best_x)
    assert ((low <= x) & (x <= high)).all()
    value, constraints = problem.evaluate(x[None])
    assert constraints.shape == (1, problem.n_constraints)
    assert problem.best_value == pytest.approx(best, rel=2e-5, abs=1e-9)
    assert value[0] == pytest.approx(problem.best_value, rel=1e-7, abs=1e-7)
    size = np.abs(problem.evaluate(low + np.random.default_rng(0).random((200, len(x))) * (high - low))[1]).mean(0)
    assert (constraints[0] <= 1e-6 * size).all()
    one_value, one = problem.evaluate_params(dict(zip(problem.space, problem.best_x, strict=True)))
    assert one_value == value[0]
    assert one == constraints[0].tolist()


@pytest.mark.parametrize("name", TABLE)
def test_feasible_share_is_that_of_the_table(problems, name):
    problem, share = problems[name], TABLE[name][1]
    if name == "cantilever":
        share = 0.0056                                              # the table has 0, of the variant as coded
    low, high = problem.bounds.T
    x = low + np.random.default_rng(0).random((20_000, len(low))) * (high - low)
    ours = (problem.evaluate(x)[1] <= 0).all(1).mean()
    assert abs(ours - share) <= 4 * np.sqrt(max(share * (1 - share), 5e-4) / 2000) + 0.005


def test_variants_as_coded_differ(problems):
    x = np.array([problems["heat-exchanger"].best_x])
    assert (problems["heat-exchanger"].evaluate(x)[1] <= 1e-3).all()
    assert problems["heat-exchanger-as-coded"].evaluate(x)[1][0, 4] > 1
    x = np.array([problems["cantilever"].best_x])
    corrected, coded = (problems[name].evaluate(x) for name in ("cantilever", "cantilever-as-coded"))
    assert coded[0] == corrected[0]
    np.testing.assert_array_equal(np.delete(coded[1], 5), np.delete(corrected[1], 5))
    assert coded[1][0, 5] == pytest.approx(9.735e7, rel=1e-4)       # a constant: no beam is feasible


def test_deflection_of_a_uniform_cantilever_is_that_of_the_textbook(problems):
    """PL³/(3EI) for one cross-section."""
    deflection = problems["cantilever"].evaluate(np.array([[3.0] * 5 + [50.0] * 5]))[1][0, 5] + 2.7
    assert deflection == pytest.approx(50_000 * 500**3 / (3 * 2e7 * 3 * 50**3 / 12))


def test_points_of_the_cube_and_back(benchmark):
    for problem in benchmark.SUITES["tuning"]().values():
        for u in np.random.default_rng(0).random((50, len(problem.space))):
            params = problem.from_unit(u)
            assert all(d._contains(d.to_internal_repr(params[name])) for name, d in problem.space.items())
            assert problem.from_unit(problem.to_unit(params)) == pytest.approx(params)


def test_every_cell_of_the_cube_is_equally_wide(benchmark):
    problem = benchmark.SUITES["tuning"]()["forest-wine"]
    u = np.full((10_000, len(problem.space)), 0.5)
    u[:, list(problem.space).index("max_features")] = (np.arange(10_000) + 0.5) / 10_000
    _, counts = np.unique([problem.from_unit(row)["max_features"] for row in u], return_counts=True)
    assert counts.tolist() == [1000] * 10


def test_initial_points_belong_to_the_seed(problems):
    problem = problems["welded-beam"]
    assert problem.initial_points(10, 3) == problem.initial_points(10, 3) != problem.initial_points(10, 4)


def test_trace_counts_feasible_values_only(benchmark):
    run = benchmark.Run([3.0, 2.0, 5.0, 1.0], [[1.0], [0.0], [-1.0], [-1.0]], [0.5, 0.7])
    record = benchmark.record_of(run)
    assert record == {"best": [None, 2.0, 2.0, 1.0], "first_feasible": 2, "seconds": pytest.approx(0.6)}
    regret = benchmark.regrets([record], best=0.0, typical=4.0, n_evaluations=4)
    np.testing.assert_allclose(regret, [[1.0, 0.5, 0.5, 0.25]])


def test_cache_resumes(benchmark, monkeypatch, tmp_path):
    calls = []
    run_method = benchmark.run_method
    monkeypatch.setattr(benchmark, "run_method", lambda *args: calls.append(args[1].name) or run_method(*args))

    def fill(n_seeds):
        benchmark.fill(tmp_path, ["engineering"], ["random"], ["jlh1", "jlh2"], n_seeds, 12)
    fill(1)
    assert calls == ["jlh1", "jlh2"]
    path = tmp_path / "random.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-30])                                    # stopped while it wrote the second run
    fill(2)
    assert calls[2:] == ["jlh2", "jlh1", "jlh2"]
    cache = benchmark.Cache(tmp_path, "random")
    assert cache.runs.keys() == {("engineering", name, seed) for name in ("jlh1", "jlh2") for seed in (0, 1)}
    fill(2)
    assert len(calls) == 5


@pytest.mark.parametrize("method", ["random", "differential-evolution"])
def test_methods_start_from_the_initial_points(benchmark, problems, method):
    problem = problems["jlh1"]
    initial = problem.initial_points(10, 0)
    run = benchmark.run_method(method, problem, 14, initial, 0)
    assert run.values[:10] == pytest.approx([problem.evaluate_params(params)[0] for params in initial])
    assert (len(run.values), len(run.constraints), len(run.seconds)) == (14, 14, 4)
