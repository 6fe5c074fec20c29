"""What the network is shown of the trials, and what its answers refer to."""

import math

import numpy as np
import pytest
import torch

from estimators.surrogate import Box, History, Surrogate, load_network, order_of_trials
from pfn import PFN, PFNConfig
from priors import Status

SMALL = {"embed_dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32}


def network(**changes):
    config = {"task": "regression", "n_outputs": 64, "row_features": 18, "scaling": "cube", "normal_base": True,
              "target_status": True} | SMALL | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PFN(PFNConfig(**config)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model():
    """A network that guesses."""
    return network()


def history(n=20, d=3, m=2, *, x=None, values=None, constraints=None, is_bound=None, pending=0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, d)) if x is None else x
    drawn = rng.normal(size=(n, 1)), rng.normal(size=(n, m)), rng.random((pending, d))
    return History(
        x, drawn[0] if values is None else values, drawn[1] if constraints is None else constraints,
        np.zeros(len(x), dtype=bool) if is_bound is None else is_bound, drawn[2],
    )


def queries(n=7, d=3):
    return torch.from_numpy(np.random.default_rng(1).random((n, d)))


def assert_same_posterior(found, expected, **tolerance):
    torch.testing.assert_close(found.log_mass, expected.log_mass, **tolerance)
    torch.testing.assert_close(found.borders, expected.borders, **tolerance)


# What is seen of outcomes


@pytest.mark.parametrize("outcome_transform", ["power", "none", "rank"])
@pytest.mark.parametrize(("factor", "shift"), [(250.0, -3e4), (1e-7, 0.0), (1e200, 1e201)])
def test_predictions_follow_the_units_of_objectives_and_constraints(model, outcome_transform, factor, shift):
    h = history()
    other = history(values=factor * h.values + shift, constraints=factor * h.constraints)
    first, second = (Surrogate(model, one, outcome_transform=outcome_transform) for one in (h, other))
    a, b = (one.predict(one.whole, queries()) for one in (first, second))
    torch.testing.assert_close(a.cdf(0.0)[1:], b.cdf(0.0)[1:], rtol=1e-3, atol=1e-4)
    q = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    y, scaled = (
        one.transforms[0].posterior(type(p)(p.borders[0], p.log_mass[0])).quantile(q) for one, p in ((first, a), (second, b))
    )
    spread = float(h.values.std())
    torch.testing.assert_close((scaled - shift) / factor, y, rtol=0, atol=2e-3 * spread)


def test_an_offset_much_larger_than_the_spread_is_no_harm(model):
    h = history(m=0)
    a, b = (Surrogate(model, one, outcome_transform="none") for one in (h, history(m=0, values=h.values + 1e9)))
    torch.testing.assert_close(a.predict(a.whole, queries()).mean, b.predict(b.whole, queries()).mean, rtol=0, atol=1e-4)


def test_failures_and_bounds_have_a_status():
    values = np.array([[1.0], [np.nan], [2.0], [3.0], [np.inf], [4.0]])
    is_bound = np.array([False, True, True, False, False, False])
    constraints = np.array([[-1.0], [np.nan], [1.0], [np.nan], [2.0], [-3.0]])
    surrogate = Surrogate(network(), history(6, 2, 1, values=values, constraints=constraints, is_bound=is_bound))
    value, failed, at_least = Status.VALUE, Status.FAILED, Status.AT_LEAST
    assert surrogate.status.tolist() == [
        [value, failed, at_least, value, failed, value],
        [value, failed, value, failed, value, value],
        [value] * 6,                                                # whether it failed
    ]
    assert surrogate.z[2].tolist() == [-0.5, 0.5, -0.5, -0.5, 0.5, -0.5]
    assert np.isnan(surrogate.z[0]).tolist() == [False, True, False, False, True, False]
    assert surrogate.has_value.tolist() == [True, False, False, True, False, True]


def test_the_network_reads_the_status(model):
    h = history(m=0)
    bounds = history(m=0, is_bound=np.arange(20) < 10)
    a, b = (Surrogate(model, one) for one in (h, bounds))
    np.testing.assert_array_equal(a.z, b.z)
    assert not torch.allclose(a.predict(a.whole, queries()).log_mass, b.predict(b.whole, queries()).log_mass, atol=1e-3)


def test_failure_is_an_output_if_some_but_not_all_failed(model):
    values = np.arange(4.0)[:, None]
    assert not Surrogate(model, history(4, values=values)).knows_failure
    values[1] = np.nan
    surrogate = Surrogate(model, history(4, values=values))
    assert surrogate.knows_failure
    assert surrogate.predict(surrogate.whole, queries()).batch_shape == (4, 7)
    assert not Surrogate(model, history(4, values=np.full((4, 1), np.nan))).knows_failure


def test_a_constraint_is_violated_or_unknown_or_neither(model):
    constraints = np.array([[-1.0, -1.0], [np.inf, -1.0], [-np.inf, -1.0], [np.nan, -1.0], [2.0, -0.0], [-1.0, -2.0]])
    values = np.array([[1.0], [1.0], [1.0], [1.0], [1.0], [np.nan]])
    violation = Surrogate(model, history(6, values=values, constraints=constraints)).violation
    assert violation[[0, 2]].tolist() == [0.0, 0.0]
    assert (violation[[1, 4]] > 0).all()
    assert np.isfinite(violation[[1, 4]]).all()
    assert violation[[3, 5]].tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("outcome_transform", ["power", "none", "rank"])
def test_the_largest_numbers(model, outcome_transform):
    values = np.array([1.7e308, -1.7e308, 0.0, 5e-324, 1.0, 2.0, 3.0])[:, None]
    surrogate = Surrogate(model, history(7, 3, values=values, constraints=np.hstack([values, -values])),
                          outcome_transform=outcome_transform)
    assert bool(surrogate.predict(surrogate.whole, queries()).log_mass.isfinite().all())


def test_two_values_of_each_output_are_needed(model):
    values = np.full((4, 1), np.nan)
    values[0] = 1.0
    assert not Surrogate(model, history(4, values=values)).has_values
    values[2] = 1.0
    assert Surrogate(model, history(4, values=values)).has_values
    assert not Surrogate(model, history(4, values=values, is_bound=np.arange(4) == 2)).has_values
    unknown = np.full((4, 2), np.nan)
    assert not Surrogate(model, history(4, values=values, constraints=unknown)).has_values
    assert not Surrogate(model, history(0, 3, 2)).has_values


# Which trials are seen


def test_columns_that_are_not_read_change_nothing(model):
    h = history(d=25)
    columns = np.arange(3, 21)
    surrogate = Surrogate(model, h, columns=columns)
    x = queries(d=25)
    others = x.clone()
    others[:, :3] = 0.123
    expected = surrogate.predict(surrogate.whole, x)
    assert_same_posterior(surrogate.predict(surrogate.whole, others), expected)
    narrow = Surrogate(model, history(d=18, x=h.x[:, columns], values=h.values, constraints=h.constraints))
    assert_same_posterior(narrow.predict(narrow.whole, x[:, columns]), expected)


def test_a_local_view_is_a_context_stretched_to_the_cube(model):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.random((30, 3)), 0.6 + 0.1 * rng.random((15, 3))])
    h = history(45, x=x)
    surrogate = Surrogate(model, h, is_noisy=True)                  # what the network says, as it is
    view = surrogate.local(np.full(3, 0.65), 12, np.zeros(3, dtype=bool))
    inside = view.box.contains(x)
    assert 12 <= inside.sum() < 45
    low, width = view.box.low, view.box.high - view.box.low
    q = view.box.low + queries().numpy() * width
    context, query = (torch.from_numpy((points - low) / width).float().expand(3, -1, -1) for points in (x[inside], q))
    z, status = torch.from_numpy(surrogate.z[:, inside]).float(), torch.from_numpy(surrogate.status[:, inside])
    expected = model.posterior(context, z, query, status)
    found = surrogate.predict(view, torch.from_numpy(q))
    assert_same_posterior(found, expected, rtol=1e-4, atol=1e-5)


