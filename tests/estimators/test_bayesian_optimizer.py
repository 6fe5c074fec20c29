"""Ask and tell, the loop around them, and what is kept of both."""

import json
import math
import warnings

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from scipy.stats import norm
from sklearn.exceptions import NotFittedError

from estimators import BayesianOptimizer, SearchSettings, Trial, minimize

MIXED = {
    "x": Float(-1.0, 3.0), "lr": Float(1e-4, 1.0, log=True), "n": Int(1, 6), "step": Float(0.0, 1.0, step=0.1),
    "flag": Categorical([False, True]), "kind": Categorical(["a", None, 2.5]), "fixed": Int(7, 7),
}
SQUARE = {"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)}
POINT = {"x": 0.5, "lr": 0.01, "n": 2, "step": 0.3, "flag": True, "kind": None, "fixed": 7}
FEW = SearchSettings(n_candidates=100)


@pytest.fixture
def make(model):
    def optimizer(space=SQUARE, *args, **options):
        return BayesianOptimizer(space, *args, **{"random_state": 0, "model": model, "settings": FEW} | options)
    return optimizer


def score(params):
    return params["x"] ** 2 + math.log(params["lr"]) ** 2 + params["n"] + (params["kind"] == "a")


def bowl(params):
    return (params["x"] - 0.3) ** 2 + (params["y"] - 0.6) ** 2


def run(optimizer, n, func=bowl, batch=1, constraints=None):
    """Ask and tell; the parameters asked for."""
    asked = []
    for _ in range(n):
        for params in optimizer.ask(batch):
            optimizer.tell(params, func(params), None if constraints is None else constraints(params))
            asked.append(params)
    return asked


def saved(optimizer, path):
    optimizer.save(path / "state.json")
    return (path / "state.json").read_text()


# Ask


def test_points_are_valid_new_and_pending(make):
    optimizer = make(MIXED)
    run(optimizer, 6, score, 2)
    asked = optimizer.ask(3) + optimizer.ask()
    assert optimizer.pending_ == asked
    points = [trial.params for trial in optimizer.trials_] + asked
    assert len(set(optimizer.space.keys(optimizer.space.encode(points)))) == 16
    for params in points:
        assert list(params) == list(MIXED)
        assert optimizer.space.contains(params)
        types = [type(params[name]) for name in ("x", "lr", "n", "step", "flag", "fixed")]
        assert types == [float, float, int, float, bool, int]


def test_what_is_returned_can_be_changed(make):
    optimizer = make()
    (params,) = optimizer.ask()
    params["x"] = 17.0
    assert optimizer.pending_[0]["x"] != 17.0


def test_the_same_seed_asks_the_same(make):
    asked = [run(make(MIXED, random_state=seed), 7, score, 2) for seed in (0, 0, 1)]
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]


def test_random_state_may_be_an_object(make):
    first, second = (make(random_state=np.random.RandomState(5)).ask(3) for _ in range(2))
    assert first == second


def test_the_network_is_not_needed_before_the_initial_trials_are_out(tmp_path):
    optimizer = BayesianOptimizer(SQUARE, n_initial=3, random_state=0, model=tmp_path / "none.safetensors")
    run(optimizer, 3)
    before = saved(optimizer, tmp_path)
    with pytest.raises(FileNotFoundError):
        optimizer.ask()
    assert saved(optimizer, tmp_path) == before


def test_number_of_initial_trials(make):
    assert make().n_initial == 6
    assert make(MIXED).n_initial == 10
    optimizer = make(n_initial=4)
    for params in make(random_state=3).ask(3):
        optimizer.tell(params, 1.0)                                 # count as initial
    first = optimizer.ask(3)
    assert first[0] == make(n_initial=4).ask()[0]
    assert first[1:] != make(n_initial=4).ask(3)[1:]


def test_initial_points_do_not_depend_on_how_they_are_asked_for(make):
    one, several = make(MIXED), make(MIXED)
    assert [one.ask()[0] for _ in range(10)] == several.ask(4) + several.ask(6)


def test_points_of_small_spaces_are_asked_for_once(make):
    space = {"n": Int(1, 3), "kind": Categorical("ab")}
    optimizer = make(space, n_initial=5)
    optimizer.tell({"n": 2, "kind": "a"}, 1.0)
    asked = run(optimizer, 5, lambda params: params["n"])
    assert len({tuple(params.values()) for params in asked} | {(2, "a")}) == 6
    assert optimizer.space.contains(optimizer.ask()[0])             # nothing is left


