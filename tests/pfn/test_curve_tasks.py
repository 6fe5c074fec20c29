import math
from dataclasses import replace

import pytest
import torch

from pfn import PFN, BarDistribution
from pfn.curves import MAX_STEPS, N_CURVE_FEATURES, CurveScale, CurveTasks, ObservedCurves, curve_features
from pfn.recipes import learning_curve
from priors import LearningCurvePrior, TaskShape

TASKS = CurveTasks()
HORIZON, LEVEL, SPREAD, EXTENDED = 8, 9, 10, 11             # columns that are the same in all rows of a curve


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(n_context, batch_size=16, seed=0, tasks=TASKS):
    shape = TaskShape(batch_size, n_context + 28, N_CURVE_FEATURES, n_context)
    return tasks.sample(shape, generator=generator(seed))


def steps_of(x):
    """Steps back from the features; NaN in rows that say nothing."""
    return (x[..., 1] * math.log(MAX_STEPS)).exp()


def horizons_of(x):
    return (x[..., HORIZON] * math.log(MAX_STEPS)).exp()


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PFN(replace(learning_curve().model, embed_dim=32, n_layers=2, n_heads=2, hidden_dim=64, n_outputs=64))
        torch.nn.init.normal_(model.normal.weight, std=0.1)
    model.target_scaling.copy_(torch.tensor([-0.1, 0.9]))
    return model.eval().requires_grad_(False)


# Scale


