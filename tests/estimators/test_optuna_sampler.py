"""Optuna's own suite for samplers, and what this one promises beyond it."""

import pickle
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState

import estimators.optuna
import estimators.proposals
from estimators import SearchSettings
from estimators.conditional_space import ConditionalSpace
from estimators.optuna import PFNSampler
from pfn import PFN, PFNConfig

FEW = SearchSettings(n_candidates=64)


@pytest.fixture(autouse=True)
def _quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture(scope="module")
def untrained():
    """A network that guesses: enough where the contract is tested, and fast."""
    config = PFNConfig(task="regression", n_outputs=20, row_features=18, scaling="cube", target_status=True, embed_dim=16,
                       n_layers=1, n_heads=2, hidden_dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PFN(config).eval().requires_grad_(False)


@pytest.fixture
def sampler(untrained, monkeypatch):
    monkeypatch.setattr(estimators.proposals, "_N_STEPS", 2)
    return lambda: PFNSampler(seed=0, n_startup_trials=2, model=untrained, settings=SearchSettings(n_candidates=10))


class TestBasic(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self, sampler):
        return sampler


class TestRelative(RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self, sampler):
        return sampler


class TestMultiObjective(MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, sampler):
        return sampler


def spy(monkeypatch):
    """Lets the histories that `propose` gets be looked at; it answers with a random new point."""
    seen = []

    def propose(space, history, n, *, model, settings, generator):
        seen.append(SimpleNamespace(space=space, history=history, settings=settings))
        rows = space.sample(64, np.random.default_rng(int(torch.randint(2**31, (), generator=generator))))
        taken = set(space.keys(np.concatenate([history.x, history.pending])))
        return rows[[next((i for i, key in enumerate(space.keys(rows)) if key not in taken), 0)]]

    monkeypatch.setattr(estimators.optuna, "propose", propose)
    monkeypatch.setattr(estimators.optuna, "load_network", lambda model: model)
    return seen


def last_history(study, seen):
    """What is proposed from after one more trial is asked for."""
    study.ask().suggest_float("x", 0, 1)
    return seen[-1].history


def make_study(n_startup_trials=0, direction="minimize", **options):
    return optuna.create_study(direction=direction, sampler=PFNSampler(seed=0, n_startup_trials=n_startup_trials, **options))


def add(study, x, value=None, state=TrialState.COMPLETE, **options):
    study.add_trial(optuna.create_trial(
        params={"x": x}, distributions={"x": FloatDistribution(0, 1)}, value=value, state=state, **options
    ))


# What the network reads


def test_values_are_minimised(monkeypatch):
    seen = spy(monkeypatch)
    for direction, expected in [("minimize", [1.0, 2.0]), ("maximize", [-1.0, -2.0])]:
        study = make_study(direction=direction)
        add(study, 0.25, 1.0)
        add(study, 0.5, 2.0)
        history = last_history(study, seen)
        assert history.x[:, 0].tolist() == [0.25, 0.5]
        assert history.values[:, 0].tolist() == expected
        assert history.constraints.shape == (2, 0)
        assert history.pending.shape == (0, 1)
        assert not history.is_bound.any()


def test_failed_trials_and_the_worst_infinity_are_failures(monkeypatch):
    seen = spy(monkeypatch)
    study = make_study(direction="maximize")
    add(study, 0.1, 1.0)
    add(study, 0.2, state=TrialState.FAIL)
    add(study, 0.3, -np.inf)
    add(study, 0.4, np.inf)
    add(study, 0.5, 3.0)
    study.add_trial(optuna.create_trial(state=TrialState.FAIL))
    history = last_history(study, seen)
    np.testing.assert_array_equal(history.values[:, 0], [-1.0, np.nan, np.nan, -3.0, -3.0])


def test_a_nan_value_is_a_failure(monkeypatch):
    seen = spy(monkeypatch)
    study = make_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) * [1.0, np.nan][trial.number % 2], n_trials=4, catch=())
    assert np.isnan(last_history(study, seen).values[:, 0]).tolist() == [False, True, False, True]