def test_a_space_of_one_point(make):
    optimizer = make({"n": Int(4, 4)})
    assert run(optimizer, 7, lambda params: 1.0) == [{"n": 4}] * 7
    assert optimizer.best_params_ == {"n": 4}
    with pytest.raises(ValueError, match="every parameter of the space has a single value"):
        optimizer.predict([{"n": 4}])


def test_without_initial_trials(make):
    assert len(run(make(n_initial=0), 3)) == 3


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None, "2"])
def test_number_of_points(make, n):
    with pytest.raises(ValueError, match=r"n=.* is no number of trials; use n >= 1"):
        make().ask(n)


def test_wide_spaces_are_announced(make):
    optimizer = make({str(i): Float(0.0, 1.0) for i in range(20)}, n_initial=2)
    run(optimizer, 2, lambda params: params["0"])
    with pytest.warns(UserWarning, match="20 columns and the network reads 18: each step looks at a random") as caught:
        optimizer.ask()
    assert caught[0].filename == __file__


@pytest.mark.parametrize("n_constraints", [0, 2])
def test_failures_only(make, n_constraints):
    optimizer = make(MIXED, n_constraints=n_constraints, n_initial=2)
    run(optimizer, 4, lambda params: None, 2)
    assert len(optimizer.ask(2)) == 2
    with pytest.raises(NotFittedError, match="none of the 8 trials is feasible"):
        optimizer.best_params_  # noqa: B018
    with pytest.raises(NotFittedError, match="two values of each objective and constraint"):
        optimizer.predict([POINT])


@pytest.mark.parametrize("g", [[math.inf, -math.inf], [math.nan, -1.0], [0.0, 0.0], [1e300, -1e300]])
def test_unusual_constraints(make, g):
    optimizer = make(n_constraints=2, n_initial=2)
    run(optimizer, 5, constraints=lambda params: g)
    assert len(optimizer.ask(2)) == 2


@pytest.mark.parametrize("values", [[1e308, -1e308], [5e-324, 0.0], [1.0, 1.0 + 2e-16], [3.0, 3.0]])
def test_unusual_values(make, values):
    optimizer = make(n_initial=2)
    for i, params in enumerate(optimizer.ask(8)):
        optimizer.tell(params, values[i % 2])
    optimizer.ask(2)
    assert not np.isnan(optimizer.predict(optimizer.pending_, quantiles=[0.1, 0.9])).any()


def test_one_feasible_trial(make):
    optimizer = make(n_constraints=1, n_initial=2)
    for i, params in enumerate(optimizer.ask(6)):
        optimizer.tell(params, bowl(params), [0.0 if i == 3 else 1.0])
    optimizer.ask(2)
    assert optimizer.best_trial_ is optimizer.trials_[3]


# Tell


def test_trials_are_told_in_any_order(make):
    optimizer = make()
    first, second, third = optimizer.ask(3)
    optimizer.tell(third, 3.0)
    assert optimizer.pending_ == [first, second]
    optimizer.tell(first, 1.0)
    optimizer.tell(second, 2.0)
    assert optimizer.pending_ == []
    assert [trial.value for trial in optimizer.trials_] == [3.0, 1.0, 2.0]
    assert (optimizer.best_params_, optimizer.best_value_) == (first, 1.0)


def test_trials_may_be_told_that_were_not_asked_for(make):
    optimizer = make()
    asked = optimizer.ask(2)
    optimizer.tell({"x": 0.25, "y": 0.75}, 0.5)
    assert optimizer.pending_ == asked
    assert optimizer.trials_ == [Trial({"x": 0.25, "y": 0.75}, 0.5)]


def test_trials_may_be_told_twice(make):
    optimizer = make()
    first, second = optimizer.ask(2)
    optimizer.tell(first, 1.0)
    optimizer.tell(first, 0.5)
    assert optimizer.pending_ == [second]
    assert optimizer.best_value_ == 0.5
    assert len(optimizer.trials_) == 2


def test_params_are_kept_in_the_types_and_order_of_the_space(make):
    optimizer = make(MIXED)
    told = {"fixed": 7.0, "kind": None, "flag": np.True_, "step": np.float32(0.5), "n": np.int64(2), "lr": 1,
            "x": np.float64(1)}
    optimizer.tell(told, np.float32(1.5))
    (trial,) = optimizer.trials_
    assert list(trial.params) == list(MIXED)
    assert {type(value) for value in trial.params.values()} == {float, int, bool, type(None)}
    assert type(trial.value) is float
    assert told["fixed"] == 7.0


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, np.float32("nan"), [None]])
def test_failures(make, value):
    optimizer = make(n_constraints=1)
    optimizer.tell({"x": 0.5, "y": 0.5}, value)
    optimizer.tell({"x": 0.5, "y": 0.25}, value, [3.0], is_bound=True)
    assert optimizer.trials_ == [Trial({"x": 0.5, "y": 0.5}, None), Trial({"x": 0.5, "y": 0.25}, None, (3.0,))]
    assert not optimizer.trials_[0].is_feasible


