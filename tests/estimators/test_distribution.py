import numpy as np
import pytest
import torch

from estimators.distribution import PredictiveDistribution, on_other_borders
from pfn import BarDistribution
from pfn.bar import BarPosterior

BORDERS = torch.tensor([-3.0, -1.0, -0.5, 0.2, 1.0, 4.0]).double()


@pytest.fixture
def log_mass(generator):
    return torch.randn(7, 5, generator=generator).double().log_softmax(-1)


def test_masses_move_to_other_borders_with_the_cdf(log_mass):
    others = 0.3 + 1.1 * BORDERS
    moved = on_other_borders(log_mass, BORDERS, others)
    torch.testing.assert_close(moved.exp().sum(1), torch.ones(7).double())
    for border in others[1:-1]:
        before = BarPosterior(BORDERS, log_mass).cdf(border.expand(7))
        torch.testing.assert_close(BarPosterior(others, moved).cdf(border.expand(7)), before, rtol=0, atol=1e-12)


def test_the_same_borders_change_nothing(log_mass):
    torch.testing.assert_close(on_other_borders(log_mass, BORDERS, BORDERS), log_mass)


def test_borders_far_out_stay_finite(log_mass):
    moved = on_other_borders(log_mass, BORDERS, BORDERS + 1e3)
    assert moved.isfinite().all()
    torch.testing.assert_close(moved.exp()[:, 0], torch.ones(7).double())


def test_median_and_mode(log_mass):
    distribution = PredictiveDistribution(BarPosterior(BORDERS, log_mass), 2.0, 3.0)
    np.testing.assert_allclose(distribution.cdf(distribution.median), 0.5, atol=1e-9)
    near = distribution.mode[:, None] + np.array([-0.5, 0.5]) * 3.0
    assert (distribution.log_prob(distribution.mode)[:, None] >= distribution.log_prob(near) - 1e-9).all()


def test_far_from_zero_nothing_cancels():
    """Standard deviation 1e-3 around 1e6: second moments minus squared means would leave no digit."""
    posterior = BarDistribution(BORDERS).posterior(torch.zeros(1, 5).double())
    near = PredictiveDistribution(posterior, 0.0, 1.0)
    far = PredictiveDistribution(posterior, 1e6, 1e-3)
    np.testing.assert_allclose(far.std, 1e-3 * near.std, rtol=1e-12)
    np.testing.assert_allclose(far.mean - 1e6, 1e-3 * near.mean, atol=1e-9)
    np.testing.assert_allclose(far.log_prob([1e6 + 1e-3]), near.log_prob([1.0]) + np.log(1e3), atol=1e-5)
    assert repr(far) == "PredictiveDistribution of 1 rows"
