import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata, skew

from estimators.targets import TargetWarp


@pytest.fixture
def skewed():
    return np.exp(2 * np.random.default_rng(0).normal(size=101)).round(2)


def test_a_skewed_target_becomes_nearly_normal(skewed):
    score = TargetWarp.normal_scores(skewed).forward(skewed)
    assert (np.diff(score[np.argsort(skewed)]) >= 0).all()
    exact = norm.ppf((rankdata(skewed) - 0.5) / len(skewed))
    np.testing.assert_allclose(score, exact, atol=0.35)                       # linear between quantiles ten rows apart
    assert abs(skew(score)) < 0.2 < abs(skew(skewed))


def test_equal_targets_get_their_middle_rank():
    y = np.repeat([0.0, 1.0, 2.0], 20)
    np.testing.assert_allclose(TargetWarp.normal_scores(y).forward(np.array([0.0, 1.0, 2.0])), norm.ppf([1 / 6, 0.5, 5 / 6]))


def test_inverse_undoes_forward_inside_and_outside(skewed):
    warp = TargetWarp.normal_scores(skewed)
    y = np.linspace(skewed.min() - 50, skewed.max() + 50, 999)
    np.testing.assert_allclose(warp.inverse(torch.from_numpy(warp.forward(y))).numpy(), y, rtol=1e-9, atol=1e-9)
    assert (np.diff(warp.forward(y)) > 0).all()


def test_a_constant_has_no_scores():
    assert TargetWarp.normal_scores(np.ones(5)) is None


def test_a_weight_is_so_many_copies():
    y, weight = np.random.default_rng(0).normal(size=30), np.random.default_rng(1).integers(1, 5, size=30)
    weighted, copied = TargetWarp.normal_scores(y, weight), TargetWarp.normal_scores(np.repeat(y, weight))
    np.testing.assert_allclose(weighted.targets, copied.targets)
    np.testing.assert_allclose(weighted.scores, copied.scores)
    copies = np.repeat(y, weight)
    expected = np.quantile(copies, np.linspace(0, 1, len(copies) // 10 + 1))
    np.testing.assert_allclose(copied.targets, np.unique(expected), rtol=1e-12)


def test_knots_that_rounding_has_split_are_one():
    """Quantiles of equal targets may differ in the last bit: a warp between them has no room for borders."""
    y = np.r_[np.full(40, 0.1), np.full(40, np.nextafter(0.1, 1)), np.linspace(1, 2, 40)]
    warp = TargetWarp.normal_scores(y)
    assert (np.diff(warp.inverse(torch.linspace(-3, 3, 999, dtype=torch.float64)).numpy()) > 0).all()