@pytest.mark.parametrize(
    ("constraints", "is_feasible"),
    [([-1.0, 0.0], True), ([-1.0, 1e-9], False), ([-1.0, math.nan], False), ([-1.0, math.inf], False),
     ((-1, -math.inf), True)],
)
def test_feasible_trials(make, constraints, is_feasible):
    optimizer = make(n_constraints=2)
    optimizer.tell({"x": 0.5, "y": 0.5}, 1.0, constraints)
    assert optimizer.trials_[0].is_feasible == is_feasible


def test_a_bound_is_no_result(make):
    optimizer = make(n_initial=2)
    optimizer.tell({"x": 0.5, "y": 0.5}, -5.0, is_bound=True)
    with pytest.raises(NotFittedError, match="none of the 1 trials is feasible"):
        optimizer.best_value_  # noqa: B018
    run(optimizer, 5)
    assert optimizer.best_value_ > 0
    optimizer.ask()


WRONG = [
    ({"params": [("x", 0.5)]}, TypeError, r"params=\[\('x', 0.5\)\] is a list; pass a mapping"),
    ({"params": None}, TypeError, r"params=None is a NoneType"),
    ({"params": POINT | {"z": 1}}, ValueError, "unknown parameter 'z'"),
    ({"params": {"x": 0.5}}, ValueError, r"params=.* lacks \['lr', 'n', 'step', 'flag', 'kind', 'fixed'\]"),
    ({"params": POINT | {"x": 3.5}}, ValueError, r"x=3.5 in point 0 is not a value of FloatDistribution"),
    ({"params": POINT | {"x": math.nan}}, ValueError, r"x=nan in point 0 is not a value"),
    ({"params": POINT | {"x": "high"}}, ValueError, r"x='high' in point 0 is not a value"),
    ({"params": POINT | {"n": 2.5}}, ValueError, r"n=2.5 in point 0 is not a value"),
    ({"params": POINT | {"kind": "b"}}, ValueError, r"kind='b' in point 0 is not a value"),
    ({"params": POINT | {"fixed": 8}}, ValueError, r"fixed=8 in point 0 is not a value"),
    ({"value": "0.5"}, TypeError, r"value='0.5' is not made of numbers .*; use None for a failed trial"),
    ({"value": 1j}, TypeError, r"value=1j is not made of numbers"),
    ({"value": {"f": 1.0}}, TypeError, r"value={'f': 1.0} is not made of numbers"),
    ({"value": 10**400}, TypeError, "is not made of numbers"),
    ({"value": [[1.0], [2.0, 3.0]]}, TypeError, "is not made of numbers"),
    ({"value": (1.0, 2.0)}, ValueError, r"value=\(1.0, 2.0\) has shape \(2,\); give one number"),
    ({"value": []}, ValueError, r"value=\[\] has shape \(0,\)"),
    ({"constraints": None}, ValueError, r"constraints=None has 0 numbers, but n_constraints=2"),
    ({"constraints": [1.0]}, ValueError, r"constraints=\[1.0\] has 1 numbers, but n_constraints=2"),
    ({"constraints": [1.0, 2.0, 3.0], "value": None}, ValueError, "has 3 numbers, but n_constraints=2"),
    ({"constraints": ["a", "b"]}, TypeError, r"constraints=\['a', 'b'\] is not made of numbers"),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG)
def test_what_cannot_be_told_leaves_the_state_unchanged(make, tmp_path, changes, error, message):
    optimizer = make(MIXED, n_constraints=2)
    optimizer.tell(POINT, 1.0, [0.0, 1.0])
    optimizer.ask(2)
    before = saved(optimizer, tmp_path)
    with pytest.raises(error, match=message):
        optimizer.tell(**{"params": POINT, "value": 1.0, "constraints": [0.0, 0.0]} | changes)
    assert saved(optimizer, tmp_path) == before


def test_constraints_where_there_are_none(make):
    with pytest.raises(ValueError, match=r"constraints=\[1.0\] has 1 numbers, but n_constraints=0"):
        make().tell({"x": 0.5, "y": 0.5}, 1.0, [1.0])


def test_number_of_values(make):
    with pytest.raises(ValueError, match=r"value=1.0 has shape \(1,\), but there are 2 objectives; give one number"):
        make(direction=["minimize", "maximize"]).tell({"x": 0.5, "y": 0.5}, 1.0)