def test_pruned_trials_are_bounds(monkeypatch):
    seen = spy(monkeypatch)
    for direction, sign in [("minimize", 1.0), ("maximize", -1.0)]:
        study = make_study(direction=direction)
        add(study, 0.1, 1.0)
        add(study, 0.2, state=TrialState.PRUNED, intermediate_values={0: 5.0, 1: 4.0})
        add(study, 0.3, state=TrialState.PRUNED)
        history = last_history(study, seen)
        np.testing.assert_array_equal(history.values[:, 0], [sign, 4.0 * sign, np.nan])
        assert history.is_bound.tolist() == [False, True, False]


def test_constraints_of_a_function_and_of_trials_are_the_same(monkeypatch):
    seen = spy(monkeypatch)

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if by_trial and trial.number != 1:
            trial.set_constraint("a", 0.5 - x)
            trial.set_constraint("b", -1.0 if trial.number else np.inf)
        return x

    tables = []
    for by_trial in (False, True):
        limits = None if by_trial else (lambda t: (0.5 - t.params["x"], -1.0 if t.number else np.inf))
        study = make_study(constraints_func=limits)
        study.optimize(objective, n_trials=4)
        tables.append((last_history(study, seen), study))
    (function, study), (trials, _) = tables
    assert function.x.tolist() == trials.x.tolist()
    np.testing.assert_array_equal(function.constraints[:, 0], 0.5 - function.x[:, 0])
    np.testing.assert_array_equal(function.constraints[:, 1], [1.0, -1.0, -1.0, -1.0])      # inf is violated, and finite
    np.testing.assert_array_equal(np.isnan(trials.constraints), np.arange(4)[:, None].repeat(2, 1) == 1)
    feasible = [t for t in study.trials[1:4] if t.params["x"] >= 0.5]
    assert study.best_trial.value == min(t.value for t in feasible)           # Optuna finds them, too


def test_nan_constraints_are_refused(monkeypatch):
    spy(monkeypatch)
    study = make_study(constraints_func=lambda trial: [np.nan])
    with pytest.raises(ValueError, match=r"returned \[nan\] for trial 0"):
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)


def test_running_trials_are_pending_before_they_ask_for_anything(monkeypatch):
    seen = spy(monkeypatch)
    study = make_study()
    add(study, 0.5, 1.0)
    space = {"x": FloatDistribution(0, 1), "n": IntDistribution(1, 4), "c": CategoricalDistribution(["a", "b", None])}
    study.tell(study.ask(space), 2.0)
    study.enqueue_trial({"x": 0.125})
    trials = [study.ask() for _ in range(3)]
    proposed = [trial.relative_params for trial in trials]
    current = study.ask()
    current.suggest_float("x", 0, 1)
    encoded = seen[-1].space.encode([proposed[0] | {"x": 0.125}, *proposed[1:]])
    np.testing.assert_allclose(seen[-1].history.pending, encoded)
    assert [trial.number for trial in trials] == [2, 3, 4]
    assert trials[0].suggest_float("x", 0, 1) == 0.125


def test_more_than_three_objectives_are_weighted_anew_for_each_trial(monkeypatch):
    seen = spy(monkeypatch)
    study = optuna.create_study(directions=["minimize"] * 3 + ["maximize"], sampler=PFNSampler(seed=0, n_startup_trials=0))
    for i, x in enumerate(np.linspace(0, 1, 5)):
        add_values = [x, 10 * x, 7.0, -x] if i < 4 else None
        study.add_trial(optuna.create_trial(
            params={"x": x}, distributions={"x": FloatDistribution(0, 1)}, values=add_values,
            state=TrialState.COMPLETE if i < 4 else TrialState.FAIL,
        ))
    values = [last_history(study, seen).values for _ in range(2)]
    for one in values:
        assert one.shape == (5, 1)
        assert (np.diff(one[:4, 0]) > 0).all()
        assert np.isnan(one[4, 0])
    assert not np.allclose(values[0][:4], values[1][:4])