def test_a_box_holds_as_many_rows_as_asked_for():
    x = np.random.default_rng(0).random((50, 2))
    for centre in ([0.5, 0.5], [0.0, 0.9]):
        box = Box.around(np.array(centre), x, 8, np.zeros(2, dtype=bool))
        assert box.contains(x).sum() == 8
        assert (box.low >= 0).all()
        assert (box.high <= 1).all()
    one_fixed = Box.around(np.array([0.5, 0.5]), x, 8, np.array([False, True]))
    assert (one_fixed.low[1], one_fixed.high[1]) == (0.0, 1.0)
    assert one_fixed.contains(x).sum() == 8


def test_no_box_is_as_large_as_the_cube():
    x = np.random.default_rng(0).random((50, 2))
    free = np.zeros(2, dtype=bool)
    assert Box.around(np.full(2, 0.5), x, 45, free) is None
    assert Box.around(np.full(2, 0.5), x, 50, free) is None
    assert Box.around(np.full(2, 0.5), x, 8, ~free) is None


def test_no_local_view_without_values(model):
    values = np.full((20, 1), np.nan)
    values[:2] = 1.0
    assert Surrogate(model, history(values=values)).local(np.full(3, 0.5), 3, np.zeros(3, dtype=bool)) is None


def test_of_many_trials_the_best_are_kept_and_a_spread_over_the_others(model):
    rng = np.random.default_rng(0)
    x = np.clip(0.5 + 0.05 * rng.normal(size=(500, 2)), 0, 1)
    x[[3, 77]] = [[0.0, 0.0], [1.0, 0.0]]
    values = rng.normal(size=(500, 1))
    values[[3, 77]] = 5.0
    constraints = np.full((500, 1), -1.0)
    constraints[:100] = 1.0
    rows = Surrogate(model, history(500, 2, x=x, values=values, constraints=constraints))._spread_rows()
    assert len(rows) == len(set(rows.tolist())) == 200
    feasible = np.arange(100, 500)
    assert set(feasible[np.argsort(values[100:, 0])[:50]]) <= set(rows)
    assert {3, 77} <= set(rows)