# Directions


def test_to_maximise_is_to_minimise_the_negative(make):
    down, up = make(MIXED), make(MIXED, "maximize")
    assert run(down, 6, score, 2) == run(up, 6, lambda params: -score(params), 2)
    assert down.best_params_ == up.best_params_
    assert down.best_value_ == -up.best_value_
    q = [0.1, 0.25, 0.9]
    np.testing.assert_allclose(down.predict([POINT], q), -up.predict([POINT], [0.9, 0.75, 0.1]), rtol=1e-5)
    np.testing.assert_allclose(down.predict([POINT]), -up.predict([POINT]), rtol=1e-5)


def test_several_objectives(make):
    optimizer = make(direction=("minimize", "maximize"), n_constraints=1, n_initial=3)
    for x, y, g in [(0.1, 0.9, 0.0), (0.2, 0.8, 0.0), (0.5, 0.95, 0.0), (0.0, 1.0, 1.0), (0.1, 0.9, -1.0)]:
        optimizer.tell({"x": x, "y": y}, (x, y), [g])
    optimizer.tell({"x": 0.9, "y": 0.9}, (0.0, math.nan))
    values = [trial.value for trial in optimizer.pareto_trials_]
    assert values == [(0.1, 0.9), (0.5, 0.95), (0.1, 0.9)]
    assert len(optimizer.ask(2)) == 2
    assert optimizer.predict([{"x": 0.5, "y": 0.5}], objective=1).shape == (1,)
    with pytest.raises(NotFittedError, match="several objectives and no single best trial; see pareto_trials_"):
        optimizer.best_params_  # noqa: B018
    with pytest.raises(ValueError, match="objective=2 does not exist; the number of objectives is 2"):
        optimizer.predict([{"x": 0.5, "y": 0.5}], objective=2)
    with pytest.raises(ValueError, match="objective=-1 does not exist"):
        optimizer.predict([{"x": 0.5, "y": 0.5}], objective=-1)


def test_a_front_without_trials(make):
    assert make(direction=["minimize"] * 3).pareto_trials_ == []


def test_the_front_of_one_objective_is_its_best(make):
    optimizer = make(direction="maximize")
    run(optimizer, 5)
    assert optimizer.pareto_trials_ == [optimizer.best_trial_]


# Predictions


def test_predictions_have_increasing_quantiles_in_the_units_of_the_objective(trained):
    for direction in ("minimize", "maximize"):
        optimizer = BayesianOptimizer(SQUARE, direction, random_state=0, model=trained, n_initial=30)
        run(optimizer, 30, lambda params: 1000 * bowl(params) + 5e4)
        points = [{"x": 0.3, "y": 0.6}, {"x": 0.9, "y": 0.1}, {"x": 0.5, "y": 0.5}]
        found = optimizer.predict(points, quantiles=[0.05, 0.5, 0.95])
        assert found.shape == (3, 3)
        assert (np.diff(found) > 0).all()
        np.testing.assert_allclose(found[:, 1], optimizer.predict(points), rtol=1e-6)
        np.testing.assert_allclose(found[:, 1] - 5e4, [1000 * bowl(point) for point in points], atol=60)
        assert optimizer.predict_feasible(points).tolist() == [1.0] * 3


def test_probability_of_feasibility(trained):
    optimizer = BayesianOptimizer(SQUARE, n_constraints=1, random_state=0, model=trained, n_initial=40)
    for params in optimizer.ask(40):
        optimizer.tell(params, None if params["y"] > 0.7 else bowl(params), [params["x"] - 0.5])
    points = [{"x": 0.2, "y": 0.3}, {"x": 0.8, "y": 0.3}, {"x": 0.2, "y": 0.9}]
    feasible = optimizer.predict_feasible(points)
    assert feasible[0] > 0.9
    assert (feasible[1:] < 0.1).all()


def test_predictions_are_the_same_alone_and_among_many(make):
    optimizer = make(MIXED, n_constraints=1, n_initial=8)
    run(optimizer, 8, score, constraints=lambda params: [params["x"]])
    points = make(MIXED, n_initial=2100).ask(2100)
    for found, alone in (
        (optimizer.predict(points), optimizer.predict(points[-1:])),
        (optimizer.predict_feasible(points), optimizer.predict_feasible(points[-1:])),
        (optimizer.predict(points, [0.2, 0.4]), optimizer.predict(points[-1:], [0.2, 0.4])),
    ):
        assert len(found) == 2100
        np.testing.assert_allclose(found[-1:], alone, rtol=1e-4, atol=1e-5)
    assert optimizer.predict([]).shape == (0,)
    assert optimizer.predict([], [0.5, 0.6]).shape == (0, 2)
    assert optimizer.predict_feasible([]).shape == (0,)