@pytest.mark.parametrize("directions", [["minimize", "maximize"], ["minimize"] * 3, ["minimize"] * 5])
def test_several_objectives_are_optimised(directions, sampler):
    study = optuna.create_study(directions=directions, sampler=sampler())

    def objective(trial):
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_int("y", 1, 10)
        trial.set_constraint("y", y - 8.0)
        return [x + y, x - y, y, 2 * y, x][: len(directions)]

    study.optimize(objective, n_trials=6)
    assert len({tuple(t.params.values()) for t in study.trials}) == 6


# Spaces that change


def test_a_range_that_was_widened_is_searched(monkeypatch):
    seen = spy(monkeypatch)
    study = make_study()
    for high in (1.0, 4.0):
        study.optimize(lambda trial, high=high: trial.suggest_float("x", 0.0, high), n_trials=8)
    assert seen[-1].space.distributions["x"].high == 4.0
    assert len(seen[-1].history.x) == 15
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=2)
    inside = [t.params["x"] for t in study.trials[:-1] if t.params["x"] <= 1.0]
    np.testing.assert_allclose(seen[-1].history.x[:, 0], inside)


def test_conditional_parameters_are_learnt_from_trials(monkeypatch):
    seen = spy(monkeypatch)
    study = make_study()

    def objective(trial):
        if trial.suggest_categorical("kind", ["flat", "deep"]) == "flat":
            return trial.suggest_float("width", 0, 1)
        return sum(trial.suggest_float(f"x{i}", 0, 1) for i in range(trial.suggest_int("depth", 1, 3)))

    study.optimize(objective, n_trials=40)
    space, history = seen[-1].space, seen[-1].history
    for params in space.decode(space.sample(64, np.random.default_rng(0))):
        expected = {"kind", "width"} if params["kind"] == "flat" else {"kind", "depth"} | {
            f"x{i}" for i in range(params["depth"])
        }
        assert set(params) == expected
    assert set(space.keys(history.x)) == set(space.keys(space.encode([t.params for t in study.trials[:-1]])))
    assert not np.isnan(history.x).any()
    after = study.trials[-15:]
    assert all(set(t.system_attrs["pfnkit:proposed"]) == set(t.params) for t in after)


def test_points_that_differ_in_what_does_not_exist_are_the_same():
    space = ConditionalSpace(
        {"kind": CategoricalDistribution(["a", "b"]), "n": IntDistribution(1, 4), "x": FloatDistribution(0, 1)},
        [{"kind": "a"}, {"kind": "b", "n": 1}, {"kind": "b", "n": 3, "x": 0.2}, {"kind": "b", "n": 2}],
    )
    rows = space.encode([{"kind": "a"}, {"kind": "a", "n": 3}, {"kind": "b", "n": 1, "x": 0.9}, {"kind": "b", "n": 1}])
    keys = space.keys(rows)
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert space.decode(rows) == [{"kind": "a"}, {"kind": "a"}, {"kind": "b", "n": 1}, {"kind": "b", "n": 1}]
    assert space.decode(space.encode([{"kind": "b", "n": 4, "x": 0.5}])) == [{"kind": "b", "n": 4, "x": 0.5}]
    assert space.required == {"kind"}


def test_a_parameter_that_was_added_later_is_searched(monkeypatch):
    seen = spy(monkeypatch)
    study = make_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1), n_trials=3)
    assert seen[-1].space.names == ("x", "y")
    np.testing.assert_array_equal(seen[-1].history.x[:5, 1], 0.5)


# Reproducible, and never the same for two workers


def test_the_same_seed_gives_the_same_study_and_another_seed_another(sampler):
    def run(one):
        study = optuna.create_study(sampler=one)
        study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_int("n", 1, 9), n_trials=6)
        return [t.params for t in study.trials]

    assert run(sampler()) == run(sampler())
    assert run(sampler()) == run(pickle.loads(pickle.dumps(sampler())))
    other = sampler()
    other._seed = 1
    assert run(sampler())[0] != run(other)[0]


