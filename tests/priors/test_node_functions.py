import numpy as np
import pytest
import torch

from priors.draw import Draw
from priors.node_functions import (
    ACTIVATIONS,
    FUNCTIONS,
    Correlated,
    Jobs,
    activate,
    discretise,
    gaussian_process,
    linear,
    nearest_centre,
    quadratic,
    random_weights,
    trees,
)


def jobs(n_jobs=20, rows=200, seed=0, h=None):
    draw = Draw(torch.Generator().manual_seed(seed))
    h = draw.normal(n_jobs, 6, rows) if h is None else h
    number = torch.arange(len(h))
    return Jobs(h, number, number % len(ACTIVATIONS), 4, Correlated(number, len(h), draw))


@pytest.mark.parametrize("function", [f for _, f in FUNCTIONS], ids=lambda f: f.__name__)
def test_is_a_finite_function_of_the_inputs(function):
    """Rows with equal inputs have equal outputs, and different inputs matter."""
    half = torch.randn(20, 6, 100, generator=torch.Generator().manual_seed(1))
    out = function(jobs(h=torch.cat([half, half], dim=2)))
    assert out.shape == (20, 4, 200)
    assert out.isfinite().all()
    scale = out.std(2, keepdim=True).clamp_min(1e-6)
    assert ((out[:, :, :100] - out[:, :, 100:]) / scale).abs().max() < 1e-3
    assert (out.std(2) > 1e-6).float().mean() > 0.7


def test_linear_obeys_superposition():
    h = torch.randn(20, 6, 90, generator=torch.Generator().manual_seed(1))
    h[:, :, 60:] = h[:, :, :30] + h[:, :, 30:60]
    out = linear(jobs(h=h))
    assert torch.allclose(out[:, :, 60:], out[:, :, :30] + out[:, :, 30:60], atol=1e-4)


def test_third_differences_of_a_quadratic_vanish():
    g = torch.Generator().manual_seed(1)
    start, step = torch.randn(20, 6, 1, generator=g), torch.randn(20, 6, 1, generator=g)
    out = quadratic(jobs(h=start + step * torch.arange(8.0))).double()
    assert out.diff(n=3, dim=2).abs().max() < 1e-2 * out.abs().max()
    assert out.diff(n=2, dim=2).abs().amax((1, 2)).min() > 1e-3


def test_trees_and_discretisation_have_few_values():
    one_tree = [len(out[0].unique(dim=1).T) for out in trees(jobs(60)).split(1)]
    assert min(one_tree) <= 64
    cells = [len(out[0].unique(dim=1).T) for out in discretise(jobs(60)).split(1)]
    assert max(cells) <= 64
    assert min(cells) <= 8


def test_gaussian_process_is_smooth_and_stationary():
    """At vanishing distance the correlation is 1, at large distance about 0; the mean square is the same everywhere."""
    h = torch.zeros(400, 6, 3)
    h[:, :, 1] = 1e-3
    h[:, :, 2] = 50.0
    out = gaussian_process(jobs(h=h))
    power = out.square().mean((0, 1))
    assert power.numpy() == pytest.approx(power.mean().item(), rel=0.15)
    near, far = (out[:, :, 0] * out[:, :, 1]).mean() / power[0], (out[:, :, 0] * out[:, :, 2]).mean() / power[0]
    assert near > 0.99
    assert abs(far) < 0.15


def test_nearest_centre_is_nearest():
    some = jobs(8)
    n_centres = torch.tensor([2, 3, 4, 5, 6, 7, 8, 9])
    code, centres = nearest_centre(some, n_centres, 9)
    assert (code.amax(1) < n_centres).all()
    # The metric is the one in which centres are given: a centre's own row belongs to it.
    again = jobs(8)
    weighted = again.h * random_weights(again, "metric", 6).unsqueeze(2)
    distance = torch.cdist(weighted.transpose(1, 2), centres.transpose(1, 2))
    for j, n in enumerate(n_centres.tolist()):
        best = distance[j, :, :n].amin(1)
        assert torch.allclose(distance[j].gather(1, code[j].unsqueeze(1)).squeeze(1), best, atol=1e-2)


def test_random_weights_have_unit_mean_square_and_vary_in_how_uneven_they_are():
    weights = random_weights(jobs(500), "some", 16)
    assert weights.square().mean(1).numpy() == pytest.approx(1.0, abs=1e-4)
    largest = weights.square().amax(1) / 16
    assert largest.min() < 0.1
    assert largest.max() > 0.9


def test_every_activation_is_finite_far_out_and_applied_where_asked():
    z = torch.linspace(-50.0, 50.0, 1001).expand(len(ACTIVATIONS), 1, -1).contiguous()
    order = torch.randperm(len(ACTIVATIONS), generator=torch.Generator().manual_seed(0))
    out = activate(z, order)
    assert out.isfinite().all()
    for j, index in enumerate(order.tolist()):
        assert torch.equal(out[j], ACTIVATIONS[index][1](z[j]))


def test_uses_of_one_task_resemble_each_other():
    """E[Var within a task] of Beta(s·m, s·(1-m)) is E[m(1-m)] E[1/(1+s)] = E[1/(1+s)]/6 with s ~ LogU(0.1, 1e4)."""
    n_tasks, uses = 4000, 5
    task = torch.arange(n_tasks).repeat_interleave(uses)
    values = Correlated(task, n_tasks, Draw(torch.Generator().manual_seed(0))).unit("name", torch.arange(n_tasks * uses))
    values = values.view(n_tasks, uses)
    s = np.exp(np.linspace(np.log(0.1), np.log(1e4), 100_001))
    expected = (1.0 / (1.0 + s)).mean() / 6.0
    within = values.var(1)
    assert within.mean().item() == pytest.approx(expected, abs=5 * within.std().item() / n_tasks**0.5)
    assert values.mean().item() == pytest.approx(0.5, abs=0.03)