@pytest.mark.parametrize(
    ("points", "options", "error", "message"),
    [
        (POINT, {}, TypeError, "is a dict; pass a list of mappings"),
        (["x"], {}, TypeError, "params='x' is a str"),
        ([{"x": 0.5}], {}, ValueError, "lacks"),
        ([POINT], {"quantiles": [0.5, 95.0]}, ValueError, r"quantiles must lie in \[0, 1\], got \[0.5, 95.0\]"),
        ([POINT], {"quantiles": 0.5}, ValueError, "quantiles must have an axis"),
    ],
)
def test_what_cannot_be_predicted(make, points, options, error, message):
    optimizer = make(MIXED)
    run(optimizer, 3, score)
    with pytest.raises(error, match=message):
        optimizer.predict(points, **options)


def test_predictions_do_not_follow_noise(trained):
    """As in the search: noise is what the settings say, or what repeated trials show."""
    x, y = np.linspace(0, 1, 16), np.random.default_rng(0).normal(size=16)
    spreads = {}
    for noisy, is_repeated in [(False, True), (True, False), ("auto", False), ("auto", True)]:
        optimizer = BayesianOptimizer({"x": Float(0, 1)}, settings=SearchSettings(noisy=noisy), model=trained)
        for params, value in [*zip(x, y, strict=True), (x[0], y[0] + is_repeated)]:
            optimizer.tell({"x": params}, value)
        low, high = optimizer.predict([{"x": value} for value in x[1:]], [0.1, 0.9]).T
        spreads[noisy, is_repeated] = np.median(high - low)
    assert max(spreads[False, True], spreads["auto", False]) < 0.2
    assert min(spreads[True, False], spreads["auto", True]) > 0.5


@pytest.mark.filterwarnings("ignore:the space has 24 columns")
def test_wide_spaces_with_more_trials_than_the_network_reads(make):
    space = {f"x{i}": Float(0, 1) for i in range(24)}
    optimizer = make(space, n_initial=0, settings=SearchSettings(n_candidates=50, max_context=20))
    for row in np.random.default_rng(0).random((30, 24)).tolist():
        optimizer.tell(dict(zip(space, row, strict=True)), sum(row))
    asked = optimizer.ask(2)
    assert asked[0] != asked[1]
    assert np.isfinite(optimizer.predict(asked, [0.1, 0.9])).all()


def test_batches_larger_than_what_is_left_of_a_space(make):
    space = {"kind": Categorical(["a", "b", "c"]), "n": Int(1, 2)}
    optimizer = make(space, n_initial=0)
    for n in (1, 2):
        optimizer.tell({"kind": "a", "n": n}, n)
    asked = [tuple(params.values()) for params in optimizer.ask(8)]
    assert set(asked[:4]) == {("b", 1), ("b", 2), ("c", 1), ("c", 2)}
    assert len(asked) == len(optimizer.pending_) == 8


def test_several_objectives_with_constraints_and_failures(make):
    optimizer = make(SQUARE, ["minimize", "maximize"], n_constraints=1, n_initial=4)
    for _ in range(10):
        (params,) = optimizer.ask()
        failed = params["x"] > 0.7
        values = None if failed else [params["x"] + params["y"], params["x"] * params["y"]]
        optimizer.tell(params, values, None if failed else [0.2 - params["x"]])
    assert any(trial.value is None for trial in optimizer.trials_)
    assert all(trial.is_feasible for trial in optimizer.pareto_trials_)
    probability = optimizer.predict_feasible([{"x": 0.5, "y": 0.5}])
    assert 0 <= probability[0] <= 1


def test_predictions_need_two_values(make):
    optimizer = make()
    run(optimizer, 1)
    for predict in (optimizer.predict, optimizer.predict_feasible):
        with pytest.raises(NotFittedError, match="predictions need two values of each objective"):
            predict([{"x": 0.5, "y": 0.5}])


# Save and load