def test_rows_are_kept_once_where_points_are_few(model):
    x = np.repeat([[0.25], [0.75]], 150, axis=0)
    rows = Surrogate(model, history(300, 1, x=x), max_context=100)._spread_rows()
    assert len(set(rows.tolist())) == 100


def test_what_the_network_sees_is_limited(model):
    surrogate = Surrogate(model, history(80), max_context=30)
    keys, _ = surrogate.whole.context.memories[0]
    small, _ = Surrogate(model, history(30), max_context=30).whole.context.memories[0]
    assert keys.shape == small.shape


def test_trials_are_ordered_by_feasibility_then_value():
    z = np.array([[3.0, 1.0, 2.0, np.nan, 0.0]])
    assert order_of_trials(z, np.array([0.0, 0.0, 0.0, math.inf, 0.5])).tolist() == [1, 2, 0, 4, 3]
    two = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]])
    assert order_of_trials(two, np.zeros(3)).tolist() == [0, 1, 2]


# Beliefs


def test_believing_adds_expected_outcomes(model):
    values = np.random.default_rng(0).normal(size=(20, 1))
    values[3] = np.nan
    surrogate = Surrogate(model, history(values=values))
    before = surrogate.whole
    x = queries(4).numpy()
    believed = surrogate.believing(x)
    np.testing.assert_array_equal(believed.x, np.concatenate([surrogate.x, x]))
    mean = surrogate.predict(before, torch.from_numpy(x)).mean
    np.testing.assert_array_equal(believed.z, np.concatenate([surrogate.z, mean.double().numpy()], axis=1))
    assert (believed.status[:, 20:] == Status.VALUE).all()
    assert believed.status.shape == (4, 24)
    assert surrogate.x.shape == (20, 3)
    assert surrogate.whole is before
    after = believed.predict(believed.whole, queries()).log_mass
    assert not torch.equal(after, surrogate.predict(before, queries()).log_mass)


def test_imagining_adds_draws(model, generator):
    surrogate = Surrogate(model, history())
    x = queries(4).numpy()
    draws = [surrogate.imagining(x, generator).z[:, 20:] for _ in range(300)]
    again = surrogate.imagining(x, torch.Generator().manual_seed(0)).z[:, 20:]
    np.testing.assert_array_equal(again, draws[0])
    posterior = surrogate.predict(surrogate.whole, torch.from_numpy(x))
    error = 4 * posterior.variance.sqrt().numpy() / np.sqrt(300)
    assert (np.abs(np.mean(draws, axis=0) - posterior.mean.numpy()) < error).all()


def test_a_network_in_training_is_read_without_gradients():
    model = network().requires_grad_(True)
    surrogate = Surrogate(model, history()).believing(queries(2).numpy())
    assert surrogate.z.shape == (3, 22)


# Networks


def test_networks_that_are_no_surrogate(model):
    assert load_network(model) is model
    for changes in ({"scaling": "context"}, {"target_status": False}):
        with pytest.raises(ValueError, match=r"this network is for .*pass a regression network with scaling='cube'"):
            load_network(network(**changes))
    with pytest.raises(ValueError, match=r"model='classifier' is for task='classification'"):
        load_network("classifier")
    with pytest.raises(ValueError, match="this network is on meta"):
        load_network(network().to("meta"))
    with pytest.raises(FileNotFoundError, match="no bundled weights are called 'bayes'"):
        load_network("bayes")
