"""Where to evaluate next."""

import math

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from scipy.stats import norm

from estimators.goal import ACQUISITIONS, CONSTRAINT_HANDLING, Goal, SearchSettings
from estimators.proposals import propose
from estimators.space import SearchSpace
from estimators.surrogate import History, Surrogate
from estimators.user_prior import UserPrior
from pfn import PFN, PFNConfig

MIXED = {
    "x": Float(-1.0, 3.0), "lr": Float(1e-4, 1.0, log=True), "n": Int(1, 6), "flag": Categorical([False, True]),
    "kind": Categorical("abc"),
}
SQUARE = {"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)}
FEW = SearchSettings(n_candidates=100)


def told(space, n=12, m=0, *, k=1, x=None, values=None, constraints=None, is_bound=None, pending=None, seed=0):
    rng = np.random.default_rng(seed)
    x = space.sample(n, rng) if x is None else x
    drawn = rng.normal(size=(len(x), k)), rng.normal(size=(len(x), m))
    return History(
        x, drawn[0] if values is None else values, drawn[1] if constraints is None else constraints,
        np.zeros(len(x), dtype=bool) if is_bound is None else is_bound,
        np.empty((0, space.n_columns)) if pending is None else pending,
    )


def proposed(space, history, n=1, *, model, settings=FEW, seed=0, prior=None):
    generator = torch.Generator().manual_seed(seed)
    rows = propose(space, history, n, model=model, settings=settings, generator=generator, prior=prior)
    assert rows.shape == (n, space.n_columns)
    np.testing.assert_array_equal(space.snap(rows), rows)           # valid
    return rows


def is_new(space, history, rows):
    keys = space.keys(rows)
    return len(set(keys)) == len(rows) and not set(keys) & set(space.keys(np.concatenate([history.x, history.pending])))


# Whatever the network says


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
@pytest.mark.parametrize("handling", CONSTRAINT_HANDLING)
@pytest.mark.parametrize("some_feasible", [True, False])
def test_proposals_are_valid_and_reproducible(model, acquisition, handling, some_feasible):
    space = SearchSpace(MIXED)
    values = np.random.default_rng(0).normal(size=(12, 1))
    values[[2, 5]] = np.nan
    constraints = np.random.default_rng(1).normal(size=(12, 2)) if some_feasible else np.full((12, 2), 1.0)
    history = told(space, m=2, values=values, constraints=constraints, pending=space.sample(2, np.random.default_rng(7)))
    settings = SearchSettings(acquisition=acquisition, constraint_handling=handling, n_candidates=100)
    rows = proposed(space, history, 2, model=model, settings=settings)
    assert is_new(space, history, rows)
    np.testing.assert_array_equal(proposed(space, history, 2, model=model, settings=settings), rows)


@pytest.mark.parametrize("k", [2, 3])
def test_several_objectives(model, k):
    space = SearchSpace(MIXED)
    history = told(space, 14, 1, k=k)
    history.values[[0, 3]] = np.nan
    history.values[5, 0] = np.nan                                   # of one objective only
    history.constraints[0] = np.nan
    history.is_bound[7] = True
    for one in (history, told(space, 14, k=k), told(space, 14, 1, k=k, constraints=np.ones((14, 1)))):
        assert is_new(space, one, proposed(space, one, 2, model=model))


def test_history_is_left_alone(model):
    space = SearchSpace(MIXED)
    history = told(space, m=1, pending=space.sample(2, np.random.default_rng(7)))
    before = [array.copy() for array in vars(history).values()]
    proposed(space, history, 3, model=model)
    for array, copy in zip(vars(history).values(), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_only_the_generator_is_random(model):
    space = SearchSpace(SQUARE)
    torch.manual_seed(0)
    np.random.seed(0)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (proposed(space, told(space), model=model, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])


def test_a_network_in_training_is_refined_all_the_same():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PFN(PFNConfig(task="regression", n_outputs=8, row_features=4, scaling="cube", target_status=True,
                              embed_dim=8, n_heads=1, n_layers=1, hidden_dim=8))
    space = SearchSpace(SQUARE)
    noisy = SearchSettings(n_candidates=50, noisy=True)
    rows = proposed(space, told(space, pending=np.full((1, 2), 0.5)), 2, model=model, settings=noisy)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        np.testing.assert_array_equal(
            proposed(space, told(space, pending=np.full((1, 2), 0.5)), 2, model=model, settings=noisy), rows
        )


def test_no_proposals(model):
    space = SearchSpace(MIXED)
    assert proposed(space, told(space), 0, model=model).shape == (0, 7)


def test_every_point_of_a_small_space_is_proposed_once(model):
    space = SearchSpace({"n": Int(1, 3), "kind": Categorical("ab")})
    history = told(space, 0)
    for i in range(6):
        row = proposed(space, history, model=model, seed=i)
        assert is_new(space, history, row)
        history = told(space, x=np.concatenate([history.x, row]), values=np.arange(i + 1.0)[:, None])
    assert space.snap(proposed(space, history, 2, model=model)).shape == (2, 2)          # nothing is left


@pytest.mark.parametrize("values", [np.nan, 1.0])
def test_a_space_of_one_point(model, values):
    space = SearchSpace({"n": Int(4, 4)})
    history = told(space, x=np.empty((3, 0)), values=np.full((3, 1), values))
    assert space.decode(proposed(space, history, 2, model=model)) == [{"n": 4}] * 2


def test_categorical_spaces(model):
    space = SearchSpace({"a": Categorical("abcde"), "b": Categorical([True, False]), "c": Categorical("xyz")})
    history = told(space, x=space.snap(np.random.default_rng(0).random((15, 9))))
    settings = SearchSettings(n_candidates=100, noisy=False)        # some rows are equal
    assert is_new(space, history, proposed(space, history, 3, model=model, settings=settings))


def test_more_columns_than_the_network_reads(model):
    space = SearchSpace({str(i): Float(0.0, 1.0) for i in range(25)})
    history = told(space, pending=space.sample(2, np.random.default_rng(7)))
    assert is_new(space, history, proposed(space, history, 2, model=model))


def test_without_values_proposals_keep_away_from_failures(model):
    space = SearchSpace(SQUARE)
    rng = np.random.default_rng(0)
    history = told(space, x=0.3 * rng.random((15, 2)), values=np.full((15, 1), np.nan), pending=np.array([[0.9, 0.1]]))
    tried = np.concatenate([history.x, history.pending])
    for row in proposed(space, history, 4, model=model):
        distances, usual = (
            np.sqrt(np.square(points[:, None] - tried).sum(2)).min(1) for points in (row[None], rng.random((500, 2)))
        )
        assert distances[0] > np.quantile(usual, 0.7)
        tried = np.concatenate([tried, row[None]])


def test_without_trials_proposals_are_spread(model):
    rows = proposed(SearchSpace(SQUARE), told(SearchSpace(SQUARE), 0), 4, model=model)
    distances = np.sqrt(np.square(rows[:, None] - rows).sum(2))[np.triu_indices(4, 1)]
    assert distances.min() > 0.4


def test_scores_of_38_constraints_do_not_underflow(model):
    space = SearchSpace(SQUARE)
    constraints = 5.0 + np.random.default_rng(1).normal(size=(12, 38))
    for handling, feasible in [("cei", False), ("cei", True), ("cei+", True)]:
        constraints[0] = -1.0 if feasible else 5.0
        surrogate = Surrogate(model, told(space, m=38, constraints=constraints))
        goal = Goal(surrogate, SearchSettings(constraint_handling=handling), noisy=False)
        x = torch.from_numpy(space.sample(64, np.random.default_rng(0)))
        scores = goal.score(surrogate.predict(surrogate.whole, x))
        assert bool(scores.isfinite().all())
        assert len(scores.unique()) > 60


def test_the_value_to_beat_is_feasible_and_final(model):
    space = SearchSpace(SQUARE)
    values = np.array([0.0, 1.0, 2.0, 3.0, 4.0, np.nan])[:, None]
    constraints = np.array([1.0, np.nan, -1.0, -1.0, 0.0, np.nan])[:, None]
    is_bound = np.array([False, False, True, False, False, False])
    history = told(space, 6, values=values, constraints=constraints, is_bound=is_bound)
    surrogate = Surrogate(model, history, outcome_transform="none")
    assert Goal(surrogate, FEW, noisy=False).best == pytest.approx(surrogate.z[0, 3])
    infeasible = told(space, 6, values=values, constraints=np.abs(constraints) + 1)
    assert Goal(Surrogate(model, infeasible), FEW, noisy=False).best is None


@pytest.mark.parametrize("acquisition", ["pi", "ucb"])
def test_cei_plus_caps_the_probability_for_every_acquisition(model, acquisition):
    space = SearchSpace(SQUARE)
    history = told(space, m=3)
    history.constraints[0] = -1.0
    surrogate = Surrogate(model, history, is_noisy=True)
    posterior = surrogate.predict(surrogate.whole, torch.from_numpy(space.sample(16, np.random.default_rng(0))))
    plain, capped = (
        Goal(surrogate, SearchSettings(acquisition=acquisition, constraint_handling=one), noisy=False).score(posterior)
        for one in ("cei", "cei+")
    )
    assert bool((plain < capped).all())
    assert bool((capped <= plain + 3 * math.log(2) + 1e-5).all())


# What a trained network makes of it


def grid_history(space, f, n=12, *, seed=0, **changes):
    x = space.sample(n, np.random.default_rng(seed))
    return told(space, x=x, values=f(x)[:, None], **changes)


def bowl(x, centre=0.35):
    return np.square(x - centre).sum(1)


@pytest.mark.parametrize("acquisition", ["log_ei", "pi", "ucb"])
def test_proposals_are_near_an_obvious_optimum(trained, acquisition):
    space = SearchSpace(SQUARE)
    settings = SearchSettings(acquisition=acquisition, n_candidates=300)
    row = proposed(space, grid_history(space, bowl, 20), model=trained, settings=settings)
    assert bowl(row)[0] < 0.04


def test_crashing_regions_are_avoided(trained):
    space = SearchSpace(SQUARE)
    settings = SearchSettings(n_candidates=200)
    x = space.sample(16, np.random.default_rng(3))
    n_crashed = 0
    for i in range(20):
        # No polynomial: its optimum would be found at once, and the rest of the trials explore.
        values = np.where(x[:, 0] > 0.6, np.nan, (np.abs(x - 0.4) ** 1.5).sum(1))[:, None]
        row = proposed(space, told(space, x=x, values=values), model=trained, settings=settings, seed=i)
        n_crashed += int(row[0, 0] > 0.6)
        x = np.concatenate([x, row])
    assert n_crashed <= 3


def test_violated_constraints_are_avoided(trained):
    space = SearchSpace(SQUARE)
    x = space.sample(16, np.random.default_rng(3))
    for i in range(6):
        history = told(space, x=x, values=-x[:, :1], constraints=x[:, :1] + x[:, 1:] - 0.8)
        x = np.concatenate([x, proposed(space, history, model=trained, settings=SearchSettings(n_candidates=200), seed=i)])
    values = np.where(x.sum(1) <= 0.8, x[:, 0], -np.inf)
    assert values.max() > 0.7
    assert (x[16:].sum(1) < 1.0).mean() > 0.6


def test_before_a_feasible_trial_feasibility_is_sought(trained):
    space = SearchSpace(SQUARE)
    x = space.sample(12, np.random.default_rng(3))
    x = x[x.max(1) > 0.3]
    constraints = np.stack([x[:, 0] - 0.15, x[:, 1] - 0.15], axis=1)
    assert (constraints > 0).any(1).all()
    settings = SearchSettings(n_candidates=300)
    row = proposed(space, told(space, x=x, values=-x[:, :1], constraints=constraints), model=trained, settings=settings)[0]
    assert row.max() < 0.3


def test_batches_and_pending_points_are_spread(trained):
    space = SearchSpace(SQUARE)

    def waves(x):
        return np.sin(9 * x).sum(1)

    history = grid_history(space, waves, 10)
    batch = proposed(space, history, 4, model=trained)
    distances = np.sqrt(np.square(batch[:, None] - batch).sum(2))[np.triu_indices(4, 1)]
    assert distances.min() > 0.01
    (first,) = proposed(space, history, model=trained)
    (second,) = proposed(space, grid_history(space, waves, 10, pending=first[None]), model=trained)
    assert np.abs(first - second).max() > 0.01


def test_noisy_trials_may_be_repeated(trained):
    space = SearchSpace({"n": Int(0, 29)})
    x = np.repeat(space.encode([{"n": n} for n in range(1, 29)]), 2, axis=0)              # all but the ends, twice
    values = np.square(30 * x - 10.5)
    noisy = values + 20 * np.random.default_rng(0).normal(size=values.shape)
    ends = {0, 29}
    assert space.decode(proposed(space, told(space, x=x, values=values), model=trained))[0]["n"] in ends
    assert space.decode(proposed(space, told(space, x=x, values=noisy), model=trained))[0]["n"] not in ends
    always, never = (SearchSettings(n_candidates=100, noisy=noisy) for noisy in (True, False))
    assert space.decode(proposed(space, told(space, x=x, values=values), model=trained, settings=always))[0]["n"] not in ends
    assert space.decode(proposed(space, told(space, x=x, values=noisy), model=trained, settings=never))[0]["n"] in ends


def test_thompson_draws_differ_and_prefer_low_values(trained):
    space = SearchSpace(SQUARE)
    settings = SearchSettings(acquisition="thompson", n_candidates=100)
    history = grid_history(space, bowl, 25)
    rows = np.concatenate([proposed(space, history, model=trained, settings=settings, seed=seed) for seed in range(4)])
    assert len(set(space.keys(rows))) == 4
    assert np.median(bowl(rows)) < np.median(bowl(space.sample(256, np.random.default_rng(0)))) / 2


def test_a_belief_pulls_and_fades(trained):
    space = SearchSpace(SQUARE)
    prior = UserPrior(space, {"x": norm(0.9, 0.02)})
    few = grid_history(space, bowl, 6)
    (pulled,) = proposed(space, few, model=trained, prior=prior)
    assert abs(pulled[0] - 0.9) < 0.1
    (free,) = proposed(space, few, model=trained)
    assert abs(free[0] - 0.9) > 0.1
    (late,) = proposed(space, grid_history(space, bowl, 120), model=trained, prior=prior)
    assert abs(late[0] - 0.35) < 0.2


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acquisition": "ei"}, r"acquisition='ei' is unknown; use one of 'log_ei', 'pi', 'ucb', 'thompson'"),
        ({"constraint_handling": "eci"}, r"constraint_handling='eci' is unknown"),
        ({"outcome_transform": None}, r"outcome_transform=None is unknown"),
        ({"noisy": "yes"}, r"noisy='yes' is unknown; use one of True, False, 'auto'"),
        ({"n_candidates": 9}, r"n_candidates=9 is no integer >= 10"),
        ({"max_context": 10.0}, r"max_context=10.0 is no integer >= 10"),
        ({"max_context": True}, r"max_context=True is no integer >= 10"),
        ({"noisy": 1}, r"noisy=1 is unknown; use one of True, False, 'auto'"),
        ({"local": "yes"}, r"local='yes' is unknown; use one of True, False"),
    ],
)
def test_settings_that_do_not_exist(changes, message):
    with pytest.raises(ValueError, match=message):
        SearchSettings(**changes)


def test_polynomial_problems_are_solved_to_the_corner_of_their_constraints(trained):
    """min x + y with x y >= 1/4 and x >= 2 y: both hold with equality at (√2 / 2, √2 / 4); 24 random points tell them."""
    space = SearchSpace(SQUARE)
    x = space.sample(24, np.random.default_rng(1))
    for i in range(3):
        constraints = np.stack([0.25 - x[:, 0] * x[:, 1], 2 * x[:, 1] - x[:, 0]], axis=1)
        history = told(space, x=x, values=x.sum(1, keepdims=True), constraints=constraints)
        row = proposed(space, history, model=trained, settings=SearchSettings(n_candidates=100), seed=i)
        x = np.concatenate([x, row])
    feasible = (x[:, 0] * x[:, 1] >= 0.25) & (x[:, 0] >= 2 * x[:, 1])
    assert x[feasible].sum(1).min() == pytest.approx(0.75 * 2**0.5, abs=0.005)
