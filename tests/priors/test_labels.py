import pytest
import torch

from priors import GPPrior, TaskShape, as_classification
from priors.draw import Draw
from priors.labels import finish_labels


def test_features_are_those_of_the_continuous_prior_up_to_row_order():
    shape = TaskShape(4, 40, 3, 20)
    plain = GPPrior().sample(shape, generator=torch.Generator().manual_seed(0))
    classes = as_classification(GPPrior()).sample(shape, generator=torch.Generator().manual_seed(0))
    for x, z in zip(plain.x, classes.x, strict=True):
        assert torch.equal(x[x[:, 0].argsort()], z[z[:, 0].argsort()])


def test_rare_classes_stay_rare():
    """A class with one row keeps it, in the context; upstream priors would have redrawn the split."""
    label = torch.zeros(1, 30, dtype=torch.long)
    label[0, 29] = 7
    batch = finish_labels(torch.arange(30.0).view(1, 30, 1), label, 10, Draw(torch.Generator().manual_seed(0)))
    assert batch.n_classes.tolist() == [2]
    assert batch.y[0].sum() == 1
    assert batch.x[0, batch.y[0].argmax()] == 29.0                  # features moved with the label
    assert batch.y[0].argmax() < 10


def test_a_single_class_becomes_pure_noise_with_two():
    label = torch.full((3, 20), 4)
    batch = finish_labels(torch.zeros(3, 20, 1), label, 10, Draw(torch.Generator().manual_seed(0)))
    assert batch.n_classes.tolist() == [2, 2, 2]


def test_more_classes_than_context_rows_are_merged():
    label = torch.arange(10).repeat(1, 3)
    batch = finish_labels(torch.zeros(1, 30, 1), label, 4, Draw(torch.Generator().manual_seed(0)))
    assert batch.n_classes.tolist() == [4]
    assert set(batch.y[0, :4].tolist()) == {0, 1, 2, 3}


def test_needs_two_classes():
    with pytest.raises(ValueError, match="max_classes=1"):
        as_classification(GPPrior(), max_classes=1)
