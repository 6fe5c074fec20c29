"""Ask and tell for runs that are paused and continued, and what is kept of them."""

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from sklearn.exceptions import NotFittedError

from estimators import FreezeThawOptimizer, PartialCurve, Suggestion
from pfn import PFN
from pfn.recipes import freeze_thaw

MIXED = {"lr": Float(1e-4, 1.0, log=True), "n": Int(1, 6), "kind": Categorical(["a", None, 2.5]), "fixed": Int(7, 7)}
POINT = {"lr": 0.01, "n": 2, "kind": None, "fixed": 7}
RATE = {"rate": Float(0.0, 1.0)}
RATES = [{"rate": rate} for rate in (0.1, 0.3, 0.5, 0.7, 0.9)]


@pytest.fixture(scope="module")
def model():
    """A network that guesses."""
    config = replace(freeze_thaw().model, n_outputs=64, embed_dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PFN(config).eval().requires_grad_(False)


@pytest.fixture
def make(model):
    def optimizer(space=MIXED, horizon=9, *args, **options):
        defaults = {"random_state": 0, "model": model, "n_candidates": 30}
        return FreezeThawOptimizer(space, horizon, *args, **defaults | options)
    return optimizer


def score(params, step):
    """An error in eighths: exact in any sum, and 1 minus it is exact too."""
    return (8 - min(step, 4 + int(4 * params.get("rate", params.get("lr", 0.5))))) / 8


def run(optimizer, n, batch=1, func=score, fails=lambda suggestion: False):
    """Ask and tell; the suggestions."""
    found = []
    for _ in range(n):
        asked = optimizer.ask(batch)
        for one in asked:
            optimizer.tell(one.number, one.step, None if fails(one) else func(one.params, one.step))
        found += asked
    return found


def saved(optimizer, path):
    optimizer.save(path / "state.json")
    return (path / "state.json").read_text()


# Ask


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("space", [MIXED, RATE, {"kind": Categorical("abc")}], ids=["mixed", "rate", "kind"])
def test_rules_of_a_study(make, space, seed):
    rng = np.random.default_rng(seed)
    horizon, step = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    optimizer = make(space, horizon, steps_per_ask=step, n_initial=int(rng.integers(1, 4)), random_state=seed)
    reached, failed, waiting, params = {}, set(), {}, {}
    for _ in range(12):
        for one in optimizer.ask(int(rng.integers(1, 4))):
            assert one.number not in waiting
            assert one.number not in failed
            assert one.step == min(reached.get(one.number, 0) + step, horizon) > reached.get(one.number, 0)
            assert one.params == params.setdefault(one.number, one.params)
            assert optimizer.space.contains(one.params)
            waiting[one.number] = one.step
        assert {one.number: one.step for one in optimizer.pending_} == waiting
        for number in list(waiting):
            if rng.random() < 0.7:
                at = waiting.pop(number)
                if rng.random() < 0.2:
                    failed.add(number)
                    optimizer.tell(number, at, math.nan)
                else:
                    reached[number] = at
                    optimizer.tell(number, at, float(rng.random()))
    assert sorted(params) == list(range(len(params)))
    assert len(set(optimizer.space.keys(optimizer.space.encode(list(params.values()))))) == len(params)
    assert [curve.number for curve in optimizer.curves_] == list(range(len(params)))


def test_the_same_seed_asks_the_same(make):
    asked = [run(make(random_state=seed), 5, 2) for seed in (0, 0, 1, np.random.RandomState(5), np.random.RandomState(5))]
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]
    assert asked[3] == asked[4]


def test_every_ask_draws_anew(make):
    """A step ahead, or the horizon: whichever it is, the answers differ even if nothing is told in between."""
    optimizer = make(RATE, 50, candidates=RATES)
    run(optimizer, 1)
    optimizer.pending_ = []
    seen = set()
    for _ in range(30):
        (one,) = optimizer.ask()
        optimizer.pending_ = []
        seen.add(one.number)
    assert len(seen) > 1


def test_what_is_returned_can_be_changed(make):
    optimizer = make()
    (one,) = optimizer.ask()
    one.params["lr"] = 17.0
    assert optimizer.pending_[0].params["lr"] != 17.0
    assert optimizer.curves_[0].params["lr"] != 17.0


def test_the_network_is_not_needed_before_there_are_values(make, tmp_path):
    optimizer = make(model=tmp_path / "none.safetensors", n_initial=3)
    run(optimizer, 2)
    optimizer.ask()
    before = saved(optimizer, tmp_path)
    with pytest.raises(FileNotFoundError):
        optimizer.ask()
    assert saved(optimizer, tmp_path) == before


