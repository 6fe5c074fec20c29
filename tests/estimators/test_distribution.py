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


@pytest.fixture
def both(log_mass):
    """A distribution in units of y, and the posterior that it must agree with, whose borders are in units of y."""
    posterior = BarPosterior(BORDERS, log_mass)
    return PredictiveDistribution(posterior, 2.0, 3.0), posterior.affine(3.0, 2.0)


Y = np.array([-20.0, -1.0, 0.5, 2.0, 3.0, 7.0, 30.0])


def test_scores_are_in_units_of_y(both):
    distribution, posterior = both
    q = [0.1, 0.5, 0.99]
    np.testing.assert_allclose(distribution.crps(Y), posterior.crps(torch.from_numpy(Y)), rtol=1e-12)
    np.testing.assert_allclose(
        distribution.pinball(Y, q), posterior.pinball(torch.from_numpy(Y), torch.tensor(q, dtype=torch.float64)), rtol=1e-9
    )
    several = np.stack([Y, Y + 1], axis=1)
    np.testing.assert_allclose(distribution.crps(several)[:, 1], distribution.crps(Y + 1))
    np.testing.assert_allclose(distribution.cdf(several)[:, 0], distribution.cdf(Y))
    np.testing.assert_allclose(distribution.mode, posterior.mode)


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize(
    "name",
    ["expected_improvement", "log_expected_improvement", "probability_of_improvement", "log_probability_of_improvement"],
)
def test_improvement_is_in_units_of_y(both, name, maximize):
    distribution, posterior = both
    for best in (Y, 3.0):
        expected = getattr(posterior, name)(torch.as_tensor(best), maximize=maximize)
        np.testing.assert_allclose(getattr(distribution, name)(best, maximize=maximize), expected, rtol=1e-9, atol=1e-12)
    several = getattr(distribution, name)(np.stack([Y, Y + 1], axis=1), maximize=maximize)
    np.testing.assert_allclose(several[:, 1], getattr(distribution, name)(Y + 1, maximize=maximize))


def test_improvement_far_out_keeps_its_order(both):
    best = np.array([1e4, 1e5, 1e6])
    columns = both[0].log_expected_improvement(np.tile(best, (7, 1)))
    assert np.isfinite(columns).all()
    assert (np.diff(columns) < 0).all()
    assert (both[0].expected_improvement(best[0]) == 0).all()


def test_bad_shapes_are_named(both):
    distribution, _ = both
    with pytest.raises(ValueError, match=r"best has shape \(3,\); pass \(7,\) or \(7, k\)"):
        distribution.expected_improvement([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"y has shape \(7, 2\); pass \(7,\)"):
        distribution.pinball(np.zeros((7, 2)), [0.5])
    with pytest.raises(ValueError, match=r"got 95 at position 0; did you mean 0.95"):
        distribution.pinball(Y, [95])
