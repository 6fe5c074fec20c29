import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import f_classif

import priors.rules
from priors import RulePrior, SCMPrior, TaskShape
from priors.draw import Draw
from priors.rules import _redraw


def only(monkeypatch, family):
    weights = tuple(float(name == family) for name in priors.rules._FAMILIES)
    monkeypatch.setattr(priors.rules, "_WEIGHTS", weights)


def test_no_single_column_of_a_parity_task_carries_signal(monkeypatch):
    only(monkeypatch, "parity")
    prior = RulePrior(max_classes=2, max_label_noise=0.0)
    batch = prior.sample(TaskShape(24, 1000, 4, 500), generator=torch.Generator().manual_seed(0))
    p_values = np.concatenate([f_classif(x, y)[1] for x, y in zip(batch.x.numpy(), batch.y.numpy(), strict=True)])
    # Uniform under independence; columns with two values shared with a driver make it slightly lumpy.
    assert (p_values < 0.01).mean() < 0.05


@pytest.mark.parametrize("family", ["parity", "lookup", "and", "or", "product", "tree"])
def test_without_noise_the_columns_determine_the_label(monkeypatch, family):
    """With two columns, both drivers, a forest learns every rule from 1500 rows."""
    only(monkeypatch, family)
    prior = RulePrior(base=SCMPrior(), max_classes=2, max_label_noise=0.0)
    batch = prior.sample(TaskShape(8, 2000, 2, 1500), generator=torch.Generator().manual_seed(3))
    accuracy = [
        RandomForestClassifier(30, random_state=0).fit(x[:1500], y[:1500]).score(x[1500:], y[1500:])
        for x, y in zip(batch.x.numpy(), batch.y.numpy(), strict=True)
    ]
    assert np.median(accuracy) > 0.97


def test_label_noise_is_as_frequent_as_asked(monkeypatch):
    """XOR of two columns: a forest's accuracy is bounded by the noise, a quarter of the labels replaced on average."""
    only(monkeypatch, "parity")
    shape = TaskShape(30, 1200, 2, 1000)
    prior = RulePrior(max_classes=2, max_label_noise=0.5)
    batch = prior.sample(shape, generator=torch.Generator().manual_seed(0))
    accuracy = np.mean([
        RandomForestClassifier(30, min_samples_leaf=20, random_state=0).fit(x[:1000], y[:1000]).score(x[1000:], y[1000:])
        for x, y in zip(batch.x.numpy(), batch.y.numpy(), strict=True)
    ])
    # Half of the replaced labels happen to be right: expected 1 - 0.25 / 2, spread over 30 tasks 0.5 / √12 / 2 / √30.
    assert accuracy == pytest.approx(0.875, abs=4 * 0.5 / 12**0.5 / 2 / 30**0.5 + 0.02)


def test_rejects_a_single_class():
    with pytest.raises(ValueError, match="max_classes=1 allows a single class"):
        RulePrior(max_classes=1)


def test_parity_shows_in_columns_with_ties():
    """A column whose equal values straddle a border takes the digits as values, else its marginal is kept."""
    g = torch.Generator().manual_seed(0)
    drivers = torch.stack([torch.randn(4, 300, generator=g), (torch.rand(4, 300, generator=g) < 0.1).float()], dim=2)
    digits = torch.randint(2, (4, 300, 2), generator=g)
    redrawn = _redraw(drivers, digits, torch.tensor([2, 2, 2, 2]), Draw(g))
    assert torch.equal(redrawn[:, :, 1], digits[:, :, 1].float())
    median = drivers[:, :, 0].sort(1).values[:, 150:151]
    assert torch.equal((redrawn[:, :, 0] >= median).long(), digits[:, :, 0])
    assert set(redrawn[0, :, 0].tolist()) <= set(drivers[0, :, 0].tolist())