def test_a_network_for_other_tasks(make):
    optimizer = make(model="gp")
    run(optimizer, 1)
    with pytest.raises(ValueError, match=r"model='gp' is for .* pass a regression network with scaling='prior'"):
        optimizer.ask()


def test_initial_configurations_come_first_and_do_not_depend_on_batches(make):
    one, several = make(n_initial=5), make(n_initial=5)
    assert [found.params for found in run(one, 5)] == [found.params for found in several.ask(5)]
    assert [found.number for found in several.pending_] == [0, 1, 2, 3, 4]


def test_pending_runs_count_as_begun(make, model, monkeypatch):
    """What is asked next to a pending run is what would be asked if it had had the expected value."""
    optimizer = make(RATE, 9, candidates=RATES)
    optimizer.tell(RATES[0], [1, 2], [0.5, 0.4])
    optimizer.tell(RATES[1], 1, 0.6)
    optimizer.pending_ = [Suggestion(1, RATES[1], 2)]
    rows = []
    monkeypatch.setattr("estimators.freeze_thaw.mfpi_random", lambda surrogate, *rest: rows.append(surrogate.runs.y) or 0)
    optimizer.ask()
    expected = 1 - optimizer.predict_distribution(1, [2]).mean[0]   # the network's goodness of an error
    assert rows[0][1, 1] == pytest.approx(expected, abs=1e-4)
    assert rows[0][1, 0] == pytest.approx(0.4)


def test_given_up_runs_may_be_asked_for_again(make):
    optimizer = make(RATE, 3, candidates=RATES[:1])
    assert optimizer.ask(3) == [Suggestion(0, {"rate": 0.1}, 1)]
    assert optimizer.ask() == []
    optimizer.pending_.clear()
    assert optimizer.ask() == [Suggestion(0, {"rate": 0.1}, 1)]


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None, "2"])
def test_number_of_runs(make, n):
    with pytest.raises(ValueError, match=r"n=.* is no count; use an integer >= 1"):
        make().ask(n)


# Finite spaces


@pytest.mark.parametrize("batch", [1, 3])
def test_candidates_are_all_run_to_the_end(make, batch):
    optimizer = make(RATE, 4, candidates=RATES)
    found = run(optimizer, 30, batch)
    assert len(found) == 4 * 5
    assert sorted((one.params["rate"], one.step) for one in found) == [(r["rate"], s) for r in RATES for s in range(1, 5)]
    assert optimizer.ask() == []
    assert all(curve.reached == 4 for curve in optimizer.curves_)


def test_candidates_are_returned_as_they_were_given(make):
    awkward = [{"rate": 0.1 + 0.2}, {"rate": 1 / 3}]
    assert {one.params["rate"] for one in run(make(RATE, 3, candidates=awkward), 4)} == {0.1 + 0.2, 1 / 3}


def test_equal_candidates_are_one(make):
    assert len(run(make(RATE, 2, candidates=[RATES[0], RATES[0], RATES[1]]), 10)) == 4


def test_all_points_of_a_small_space(make):
    space = {"n": Int(1, 3), "kind": Categorical("ab")}
    optimizer = make(space, 2)
    assert len(run(optimizer, 20)) == 2 * 6
    assert len({tuple(curve.params.values()) for curve in optimizer.curves_}) == 6


def test_a_space_of_one_point(make):
    found = run(make({"n": Int(4, 4)}, 3), 7)
    assert found == [Suggestion(0, {"n": 4}, step) for step in (1, 2, 3)]


def test_a_horizon_of_one_step(make):
    found = run(make(horizon=1, steps_per_ask=5), 6)
    assert [(one.number, one.step) for one in found] == [(number, 1) for number in range(6)]


def test_if_all_fails(make):
    optimizer = make(RATE, 3, candidates=RATES)
    assert [one.number for one in run(optimizer, 9, fails=lambda one: True)] == [0, 1, 2, 3, 4]
    with pytest.raises(NotFittedError, match="none of the 5 configurations has a value"):
        optimizer.best_value_  # noqa: B018


