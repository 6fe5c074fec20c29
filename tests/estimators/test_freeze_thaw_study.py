"""What the network is shown of a study and what is made of its answers, against slow loops."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from estimators import PartialCurve
from estimators.curve_metric import CurveMetric
from estimators.freeze_thaw_candidates import Candidates
from estimators.freeze_thaw_study import Study, mfpi_random, shared_metric
from estimators.freeze_thaw_surrogate import FreezeThawSurrogate, RunTable, load_freeze_thaw_network
from estimators.space import SearchSpace
from pfn import PFN, load_pretrained
from pfn.freeze_thaw import PARTS, FreezeThawTasks
from pfn.recipes import freeze_thaw
from priors import FreezeThawPrior, TaskShape

ALL = np.arange(3)


@pytest.fixture(scope="module")
def model():
    """A network that guesses, but does not ignore what it sees."""
    config = replace(freeze_thaw().model, n_outputs=64, embed_dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PFN(config)
        torch.nn.init.normal_(network.normal.weight, std=0.3)
        network.target_scaling.copy_(torch.tensor([0.2, 1.3]))
        return network.eval().requires_grad_(False)


def table(n=8, horizon=12, n_blank=2, seed=0):
    """Runs of random lengths, without gaps, and some that have not begun."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, horizon + 1, size=n)
    return RunTable.of(rng.random((n + n_blank, 3)), [(np.arange(1, k + 1) / horizon, rng.random(k)) for k in lengths])


# Tables of runs


def pairs(*curves):
    """Shares and values as arrays."""
    return [(np.array(share), np.array(y)) for share, y in curves]


def test_runs_of_several_lengths():
    runs = RunTable.of(np.zeros((4, 2)), pairs(([0.1, 0.3], [0.5, 0.2]), ([], []), ([0.2, 0.4, 0.6], [0.1, 0.7, 0.3])))
    assert runs.n_seen.tolist() == [2, 0, 3, 0]
    assert runs.reached.tolist() == [0.3, 0.0, 0.6, 0.0]
    np.testing.assert_array_equal(runs.last, [0.2, np.nan, 0.3, np.nan])
    assert runs.best.tolist() == [0.5, -np.inf, 0.7, -np.inf]


def test_runs_that_go_on():
    before = RunTable.of(np.zeros((3, 2)), pairs(([0.1], [0.5]), ([0.1, 0.2], [0.3, 0.4])))
    after = before.continued(np.array([2, 1]), np.array([0.1, 0.9]), np.array([0.6, 0.8]))
    expected = RunTable.of(before.x, pairs(([0.1], [0.5]), ([0.1, 0.2, 0.9], [0.3, 0.4, 0.8]), ([0.1], [0.6])))
    np.testing.assert_array_equal(after.y, expected.y)
    np.testing.assert_array_equal(after.share, expected.share)
    assert before.n_seen.tolist() == [1, 2, 0]


def test_a_table_in_which_nothing_has_begun():
    runs = RunTable.of(np.zeros((2, 1)), [])
    assert runs.n_seen.tolist() == [0, 0]
    assert runs.reached.tolist() == [0.0, 0.0]


# The surrogate


@dataclass(frozen=True)
class Recorded:
    """A prior of one task."""

    configs: torch.Tensor
    y: torch.Tensor

    def sample_curves(self, n_tasks, n_configs, n_params, n_steps, *, generator):
        return self.configs[:, :n_configs, :n_params], self.y[:, :n_configs, :n_steps]


@pytest.mark.parametrize("seed", range(5))
def test_the_network_is_shown_what_it_was_shown_in_training(model, seed):
    configs, y = FreezeThawPrior().sample_curves(1, 28, 10, 100, generator=torch.Generator().manual_seed(seed))
    shape = TaskShape(1, 50, 30, 20)
    batch = FreezeThawTasks(prior=Recorded(configs, y)).sample(shape, generator=torch.Generator().manual_seed(seed))
    n_params = int((~batch.x[0, 0, :10].isnan()).sum())
    rows = [next(j for j in range(28) if torch.equal(configs[0, j, :n_params], row[:n_params])) for row in batch.x[0]]
    observed, asked = batch.x[0, :, 24].double().numpy(), batch.x[0, :, 26].double().numpy()
    # The horizon of the task is not told: it is the smallest that makes all shares whole numbers of steps.
    shares = np.concatenate([observed, asked])
    horizon = next(m for m in range(10, 101) if np.abs(shares * m - np.rint(shares * m)).max() < 1e-4)
    reached = dict(zip(rows, np.rint(observed * horizon).astype(int), strict=True))
    curves = [(np.arange(1, reached[j] + 1) / horizon, y[0, j, : reached[j]].double().numpy()) for j in range(20)]
    runs = RunTable.of(configs[0, :, :n_params].double().numpy(), curves)
    features = FreezeThawSurrogate(model, runs, np.arange(n_params))._features(np.array(rows), asked)
    torch.testing.assert_close(features, batch.x, equal_nan=True, atol=2e-4, rtol=2e-4)


