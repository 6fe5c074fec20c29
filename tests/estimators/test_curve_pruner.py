"""Real studies with a forecaster that knows the family of the curves, and with a network that guesses."""

import copy
import math
import pickle
import threading
from dataclasses import replace

import numpy as np
import optuna
import pytest
import scipy.stats
import torch
from curve_forecasters import GaussianForecaster, fresh
from optuna.samplers import GridSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

import estimators.curve_pruner
from estimators.optuna import LearningCurvePruner
from pfn import PFN
from pfn.recipes import RECIPES

N_STEPS = 40


@pytest.fixture(autouse=True)
def _quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def forecaster(monkeypatch):
    """What the pruner takes for the network."""
    made = fresh()
    monkeypatch.setattr(estimators.curve_pruner, "LearningCurveExtrapolator", made)
    monkeypatch.setattr(estimators.curve_pruner, "load_shared", lambda model: model)
    return made


@pytest.fixture(scope="module")
def untrained():
    """A network that guesses."""
    config = replace(RECIPES["learning-curve"]().model, embed_dim=16, n_layers=1, n_heads=2, hidden_dim=16, n_outputs=20)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PFN(config).eval().requires_grad_(False)
    network.borders.copy_(torch.linspace(-3, 3, 21))
    return network


class Objective:
    """Curves of the forecaster's family: few with a high ceiling, most flat and low. Counts what it trains."""

    def __init__(self, sign=1, scale=1.0, first=1, stride=1, noise=0.0, best=0.9):
        self.sign, self.scale, self.first, self.stride, self.noise, self.best = sign, scale, first, stride, noise, best
        self.n_steps = 0

    def ceiling(self, x):
        return self.best * x if x > 0.8 else 0.3 * x

    def curve(self, x, number):
        curve = GaussianForecaster.curve(self.ceiling(x), range(1, N_STEPS + 1))
        curve = curve + self.noise * np.random.default_rng(number).normal(size=N_STEPS)
        return self.scale * (1 - curve if self.sign < 0 else curve)

    def __call__(self, trial):
        values = self.curve(trial.suggest_float("x", 0, 1), trial.number)
        for index, value in enumerate(values):
            trial.report(value, self.first + index * self.stride)
            self.n_steps += 1
            if trial.should_prune():
                raise optuna.TrialPruned
        return values[-1]


def run(objective, pruner, n_trials=40, direction="maximize", sampler=None, **settings):
    study = optuna.create_study(direction=direction, pruner=pruner, sampler=sampler or RandomSampler(seed=0), **settings)
    study.optimize(objective, n_trials=n_trials)
    return study


def start(pruner, finished, direction="maximize", **settings):
    """A study with these complete trials, each a dict of reported values, and a new trial."""
    study = optuna.create_study(direction=direction, pruner=pruner, **settings)
    for values in finished:
        add(study, values)
    return study, study.ask()


def add(study, values, value=None, state=TrialState.COMPLETE, **settings):
    value = values[max(values)] if value is None else value
    study.add_trial(optuna.trial.create_trial(state=state, value=value, intermediate_values=values, **settings))


def reported(trial, values, first=1):
    """Whether the trial is pruned, after these values."""
    for step, value in enumerate(values, first):
        trial.report(value, step)
    return trial.should_prune()


GOOD = {step: float(value) for step, value in enumerate(GaussianForecaster.curve(0.9, range(1, N_STEPS + 1)), 1)}
LOW = GaussianForecaster.curve(0.5, range(1, 11)).tolist()


# Studies

@pytest.mark.parametrize(("sign", "direction"), [(1, "maximize"), (-1, "minimize")])
def test_prunes_bad_trials_early_and_finds_the_same_best(untrained, monkeypatch, sign, direction):
    class Known(GaussianForecaster):                                         # of 1 - curve, if it is a loss
        def fit(self, steps, values):
            return super().fit(steps, 1 - np.asarray(values) if sign < 0 else values)

        def prob_better(self, threshold, steps):
            mean = self.curve(self.ceiling, steps)
            return scipy.stats.norm.sf(((1 - threshold if sign < 0 else threshold) - mean) / self.std)

    monkeypatch.setattr(estimators.curve_pruner, "LearningCurveExtrapolator", Known)
    all_of_it, pruned = Objective(sign), Objective(sign)
    full = run(all_of_it, optuna.pruners.NopPruner(), direction=direction)
    study = run(pruned, LearningCurvePruner(model=untrained), direction=direction)
    assert [t.params for t in study.trials] == [t.params for t in full.trials]
    assert study.best_value == full.best_value
    assert study.best_trial.number == full.best_trial.number
    # Five trials run to the end, and those that set a new best; the others last four steps.
    values = np.array([sign * t.value for t in full.trials])
    complete = {*range(5), *(n for n in range(5, 40) if values[n] > values[:n].max() - 0.02)}
    lengths = [len(t.intermediate_values) for t in study.trials]
    assert all(lengths[n] == 4 for n in range(40) if n not in complete)
    assert pruned.n_steps < all_of_it.n_steps / 2


