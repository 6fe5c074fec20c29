import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_bar import assert_gradient, double, posteriors, quick, random_posterior

from pfn.bar import BarPosterior
from pfn.bar_mixture import MixturePosterior, mixture

WEIGHTS = [0.5, 0.2, 0.3]


@pytest.fixture
def mixed():
    """Rows of three components on different borders."""
    components = [random_posterior(seed).affine(scale, 2.0 * seed) for seed, scale in enumerate((1.0, -0.5, 3.0))]
    return mixture(components, WEIGHTS)


@quick
@given(posteriors(), st.floats(-5, 20))
def test_a_mixture_of_one_is_itself(posterior, y):
    for mixed in (mixture([posterior]), MixturePosterior((posterior,), torch.zeros(1))):
        for name in ("log_prob", "cdf", "survival", "log_expected_improvement", "log_probability_of_improvement"):
            torch.testing.assert_close(getattr(mixed, name)(double(y)), getattr(posterior, name)(double(y)))
        torch.testing.assert_close(mixed.variance, posterior.variance)


def test_quantiles_of_a_mixture_of_one_are_its_own():
    posterior, q = random_posterior(0), double(0.001, 0.4, 0.999)
    torch.testing.assert_close(MixturePosterior((posterior,), torch.zeros(1)).quantile(q), posterior.quantile(q))


def test_on_equal_borders_masses_are_averaged_whatever_the_weights_sum_to():
    first, second = random_posterior(0), random_posterior(0, batch=(3,))
    second = BarPosterior(first.borders.clone(), random_posterior(1).log_mass)
    mixed = mixture([first, second], weights=[3.0, 1.0])
    assert isinstance(mixed, BarPosterior)
    torch.testing.assert_close(mixed.log_mass.exp(), 0.75 * first.log_mass.exp() + 0.25 * second.log_mass.exp())
    general = MixturePosterior((first, second), double(0.75, 0.25).log())
    y, q = double(-3.0, 0.0, 6.0), double(0.01, 0.6)
    for name in ("log_prob", "cdf", "expected_improvement", "probability_of_improvement"):
        torch.testing.assert_close(getattr(general, name)(y), getattr(mixed, name)(y))
    torch.testing.assert_close(general.pinball(y, q), mixed.pinball(y, q))
    for name in ("mean", "variance", "median"):
        torch.testing.assert_close(getattr(general, name), getattr(mixed, name))


def test_agrees_with_samples(mixed):
    assert isinstance(mixed, MixturePosterior)
    n = 300_000
    y = mixed.sample(n, generator=torch.Generator().manual_seed(0))
    assert y.shape == (3, n)
    assert ((y.mean(-1) - mixed.mean).abs() < 4 * mixed.variance.sqrt() / n**0.5).all()
    torch.testing.assert_close(y.var(-1), mixed.variance, rtol=0.02, atol=0)
    torch.testing.assert_close(mixed.expectation(torch.square), mixed.variance + mixed.mean.square())
    for best in (-5.0, 0.0, 5.0):
        gain = (y - best).clamp_min(0)
        assert ((gain.mean(-1) - mixed.expected_improvement(best)).abs() < 4 * gain.std(-1) / n**0.5).all()
        share = (y < best).double().mean(-1)
        assert ((share - mixed.cdf(torch.tensor(best))).abs() < 2 / n**0.5).all()
        exact = mixed.probability_of_improvement(best, maximize=False)
        torch.testing.assert_close(exact, mixed.cdf(double(best)).expand(3))


def test_quantile_inverts_cdf(mixed):
    q = double(1e-9, 0.05, 0.5, 0.8, 1 - 1e-9)
    y = mixed.quantile(q)
    assert (y.diff() > 0).all()
    torch.testing.assert_close(mixed.unsqueeze().cdf(y), q.expand(3, -1), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(mixed.unsqueeze().survival(y), (1 - q).expand(3, -1), rtol=1e-6, atol=0)
    assert mixed.quantile(double(0.0, 1.0))[0].tolist() == [-torch.inf, torch.inf]


def test_quantile_is_differentiable():
    one, other, q = random_posterior(3, batch=(), n_bars=4), random_posterior(4, batch=()), double(0.02, 0.6)
    assert_gradient(
        lambda z: mixture([BarPosterior(one.borders, z.log_softmax(-1)), other]).quantile(q), one.log_mass, 1e-4, 1e-6
    )


def test_rows_may_have_their_own_weights():
    components = random_posterior(0), random_posterior(1)
    weights = double(1.0, 0.0, 0.5, 0.5, 0.0, 1.0).view(3, 2)
    mixed = mixture(components, weights)
    torch.testing.assert_close(mixed.mean, (weights * torch.stack([c.mean for c in components], -1)).sum(-1))
    q = double(0.1, 0.9)
    torch.testing.assert_close(mixed.quantile(q)[0], components[0].quantile(q)[0])
    torch.testing.assert_close(mixed.quantile(q)[2], components[1].quantile(q)[2])
    draws = mixed.sample(100_000, generator=torch.Generator().manual_seed(0))
    assert ((draws.mean(-1) - mixed.mean).abs() < 4 * mixed.variance.sqrt() / 100_000**0.5).all()


def test_improvement_far_out_in_float32(mixed):
    rough = MixturePosterior(
        tuple(BarPosterior(c.borders.float(), c.log_mass.float()) for c in mixed.components), mixed.log_weights
    )
    for best in (-1e3, 1e3):
        for maximize in (True, False):
            exact = mixed.log_expected_improvement(best, maximize=maximize)
            torch.testing.assert_close(
                rough.log_expected_improvement(best, maximize=maximize).double(), exact, rtol=1e-5, atol=1e-5
            )


def test_components_with_warps_of_their_own():
    components = [random_posterior(0).transformed(torch.sinh, torch.asinh), random_posterior(1)]
    mixed = mixture(components)
    q = double(0.1, 0.5, 0.9)
    torch.testing.assert_close(mixed.unsqueeze().cdf(mixed.quantile(q)), q.expand(3, -1))
    torch.testing.assert_close(mixed.mean, (components[0].mean + components[1].mean) / 2)
    with pytest.raises(TypeError, match="a component is no BarPosterior"):
        mixed.log_expected_improvement(0.0)


def test_maps_of_a_mixture(mixed):
    y = double(-3.0, 0.0, 8.0)
    torch.testing.assert_close(mixed.affine(-2.0, 1.0).cdf(1 - 2 * y), mixed.survival(y))
    torch.testing.assert_close(mixed.transformed(torch.sinh, torch.asinh).cdf(y.sinh()), mixed.cdf(y))


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], r"shape \(1,\) for 2 posteriors"), ([1.0, -1.0], "at least 0"), ([0.0, 0.0], "not all 0"),
     ([float("nan"), 1.0], "nan")],
)
def test_bad_weights_are_named(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture([random_posterior(0), random_posterior(1)], weights)
    with pytest.raises(ValueError, match="posteriors is empty"):
        mixture([])