def test_answers_are_those_of_the_network(model):
    runs = table()
    surrogate = FreezeThawSurrogate(model, runs, ALL)
    rows, share = np.array([9, 3, 0]), np.array([0.5, 1.0, 1.0])
    context, queries = surrogate._features(surrogate.rows, runs.reached[surrogate.rows]), surrogate._features(rows, share)
    level, spread = surrogate.scale.level, surrogate.scale.spread
    y = (torch.from_numpy(runs.last[:8]).float().unsqueeze(0) - level) / spread
    expected = model.posterior(context, y, queries).affine(spread, level)
    found = surrogate.posterior(rows, share)
    torch.testing.assert_close(found.mean, expected.mean[0])
    torch.testing.assert_close(found.quantile(torch.tensor([0.1, 0.9])), expected.quantile(torch.tensor([0.1, 0.9]))[0])
    assert found.mean.std() > 1e-3


def test_the_order_of_runs_does_not_matter(model):
    runs, order = table(), np.random.default_rng(1).permutation(10)
    shuffled = RunTable(runs.x[order], runs.share[order], runs.y[order])
    expected = FreezeThawSurrogate(model, runs, ALL).posterior(order, np.ones(10)).mean
    found = FreezeThawSurrogate(model, shuffled, ALL).posterior(np.arange(10), np.ones(10)).mean
    torch.testing.assert_close(found, expected)


def test_only_some_columns_are_seen(model):
    runs = table()
    two = np.array([2, 0])
    narrow = RunTable(runs.x[:, two], runs.share, runs.y)
    question = np.array([0, 9]), np.ones(2)
    expected = FreezeThawSurrogate(model, narrow, np.arange(2)).posterior(*question).mean
    torch.testing.assert_close(FreezeThawSurrogate(model, runs, two).posterior(*question).mean, expected)


def test_of_many_runs_the_best_and_a_spread_are_read(model):
    runs = table(n=40)
    surrogate = FreezeThawSurrogate(model, runs, ALL, max_runs=10)
    assert len(set(surrogate.rows.tolist())) == 10
    best = np.argsort(-runs.best)[:5]
    assert set(best.tolist()) <= set(surrogate.rows.tolist())
    chosen = list(best)                                             # and one after the other the farthest from all of these
    for _ in range(5):
        distance = [-1 if i in chosen else min(((runs.x[i] - runs.x[j]) ** 2).sum() for j in chosen) for i in range(40)]
        chosen.append(int(np.argmax(distance)))
    assert set(chosen) == set(surrogate.rows.tolist())
    outside = np.setdiff1d(np.arange(40), surrogate.rows)
    assert surrogate.posterior(outside, np.ones(30)).mean.isfinite().all()


def test_equal_runs_beyond_the_limit(model):
    runs = table(n=12)
    same = RunTable(np.full_like(runs.x, 0.5), runs.share, runs.y)
    assert len(set(FreezeThawSurrogate(model, same, ALL, max_runs=6).rows.tolist())) == 6


def test_networks_for_other_tasks():
    with pytest.raises(ValueError, match=r"this network is for task='regression' with .* such as 'freeze-thaw'"):
        load_freeze_thaw_network(load_pretrained("gp"))


# The study


def curve(number, values, start=1, crashed=None):
    return PartialCurve(number, {}, tuple(range(start, start + len(values))), tuple(values), crashed)


def study(curves, horizon=10, minimize=False, bounds=(0.0, 1.0), seed=0):
    x = np.random.default_rng(seed).random((len(curves), 3))
    return Study(x, curves, shared_metric(curves, minimize, bounds, None), horizon)


