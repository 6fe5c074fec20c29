import pytest
import torch

from priors import SCMPrior, TaskBatch, TaskShape, learnability, with_learnable
from priors.learnable import _leave_one_out_error


def tasks(rows=200, seed=0):
    """Four tasks: linear, step, pure noise, linear buried in four times as much noise."""
    g = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(4, rows, 5, generator=g), torch.randn(4, rows, generator=g)
    y = torch.stack([x[0, :, 0] + x[0, :, 1], (x[1, :, 2] > 0).float(), noise[2], x[3, :, 0] + 2.0 * noise[3]])
    return x, y


def test_scores_of_known_tasks():
    x, y = tasks()
    linear, step, noise, buried = learnability(TaskBatch(x, y, n_context=100)).tolist()
    assert linear > 0.8
    assert step > 0.6
    assert abs(noise) < 0.08
    assert 0.0 < buried < 0.4                                           # at best 1/5


def test_classes_and_missing_values():
    x, y = tasks()
    x[:, ::7, 0] = torch.nan
    classes = (y > y.median(1, keepdim=True).values).long()
    score = learnability(TaskBatch(x, classes, n_context=100, n_classes=torch.full((4,), 2)))
    assert score.isfinite().all()
    assert score[0] > 0.3
    assert abs(score[2]) < 0.08


def test_does_not_mistake_many_features_for_signal():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 100, 60, generator=g), torch.randn(40, 100, generator=g)
    score = learnability(TaskBatch(x, y, n_context=50))
    assert (score < 0.05).float().mean() > 0.85


@pytest.mark.parametrize("rows", [2, 7, 8, 33])
def test_small_tasks_have_finite_scores(rows):
    batch = SCMPrior(max_classes=5).sample(TaskShape(30, rows, 3, rows - 1), generator=torch.Generator().manual_seed(0))
    assert learnability(batch).isfinite().all()


class HalfNoise:
    """Every other task is pure noise; rows are marked so that tasks can be told apart."""

    def sample(self, shape, *, generator):
        x = torch.randn(shape.batch_size, shape.n_rows, shape.n_features, generator=generator)
        noise = torch.randn(shape.batch_size, shape.n_rows, generator=generator)
        hopeless = torch.arange(shape.batch_size) % 2 == 0
        y = torch.where(hopeless.unsqueeze(1), noise, x[:, :, 0])
        return TaskBatch(x, y, shape.n_context)


def share_of_signal(**options):
    prior = with_learnable(HalfNoise(), least=0.2, **options)
    batch = prior.sample(TaskShape(100, 60, 2, 30), generator=torch.Generator().manual_seed(0))
    assert len(batch) == 100
    return (batch.x[:, :, 0] == batch.y).all(1).float().mean().item()


def test_filter_replaces_hopeless_tasks():
    assert share_of_signal(keep=0.0, overdraw=2.5) >= 0.97
    assert share_of_signal(keep=1.0, overdraw=2.5) == 0.5
    assert share_of_signal(keep=0.0, overdraw=1.0) == pytest.approx(0.5, abs=0.02)       # nothing to choose from
    assert 0.6 < share_of_signal(keep=0.3, overdraw=2.5) < 0.95


@pytest.mark.parametrize(("options", "message"), [({"overdraw": 0.5}, "overdraw=0.5"), ({"keep": 1.5}, "keep=1.5")])
def test_rejects_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        with_learnable(SCMPrior(), **options)


def test_features_that_vary_in_the_weighing_half_only_do_no_harm():
    """In the other half all distances are 0, which made some kernel matrices singular in float32."""
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(8, 160, 1)
    x[:, 1::10] = 1.0
    score = learnability(TaskBatch(x, torch.randn(8, 160, generator=g), n_context=80))
    assert score.abs().max() < 0.05


def test_a_matrix_that_cannot_be_factorised_means_no_gain():
    y = torch.randn(2, 30, 1, generator=torch.Generator().manual_seed(0))
    kernel = torch.stack([torch.eye(30), -100.0 * torch.eye(30)])
    sound, failed = _leave_one_out_error(kernel, y, ridge=0.1)
    assert failed == y[1].square().sum()
    assert sound.isfinite()
