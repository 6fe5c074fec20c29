import math

import pytest
import torch

from priors import GPPrior, SCMPrior, TaskShape, with_smooth_target, with_softmax_classes
from priors.draw import Draw
from priors.smooth import random_waves, smooth_functions, softmax_labels

KERNELS = {
    1.0: lambda r: torch.exp(-r),
    3.0: lambda r: (1 + math.sqrt(3) * r) * torch.exp(-math.sqrt(3) * r),
    5.0: lambda r: (1 + math.sqrt(5) * r + 5 * r**2 / 3) * torch.exp(-math.sqrt(5) * r),
    1e4: lambda r: torch.exp(-(r**2) / 2),
}


@pytest.mark.parametrize("degrees", KERNELS)
def test_waves_have_the_kernel(degrees, generator):
    """Two columns with lengthscales 1 and 2; 4,000 × 128 waves: standard error of the mean product below 0.002."""
    z = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 0.6], [1.0, 1.0], [2.0, -2.0]]).expand(4000, -1, -1)
    waves = random_waves(z, torch.tensor([[1.0, 0.5]]).expand(4000, -1), torch.full((4000, 1), degrees), Draw(generator))
    found = 2 * torch.einsum("brk,bsk->rs", waves, waves) / (4000 * waves.shape[2])
    distance = torch.cdist(z[0] * torch.tensor([1.0, 0.5]), z[0] * torch.tensor([1.0, 0.5]))
    # The clamped tails of Student's t with one degree of freedom are felt where the kernel has its kink.
    torch.testing.assert_close(found, KERNELS[degrees](distance), atol=0.012, rtol=0)


def test_functions_range_from_linear_to_wavy(generator):
    """The share of the variance that a linear function explains, over tables of four normal columns."""
    x = torch.randn(400, 200, 4, generator=generator)
    y = smooth_functions(x, 1, Draw(generator)).double()
    design = torch.cat([x, torch.ones(400, 200, 1)], dim=2).double()
    linear = 1 - (y - design @ torch.linalg.pinv(design) @ y).square().mean(1).squeeze(1)
    assert (linear > 0.97).float().mean() > 0.08
    assert (linear < 0.5).float().mean() > 0.2
    torch.testing.assert_close(y.std(1, correction=0), torch.ones(400, 1).double(), atol=1e-4, rtol=0)


def test_a_function_depends_on_the_row_alone(generator):
    x = torch.randn(50, 30, 3, generator=generator)
    y = smooth_functions(torch.cat([x, x], dim=1), 2, Draw(generator))
    torch.testing.assert_close(y[:, :30], y[:, 30:], atol=2e-4, rtol=0)
    assert not torch.allclose(y[..., 0], y[..., 1], atol=0.1)            # two functions of a task are two draws


def test_constant_and_missing_columns_are_no_hindrance(generator):
    x = torch.randn(20, 30, 3, generator=generator)
    x[..., 0], x[:, ::2, 1], x[..., 2] = 5.0, math.nan, math.nan
    assert smooth_functions(x, 1, Draw(generator)).isfinite().all()


def test_features_and_other_tasks_stay():
    shape = TaskShape(400, 40, 5, 20)
    plain = SCMPrior().sample(shape, generator=torch.Generator().manual_seed(0))
    changed = with_smooth_target(SCMPrior()).sample(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.x, changed.x)
    share = (plain.y != changed.y).any(1).float().mean()
    assert share == pytest.approx(0.2, abs=0.08)                     # 400 tasks: four standard deviations


def test_labels_follow_the_softmax(generator):
    logits = torch.tensor([[1.0, 0.0, -1.0, 9.0], [0.0, 2.0, 9.0, 9.0]]).unsqueeze(1).expand(2, 40_000, 4)
    labels = softmax_labels(logits, torch.tensor([3, 2]), Draw(generator))
    for task, n_classes in enumerate((3, 2)):
        share = torch.nn.functional.one_hot(labels[task], 4).double().mean(0)
        expected = torch.nn.functional.pad(logits[task, 0, :n_classes].double().softmax(0), (0, 4 - n_classes))
        torch.testing.assert_close(share, expected, atol=0.012, rtol=0)  # five standard errors


def test_classes_can_be_told_from_the_rows():
    """Far more often than by guessing, with a nearest neighbour as a judge; the rows are those of the prior inside."""
    shape = TaskShape(100, 120, 3, 100)
    batch = with_softmax_classes(SCMPrior(), max_classes=4).sample(shape, generator=torch.Generator().manual_seed(0))
    assert batch.n_classes.unique().tolist() == [2, 3, 4]
    nearest = torch.cdist(batch.x[:, 100:].nan_to_num(), batch.x[:, :100].nan_to_num()).argmin(2)
    hits = (batch.y[:, :100].gather(1, nearest) == batch.y[:, 100:]).float().mean()
    chance = sum((batch.y == label).float().mean(1).square() for label in range(4)).mean()
    assert hits > chance + 0.1


def test_bad_arguments_are_named(generator):
    with pytest.raises(ValueError, match=r"probability=-1 is no probability; use a number in \[0, 1\]"):
        with_smooth_target(GPPrior(), probability=-1)
    with pytest.raises(ValueError, match=r"draws classes; with_smooth_target\(\) is for priors with real targets"):
        with_smooth_target(SCMPrior(max_classes=3)).sample(TaskShape(2, 20, 2, 10), generator=generator)
    with pytest.raises(ValueError, match="max_classes=1 allows a single class; use max_classes >= 2"):
        with_softmax_classes(SCMPrior(), max_classes=1)