def test_a_slow_starter_is_not_pruned_by_what_others_had_at_its_age(forecaster):
    """At step 10 it has a third of what the best trial had, but its forecast is better."""
    fast = dict.fromkeys(range(1, N_STEPS + 1), 0.6)
    slow = np.linspace(0.02, 0.2, 10)
    forecaster.fit = lambda self, steps, values: vars(self).update(ceiling=0.95) or self
    forecaster.curve = classmethod(lambda cls, ceiling, steps: ceiling * np.asarray(steps) / N_STEPS)
    for pruner, is_pruned in [(LearningCurvePruner(), False), (optuna.pruners.MedianPruner(), True)]:
        _, trial = start(pruner, [fast] * 5)
        assert reported(trial, slow) == is_pruned


@pytest.mark.parametrize(
    "objective",
    [Objective(first=0), Objective(first=5, stride=5), Objective(first=0, stride=1000), Objective(scale=100.0),
     Objective(-1, 7.0), Objective(noise=0.05), Objective(-1, scale=-3.0)],
    ids=["from 0", "every fifth", "thousands", "percent", "loss", "jitter", "negative"],
)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_units_of_steps_and_values_do_not_matter_to_a_study(untrained, objective, direction):
    pruner = LearningCurvePruner(delta=0.2, n_startup_trials=3, interval_steps=3, model=untrained)
    study = run(objective, pruner, n_trials=6, direction=direction)
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert all(t.state == TrialState.COMPLETE for t in study.trials[:3])


SAMPLERS = {"grid": GridSampler({"x": np.linspace(0, 1, 20)}, seed=0), "tpe": TPESampler(seed=0, n_startup_trials=3)}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_works_with_samplers(forecaster, sampler):
    objective = Objective()
    study = run(objective, LearningCurvePruner(), n_trials=20, sampler=sampler)
    assert study.best_value > 0.8
    assert objective.n_steps < 20 * N_STEPS
    assert any(t.state == TrialState.PRUNED for t in study.trials)


def test_a_study_is_resumed_by_another_process(forecaster, tmp_path):
    """Everything is in the study: a new pruner decides as the old one would have."""
    storage, make = f"sqlite:///{tmp_path}/study.db", lambda: LearningCurvePruner(n_startup_trials=2)
    whole = run(Objective(), make(), n_trials=8)
    run(Objective(), make(), n_trials=4, storage=storage, study_name="s")
    resumed = optuna.load_study(study_name="s", storage=storage, pruner=make(), sampler=RandomSampler(seed=1))
    for trial in whole.trials[4:]:
        resumed.enqueue_trial(trial.params)
    resumed.optimize(Objective(), n_trials=4)
    assert [t.state for t in resumed.trials] == [t.state for t in whole.trials]
    assert [len(t.intermediate_values) for t in resumed.trials] == [len(t.intermediate_values) for t in whole.trials]
    assert TrialState.PRUNED in {t.state for t in resumed.trials[4:]}


def test_threads_share_a_pruner(untrained):
    study = optuna.create_study(direction="maximize", pruner=LearningCurvePruner(delta=0.2, model=untrained))
    study.optimize(Objective(), n_trials=16, n_jobs=4)
    assert sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials) == 16


def test_optuna_keeps_studies_of_several_objectives_from_pruning():
    study = optuna.create_study(directions=["minimize", "maximize"], pruner=LearningCurvePruner())
    with pytest.raises(NotImplementedError, match="multi-objective"):
        study.ask().should_prune()