def test_a_study_goes_on_as_if_it_had_not_stopped(sampler, tmp_path):
    def objective(trial):
        return trial.suggest_float("x", 0, 1) ** 2 + trial.suggest_categorical("c", [0, 1, 2])

    whole = optuna.create_study(sampler=sampler())
    whole.optimize(objective, n_trials=6)
    storage = f"sqlite:///{tmp_path}/study.db"
    for n_trials in (3, 3):
        part = optuna.create_study(storage=storage, study_name="one", load_if_exists=True, sampler=sampler())
        part.optimize(objective, n_trials=n_trials)
    assert [t.params for t in part.trials] == [t.params for t in whole.trials]


def test_startup_points_fill_the_space(monkeypatch):
    spy(monkeypatch)
    study = make_study(n_startup_trials=33)
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_int("n", 0, 1), n_trials=33)
    counts = np.histogram([t.params["x"] for t in study.trials[1:]], bins=8, range=(0, 1))[0]
    assert counts.min() >= 3                                                  # independent draws leave 1 or 0
    assert counts.max() <= 5


def test_no_point_is_tried_twice_while_there_are_others(sampler):
    study = optuna.create_study(sampler=sampler())
    study.optimize(lambda t: t.suggest_int("n", 0, 4) + t.suggest_categorical("c", [0, 1]), n_trials=10)
    assert len({tuple(t.params.items()) for t in study.trials}) == 10
    study.optimize(lambda t: t.suggest_int("n", 0, 4) + t.suggest_categorical("c", [0, 1]), n_trials=2)


def test_threads_do_not_try_the_same_point(sampler):
    study = optuna.create_study(sampler=sampler())
    space = {"n": IntDistribution(0, 6), "c": CategoricalDistribution("ab")}
    study.tell(study.ask(space), 1.0)
    barrier = threading.Barrier(4)                                            # four trials run at any time

    def objective(trial):
        value = trial.suggest_int("n", 0, 6) + (trial.suggest_categorical("c", "ab") == "a")
        barrier.wait(timeout=60)
        return value

    study.optimize(objective, n_trials=12, n_jobs=4)
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 13


@pytest.mark.parametrize("finished", [False, True])
def test_workers_that_choose_the_same_point_at_once_choose_again(monkeypatch, finished):
    """Another process announces the point, or is done with it, between our reading of the study and our announcement."""
    study = make_study()
    add(study, 0.5, 1.0)
    other = study.ask()
    seen, rows = [], iter([[[0.25]], [[0.75]]])

    def propose(space, history, n, **options):
        seen.append(history.x.tolist() + history.pending.tolist())
        if len(seen) == 1:
            study._storage.set_trial_system_attr(other._trial_id, "pfnkit:proposed", {"x": 0.25})
            if finished:
                study._storage.set_trial_param(other._trial_id, "x", 0.25, FloatDistribution(0, 1))
                study.tell(other, 2.0)
        return np.array(next(rows))

    monkeypatch.setattr(estimators.optuna, "propose", propose)
    monkeypatch.setattr(estimators.optuna, "load_network", lambda model: model)
    assert study.ask().suggest_float("x", 0, 1) == 0.75
    assert seen == [[[0.5]], [[0.5], [0.25]]]


WORKER = """
    import sys, time
    import optuna
    from estimators import SearchSettings
    from estimators.optuna import PFNSampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = PFNSampler(seed=0, n_startup_trials=4, settings=SearchSettings(n_candidates=64))
    study = optuna.load_study(study_name="shared", storage=sys.argv[1], sampler=sampler)

    def objective(trial):
        n = trial.suggest_int("n", 0, 9)
        c = trial.suggest_categorical("c", ["a", "b", "c"])
        time.sleep(0.05)
        return n + (c == "a")

    study.optimize(objective, n_trials=12)
"""


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=storage, study_name="shared", sampler=PFNSampler(seed=0))
    study.tell(study.ask({"n": IntDistribution(0, 9), "c": CategoricalDistribution(["a", "b", "c"])}), 5.0)
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(WORKER), storage]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 25
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 25  # of 30


