import math

import pytest
import scipy.stats
import torch

from priors.distributions import (
    Distribution,
    Gamma,
    InverseGamma,
    LogNormal,
    LogUniform,
    ScaledBeta,
    Uniform,
    UniformInteger,
    check_parameter,
    draw_parameter,
    fixed_value,
)
from priors.draw import Draw

CONTINUOUS = {
    Gamma(3.0, 6.0): scipy.stats.gamma(3.0, scale=1 / 6.0),
    Gamma(0.3, 2.0): scipy.stats.gamma(0.3, scale=1 / 2.0),
    InverseGamma(4.5, 2.0): scipy.stats.invgamma(4.5, scale=2.0),
    LogNormal(-4.63, 0.5): scipy.stats.lognorm(0.5, scale=math.exp(-4.63)),
    LogUniform(0.1, 10.0): scipy.stats.loguniform(0.1, 10.0),
    Uniform(-1.0, 3.0): scipy.stats.uniform(-1.0, 4.0),
}


def draw(seed=0):
    return Draw(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("law", CONTINUOUS, ids=repr)
def test_draws_follow_the_law_of_scipy(law):
    assert isinstance(law, Distribution)
    sample = law.sample(200, 50, draw=draw())
    assert sample.shape == (200, 50)
    assert sample.dtype == torch.float32
    assert scipy.stats.kstest(sample.flatten().numpy(), CONTINUOUS[law].cdf).pvalue > 1e-3


@pytest.mark.parametrize("law", [*CONTINUOUS, UniformInteger(3, 7)], ids=repr)
def test_moments_are_those_of_scipy(law):
    oracle = CONTINUOUS.get(law, scipy.stats.randint(3, 8))
    assert law.mean == pytest.approx(oracle.mean())
    assert law.variance == pytest.approx(oracle.var())


def test_moments_that_do_not_exist_are_infinite():
    assert InverseGamma(1.0, 1.0).mean == math.inf
    assert InverseGamma(2.0, 1.0).variance == math.inf


def test_a_gamma_of_tiny_shape_is_exact_in_logarithms():
    """With shape 1e-4, P(v > e^-100) = 1 - exp(-1e-4 · 100) up to terms of order 1e-4: nearly all draws underflow."""
    law, n = Gamma(1e-4, 1.0), 100_000
    log_sample = law.log_sample(n, draw=draw())
    assert log_sample.isfinite().all()
    expected = 1 - math.exp(-1e-4 * 100)
    assert (log_sample > -100).float().mean() == pytest.approx(expected, abs=4 * (expected / n) ** 0.5)
    assert (law.sample(n, draw=draw()) >= 0).all()


@pytest.mark.parametrize("arguments", [(2.0, 4.0, 2, 150), (0.1, 2.0, 1, 10), (1.0, 1.6, 5, 5)])
def test_scaled_beta_has_the_mass_of_the_beta_between_its_steps(arguments):
    a, b, low, high = arguments
    n, levels = 20_000, high - low + 1
    sample = ScaledBeta(*arguments).sample(n, draw=draw())
    edges = scipy.stats.beta(a, b).cdf(torch.linspace(0, 1, levels + 1).double().numpy())
    mass = torch.as_tensor(edges).diff()
    share = torch.bincount((sample - low).long(), minlength=levels) / n
    assert ((share - mass).abs() < 5 * (mass * (1 - mass) / n).sqrt() + 2 / n).all()


def test_a_number_is_a_constant():
    assert torch.equal(draw_parameter(0.5, 2, 3, draw=draw()), torch.full((2, 3), 0.5))
    assert fixed_value("noise", 1) == 1.0


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Gamma(-1.0, 2.0), r"shape=-1.0 of Gamma is not positive and finite; use shape > 0"),
    (lambda: LogNormal(0.0, 0.0), r"log_std=0.0 of LogNormal"),
    (lambda: LogUniform(2.0, 1.0), r"low=2.0 of LogUniform is not below high=1.0"),
    (lambda: ScaledBeta(1.0, 1.0, 3, 2), r"low=3 of ScaledBeta is above high=2"),
    (lambda: UniformInteger(3, 2), r"low=3 of UniformInteger is above high=2"),
    (lambda: check_parameter("width", 0), r"width=0 is not positive and finite; use width > 0"),
    (lambda: check_parameter("noise", -1.0, zero=True), r"noise=-1.0 is not at least 0 and finite; use noise >= 0"),
    (lambda: check_parameter("noise", math.nan), r"noise=nan"),
    (lambda: fixed_value("noise", Gamma(1.0, 2.0)), r"noise=Gamma\(shape=1.0, rate=2.0\) is a distribution"),
])
def test_errors_name_argument_value_and_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_parameter_is_a_number_or_a_distribution():
    with pytest.raises(TypeError, match=r"noise is 'low'; use a number or a distribution"):
        check_parameter("noise", "low")
