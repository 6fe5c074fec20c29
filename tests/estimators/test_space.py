"""Search spaces as columns in [0, 1]."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from estimators.space import SearchSpace

MIXED = {
    "x": Float(-1.0, 3.0),
    "lr": Float(1e-5, 1.0, log=True),
    "step": Float(-1.0, 1.0, step=0.1),
    "depth": Int(1, 5),
    "even": Int(0, 10, step=2),
    "width": Int(1, 1000, log=True),
    "flag": Categorical([False, True]),
    "kind": Categorical(["a", None, 2.5]),
    "fixed": Int(7, 7),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def space():
    return SearchSpace(MIXED)


def test_columns_and_what_can_be_relaxed(space):
    assert space.names == tuple(MIXED)
    assert space.n_columns == 10
    assert space.column_names == (
        "x", "lr", "step", "depth", "even", "width", "flag=True", "kind='a'", "kind=None", "kind=2.5"
    )
    assert space.is_relaxed.tolist() == [True] * 6 + [False] * 4
    assert not SearchSpace({"bit": Int(0, 1)}).is_relaxed.any()


def test_encoding_by_hand(space):
    point = {"x": 0.0, "lr": 1e-5, "step": -0.9, "depth": 3, "even": 10, "flag": True, "kind": None, "fixed": 7}
    row = space.encode([point])[0]
    expected = [0.25, 0.0, 1.5 / 21, 0.5, 5.5 / 6, np.nan, 1.0, 0.0, 1.0, 0.0]
    np.testing.assert_allclose(row, expected, rtol=1e-12, atol=1e-15)
    assert space.decode(row[None]) == [point]


def test_logarithmic_integers_end_half_way_between_values():
    space = SearchSpace({"n": Int(1, 3, log=True)})
    edges = (np.log([0.5, 1.5, 2.5, 3.5]) - math.log(0.5)) / math.log(7)
    np.testing.assert_allclose(space.encode([{"n": 1}, {"n": 2}, {"n": 3}])[:, 0], (edges[1:] + edges[:-1]) / 2)
    just_inside = np.concatenate([edges[:-1] + 1e-9, edges[1:] - 1e-9])[:, None]
    assert [point["n"] for point in space.decode(just_inside)] == [1, 2, 3, 1, 2, 3]


def test_number_of_points():
    assert SearchSpace(MIXED).n_points == math.inf
    assert SearchSpace({"a": Int(1, 4), "b": Categorical("xyz"), "c": Float(0, 1, step=0.25), "d": Int(2, 2)}).n_points == 60
    assert SearchSpace({"a": Int(1, 1)}).n_points == 1
    assert SearchSpace({"x": Float(0, 1)} | {str(i): Int(0, 10**17) for i in range(20)}).n_points == math.inf


def test_types_are_those_of_trials(space, rng):
    for point in space.decode(space.sample(50, rng)):
        assert [type(point[name]) for name in ("x", "lr", "step", "depth", "even", "width", "flag", "fixed")] == [
            float, float, float, int, int, int, bool, int
        ]
        assert any(point["kind"] is choice for choice in MIXED["kind"].choices)


def test_steps_are_decimals():
    space = SearchSpace({"x": Float(-10.2, 10.2, step=0.1)})
    values = [point["x"] for point in space.decode((np.arange(205)[:, None] + 0.5) / 205)]
    assert values == [round(-10.2 + i * 0.1, 1) for i in range(205)]


@settings(deadline=None, max_examples=200)
@given(
    low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), share=st.floats(0, 1),
    first=st.integers(-1000, 1000), n=st.integers(1, 500), step=st.integers(1, 7), cell=st.integers(0, 10**6),
    log_low=st.floats(1e-12, 1e3), ratio=st.floats(1.01, 1e12), log_int=st.integers(1, 10**6),
)
def test_round_trips(low, width, share, first, n, step, cell, log_low, ratio, log_int):
    space = SearchSpace({
        "x": Float(low, low + width), "log": Float(log_low, log_low * ratio, log=True),
        "n": Int(first, first + n * step, step=step),
        "grid": Float(first / 10, round((first + n) / 10, 10), step=0.1), "wide": Int(1, 10**6, log=True),
        "which": Categorical(list(range(n + 1))),
    })
    point = {
        "x": min(low + share * width, low + width), "log": min(log_low * ratio**share, log_low * ratio),
        "n": first + (cell % (n + 1)) * step, "grid": round(first / 10 + (cell % (n + 1)) / 10, 10), "wide": log_int,
        "which": cell % (n + 1),
    }
    rows = space.encode([point])
    assert ((rows >= 0) & (rows <= 1)).all()
    back = space.decode(rows)[0]
    assert back["x"] == pytest.approx(point["x"], rel=1e-12, abs=1e-12 * (abs(low) + width))
    assert back["log"] == pytest.approx(point["log"], rel=1e-12)
    assert {name: back[name] for name in ("n", "grid", "wide", "which")} == {
        name: point[name] for name in ("n", "grid", "wide", "which")
    }
    np.testing.assert_allclose(space.snap(rows), rows, rtol=1e-12)


def test_bounds_come_back_exactly():
    space = SearchSpace({"x": Float(-1e308, 1.7e308), "lr": Float(3e-7, 0.7, log=True)})
    ends = [{"x": -1e308, "lr": 3e-7}, {"x": 1.7e308, "lr": 0.7}]
    assert space.decode(space.encode(ends)) == ends


def test_choices_are_told_apart_as_optuna_does():
    space = SearchSpace({"c": Categorical([None, True, 0.5, float("nan"), "1"])})
    rows = space.encode([{"c": None}, {"c": 1}, {"c": float("nan")}, {"c": "1"}])
    assert rows.argmax(1).tolist() == [0, 1, 3, 4]
    assert math.isnan(space.decode(rows)[2]["c"])
    assert space.decode(rows)[1]["c"] is True


def test_missing_parameters_are_nan_and_stay_missing(space):
    rows = space.encode([{"x": 1.0}, {"kind": "a", "depth": 2}])
    assert np.isnan(rows).sum(1).tolist() == [9, 6]
    assert space.decode(rows) == [{"x": 1.0, "fixed": 7}, {"depth": 2, "kind": "a", "fixed": 7}]
    np.testing.assert_array_equal(space.snap(rows), rows)


def test_snapping_finds_the_nearest_point(space):
    rows = np.full((2, space.n_columns), 0.2)
    rows[1] = 1.7
    rows[0, -3:] = [0.1, 0.5, 0.4]
    points = space.decode(space.snap(rows))
    assert points[0] == {
        "x": pytest.approx(-0.2), "lr": pytest.approx(1e-4), "step": -0.6, "depth": 2, "even": 2,
        "width": pytest.approx(0.5 * 2001**0.2, abs=0.5), "flag": False, "kind": None, "fixed": 7,
    }
    assert points[1] == {
        "x": 3.0, "lr": 1.0, "step": 1.0, "depth": 5, "even": 10, "width": 1000, "flag": True, "kind": "a", "fixed": 7
    }


def test_samples_are_valid_uniform_and_a_prefix_of_more(space, rng):
    rows = space.sample(1000, rng)
    np.testing.assert_allclose(space.snap(rows), rows, atol=1e-15)
    np.testing.assert_allclose(space.encode(space.decode(rows)), rows, atol=1e-12)
    points = space.decode(rows)
    for name, share in [("depth", 1 / 5), ("even", 1 / 6), ("flag", 1 / 2), ("kind", 1 / 3)]:
        counts = np.unique([repr(point[name]) for point in points], return_counts=True)[1]
        assert counts / 1000 == pytest.approx(share, abs=0.02)                # Sobol: far closer than 1 / sqrt(n)
    assert np.median([point["lr"] for point in points]) == pytest.approx(10**-2.5, rel=0.05)
    np.testing.assert_array_equal(rows[:100], space.sample(100, np.random.default_rng(0)))
    assert space.sample(0, rng).shape == (0, space.n_columns)


def test_keys_tell_points_apart(space, rng):
    rows = space.sample(64, rng)
    assert len(set(space.keys(rows))) == 64
    near = rows.copy()
    near[:, 2] += 0.2 / 21                                                    # the same cell
    near[:, 0] = np.clip(rows[:, 0], 0.1, 0.9).round(6)
    assert space.keys(near + 1e-10 * (np.arange(10) == 0)) == space.keys(near)
    near[:, 0] += 1e-6
    assert not set(space.keys(near)) & set(space.keys(rows))
    missing = space.encode([{"x": 1.0}])
    assert space.keys(missing) == space.keys(missing.copy())


def test_neighbours_are_valid_near_and_different(space, rng):
    rows = space.sample(500, rng)
    moved = space.neighbours(rows, 0.01, rng)
    np.testing.assert_allclose(space.snap(moved), moved, atol=1e-15)
    assert not [i for i, (a, b) in enumerate(zip(space.keys(rows), space.keys(moved), strict=True)) if a == b]
    distance = np.abs(moved - rows)[:, :2]
    assert 0 < np.mean(distance[distance > 0]) < 0.02
    before, after = space.decode(rows), space.decode(moved)
    changes = np.array([[a[name] != b[name] for name in space.names[:-1]] for a, b in zip(before, after, strict=True)])
    assert set(changes.sum(1)) == set(range(1, 9))
    depths = {abs(a["depth"] - b["depth"]) for a, b in zip(before, after, strict=True)}
    assert depths == {0, 1}


def test_neighbours_fill_in_missing_parameters(space, rng):
    rows = space.encode([{"x": 1.0}] * 20)
    moved = space.neighbours(rows, 0.1, rng)
    assert not np.isnan(moved).any()
    assert len({point["depth"] for point in space.decode(moved)}) > 1


def test_neighbours_at_large_scales_stay_inside(space, rng):
    moved = space.neighbours(space.sample(200, rng), 5.0, rng)
    assert ((moved >= 0) & (moved <= 1)).all()


def test_a_space_of_single_values_has_no_columns(rng):
    space = SearchSpace({"a": Int(3, 3), "b": Categorical(["only"]), "c": Float(1.5, 1.5, log=True)})
    rows = space.sample(4, rng)
    assert rows.shape == (4, 0)
    assert space.decode(rows) == [{"a": 3, "b": "only", "c": 1.5}] * 4
    assert space.keys(space.neighbours(rows, 0.1, rng)) == [()] * 4
    assert space.encode([{"a": 3}]).shape == (1, 0)


def test_a_space_can_be_pickled(space, rng):
    rows = space.sample(3, rng)
    assert pickle.loads(pickle.dumps(space)).decode(rows) == space.decode(rows)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"nope": 1}, r"unknown parameter 'nope' in point 1; the space has 'x', 'lr'"),
        ({"x": 3.5}, r"x=3.5 in point 1 is not a value of FloatDistribution\(high=3.0.*; pass one"),
        ({"x": float("nan")}, "x=nan"), ({"x": "far"}, "x='far'"), ({"x": None}, "x=None"), ({"lr": -1.0}, "lr=-1.0"),
        ({"step": 0.55}, "step=0.55"), ({"depth": 2.5}, "depth=2.5"), ({"even": 3}, "even=3"), ({"kind": "b"}, "kind='b'"),
        ({"fixed": 8}, "fixed=8"),
    ],
)
def test_points_outside_the_space_are_refused(space, point, message):
    with pytest.raises(ValueError, match=message):
        space.encode([{"x": 0.0}, point])


@pytest.mark.parametrize(
    ("distributions", "error", "message"),
    [
        ({}, ValueError, "at least one parameter"),
        ([("x", Float(0, 1))], TypeError, "got a list"),
        ({"lr": (1e-4, 0.1)}, TypeError, r"space\['lr'\] is \(0.0001, 0.1\) of type tuple; use .*FloatDistribution"),
        ({3: Float(0, 1)}, TypeError, "strings, got 3"),
        ({"x": Float(0, math.inf)}, ValueError, "must be finite"),
        ({"x": Float(math.nan, 1)}, ValueError, "must be finite"),
    ],
)
def test_bad_spaces_are_refused(distributions, error, message):
    with pytest.raises(error, match=message):
        SearchSpace(distributions)


def test_rows_of_another_space_are_refused(space):
    with pytest.raises(ValueError, match=r"shape \(n, 10\), got \(2, 3\)"):
        space.decode(np.zeros((2, 3)))