def test_objectives_that_report_nothing_are_never_pruned():
    study = optuna.create_study(pruner=LearningCurvePruner(n_startup_trials=0))
    study.optimize(lambda trial: float(trial.should_prune()), n_trials=8)
    assert study.best_value == 0
    assert not reported(study.ask(), [1.0] * 20)                             # nobody has said what the last step is


# Decisions

def test_the_probability_is_that_of_beating_the_best_complete_trial(forecaster):
    pruner = LearningCurvePruner(delta=0.05)
    study, trial = start(pruner, [dict.fromkeys(range(1, 41), 0.2)] * 4 + [GOOD])
    assert reported(trial, LOW)
    decision = pruner.decide(study, study.get_trials()[-1])
    final = GaussianForecaster.curve(0.5, 40)
    assert decision.threshold == GOOD[40]
    assert decision.probability == pytest.approx(scipy.stats.norm.sf((GOOD[40] - final) / 0.01))
    assert forecaster.last.horizon == 40


@pytest.mark.parametrize(("distance", "is_pruned"), [(0.0160, False), (0.0169, True)])
def test_delta_is_the_probability_at_which_trials_are_pruned(forecaster, distance, is_pruned):
    best = dict.fromkeys(range(1, 41), float(GaussianForecaster.curve(0.5, 40) + distance))
    assert reported(start(LearningCurvePruner(delta=0.05), [best] * 5)[1], LOW) is is_pruned


def test_waits_for_complete_trials_and_for_values(forecaster):
    for n_finished, n_values, is_pruned in [(2, 10, False), (3, 10, True), (3, 5, False), (3, 6, True)]:
        pruner = LearningCurvePruner(n_startup_trials=3, n_min_observations=6)
        study, trial = start(pruner, [GOOD] * n_finished)
        for state in (TrialState.PRUNED, TrialState.FAIL):                   # these do not count
            study.add_trial(optuna.trial.create_trial(state=state, intermediate_values=GOOD))
        assert reported(trial, LOW[:n_values]) is is_pruned
    assert not reported(start(LearningCurvePruner(n_startup_trials=0), [])[1], LOW)


def test_forecasts_are_made_at_intervals_only(forecaster):
    _, trial = start(LearningCurvePruner(interval_steps=10), [GOOD] * 5)
    assert [reported(trial, [0.3], step) for step in range(1, 21)] == [step in (10, 20) for step in range(1, 21)]


def test_the_same_values_get_the_same_answer_from_one_forecast(forecaster):
    pruner = LearningCurvePruner()
    study, trial = start(pruner, [GOOD] * 5)
    assert reported(trial, LOW)
    assert all(trial.should_prune() for _ in range(5))
    assert forecaster.asked == 1
    add(study, dict.fromkeys(range(1, 41), 0.1))
    assert trial.should_prune()
    assert forecaster.asked == 1
    trial.report(0.4, 11)
    trial.should_prune()
    assert forecaster.asked == 2


def test_a_curve_that_the_prior_cannot_explain_is_not_pruned(forecaster):
    forecaster.p_value = 0.005
    assert not reported(start(LearningCurvePruner(), [GOOD] * 5)[1], LOW)
    forecaster.p_value = 0.02
    assert reported(start(LearningCurvePruner(), [GOOD] * 5)[1], LOW)


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_a_trial_that_is_ahead_is_not_pruned(forecaster, direction, sign):
    best = dict.fromkeys(range(1, 41), sign * 0.4)
    forecaster.prob_better = lambda self, threshold, steps: np.zeros(len(steps))
    for last, is_pruned in [(0.41, False), (0.39, True)]:
        _, trial = start(LearningCurvePruner(), [best] * 5, direction)
        assert reported(trial, [sign * value for value in (0.1, 0.2, 0.3, last)]) is is_pruned


def test_the_horizon_is_the_last_step_of_complete_trials_or_given(forecaster):
    short = {step: value for step, value in GOOD.items() if step <= 20}
    study, trial = start(LearningCurvePruner(), [short] * 5)
    reported(trial, LOW)
    assert forecaster.last.horizon == 20
    add(study, GOOD)
    reported(trial, [0.3], 11)
    assert forecaster.last.horizon == 40
    _, trial = start(LearningCurvePruner(horizon=25), [short] * 5)
    reported(trial, LOW)
    assert forecaster.last.horizon == 25
    assert not reported(trial, [0.01], 25)
    assert not reported(trial, [0.01], 60)


