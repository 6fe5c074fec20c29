import pytest
import torch

from priors import GPPrior, SCMPrior, TaskShape, with_additive_target
from priors.additive import additive_target
from priors.draw import Draw


def explained(design, y):
    """R² of least squares, for each task; design (B, R, K), y (B, R)."""
    design = torch.cat([design, torch.ones(*design.shape[:2], 1, dtype=design.dtype)], dim=2)
    fitted = design @ torch.linalg.pinv(design) @ y.unsqueeze(2)
    return 1 - (y - fitted.squeeze(2)).square().sum(1) / (y - y.mean(1, keepdim=True)).square().sum(1)


def test_a_known_share_is_linear_and_most_is_additive(generator):
    """Linear are 0.3 of the tasks, and of the others those that by chance have linear terms only; 0.6 + 0.4 · 0.4³ have no
    product. Additive are sums of functions of single columns, which a table of three-valued columns shows exactly."""
    x = torch.randint(3, (2000, 60, 3), generator=generator).float()
    y = additive_target(x, Draw(generator)).double()
    linear = (explained(x.double(), y) > 1 - 1e-6).float().mean()
    by_value = torch.nn.functional.one_hot(x.long(), 3)[..., 1:].flatten(2).double()
    additive = (explained(by_value, y) > 1 - 1e-6).float().mean()
    assert 0.6 < additive < 0.75                                     # sines of products can be additive on few values
    assert 0.18 < linear < 0.4
    torch.testing.assert_close(y.mean(1), torch.zeros(2000).double(), atol=1e-5, rtol=0)


def test_features_and_other_tasks_stay():
    shape = TaskShape(400, 40, 5, 20)
    plain = SCMPrior().sample(shape, generator=torch.Generator().manual_seed(0))
    changed = with_additive_target(SCMPrior()).sample(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.x, changed.x)
    share = (plain.y != changed.y).any(1).float().mean()
    assert share == pytest.approx(0.25, abs=0.08)                    # 400 tasks: 3.7 standard deviations
    assert changed.y.isfinite().all()


def test_bad_arguments_are_named(generator):
    with pytest.raises(ValueError, match=r"probability=1.5 is no probability; use a number in \[0, 1\]"):
        with_additive_target(GPPrior(), probability=1.5)
    with pytest.raises(ValueError, match=r"draws classes; with_additive_target\(\) is for priors with real targets"):
        with_additive_target(SCMPrior(max_classes=3)).sample(TaskShape(2, 20, 2, 10), generator=generator)