def test_more_columns_than_the_network_reads(make):
    optimizer = make({f"x{i}": Float(0, 1) for i in range(12)}, 3, bounds=(0, 1))
    with pytest.warns(UserWarning, match="the space has 12 columns and the network reads 10"):
        found = [optimizer.ask()[0]]
    optimizer.tell(found[0], 1, 0.5)
    with pytest.warns(UserWarning, match="12 columns"):
        optimizer.ask()
    assert optimizer.predict(0, [2, 3]).shape == (2,)


# Tell


def test_values_in_any_order_and_several_at_once(make):
    one, other = make(RATE, 9), make(RATE, 9)
    one.tell({"rate": 0.5}, [3, 1, 2], [0.3, 0.1, 0.2])
    for step in (2, 3, 1):
        other.tell({"rate": 0.5}, step, step / 10)
    assert one.curves_ == other.curves_ == [PartialCurve(0, {"rate": 0.5}, (1, 2, 3), (0.1, 0.2, 0.3))]
    one.tell(0, np.array([2, 4]), np.array([0.7, 0.4], dtype=np.float32))
    assert one.curves_[0].steps == (1, 2, 3, 4)
    assert one.curves_[0].values == pytest.approx((0.1, 0.7, 0.3, 0.4))


def test_a_run_is_named_by_number_parameters_or_suggestion(make):
    curves = []
    for name in (lambda one: one.number, lambda one: one.params, lambda one: one, lambda one: np.int64(one.number)):
        optimizer = make()
        (one,) = optimizer.ask()
        optimizer.tell(name(one), 1, 0.5)
        assert optimizer.pending_ == []
        curves.append(optimizer.curves_)
    assert curves[0] == curves[1] == curves[2] == curves[3]