def test_steps_may_be_reported_in_any_order(forecaster):
    _, trial = start(LearningCurvePruner(), [GOOD] * 5)
    for step in (4, 2, 9, 3):
        trial.report(LOW[step - 1], step)
    assert trial.should_prune()
    assert forecaster.last.steps.tolist() == [2, 3, 4, 9]
    assert forecaster.last.values.tolist() == [LOW[step - 1] for step in (2, 3, 4, 9)]


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_left_out(forecaster, hole):
    _, trial = start(LearningCurvePruner(), [GOOD] * 5)
    assert not reported(trial, [*LOW[:3], hole])
    assert reported(trial, LOW[4:5], 5)
    assert forecaster.last.steps.tolist() == [1, 2, 3, 5]


def test_a_trial_that_has_diverged_is_pruned(forecaster):
    pruner = LearningCurvePruner()
    study, trial = start(pruner, [GOOD] * 5)
    assert not reported(trial, [math.nan] * 3)
    assert reported(trial, [math.nan], 4)
    trial = study.ask()
    assert not reported(trial, [0.89] * 4 + [math.nan] * 3)
    assert reported(trial, [math.nan], 8)
    assert pruner.decide(study, study.get_trials()[-1]).reason == "diverged"
    assert not reported(study.ask(), [math.nan, 0.89] * 10)


def test_infeasible_trials_are_not_what_has_to_be_beaten(forecaster):
    pruner = LearningCurvePruner()
    study, trial = start(pruner, [dict.fromkeys(range(1, 41), 0.2)] * 5)
    add(study, GOOD, system_attrs={"constraints": (0.1,)})
    assert not reported(trial, LOW)
    assert pruner.decide(study, study.get_trials()[5]).threshold == 0.2
    add(study, GOOD, system_attrs={"constraints": (-0.1,)})
    assert reported(trial, [LOW[9]], 11)


def test_no_feasible_trial_means_nothing_to_beat(forecaster):
    study, trial = start(LearningCurvePruner(), [])
    for _ in range(6):
        add(study, GOOD, system_attrs={"constraints": (0.1,)})
    assert not reported(trial, LOW)


def test_objectives_may_return_something_else_than_they_report(forecaster):
    """Percent returned, shares reported: nothing reported could ever reach what was returned."""
    pruner = LearningCurvePruner()
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for ceiling in (0.5, 0.6, 0.7, 0.8, 0.9):
        values = {step: float(value) for step, value in enumerate(GaussianForecaster.curve(ceiling, range(1, 41)), 1)}
        add(study, values, value=100 * values[40])
    trial = study.ask()
    assert not reported(trial, list(GOOD.values())[:10])
    assert pruner.decide(study, study.get_trials()[-1]).threshold == GOOD[40]


@pytest.mark.parametrize(
    ("direction", "best", "values", "bounds"),
    [
        ("maximize", 0.9, [0.1, 0.2, 0.3, 0.4], (0, 1)),
        ("maximize", 1.2, [0.1, 0.2, 0.3, 0.4], (-math.inf, math.inf)),
        ("maximize", 0.9, [-0.1, 0.2, 0.3, 0.4], (-math.inf, math.inf)),
        ("maximize", -1.0, [-4.0, -3.0, -2.0, -2.0], (-math.inf, 0)),
        ("minimize", 0.1, [0.9, 0.8, 0.7, 0.6], (0, math.inf)),
        ("minimize", -5.0, [0.9, 0.8, 0.7, 0.6], (-math.inf, math.inf)),
    ],
)
def test_bounds_are_inferred_from_the_direction_and_all_values(forecaster, direction, best, values, bounds):
    _, trial = start(LearningCurvePruner(), [dict.fromkeys(range(1, 41), best)] * 5, direction)
    reported(trial, values)
    assert forecaster.last.bounds == bounds


def test_values_outside_given_bounds_are_warned_of_once(forecaster):
    percent = {step: 100 * value for step, value in GOOD.items()}
    _, trial = start(LearningCurvePruner(bounds=(0, 1)), [percent] * 5)
    with pytest.warns(UserWarning, match=r"reported 50, outside bounds=\(0, 1\)"):
        reported(trial, [50.0] * 4)
    assert forecaster.last.bounds == (-math.inf, math.inf)
    reported(trial, [50.0], 5)                                               # warnings are errors
    _, trial = start(LearningCurvePruner(bounds=(0, 1)), [GOOD] * 5)
    reported(trial, LOW)
    assert forecaster.last.bounds == (0, 1)