@pytest.mark.parametrize("n_told", [0, 2, 14])
def test_a_loaded_optimiser_goes_on_as_the_saved_one(make, model, tmp_path, n_told):
    options = {"direction": ["maximize", "minimize"], "n_constraints": 1, "n_initial": 4,
               "settings": SearchSettings(n_candidates=50, outcome_transform="rank")}
    optimizer = make(MIXED, **options)
    for i in range(n_told):
        (params,) = optimizer.ask()
        value, g = None if i == 1 else (score(params), 1 / 3), math.nan if i == 2 else params["x"]
        optimizer.tell(params, value, [g], is_bound=i == 3)
    optimizer.ask(2)
    text = saved(optimizer, tmp_path)
    loaded = BayesianOptimizer.load(tmp_path / "state.json", model=model)
    assert str(loaded.trials_) == str(optimizer.trials_)            # NaN is not itself
    assert loaded.pending_ == optimizer.pending_
    assert loaded.settings == optimizer.settings
    assert saved(loaded, tmp_path) == text
    assert loaded.ask(2) == optimizer.ask(2)
    for one in (loaded, optimizer):
        one.tell(one.pending_[0], (0.5, 0.5), [0.0])
    assert loaded.ask(3) == optimizer.ask(3)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_prior_is_given_again(make, model, tmp_path):
    prior = {"x": norm(0.9, 0.05)}
    optimizer = make(prior=prior)
    run(optimizer, 8)
    optimizer.save(tmp_path / "state.json")
    loaded = BayesianOptimizer.load(tmp_path / "state.json", model=model, prior=prior)
    assert loaded.ask(2) == optimizer.ask(2)
    with pytest.raises(ValueError, match=r"prior names \['z'\], which the space does not have"):
        BayesianOptimizer.load(tmp_path / "state.json", model=model, prior={"z": norm()})


OUTSIDE = {"params": {"x": 7.0, "y": 0.0}, "value": 1.0, "constraints": [], "is_bound": False}


def edited(text, **changes):
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:100],
        lambda text: "[1, 2]",
        lambda text: "{}",
        lambda text: edited(text, format=99),
        lambda text: edited(text, space=["x"]),
        lambda text: edited(text, space={"x": "{}"}),
        lambda text: edited(text, directions=["down"]),
        lambda text: edited(text, settings={"speed": 1}),
        lambda text: edited(text, trials=[OUTSIDE]),
        lambda text: edited(text, pending=[{"x": 0.5}]),
        lambda text: edited(text, seed=None),
    ],
)
def test_files_that_save_did_not_write(make, tmp_path, damage):
    optimizer = make()
    run(optimizer, 2)
    (tmp_path / "state.json").write_text(damage(saved(optimizer, tmp_path)))
    with pytest.raises(ValueError, match=r"state.json' was not written by this version's save"):
        BayesianOptimizer.load(tmp_path / "state.json")


def test_files_that_do_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        BayesianOptimizer.load(tmp_path / "state.json")


def test_saving_is_all_or_nothing(make, tmp_path, monkeypatch):
    optimizer = make()
    run(optimizer, 2)
    before = saved(optimizer, tmp_path)
    run(optimizer, 1)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        optimizer.save(tmp_path / "state.json")
    assert (tmp_path / "state.json").read_text() == before


# Construction


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"space": {}}, ValueError, "a space needs at least one parameter"),
        ({"space": {"x": (0, 1)}}, TypeError, r"space\['x'\] is \(0, 1\) of type tuple; use one of optuna.distributions"),
        ({"space": [Float(0, 1)]}, TypeError, "a space is a mapping of names to optuna.distributions"),
        ({"direction": "minimise"}, ValueError, "direction='minimise' is unknown; use 'minimize' or 'maximize'"),
        ({"direction": None}, ValueError, "direction=None is unknown"),
        ({"direction": ["minimize", 1]}, ValueError, "direction=1 is unknown"),
        ({"direction": []}, ValueError, r"direction=\[\] names 0 objectives; use one to three"),
        ({"direction": ["minimize"] * 4}, ValueError, "names 4 objectives; use one to three"),
        ({"n_constraints": -1}, ValueError, "n_constraints=-1 is no count; use an integer >= 0"),
        ({"n_constraints": 1.0}, ValueError, "n_constraints=1.0 is no count"),
        ({"n_initial": True}, ValueError, "n_initial=True is no count"),
        ({"settings": {"noisy": True}}, TypeError, r"settings={'noisy': True} is no SearchSettings"),
        ({"prior": {"z": norm()}}, ValueError, r"prior names \['z'\]"),
        ({"random_state": "seed"}, ValueError, "seed"),
    ],
)
def test_what_is_no_problem(options, error, message):
    with pytest.raises(error, match=message):
        BayesianOptimizer(**{"space": SQUARE} | options)


def test_networks_for_other_tasks():
    optimizer = BayesianOptimizer(SQUARE, model="classifier", n_initial=0)
    with pytest.raises(ValueError, match=r"model='classifier' is for task='classification' with scaling='context'"):
        optimizer.ask()
    assert optimizer.pending_ == []