def test_a_run_is_pending_until_it_has_come_as_far_as_it_was_asked_to(make):
    optimizer = make(steps_per_ask=3)
    (one,) = optimizer.ask()
    assert one.step == 3
    for step in (1, 2):
        optimizer.tell(0, step, 0.5)
        assert optimizer.pending_ == [one]
    optimizer.tell(0, 3, 0.5)
    assert optimizer.pending_ == []
    (one,) = optimizer.ask()
    optimizer.tell(one, 1 + one.step // 6, None) if one.number else optimizer.tell(one, 4, None)
    assert optimizer.pending_ == []


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_failed_run_is_left(make, value):
    optimizer = make(RATE, 9, candidates=RATES[:2])
    optimizer.tell(RATES[0], [1, 2, 3], [0.5, 0.4, value])
    assert optimizer.curves_[0] == PartialCurve(0, {"rate": 0.1}, (1, 2), (0.5, 0.4), crashed=3)
    assert {one.number for one in run(optimizer, 12)} == {1}
    assert optimizer.ask() == []
    assert optimizer.best_value_ <= 0.4                             # of a step before a failure counts


def test_an_earlier_failure_and_earlier_values_are_welcome(make):
    optimizer = make(RATE, 9)
    optimizer.tell({"rate": 0.5}, 7, None)
    optimizer.tell(0, [3, 6], [0.1, None])
    optimizer.tell(0, 2, 0.2)
    assert optimizer.curves_ == [PartialCurve(0, {"rate": 0.5}, (2, 3), (0.2, 0.1), crashed=6)]


WRONG = [
    (ValueError, "run=3 is no configuration; use a number below 2, or parameters by name", (3, 1, 0.5)),
    (ValueError, "run=-1 is no configuration", (-1, 1, 0.5)),
    (ValueError, "run=True is no configuration", (True, 1, 0.5)),
    (ValueError, "run=None is no configuration", (None, 1, 0.5)),
    (ValueError, "lacks", ({"lr": 0.1}, 1, 0.5)),
    (ValueError, "unknown parameter 'x'", (POINT | {"x": 1}, 1, 0.5)),
    (ValueError, "lr=7.0 in point 0 is not a value of", (POINT | {"lr": 7.0}, 1, 0.5)),
    (ValueError, "step=0 is no step; use an integer from 1 to horizon=9", (0, 0, 0.5)),
    (ValueError, "step=10 is no step", (0, 10, 0.5)),
    (ValueError, "step=1.5 is no step", (0, 1.5, 0.5)),
    (ValueError, "step=True is no step", (0, True, 0.5)),
    (ValueError, "step='1' is no step", (0, "1", 0.5)),
    (ValueError, r"step=nan is no step", (0, math.nan, 0.5)),
    (ValueError, "step 4 is given twice", (0, [4, 4], [0.5, 0.6])),
    (ValueError, "step has 2 numbers and value 1", (0, [4, 5], [0.5])),
    (ValueError, r"step=\[4, 5\] and value=0.5 do not match", (0, [4, 5], 0.5)),
    (ValueError, "do not match", (0, 4, [0.5])),
    (ValueError, r"value=1.5 lies outside bounds=\(0.0, 1.0\)", (0, [4, 5], [0.5, 1.5])),
    (TypeError, "value='good' is a str; give a number, or None if the run failed", (0, 4, "good")),
    (TypeError, "value=True is a bool", (0, 4, True)),
    (ValueError, "configuration 0 failed at step 2, but has a value at step 3", (0, 2, None)),
    (ValueError, "configuration 0 failed at step 5, but has a value at step 6", (0, [5, 6], [math.nan, 0.5])),
]


@pytest.mark.parametrize(("error", "message", "arguments"), WRONG)
def test_what_does_not_fit_is_not_recorded(make, tmp_path, error, message, arguments):
    optimizer = make()
    optimizer.ask()
    optimizer.tell(0, 3, 0.5)
    optimizer.ask()
    before = saved(optimizer, tmp_path)
    with pytest.raises(error, match=message):
        optimizer.tell(*arguments)
    assert saved(optimizer, tmp_path) == before


def test_a_failed_run_has_no_later_values(make, tmp_path):
    optimizer = make()
    optimizer.tell(POINT, 3, None)
    before = saved(optimizer, tmp_path)
    with pytest.raises(ValueError, match="configuration 0 failed at step 3, but has a value at step 4; tell values"):
        optimizer.tell(0, 4, 0.5)
    assert saved(optimizer, tmp_path) == before


def test_candidates_are_the_only_configurations(make):
    with pytest.raises(ValueError, match=r"run=\{'rate': 0.2\} is none of the candidates"):
        make(RATE, 5, candidates=RATES).tell({"rate": 0.2}, 1, 0.5)


# Metrics


def test_minimising_and_maximising_are_mirrored(make):
    least, most = make(RATE, 9), make(RATE, 9, "maximize")
    assert run(least, 15) == run(most, 15, func=lambda params, step: 1 - score(params, step))
    assert least.best_value_ == 1 - most.best_value_
    assert least.best_params_ == most.best_params_
    low = least.predict(0, [8, 9], quantiles=[0.1, 0.9])
    high = most.predict(0, [8, 9], quantiles=[0.9, 0.1])
    np.testing.assert_allclose(low, 1 - high, atol=1e-6)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("bounds", [(0, math.inf), (-math.inf, 5.0), (-math.inf, math.inf), (-3, 7)], ids=str)
def test_any_bounds(make, direction, bounds):
    optimizer = make(RATE, 9, direction, bounds)
    run(optimizer, 12, func=lambda params, step: 4 * params["rate"] + 1 / step)
    quantiles = optimizer.predict([0, 1], [8, 9], quantiles=[0.01, 0.5, 0.99])
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=2) >= 0).all()
    assert quantiles.min() >= bounds[0]
    assert quantiles.max() <= bounds[1]


def test_a_loss_is_read_in_units_of_the_first_values(make):
    """Twice the losses are the same task."""
    once, twice = make(RATE, 9, bounds=(0, math.inf)), make(RATE, 9, bounds=(0, math.inf))
    assert run(once, 15) == run(twice, 15, func=lambda params, step: 2 * score(params, step))
    given = make(RATE, 9, bounds=(0, math.inf), expected=(0, 10))
    assert run(given, 15) != run(make(RATE, 9, bounds=(0, math.inf)), 15)


@pytest.mark.parametrize(("options", "message"), [
    ({"direction": "down"}, "direction='down' is unknown; use 'minimize' or 'maximize'"),
    ({"direction": ["minimize"]}, r"direction=\['minimize'\] is unknown"),
    ({"horizon": 0}, "horizon=0 is no count; use an integer >= 1"),
    ({"horizon": 2.0}, "horizon=2.0 is no count"),
    ({"steps_per_ask": 0}, "steps_per_ask=0 is no count"),
    ({"n_initial": 0}, "n_initial=0 is no count"),
    ({"n_candidates": True}, "n_candidates=True is no count"),
    ({"bounds": (1, 0)}, r"bounds=\(1, 0\) is no interval; use low < high"),
    ({"bounds": 3}, "bounds=3 is no interval; pass two numbers"),
    ({"bounds": (0, math.nan)}, r"bounds=\(0, nan\) is no interval"),
    ({"expected": (0.1, 0.5)}, r"expected=\(0.1, 0.5\) is for an infinite bound, not for bounds=\(0, 1\)"),
    ({"expected": (-1, 5), "bounds": (0, math.inf)}, r"expected=\(-1, 5\) must be finite and lie within bounds=\(0, inf\)"),
    ({"expected": (0, math.inf), "bounds": (0, math.inf)}, r"expected=\(0, inf\) must be finite"),
    ({"candidates": []}, r"candidates=\[\] is no list of configurations"),
    ({"candidates": {"rate": 0.5}}, "is no list of configurations"),
    ({"candidates": [{"rate": 2.0}]}, "rate=2.0 in point 0 is not a value of"),
    ({"candidates": [{}]}, "lacks"),
    ({"space": {}}, "a space needs at least one parameter"),
])
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        FreezeThawOptimizer(**{"space": RATE, "horizon": 5} | options)