# The constructor


def test_the_network_is_loaded_by_the_first_proposal(monkeypatch):
    loaded = []
    spy(monkeypatch)
    monkeypatch.setattr(estimators.optuna, "load_network", lambda model: loaded.append(model) or object())
    study = make_study(n_startup_trials=3, model="mine")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert loaded == []
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert loaded == ["mine"]


def test_networks_for_other_tasks_are_refused():
    study = make_study(model="classifier")
    with pytest.raises(ValueError, match=r"model='classifier' is for task='classification'"):
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)


def test_pickles_are_small():
    sampler = PFNSampler(seed=3, settings=FEW)
    sampler._network = np.zeros(10**6)
    again = pickle.loads(pickle.dumps(sampler))
    assert len(pickle.dumps(sampler)) < 2000
    assert (again._seed, again._settings, again._network) == (3, FEW, None)


def test_the_independent_sampler_is_used(monkeypatch):
    spy(monkeypatch)
    independent = optuna.samplers.GridSampler({"x": [0.3]}, seed=0)
    study = make_study(independent_sampler=independent, n_startup_trials=1)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert study.trials[0].params == {"x": 0.3}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, ValueError, "got -1"),
        ({"n_startup_trials": -2}, ValueError, "got -2"),
        ({"settings": "log_ei"}, TypeError, "no SearchSettings"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        PFNSampler(**options)


# With the bundled network


def test_constraints_are_met():
    """The unconstrained optimum is at 0, the best feasible point at x + y = 1."""

    def objective(trial):
        x, y = trial.suggest_float("x", -2, 2), trial.suggest_float("y", -2, 2)
        trial.set_constraint("sum", 1 - x - y)
        return x**2 + y**2

    study = optuna.create_study(sampler=PFNSampler(seed=0, settings=FEW))
    study.optimize(objective, n_trials=25)
    assert 0.5 <= study.best_value < 0.6


def test_a_region_that_crashes_is_avoided_after_few_failures():
    def objective(trial):
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        if x > 0.5:
            raise RuntimeError("crash")
        return (x - 0.4) ** 2 + (y - 0.3) ** 2

    study = optuna.create_study(sampler=PFNSampler(seed=0, settings=FEW))
    study.optimize(objective, n_trials=30, catch=(RuntimeError,))
    failed = [t.state == TrialState.FAIL for t in study.trials]
    assert 2 <= sum(failed[:10]) <= 8
    assert sum(failed[15:]) <= 4                                              # a blind sampler: 7.5 of 15
    assert study.best_value < 0.01


def test_a_mixed_conditional_space_is_searched():
    def objective(trial):
        if trial.suggest_categorical("kind", ["quadratic", "linear"]) == "linear":
            return 1 + abs(trial.suggest_float("slope", -1, 1))
        x = trial.suggest_float("x", 1e-3, 1e3, log=True)
        return (np.log10(x) - 1) ** 2 + 0.1 * abs(trial.suggest_int("n", 1, 20) - 13)

    study = optuna.create_study(sampler=PFNSampler(seed=0, settings=FEW))
    study.optimize(objective, n_trials=40)
    assert study.best_value < 0.3
    assert study.best_params["kind"] == "quadratic"


def test_a_front_is_found():
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=PFNSampler(seed=0, settings=FEW))
    study.optimize(lambda t: (t.suggest_float("x", -2, 2) ** 2, -((t.params["x"] - 1) ** 2)), n_trials=20)
    on_front = [t for t in study.trials[10:] if -0.1 <= t.params["x"] <= 1.1]
    assert len(on_front) >= 7                                                 # a quarter of the range