def test_curves_in_the_networks_terms():
    curves = [curve(0, [0.25, 0.5]), curve(1, []), curve(2, [0.75])]
    most, least = study(curves), study(curves, minimize=True)
    assert [y.tolist() for y in most.goodness] == [[0.25, 0.5], [], [0.75]]
    assert [y.tolist() for y in least.goodness] == [[0.75, 0.5], [], [0.25]]
    assert (most.best, least.best) == (0.75, 0.75)
    assert most.order.tolist() == [2, 0, 1]
    assert least.order.tolist() == [0, 2, 1]


def test_a_failed_run_keeps_the_worst_value(model):
    curves = [curve(0, [0.5, 0.75, 0.25]), curve(1, [0.875], crashed=3), curve(2, [], crashed=1)]
    runs = study(curves).surrogate(model, ALL, np.empty((0, 3))).runs
    assert runs.reached.tolist() == [0.3, 1.0, 1.0]
    assert runs.last.tolist() == [0.25, 0.25, 0.25]
    seen = ~np.isnan(runs.y[1])
    assert runs.y[1][seen].tolist() == [0.875] + [0.25] * (seen.sum() - 1)
    assert runs.share[1][seen].tolist() == [0.1, 0.3, *(end for end in PARTS if end > 0.3)]
    assert runs.share[2][~np.isnan(runs.y[2])].tolist() == [0.1, *(end for end in PARTS if end > 0.1)]


def test_pending_runs_have_their_expected_value(model):
    curves, new = [curve(0, [0.5, 0.75]), curve(1, []), curve(2, [0.25], crashed=2)], np.full((1, 3), 0.5)
    without = study(curves).surrogate(model, ALL, new)
    expected = without.posterior(np.array([0, 1]), np.array([0.5, 0.1])).mean.clamp(0, 1)
    found = study(curves).surrogate(model, ALL, new, {0: 5, 1: 1, 2: 4}).runs
    assert found.reached.tolist() == [0.5, 0.1, 1.0, 0.0]
    np.testing.assert_allclose(found.last[:2], expected, atol=1e-6)
    same = study(curves).surrogate(model, ALL, new, {0: 2})         # it has got there
    np.testing.assert_array_equal(same.runs.y, without.runs.y)


def test_distributions_in_units_of_the_values(model):
    curves = [curve(0, [3.0, 2.0]), curve(1, [4.0])]
    losses = study(curves, minimize=True, bounds=(0.0, math.inf))
    surrogate = losses.surrogate(model, ALL, np.full((1, 3), 0.5))
    rows, steps = np.array([2, 0]), np.array([5, 10, 7])
    found = losses.distribution(surrogate, rows, steps)
    assert found.median.shape == (2, 3)
    for i, row in enumerate(rows):
        for j, step in enumerate(steps):
            posterior = surrogate.posterior(np.array([row]), np.array([step / 10]))
            level = losses.metric.forward(np.array([[2.5]]))[0, 0]
            low, inside, high = (float(posterior.cdf(end)) for end in (0.0, level, 1.0))
            assert found.cdf(2.5)[i, j] == pytest.approx((high - inside) / (high - low), abs=1e-5)


def test_one_map_for_all_curves():
    curves = [curve(0, [2.0, 1.0]), curve(1, [4.0]), curve(2, []), curve(3, [3.0, 2.5])]
    metric = shared_metric(curves, True, (0.0, math.inf), None)
    expected = CurveMetric.of([np.array([3.0])], True, (0.0, math.inf), (0.0, 3.0))      # the median of the first losses
    y = np.array([[0.0, 0.5, 3.0, 100.0]])
    np.testing.assert_allclose(metric.forward(y), expected.forward(y))
    given = shared_metric(curves, True, (0.0, math.inf), (0.0, 10.0))
    np.testing.assert_allclose(given.forward(y), CurveMetric.of([y[0]], True, (0.0, math.inf), (0.0, 10.0)).forward(y))


@pytest.mark.parametrize(("minimize", "bounds"), [
    (False, (0.0, math.inf)), (True, (-math.inf, 0.0)), (False, (-math.inf, math.inf)), (True, (-math.inf, math.inf)),
])
def test_the_best_curve_is_within_the_range_that_is_seen_well(minimize, bounds):
    sign = -1 if minimize else 1
    curves = [curve(0, [sign * v for v in (1.0, 2.0, 3.0)]), curve(1, [sign * v for v in (1.5, 5.0, 8.0)])]
    metric = shared_metric(curves, minimize, bounds, None)
    best, worst = metric.forward(np.array([[sign * 8.0, sign * 1.0]]))[0]
    assert 0.3 < best - worst < best < 0.9