def test_a_tolerance_prunes_what_could_win_but_not_by_much(forecaster):
    best = dict.fromkeys(range(1, 41), float(GaussianForecaster.curve(0.5, 40)))
    assert not reported(start(LearningCurvePruner(), [best] * 5)[1], LOW)
    # At the horizon the forecast equals the best: the expected gain is 0.01 / √(2π) = 0.00399.
    assert not reported(start(LearningCurvePruner(tolerance=0.0039), [best] * 5)[1], LOW)
    assert reported(start(LearningCurvePruner(tolerance=0.0041), [best] * 5)[1], LOW)


def test_copies_and_pickles_decide_the_same(forecaster):
    pruner = LearningCurvePruner(delta=0.01, n_startup_trials=2)
    study, trial = start(pruner, [GOOD] * 2)
    assert reported(trial, LOW)
    for other in (copy.deepcopy(pruner), pickle.loads(pickle.dumps(pruner))):
        assert other.decide(study, study.get_trials()[-1]) == pruner.decide(study, study.get_trials()[-1])


def test_one_pruner_serves_two_studies(forecaster):
    pruner = LearningCurvePruner()
    _, high = start(pruner, [GOOD] * 5)
    _, low = start(pruner, [dict.fromkeys(range(1, 41), 0.2)] * 5)
    assert [reported(high, LOW), reported(low, LOW), reported(high, LOW[9:], 11)] == [True, False, True]


def test_the_first_forecasts_of_threads_load_one_network(untrained, monkeypatch):
    loaded = []
    monkeypatch.setattr(estimators.curve_pruner, "load_shared", lambda model: loaded.append(model) or untrained)
    study, _ = start(LearningCurvePruner(), [GOOD] * 5)
    trials = [study.ask() for _ in range(4)]
    threads = [threading.Thread(target=reported, args=(trial, LOW)) for trial in trials]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == ["learning-curve"]


@pytest.mark.parametrize("seed", range(10))
def test_no_values_make_it_fail(untrained, seed):
    rng = np.random.default_rng(seed)
    pruner = LearningCurvePruner(delta=0.9, tolerance=0.1, n_startup_trials=1, n_min_observations=1, model=untrained)
    study, _ = start(pruner, [], rng.choice(["minimize", "maximize"]))
    make = [
        np.zeros, np.ones, rng.random, lambda n: rng.normal(size=n), lambda n: rng.random(n).round(1),
        lambda n: 10.0 ** rng.uniform(-30, 30, n), lambda n: -(10.0 ** rng.uniform(-5, 18, n)),
        lambda n: np.full(n, 1e200), lambda n: rng.choice([np.nan, np.inf, -np.inf, 0.5], n),
    ]
    for _ in range(6):
        n = rng.integers(1, 16)
        steps = rng.choice(rng.choice([40, 400, 10**6]), n, replace=False)
        trial, values = study.ask(), make[rng.integers(len(make))](n)
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            trial.report(value, step)
            assert trial.should_prune() in (True, False)
        study.tell(trial, values[-1] if np.isfinite(values[-1]) else 0.0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"horizon": 0}, "horizon.*got 0"), ({"delta": 5}, "delta.*got 5"),
        ({"n_startup_trials": -1}, "n_startup_trials.*-1"),
        ({"n_min_observations": 0}, "n_min_observations.*got 0"), ({"interval_steps": 0}, "interval_steps.*got 0"),
        ({"bounds": (1, 0)}, r"bounds.*\(1, 0\)"), ({"tolerance": -1}, "tolerance.*-1"),
    ],
)
def test_bad_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        LearningCurvePruner(**arguments)


def test_the_network_saves_steps_and_keeps_the_best():
    all_of_it, pruned = Objective(noise=0.005), Objective(noise=0.005)
    full = run(all_of_it, optuna.pruners.NopPruner())
    study = run(pruned, LearningCurvePruner())
    assert study.best_value > full.best_value - 0.01
    assert pruned.n_steps < all_of_it.n_steps / 2