def test_the_initial_points_follow_a_prior(make):
    asked = make(prior={"x": norm(0.8, 0.01)}, n_initial=5).ask(5)
    assert all(abs(params["x"] - 0.8) < 0.05 for params in asked)
    certain = make({"kind": Categorical("abc"), "n": Int(1, 2)}, prior={"kind": {"b": 1}}, n_initial=6)
    asked = certain.ask(6)                                          # the belief has two points
    assert {params["n"] for params in asked[:2]} == {1, 2}
    assert {params["kind"] for params in asked[:2]} == {"b"}
    assert len({tuple(params.values()) for params in asked}) == 6


# The loop


def options(model, **more):
    return {"random_state": 0, "model": model, "settings": FEW, "n_initial": 4} | more


def test_result_of_the_loop(model):
    seen = []
    result = minimize(lambda params: seen.append(params) or bowl(params), SQUARE, 7, **options(model))
    assert [trial.params for trial in result.trials] == seen
    values = [bowl(params) for params in seen]
    assert (result.success, result.nfev, result.fun) == (True, 7, min(values))
    assert result.x == seen[int(np.argmin(values))]
    np.testing.assert_array_equal(result.trace, np.minimum.accumulate(values))
    assert result.message == "7 trials evaluated"
    assert len(result.optimizer.trials_) == 7
    again = minimize(bowl, SQUARE, 7, **options(model))
    assert again.trials == result.trials
    result.optimizer.ask()
    assert len(result.trials) == 7


def test_functions_may_change_their_arguments(model):
    def func(params):
        value = bowl(params)
        params.clear()
        return value

    assert minimize(func, SQUARE, 5, **options(model)).success


@pytest.mark.parametrize("failure", [None, math.nan, (None, None), (math.nan, [1.0])])
def test_failures_in_the_loop(model, failure):
    n_constraints = 0 if not isinstance(failure, tuple) else 1

    def func(params):
        if params["x"] > 0.5:
            return failure
        return (bowl(params), [0.0]) if n_constraints else bowl(params)

    result = minimize(func, SQUARE, 8, n_constraints=n_constraints, **options(model))
    failed = [trial.params["x"] > 0.5 for trial in result.trials]
    assert any(failed)
    assert [trial.value is None for trial in result.trials] == failed


def test_nan_of_any_precision_needs_no_constraints(model):
    result = minimize(lambda params: np.float32("nan"), SQUARE, 2, n_constraints=1, model=model)
    assert [trial.value for trial in result.trials] == [None, None]


def test_a_failure_needs_no_constraints(model):
    result = minimize(lambda params: math.nan, SQUARE, 5, n_constraints=2, **options(model))
    assert all(trial.value is None for trial in result.trials)


def test_without_a_feasible_trial(model):
    result = minimize(lambda params: (bowl(params), [1.0]), SQUARE, 6, n_constraints=1, **options(model))
    assert (result.success, result.x, result.fun, result.nfev) == (False, None, None, 6)
    assert result.message == "6 trials evaluated, none of them feasible"
    assert (result.trace == np.inf).all()


def test_constraints_in_the_loop(model):
    result = minimize(lambda params: (bowl(params), [params["x"] - 0.5]), SQUARE, 8, n_constraints=1, **options(model))
    assert result.fun == min(trial.value for trial in result.trials if trial.params["x"] <= 0.5)


def test_exceptions(model):
    def func(params):
        if params["x"] > 0.5:
            raise ZeroDivisionError("x")
        return bowl(params)

    with pytest.raises(ZeroDivisionError):
        minimize(func, SQUARE, 8, **options(model))
    with pytest.raises(ZeroDivisionError):
        minimize(func, SQUARE, 8, catch=KeyError, **options(model))
    result = minimize(func, SQUARE, 8, catch=(KeyError, ArithmeticError), **options(model))
    assert {trial.value is None for trial in result.trials} == {True, False}


@pytest.mark.parametrize("stop", [True, np.True_])
def test_the_callback_sees_the_optimiser_and_may_stop(model, stop):
    lengths = []

    def callback(optimizer):
        lengths.append(len(optimizer.trials_))
        return stop if len(lengths) == 3 else lengths               # other values do not stop

    result = minimize(bowl, SQUARE, 7, callback=callback, **options(model))
    assert lengths == [1, 2, 3]
    assert (result.nfev, result.message) == (3, "stopped by the callback")


def test_initial_points_come_first(model):
    points = [{"x": 0.25, "y": 0.25}, {"y": 0.5, "x": 0.5}]
    result = minimize(bowl, SQUARE, 6, initial_points=points, **options(model))
    assert [trial.params for trial in result.trials[:2]] == points
    assert len({tuple(trial.params.values()) for trial in result.trials}) == 6
    assert minimize(bowl, SQUARE, 1, initial_points=points, **options(model)).x == points[0]


