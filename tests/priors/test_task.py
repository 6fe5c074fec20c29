import pytest
import torch

from priors import TaskBatch, TaskShape


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
