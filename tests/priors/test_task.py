import pytest
import torch

from priors import LinearPrior, Mixture, OptimizationPrior, Status, TaskBatch, TaskShape
from priors.task import join


def test_a_context_as_long_as_the_task_leaves_no_query():
    with pytest.raises(ValueError, match=r"n_context=128 leaves no query row in a task of 128 rows; use n_context <= 127"):
        TaskShape(1, 128, 3, 128)


@pytest.mark.parametrize("values", [(0, 10, 3, 5), (2, 0, 3, 0), (2, 10, 0, 5), (2, 10, 3, -1)])
def test_sizes_must_be_positive(values):
    with pytest.raises(ValueError, match=r"=(0|-1) is"):
        TaskShape(*values)


def test_sizes_must_be_integers():
    with pytest.raises(TypeError, match=r"n_rows must be an int, got 10.0 of type float"):
        TaskShape(1, 10.0, 3, 5)


def test_batch_rejects_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"got \(2, 5, 3\) and \(2, 4\)"):
        TaskBatch(torch.zeros(2, 5, 3), torch.zeros(2, 4), 2)


def test_batch_of_class_indices_needs_the_number_of_classes():
    with pytest.raises(ValueError, match="class indices need n_classes"):
        TaskBatch(torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.long), 2)


@pytest.mark.parametrize("status", [torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 3)], ids=["shape", "dtype"])
def test_batch_rejects_a_status_that_is_none_of_its_context(status):
    with pytest.raises(ValueError, match=r"status must be int64 of shape \(batch, n_context\) = \(2, 3\); got torch"):
        TaskBatch(torch.zeros(2, 5, 3), torch.zeros(2, 5), 3, status=status)


def test_classes_have_no_status():
    with pytest.raises(ValueError, match=r"a class has no bounds; use status=None"):
        TaskBatch(torch.zeros(1, 5, 3), torch.zeros(1, 5, dtype=torch.long), 3, n_classes=torch.ones(1, dtype=torch.long),
                  status=torch.zeros(1, 3, dtype=torch.long))


def test_selected_and_joined_tasks_keep_their_status():
    status = torch.tensor([[Status.VALUE, Status.FAILED], [Status.AT_LEAST, Status.AT_MOST]])
    x, y = torch.rand(2, 5, 3), torch.arange(10.0).view(2, 5)
    batch = TaskBatch(x, y, 2, status=status)
    assert torch.equal(batch.select(torch.tensor([1, 0])).status, status.flip(0))
    assert torch.equal(batch.select(torch.tensor([False, True])).status, status[1:])
    assert torch.equal(batch.with_features(x + 1).status, status)
    plain = TaskBatch(x, y, 2)
    assert plain.select(torch.tensor([0])).status is None
    assert join([plain, plain]).status is None
    joined = join([plain, batch])
    assert torch.equal(joined.status[:2], torch.zeros(2, 2, dtype=torch.long))
    assert torch.equal(joined.status[2:], status)


def test_a_mixture_keeps_the_status_of_its_tasks():
    prior = Mixture([(1.0, OptimizationPrior(failures=1.0)), (1.0, LinearPrior())])
    batch = prior.sample(TaskShape(30, 40, 2, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(batch.status == Status.FAILED, batch.y[:, :30].isnan())
    failed = (batch.status == Status.FAILED).any(1)
    assert 0 < failed.sum() < 30