def test_initial_points_are_checked_before_anything_is_evaluated(model):
    for points, message in (([{"x": 0.5}], "lacks"), ([{"x": 0.5, "y": 0.5}, {"x": 2.0, "y": 0.5}], "x=2.0")):
        with pytest.raises(ValueError, match=message):
            minimize(pytest.fail, SQUARE, 6, initial_points=points, **options(model))


@pytest.mark.parametrize(("progress", "is_shown"), [(None, False), (False, False), (True, True)])
def test_progress(model, capsys, progress, is_shown):
    minimize(bowl, SQUARE, 2, progress=progress, **options(model))
    out, err = capsys.readouterr()
    assert out == ""
    assert ("minimize" in err and "2/2" in err and "best=" in err) == is_shown
    assert bool(err) == is_shown


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"func": 3}, TypeError, "func=3 cannot be called"),
        ({"n_trials": 0}, ValueError, "n_trials=0 is no number of trials; use n_trials >= 1"),
        ({"n_trials": 2.0}, ValueError, "n_trials=2.0 is no number"),
        ({"speed": 2}, TypeError, "speed"),
        ({"direction": "maximize"}, TypeError, "minimize has no direction; return the negative"),
        ({"func": lambda params: 1.0, "n_constraints": 1}, TypeError, r"func returned 1.0; .* \(value, constraints\)"),
        ({"func": lambda params: (1.0, [0.0])}, TypeError, "is not made of numbers"),
        ({"func": lambda params: (1.0, 0.0)}, ValueError, r"value=\(1.0, 0.0\) has shape \(2,\); give one number"),
    ],
)
def test_what_cannot_be_minimised(changes, error, message):
    with pytest.raises(error, match=message):
        minimize(**{"func": bowl, "space": SQUARE, "n_trials": 3} | changes)


# With a trained network


def test_a_bowl_is_minimised(trained):
    result = minimize(bowl, SQUARE, 20, random_state=0, model=trained, settings=SearchSettings(n_candidates=300))
    assert result.fun < 1e-2 * 0.85                                 # of its range


def test_a_mixed_space_is_searched(trained):
    space = {"x": Float(1e-3, 1e3, log=True), "n": Int(1, 20), "kind": Categorical("abc")}

    def func(params):
        return math.log10(params["x"] / 2) ** 2 + (params["n"] - 7) ** 2 / 20 + 2 * (params["kind"] != "b")

    result = minimize(func, space, 30, random_state=0, model=trained, settings=SearchSettings(n_candidates=300))
    assert result.x["kind"] == "b"
    assert result.fun < 0.3


def welded_beam(params):
    """Cost, and excess of shear, bending, geometry, deflection and buckling over their limits, relative to the limit."""
    h, l, t, b = (params[name] for name in "hltb")  # noqa: E741
    load, length, modulus, shear_modulus = 6000.0, 14.0, 30e6, 12e6
    direct = load / (math.sqrt(2) * h * l)
    radius = math.sqrt(l**2 / 4 + ((h + t) / 2) ** 2)
    inertia = 2 * math.sqrt(2) * h * l * (l**2 / 12 + ((h + t) / 2) ** 2)
    torsion = load * (length + l / 2) * radius / inertia
    shear = math.sqrt(direct**2 + direct * torsion * l / radius + torsion**2)
    bending = 6 * load * length / (b * t**2)
    deflection = 4 * load * length**3 / (modulus * t**3 * b)
    buckling = 4.013 * modulus * math.sqrt(t**2 * b**6 / 36) / length**2
    buckling *= 1 - t / (2 * length) * math.sqrt(modulus / (4 * shear_modulus))
    cost = 1.10471 * h**2 * l + 0.04811 * t * b * (14.0 + l)
    return cost, [shear / 13600 - 1, bending / 30000 - 1, h - b, deflection / 0.25 - 1, 1 - buckling / load]


def test_a_welded_beam_gets_cheap_and_holds(trained):
    space = {"h": Float(0.125, 5.0), "l": Float(0.1, 10.0), "t": Float(0.1, 10.0), "b": Float(0.1, 5.0)}
    result = minimize(welded_beam, space, 20, n_constraints=5, random_state=0, model=trained,
                      settings=SearchSettings(n_candidates=200))
    assert result.success
    assert result.fun < 6.0                     # 25 random points find 12 in the median; the optimum is 1.72


def test_the_example_of_a_user_without_settings(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = minimize(lambda params: (params["x"] - 0.2) ** 2, {"x": Float(0.0, 1.0)}, 12, random_state=0)
    assert result.fun < 1e-3