# Predictions


@pytest.fixture
def begun(make):
    optimizer = make(RATE, 10, candidates=RATES)
    optimizer.tell(RATES[0], [1, 2, 4], [0.75, 0.5, 0.25])
    optimizer.tell(RATES[1], 1, 0.5)
    optimizer.tell(RATES[2], [1, 2], [0.5, None])
    optimizer.ask()
    return optimizer


def test_shapes_of_predictions(begun):
    assert begun.predict(0, 9).shape == (1,)
    assert begun.predict(0, [8, 9]).shape == (2,)
    assert begun.predict([0, RATES[4]], [8, 9]).shape == (2, 2)
    assert begun.predict([0], [8, 9], quantiles=[0.1, 0.5, 0.9]).shape == (1, 2, 3)
    assert begun.predict_distribution([0, 1], [8, 9]).mean.shape == (2, 2)
    assert begun.predict_distribution(0, [8, 9]).mean.shape == (2,)


def test_what_was_told_is_what_is_predicted(begun):
    found = begun.predict([0, 2], [1, 2, 3, 4, 5])
    assert found[0, :4].tolist() == [0.75, 0.5, 0.375, 0.25]
    assert 0 <= found[0, 4] <= 1
    assert found[1, 0] == 0.5
    assert np.isnan(found[1, 1:]).all()                             # failed