def test_level_and_spread_by_hand():
    t, y = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.2, 0.5, 0.6]])
    weight = torch.tensor([math.exp(-3), math.exp(-2), 1.0])
    level = (weight * y[0]).sum() / weight.sum()
    spread = math.sqrt((float((y[0] - level).square().sum()) + 0.2**2 / 3) / 4)
    scale = CurveScale.of(t, y, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(scale.level, level.view(1, 1))
    torch.testing.assert_close(scale.spread, torch.tensor([[spread]]))
    torch.testing.assert_close(scale.apply(y), (y - level) / spread)


def test_what_is_not_seen_does_not_enter_the_scale():
    t, y = torch.tensor([[1.0, 2.0, 9.0, 50.0]]), torch.tensor([[0.2, 0.5, 7.0, math.nan]])
    seen = torch.tensor([[True, True, False, False]])
    some, all_ = CurveScale.of(t, y, seen), CurveScale.of(t[:, :2], y[:, :2], seen[:, :2])
    torch.testing.assert_close(some.level, all_.level)
    torch.testing.assert_close(some.spread, all_.spread)


def test_scale_of_nothing_is_the_priors():
    scale = CurveScale.of(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    torch.testing.assert_close(scale.level, torch.full((2, 1), 0.5))
    torch.testing.assert_close(scale.spread, torch.full((2, 1), 0.2))


def test_constant_curves_have_a_spread():
    scale = CurveScale.of(torch.arange(1.0, 51)[None], torch.full((1, 50), 0.7), torch.ones(1, 50, dtype=torch.bool))
    torch.testing.assert_close(scale.level, torch.tensor([[0.7]]))
    assert scale.spread.item() == pytest.approx(0.2 / math.sqrt(50 * 51), rel=1e-3)


# Features


def test_features_tell_steps_apart_and_are_about_one_in_size():
    t = torch.arange(1.0, 201)[None]
    one = torch.ones(1, 1)
    x = curve_features(t, 200 * one, CurveScale(0.5 * one, 0.2 * one), 0.5 * one, one > 0)
    assert x.shape == (1, 200, N_CURVE_FEATURES)
    assert ((x >= 0) & (x <= 1.5)).all()
    torch.testing.assert_close(steps_of(x), t)
    assert torch.pdist(x[0]).min() > 1e-3


def test_unseen_curves_have_neither_level_nor_spread():
    one = torch.ones(2, 1)
    seen = torch.tensor([[True], [False]])
    x = curve_features(torch.ones(2, 3), 50 * one, CurveScale(0.5 * one, 0.2 * one), 0.5 * one, seen)
    assert x[0].isfinite().all()
    assert x[1, :, [LEVEL, SPREAD]].isnan().all()
    assert x[1, :, [0, 1, HORIZON, EXTENDED]].isfinite().all()


# Tasks


@pytest.mark.parametrize("n_context", [1, 2, 10, 99, 150, 199])
def test_tasks_have_the_shape_that_is_asked_for(n_context):
    batch = drawn(n_context, batch_size=5)
    assert batch.x.shape == (5, n_context + 28, N_CURVE_FEATURES)
    assert batch.y.shape == (5, n_context + 28)
    assert batch.n_context == n_context
    assert batch.y.isfinite().all()
    assert batch.x[:, n_context:, :LEVEL].isfinite().all()


def test_a_single_task_is_possible():
    assert drawn(3, batch_size=1).x.shape[0] == 1


def test_same_seed_gives_the_same_tasks():
    first, second, third = drawn(10), drawn(10), drawn(10, seed=1)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    assert not torch.equal(first.y, third.y)


@pytest.mark.parametrize("shape", [TaskShape(2, 30, 1, 5), TaskShape(2, 300, N_CURVE_FEATURES, 200)])
def test_other_shapes_are_rejected(shape):
    with pytest.raises(ValueError, match="is no shape of curve tasks"):
        TASKS.sample(shape, generator=generator())


def test_queries_never_hit_an_observed_step_and_mostly_come_after():
    later = 0.0
    for seed in range(20):
        batch = drawn(12, seed=seed)
        t = steps_of(batch.x).round()
        context, query = t[:, :12], t[:, 12:]
        assert not (context.unsqueeze(2) == query.unsqueeze(1)).any()
        assert (t >= 1).all()
        assert (t <= horizons_of(batch.x).round()).all()
        later += (query > context.amax(1, keepdim=True)).float().mean().item() / 20
    assert 0.7 < later < 1.0


def test_context_steps_are_distinct_and_ascend():
    for seed in range(10):
        context = steps_of(drawn(12, seed=seed).x)[:, :12].round()
        assert (context.diff(dim=1) > 0).all()


def test_one_context_in_four_has_gaps():
    gaps = torch.cat([(steps_of(drawn(12, 4, seed=seed).x)[:, 11].round() > 12).float() for seed in range(100)])
    assert abs(gaps.mean() - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5         # four independent quarters each


def test_horizons_are_a_hundred_or_anything_from_ten_to_two_hundred():
    horizon = torch.cat([horizons_of(drawn(5, 4, seed=seed).x)[:, 0].round() for seed in range(100)])
    assert abs((horizon == 100).float().mean() - 0.5) < 4 * 0.5 / 400**0.5 + 0.01
    assert 10 <= horizon.min() < 14
    assert 180 < horizon.max() <= 200
    assert all((horizons_of(drawn(150, 4, seed=seed).x) > 150).all() for seed in range(5))


def test_of_contexts_of_one_row_half_are_empty():
    batches = [drawn(1, 32, seed=seed) for seed in range(20)]
    silent = torch.cat([batch.x[:, 0, 0].isnan() for batch in batches])
    assert abs(silent.float().mean() - 0.5) < 4 * 0.5 / 640**0.5
    for batch in batches:
        empty = batch.x[:, 0, 0].isnan()
        assert batch.x[empty, 0, :8].isnan().all()
        assert batch.x[empty][:, :, [LEVEL, SPREAD]].isnan().all()
        assert (batch.y[empty, 0] == 0).all()
        assert batch.x[~empty].isfinite().all()
    assert not drawn(2).x.isnan().any()


def test_targets_are_in_units_of_the_context():
    """Every curve back in its own units: level and spread of the features undo the standardisation."""
    batch = drawn(20, 64)
    level = batch.x[:, :, LEVEL]
    spread = 0.2 * ((batch.x[:, :, SPREAD] - 1.0) / 0.2).exp()
    y = level + spread * batch.y
    scale = CurveScale.of(steps_of(batch.x)[:, :20], y[:, :20], torch.ones(64, 20, dtype=torch.bool))
    torch.testing.assert_close(scale.level, level[:, :1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scale.spread, spread[:, :1], rtol=1e-2, atol=1e-4)
    assert ((y > -0.5) & (y < 1.5)).float().mean() > 0.98


def test_the_extended_feature_tells_the_prior():
    """Two priors that differ in one thing: noise. It is large where the feature says so, and half of each where it is ½."""
    quiet, loud = LearningCurvePrior(log_noise=(-9.0, 0.0)), LearningCurvePrior(log_noise=(0.0, 0.0))
    told = {0.0: [], 0.5: [], 1.0: []}
    for seed in range(60):
        batch = drawn(40, 8, seed=seed, tasks=CurveTasks(quiet, loud))
        spread = 0.2 * ((batch.x[:, 0, SPREAD] - 1.0) / 0.2).exp()
        for value, noisy in zip(batch.x[:, 0, EXTENDED].tolist(), (spread > 0.5).tolist(), strict=True):
            told[value].append(noisy)
    assert sum(told[0.0]) == 0
    assert sum(told[1.0]) == len(told[1.0])
    n = 60 * 8
    assert abs(len(told[0.5]) / n - 1 / 3) < 4 * (2 / 9 / 240) ** 0.5      # four independent quarters of 60 batches
    assert 0.3 < sum(told[0.5]) / len(told[0.5]) < 0.7
    assert abs(len(told[1.0]) - len(told[0.0])) < 0.4 * n


# A network's answers


def test_observed_curves_are_shown_like_those_of_training(network):
    """The same logits as for tasks, whose features and targets go through `PFN.posterior`."""
    for n_context in (1, 13):
        batch = drawn(n_context, 12, seed=3)
        context, queries = batch.x[:, :n_context], batch.x[:, n_context:]
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            expected = network.posterior(context, batch.y[:, :n_context], queries)
        empty = context[:, :, 0].isnan()
        level = torch.where(empty[:, :1], 0.5, context[:, :1, LEVEL])
        spread = torch.where(empty[:, :1], 0.2, 0.2 * ((context[:, :1, SPREAD] - 1.0) / 0.2).exp())
        observed = ObservedCurves.read(
            network, steps_of(context).round(), level + spread * batch.y[:, :n_context], ~empty,
            horizons_of(context)[:, :1].round(), context[:, :1, EXTENDED],
        )
        posterior = BarDistribution(network.borders).posterior(observed.logits(steps_of(queries).round()))
        torch.testing.assert_close(posterior.mean, _in_bars(network, expected.mean), rtol=0.03, atol=0.03)
        torch.testing.assert_close(posterior.variance.sqrt(), expected.variance.sqrt() / 0.9, rtol=0.03, atol=0.03)


def _in_bars(network, z):
    mean, std = network.target_scaling
    return (z - mean) / std


def test_padding_does_not_matter(network):
    rng = generator()
    t, y = torch.arange(1.0, 8).repeat(3, 1), torch.rand(3, 7, generator=rng)
    seen = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [False] * 7])
    horizon, extended, query = torch.full((3, 1), 30.0), torch.full((3, 1), 0.5), torch.tensor([[8.0, 30.0]]).repeat(3, 1)
    together = ObservedCurves.read(network, t, y, seen, horizon, extended).logits(query)
    other_values = torch.where(seen, y, math.nan)
    assert torch.equal(ObservedCurves.read(network, t, other_values, seen, horizon, extended).logits(query), together)
    for number, n_seen in enumerate((7, 4, 1)):
        row = slice(number, number + 1)
        alone = ObservedCurves.read(
            network, t[row, :n_seen], y[row, :n_seen], seen[row, :n_seen], horizon[row], extended[row]
        )
        torch.testing.assert_close(alone.logits(query[row]), together[row], rtol=1e-2, atol=2e-2)


def test_bar_scale_leads_to_units_of_y(network):
    t, y = torch.arange(1.0, 8)[None], torch.rand(1, 7, generator=generator())
    seen = torch.ones(1, 7, dtype=torch.bool)
    observed = ObservedCurves.read(network, t, y, seen, torch.full((1, 1), 30.0), torch.zeros(1, 1))
    scale = CurveScale.of(t, y, seen)
    z = (y.double() - scale.level) / scale.spread
    torch.testing.assert_close(observed.bar_scale.apply(y.double()), (z + 0.1) / 0.9, rtol=1e-6, atol=1e-6)
    assert observed.bar_scale.level.dtype == torch.float64
    assert not observed.logits(t).requires_grad
