import pytest
import torch

from priors import GPPrior, TaskShape, as_classification
from priors.draw import Draw
from priors.labels import cut_into_classes, draw_n_classes, finish_labels


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


def test_number_of_classes_follows_its_law():
    """2 with probability 0.4 + 0.6 / 9, each of 3 … 10 with 0.6 / 9."""
    n = 20_000
    counts = torch.bincount(draw_n_classes(n, 10, Draw(torch.Generator().manual_seed(0))), minlength=11) / n
    expected = torch.tensor([0, 0, 0.4 + 0.6 / 9] + [0.6 / 9] * 8)
    assert torch.allclose(counts, expected, atol=4 * 0.5 / n**0.5)
    assert draw_n_classes(100, 2, Draw(torch.Generator().manual_seed(0))).unique().tolist() == [2]


def test_classes_are_intervals_of_the_target_with_spacings_of_random_rows():
    """With two classes and a boundary at a random row, the first class has a share uniform on 0 … 1 (7 tasks of 10), or
    Φ of a normal boundary, which is uniform too: the mean share is 1/2, its variance 1/12."""
    draw = Draw(torch.Generator().manual_seed(0))
    y = draw.normal(4000, 200)
    label = cut_into_classes(y, torch.full((4000,), 2), draw)
    share = label.float().mean(1)
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)
    assert share.var().item() == pytest.approx(1 / 12, abs=0.006)
    order = y.argsort(1)
    assert (label.gather(1, order).diff(dim=1).abs().sum(1) <= 1).all()         # one border, never crossed twice