def test_a_prediction_does_not_depend_on_what_else_is_asked(begun):
    together = begun.predict([RATES[4], 1, RATES[3], 0], [7, 9], quantiles=[0.2, 0.8])
    alone = np.stack([begun.predict(one, [7, 9], quantiles=[0.2, 0.8]) for one in (RATES[4], 1, RATES[3], 0)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_quantiles_are_those_of_the_distribution(begun):
    question = [0, RATES[4]], [6, 10]
    distribution = begun.predict_distribution(*question)
    np.testing.assert_allclose(begun.predict(*question, [0.3, 0.6]), distribution.quantile([0.3, 0.6]), atol=1e-6)
    np.testing.assert_allclose(begun.predict(*question), distribution.median, atol=1e-6)
    np.testing.assert_allclose(distribution.cdf(1.0), 1.0)
    np.testing.assert_allclose(distribution.cdf(0.0), 0.0, atol=1e-12)


def test_predicting_changes_nothing(begun, tmp_path):
    before = saved(begun, tmp_path)
    begun.predict([0, RATES[4]], [6, 10])
    assert saved(begun, tmp_path) == before


@pytest.mark.parametrize(("error", "message", "arguments"), [
    (ValueError, "steps=11 are|step=11 is no step; use an integer from 1 to horizon=10", (0, 11)),
    (ValueError, r"steps=\[\] are no steps", (0, [])),
    (ValueError, "run=9 is no configuration", (9, 2)),
    (ValueError, "run=9 is no configuration", ([0, 9], 2)),
    (TypeError, r"runs=\[\] names no configuration", ([], 2)),
    (TypeError, "runs='0' names no configuration", ("0", 2)),
    (TypeError, "runs=None names no configuration", (None, 2)),
    (ValueError, "quantiles must lie in", (0, 9, [1.5])),
])
def test_wrong_questions(begun, error, message, arguments):
    with pytest.raises(error, match=message):
        begun.predict(*arguments)


def test_distributions_are_of_later_steps(begun):
    with pytest.raises(ValueError, match=r"steps=\[4, 5\] are not all later than step 4, which configuration 0 has reached"):
        begun.predict_distribution(0, [4, 5])
    with pytest.raises(ValueError, match="configuration 2 failed at step 2; leave it out"):
        begun.predict_distribution([0, 2], [8])


def test_nothing_is_predicted_from_nothing(make):
    optimizer = make(RATE)
    optimizer.tell({"rate": 0.5}, 1, None)
    with pytest.raises(NotFittedError, match="predictions need a value of one run"):
        optimizer.predict(0, 2)


def test_the_best_value_may_be_in_the_middle(make):
    for direction, best in (("minimize", 0.1), ("maximize", 0.9)):
        optimizer = make(RATE, 9, direction)
        optimizer.tell({"rate": 0.5}, [1, 2, 3], [0.5, 0.1, 0.4])
        optimizer.tell({"rate": 0.7}, [1, 2, 3], [0.5, 0.9, 0.6])
        optimizer.tell({"rate": 0.9}, 1, None)
        assert optimizer.best_value_ == best
        assert optimizer.best_params_ == {"rate": 0.5 if direction == "minimize" else 0.7}
        assert optimizer.best_curve_ == optimizer.curves_[0 if direction == "minimize" else 1]


# State


@pytest.mark.parametrize("candidates", [None, [POINT | {"n": n} for n in range(1, 7)]], ids=["space", "candidates"])
def test_a_saved_study_goes_on_as_it_would_have(make, model, tmp_path, candidates):
    options = {"steps_per_ask": 2, "n_initial": 2, "expected": (0, 2), "candidates": candidates}
    optimizer = make(MIXED, 6, "maximize", (0, math.inf), **options)
    run(optimizer, 7, 2, fails=lambda one: one.number == 2)
    optimizer.ask()
    optimizer.save(tmp_path / "study.json")
    loaded = FreezeThawOptimizer.load(tmp_path / "study.json", model=model)
    assert saved(loaded, tmp_path) == (tmp_path / "study.json").read_text()
    assert loaded.curves_ == optimizer.curves_
    assert run(loaded, 4) == run(optimizer, 4)
    np.testing.assert_array_equal(loaded.predict([0, 1], [1, 6]), optimizer.predict([0, 1], [1, 6]))


@pytest.mark.parametrize("change", [
    lambda state: state.pop("seed"), lambda state: state.update(format=99),
    lambda state: state["curves"][0].update(steps=[77]), lambda state: state["pending"].append([50, 1]),
    lambda state: state["settings"].update(horizon=-1), lambda state: state["curves"][0]["params"].pop("lr"),
])
def test_other_files(make, tmp_path, change):
    optimizer = make()
    run(optimizer, 2)
    state = json.loads(saved(optimizer, tmp_path))
    change(state)
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="was not written by this version's save"):
        FreezeThawOptimizer.load(tmp_path / "state.json")
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(ValueError, match="was not written by this version's save"):
        FreezeThawOptimizer.load(tmp_path / "state.json")


# With the bundled network


def test_a_run_that_rises_goes_on_and_one_that_stands_still_does_not():
    optimizer = FreezeThawOptimizer(RATE, 20, "maximize", random_state=0, candidates=RATES[:3])
    optimizer.tell(RATES[0], range(1, 7), [0.3, 0.42, 0.52, 0.60, 0.66, 0.71])
    optimizer.tell(RATES[1], range(1, 7), [0.3, 0.31, 0.30, 0.31, 0.30, 0.31])
    optimizer.tell(RATES[2], range(1, 7), [0.3, 0.31, 0.31, 0.30, 0.31, 0.30])
    ends = optimizer.predict([0, 1, 2], [20])[:, 0]
    assert ends[0] > 0.7
    assert (np.abs(ends[1:] - 0.31) < 0.1).all()
    asked = []
    for _ in range(20):
        asked.append(optimizer.ask()[0].number)
        optimizer.pending_.clear()
    assert asked.count(0) >= 15


def test_good_parameters_are_found_before_many_runs_are_complete():
    def error(rate, step):
        return 0.9 * 0.75 ** (step / (1 + 40 * (rate - 0.65) ** 2))

    optimizer = FreezeThawOptimizer(RATE, 20, random_state=0)
    for _ in range(80):                                             # steps of four runs
        (one,) = optimizer.ask()
        optimizer.tell(one, one.step, error(one.params["rate"], one.step))
    assert abs(optimizer.best_params_["rate"] - 0.65) < 0.15
    assert optimizer.best_value_ < 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert optimizer.predict({"rate": 0.65}, 20)[0] < optimizer.predict({"rate": 0.05}, 20)[0]
