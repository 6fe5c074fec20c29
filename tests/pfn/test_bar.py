import math

import pytest
import scipy.integrate
import torch

from pfn import BarDistribution

# Borders, masses and values of the worked example in ../shared/specs/posterior-fidelity.md, checked there against
# four million Monte Carlo draws.
BORDERS = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
MASS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


@pytest.fixture
def example():
    return BarDistribution(BORDERS).posterior(MASS.log())


def test_worked_example(example):
    assert example.mean.item() == pytest.approx(0.70488, abs=5e-6)
    assert example.variance.item() == pytest.approx(2.45181, abs=5e-6)
    y = torch.tensor([-3.0, -0.5, 0.5, 3.0], dtype=torch.float64)
    expected = [-3.8320, -1.6094, -1.2040, -2.4458]
    for value, density in zip(y, expected, strict=True):
        assert example.log_prob(value).item() == pytest.approx(density, abs=5e-5)
    q = torch.tensor([0.01, 0.05, 0.5, 0.9, 0.95, 0.99], dtype=torch.float64)
    assert example.quantile(q).tolist() == pytest.approx([-3.4387, -2.0, 0.6667, 2.7055, 3.2745, 4.3231], abs=5e-5)


def random_posterior(seed, batch=(3,)):
    generator = torch.Generator().manual_seed(seed)
    borders = torch.rand(12, generator=generator, dtype=torch.float64).mul(0.9).add(0.1).cumsum(0) - 3.0
    return BarDistribution(borders).posterior(2 * torch.randn(*batch, 11, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(5))
def test_density_integrates_to_one_and_to_the_cdf(seed):
    posterior = random_posterior(seed, batch=())
    points = posterior.borders.tolist()

    def density(y):
        return posterior.log_prob(torch.tensor(y, dtype=torch.float64)).exp().item()

    total, _ = scipy.integrate.quad(density, -60, 60, points=points, limit=500)
    assert total == pytest.approx(1.0, abs=1e-6)
    for y in (-4.0, points[1] - 0.01, points[5] + 0.03, points[-2] + 0.5):
        below, _ = scipy.integrate.quad(density, -60, y, points=[p for p in points if p < y], limit=500)
        assert posterior.cdf(torch.tensor(y, dtype=torch.float64)).item() == pytest.approx(below, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_quantile_inverts_cdf(seed):
    posterior = random_posterior(seed)
    q = torch.linspace(0.001, 0.999, 97, dtype=torch.float64)
    values = posterior.quantile(q)
    assert (values.diff(dim=-1) > 0).all()
    for column, probability in zip(values.T, q, strict=True):
        torch.testing.assert_close(posterior.cdf(column), probability.expand(3), atol=1e-9, rtol=0)


def test_moments_agree_with_samples():
    posterior = random_posterior(0)
    y = posterior.sample(400_000, generator=torch.Generator().manual_seed(1))
    error = 4 * posterior.variance.sqrt() / 400_000**0.5
    assert ((y.mean(-1) - posterior.mean).abs() < error).all()
    torch.testing.assert_close(y.var(-1), posterior.variance, rtol=0.02, atol=0)


def test_ends_of_the_support_are_infinite(example):
    assert example.quantile(torch.tensor([0.0, 1.0])).tolist() == [-math.inf, math.inf]


def test_borders_from_samples_hold_equal_mass():
    y = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    bars = BarDistribution.from_samples(y, 50)
    counts = torch.histogram(y, bars.borders).hist
    assert (counts - 200).abs().max() <= 2
    assert bars.borders[0] == y.min()
    assert bars.borders[-1] == y.max()


def test_log_prob_is_finite_far_out_in_float32():
    posterior = BarDistribution(BORDERS.float()).posterior(MASS.log().float())
    assert posterior.log_prob(torch.tensor(-500.0)).isfinite()


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"quantiles must lie in \[0, 1\], got \[95.0\]; 95 % is 0.95"):
        BarDistribution(BORDERS).posterior(MASS.log()).quantile(torch.tensor([95.0]))
    with pytest.raises(ValueError, match="increase strictly"):
        BarDistribution(torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="logits end in 3 values, but there are 4 bars"):
        BarDistribution(BORDERS).posterior(torch.zeros(3))
    with pytest.raises(ValueError, match="10 samples cannot fill n_bars=50"):
        BarDistribution.from_samples(torch.randn(10), 50)
