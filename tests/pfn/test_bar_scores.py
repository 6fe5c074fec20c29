import itertools

import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_bar import BORDERS, MASS, assert_gradient, double, posteriors, quick, random_posterior

from pfn import BarDistribution
from pfn.bar import BarPosterior


def crps_by_quadrature(posterior, y):
    low, high = posterior.quantile(double(1e-12, 1 - 1e-12)).tolist()
    points = sorted({*posterior.borders[1:-1].tolist(), y, min(low, y), max(high, y)})

    def integrand(t):
        t = double(t)
        return (posterior.survival(t) if t >= y else posterior.cdf(t)).square().item()

    return sum(scipy.integrate.quad(integrand, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(points))


def test_worked_example():
    """Section 8 of ../shared/specs/posterior-fidelity.md."""
    posterior = BarDistribution(BORDERS).posterior(MASS.log())
    assert posterior.crps(double(-3.0, 0.0, 0.5, 3.0)).tolist() == pytest.approx([2.8589, 0.4711, 0.3461, 1.5220], abs=5e-5)


@pytest.mark.parametrize("seed", range(3))
def test_crps_agrees_with_quadrature(seed):
    posterior = random_posterior(seed, batch=(), n_bars=5)
    for y in (-6.0, posterior.borders[1].item() - 1e-3, posterior.borders[2].item(), 0.1, 1.0, 8.0):
        assert posterior.crps(y).item() == pytest.approx(crps_by_quadrature(posterior, y), rel=1e-8)


@quick
@given(posteriors(), st.floats(-100, 1000))
def test_crps_is_the_expected_distance_less_half_the_spread(posterior, y):
    """CRPS = E|Y − y| − ∫ F(1 − F), the second free of y: differences to the CRPS elsewhere are those of E|Y − y|."""
    y, other = double(y), posterior.mean

    def distance(at):
        return posterior.expected_improvement(at) + posterior.expected_improvement(at, maximize=False)

    assert posterior.crps(y) >= 0
    difference = posterior.crps(y) - posterior.crps(other)
    torch.testing.assert_close(difference, distance(y) - distance(other), rtol=1e-9, atol=1e-10 * distance(y).item())


def test_crps_of_samples():
    """E|Y − y| − ½E|Y − Y'| over half a million pairs, four standard errors."""
    posterior = random_posterior(2, batch=(2,))
    draws = posterior.sample(1_000_000, generator=torch.Generator().manual_seed(0)).view(2, 2, -1)
    for y in (-5.0, 0.0, 3.0):
        score = (draws - y).abs().mean(1) - 0.5 * (draws[:, 0] - draws[:, 1]).abs()
        error = 4 * score.std(-1) / score.shape[-1] ** 0.5
        assert ((score.mean(-1) - posterior.crps(y)).abs() < error).all()


def test_crps_is_proper():
    """In expectation over its own draws, the distribution scores better than a moved one."""
    posterior = random_posterior(5, batch=())
    y = posterior.sample(100_000, generator=torch.Generator().manual_seed(0))
    for other in (posterior.affine(1.0, 0.2), posterior.affine(1.2)):
        gain = other.crps(y) - posterior.crps(y)
        assert gain.mean() > 3 * gain.std() / 100_000**0.5


def test_a_small_mass_far_away_costs_no_digits_in_float32():
    """E|Y − y| − ∫ F(1 − F) would subtract two numbers of size 100."""
    borders, mass = double(-1.0, 0.0, 0.01, 1e6, 1e6 + 1), double(1e-9, 1 - 1e-9 - 2e-4, 1e-4, 1e-4)
    exact = BarDistribution(borders).posterior(mass.log())
    rough = BarPosterior(exact.borders.float(), exact.log_mass.float())
    for y in (-0.5, 0.004, 0.3):
        assert rough.crps(y).item() == pytest.approx(exact.crps(y).item(), rel=1e-5)


def test_pinball_integrates_to_half_the_crps():
    posterior = random_posterior(4)
    n = 20_000
    q = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for y in (-2.0, 1.0):
        losses = posterior.pinball(y, q)
        assert losses.shape == (3, n)
        assert (losses >= 0).all()
        torch.testing.assert_close(2 * losses.mean(-1), posterior.crps(y), rtol=1e-3, atol=0)


def test_pinball_is_steeper_on_the_side_that_the_quantile_should_leave_empty():
    posterior = random_posterior(4, batch=())
    q = double(0.9)
    at = posterior.quantile(q)
    torch.testing.assert_close(posterior.pinball(at.squeeze() + 2, q), double(1.8))
    torch.testing.assert_close(posterior.pinball(at.squeeze() - 2, q), double(0.2))


def test_gradients_agree_with_finite_differences():
    posterior = random_posterior(6)
    bars, q = BarDistribution(posterior.borders), double(0.2, 0.7)
    for y in (double(-6.0, 0.33, 9.0), double(9.0, -6.0, 2.1)):
        assert_gradient(lambda y: posterior.crps(y), y)
        assert_gradient(lambda z, y=y: bars.posterior(z).crps(y), posterior.log_mass)
        assert_gradient(lambda z, y=y: bars.posterior(z).pinball(y, q), posterior.log_mass, rtol=1e-4, atol=1e-7)