# The choice


@pytest.mark.parametrize("seed", range(6))
def test_the_likeliest_to_beat_the_best_by_a_random_margin_within_a_random_time(model, seed):
    runs = table()
    surrogate = FreezeThawSurrogate(model, runs, ALL)
    rows = np.array([0, 3, 9, 5, 8])
    reached = np.rint(runs.reached[rows] * 12).astype(int)
    keep = reached < 12
    rows, reached = rows[keep], reached[keep]
    found = mfpi_random(surrogate, rows, reached, 0.6, 12, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    ahead, margin = rng.integers(1, 13), 10 ** rng.uniform(-4, -1)
    chances = []
    for row, start in zip(rows, reached, strict=True):
        posterior = surrogate.posterior(np.array([row]), np.array([min(start + ahead, 12) / 12]))
        chances.append(float(posterior.survival(0.6 + margin * 0.4)))
    assert chances[found] == pytest.approx(max(chances), abs=1e-6)


def test_hopeless_runs_are_still_told_apart(model):
    """Where no probability is a positive float, the logarithms decide."""
    surrogate = FreezeThawSurrogate(model, table(), ALL)
    orders, blank, best = (np.array([8, 9]), np.array([9, 8])), np.zeros(2, dtype=int), 30.0
    assert surrogate.posterior(orders[0], np.ones(2)).survival(0.8 * best).tolist() == [0.0, 0.0]
    chosen = [mfpi_random(surrogate, rows, blank, best, 12, np.random.default_rng(0)) for rows in orders]
    assert set(chosen) == {0, 1}


# Candidates


def test_candidates_of_a_space_are_valid_new_and_partly_near_the_best():
    space = SearchSpace({"x": Float(0, 1), "n": Int(1, 4), "kind": Categorical("abc")})
    rng = np.random.default_rng(0)
    best = space.sample(8, rng)
    found = Candidates(space, None, 90).draw(set(space.keys(best)), best, rng)
    assert 60 <= len(found) <= 90
    np.testing.assert_allclose(space.snap(found), found)
    keys = space.keys(found)
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(space.keys(best))


def test_a_third_of_the_candidates_of_a_space_are_near_the_best():
    space = SearchSpace({"x": Float(0, 1), "y": Float(0, 1), "z": Float(0, 1)})
    best = np.random.default_rng(0).random((8, 3))
    found = Candidates(space, None, 90).draw(set(), best, np.random.default_rng(1))
    assert len(found) == 90
    distance = np.abs(found[:, None] - best[None]).max(2)
    assert 10 <= (distance[:, :5].min(1) < 0.03).sum() <= 30
    assert (distance[:, 5:].min(1) < 0.03).sum() <= 2


def test_the_last_point_of_a_small_space_is_found():
    space = SearchSpace({"n": Int(1, 500)})
    taken = set(space.keys(space.encode([{"n": n} for n in range(1, 500)])))
    rng = np.random.default_rng(0)
    candidates = Candidates(space, None, 300)
    assert space.decode(candidates.draw(taken, np.empty((0, 1)), rng)) == [{"n": 500}]
    assert space.decode(candidates.initial(taken, 0)) == [{"n": 500}]
    taken |= set(space.keys(space.encode([{"n": 500}])))
    assert len(candidates.draw(taken, np.empty((0, 1)), rng)) == len(candidates.initial(taken, 0)) == 0


def test_of_a_long_list_a_random_part_is_considered():
    space = SearchSpace({"x": Float(0, 1)})
    listed = [{"x": i / 100} for i in range(101)]
    candidates = Candidates(space, listed, 20)
    first, second = (candidates.draw(set(), np.empty((0, 1)), np.random.default_rng(seed)) for seed in (0, 1))
    assert len(first) == len(second) == 20
    assert set(space.keys(first)) != set(space.keys(second))
    assert set(space.keys(first)) <= set(space.keys(space.encode(listed)))


def test_the_first_of_a_list_depend_on_the_seed_only():
    space = SearchSpace({"x": Float(0, 1)})
    candidates = Candidates(space, [{"x": i / 10} for i in range(11)], 300)
    order, taken = [], set()
    for _ in range(11):
        (row,) = candidates.initial(taken, 7)
        taken |= set(space.keys(row[None]))
        order.append(candidates.params(row)["x"])
    assert sorted(order) == [i / 10 for i in range(11)]
    assert order != sorted(order)
    assert len(candidates.initial(taken, 7)) == 0
