"""The freeze-thaw prior: what configurations share, what depends on their parameters, and the order of the history."""

import dataclasses

import pytest
import torch

from priors import FreezeThawPrior, TaskShape
from priors.draw import Draw
from priors.freeze_thaw import random_functions

PRIOR = FreezeThawPrior()


def curves(n_tasks=200, n_configs=40, n_params=3, n_steps=30, seed=0):
    return PRIOR.sample_curves(n_tasks, n_configs, n_params, n_steps, generator=torch.Generator().manual_seed(seed))


def test_curves_have_the_size_asked_for_and_lie_in_about_the_unit_interval():
    configs, y = curves()
    assert configs.shape == (200, 40, 3)
    assert y.shape == (200, 40, 30)
    assert (configs.min(), configs.max()) >= (0, 0)
    assert configs.max() <= 1
    assert y.isfinite().all()
    assert y.min() >= -0.05
    assert y.max() <= 1.05


def test_the_generator_decides_everything():
    first, again, other = (curves(n_tasks=2, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


def test_random_functions_are_standardised_and_smooth(generator):
    draw = Draw(generator)
    x = draw.uniform(30, 100, 4)
    values = random_functions(torch.cat([x, x + 1e-4], dim=1), 6, draw)
    assert values.shape == (30, 200, 6)
    torch.testing.assert_close(values.mean(1), torch.zeros(30, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(1), torch.ones(30, 6), atol=1e-5, rtol=0)
    step = (values[:, 100:] - values[:, :100]).abs()
    assert step.median() < 1e-3                                     # of functions whose values differ by about 1
    assert step.max() < 0.2


def test_traits_are_uniform_over_tasks_and_shared_within_them(generator):
    draw = Draw(generator)
    traits = PRIOR._traits(draw.uniform(2000, 10, 3), draw)
    for name, value in traits.items():
        assert value.shape == (2000, 10, 1), name
        # An average of 10 dependent values is no better than one: standard errors are those of 2000.
        levels = torch.quantile(value, torch.tensor([0.1, 0.5, 0.9]))
        torch.testing.assert_close(levels, torch.tensor([0.1, 0.5, 0.9]), atol=4 * 0.5 / 2000**0.5, rtol=0, msg=name)
        within = value.var(1).mean() / value.flatten().var()
        assert 0.3 < within < 0.8, name


def test_parameters_may_have_a_few_levels_only():
    configs, _ = curves(n_tasks=300, n_params=4)
    levels = torch.tensor([[len(column.unique()) for column in task.T] for task in configs])
    few = (levels <= 5).float().mean()
    assert abs(few - 1 / 6) < 4 * (1 / 6 * 5 / 6 / 1200) ** 0.5
    assert (levels[levels > 5] == 40).all()


def test_close_configurations_have_similar_curves():
    configs, y = curves(n_tasks=300, n_params=2)
    distance = torch.cdist(configs, configs) + 10 * torch.eye(40)
    nearest = distance.argmin(2)
    ends = y[:, :, -1]
    close = (ends - ends.gather(1, nearest)).abs().mean()
    apart = (ends - ends.roll(1, 1)).abs().mean()
    assert close < 0.75 * apart


def test_most_curves_rise_and_some_decline_or_collapse():
    _, y = curves(n_tasks=1000, n_configs=5)
    gain = y[..., -1] - y[..., 0]
    assert 0.5 < (gain > 0.01).float().mean() < 0.85
    worse = y[..., -1] < y.amax(2) - 0.1
    assert 0.02 < worse.float().mean() < 0.25


def test_a_row_is_an_evaluation_of_a_configuration():
    shape = TaskShape(5, 80, 4, 50)
    batch = PRIOR.sample(shape, generator=torch.Generator().manual_seed(1))
    for x, y in zip(batch.x, batch.y, strict=True):
        reached = {}
        for row, (features, value) in enumerate(zip(x, y, strict=True)):
            config, step = tuple(features[:-1].tolist()), round(features[-1].item() * PRIOR.n_steps)
            told = reached.setdefault(config, {})
            if row < shape.n_context:
                assert step == min(len(told) + 1, PRIOR.n_steps)    # one step after the other; the last one again
            elif len(told) < PRIOR.n_steps:
                assert step > len(told)
            assert told.get(step, value) == value
            if row < shape.n_context:
                told[step] = value
        assert len(reached) <= 2 + shape.n_rows // 5


def test_history_of_one_row():
    batch = PRIOR.sample(TaskShape(3, 4, 2, 1), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(batch.x[:, 0, 1], torch.full((3,), 1 / 20))


@pytest.mark.parametrize("n_steps", [1, 0, -3])
def test_a_horizon_has_two_steps(n_steps):
    with pytest.raises(ValueError, match=f"n_steps={n_steps} is no horizon; use n_steps >= 2"):
        FreezeThawPrior(n_steps=n_steps)


def test_needs_a_parameter_and_the_step():
    with pytest.raises(ValueError, match="n_features=1: a parameter and the step need n_features >= 2"):
        PRIOR.sample(TaskShape(1, 4, 1, 2), generator=torch.Generator())


def test_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRIOR.n_steps = 3
