from dataclasses import dataclass

import pytest
import torch

from priors import GPPrior, Mixture, SCMPrior, TaskBatch, TaskShape


@dataclass(frozen=True)
class Constant:
    value: float

    def sample(self, shape, *, generator):
        size = (shape.batch_size, shape.n_rows)
        x = torch.full((*size, shape.n_features), self.value)
        return TaskBatch(x=x, y=torch.full(size, self.value), n_context=shape.n_context)


def test_tasks_come_in_proportion_to_the_weights():
    prior = Mixture([(3, Constant(0.0)), (1, Constant(1.0))])
    batch = prior.sample(TaskShape(4000, 2, 1, 1), generator=torch.Generator().manual_seed(0))
    assert batch.x[:, 0, 0].mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)


def test_features_and_targets_stay_together_in_random_order():
    batch = Mixture([(1, Constant(0.0)), (1, Constant(1.0)), (1, Constant(2.0))]).sample(
        TaskShape(50, 3, 2, 1), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(batch.x[:, :, 0], batch.y)
    assert (batch.y[:, 0].diff() < 0).any()


def test_classes_and_real_targets_do_not_mix():
    prior = Mixture([(1, GPPrior()), (1, SCMPrior(max_classes=3))])
    with pytest.raises(ValueError, match="mixes classification with regression"):
        prior.sample(TaskShape(50, 8, 2, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("components", [[], [(0.0, GPPrior())]])
def test_weights_must_be_positive(components):
    with pytest.raises(ValueError, match=r"empty|positive weight"):
        Mixture(components)


def test_components_must_be_priors():
    with pytest.raises(TypeError, match="no sample"):
        Mixture([(1.0, "gp")])
