import math

import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_bar import assert_gradient, double, posteriors, quick, random_posterior


@quick
@given(posteriors(), st.floats(0.01, 100) | st.floats(-100, -0.01), st.floats(-50, 50), st.floats(0.001, 0.999))
def test_everything_goes_along_with_an_affine_map(posterior, scale, location, q):
    moved = posterior.affine(scale, location)
    up, size = scale > 0, abs(scale)
    y = posterior.quantile(double(q))
    there = scale * y + location
    close = {"rtol": 1e-7, "atol": 1e-9 * (1 + size) * (1 + abs(location))}
    torch.testing.assert_close(moved.log_prob(there), posterior.log_prob(y) - math.log(size), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moved.cdf(there), posterior.cdf(y) if up else posterior.survival(y), **close)
    torch.testing.assert_close(moved.quantile(double(q if up else 1 - q)), there, **close)
    torch.testing.assert_close(moved.mean, scale * posterior.mean + location, **close)
    torch.testing.assert_close(moved.variance, scale**2 * posterior.variance, rtol=1e-7, atol=0)
    torch.testing.assert_close(moved.entropy, posterior.entropy + math.log(size), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved.crps(there), size * posterior.crps(y), **close)
    pinball = moved.pinball(there, double(0.3 if up else 0.7))
    torch.testing.assert_close(pinball, size * posterior.pinball(y, double(0.3)), **close)
    torch.testing.assert_close(
        moved.log_expected_improvement(there, maximize=up), posterior.log_expected_improvement(y) + math.log(size),
        rtol=1e-6, atol=1e-6,
    )
    torch.testing.assert_close(
        moved.probability_of_improvement(there, maximize=up), posterior.probability_of_improvement(y), **close
    )


def test_the_mode_goes_along():
    posterior = random_posterior(0, batch=(20,))
    for scale in (2.0, -3.0):
        torch.testing.assert_close(posterior.affine(scale, 1.0).mode, scale * posterior.mode + 1)


def test_each_row_may_have_its_own_map():
    posterior = random_posterior(0)
    scale, location = double(2.0, -1.0, -0.5), double(0.0, 1.0, 10.0)
    moved = posterior.affine(scale, location)
    assert moved.borders.shape == (3, 12)
    assert (moved.borders.diff() > 0).all()
    torch.testing.assert_close(moved.mean, scale * posterior.mean + location)
    y = double(-2.0, 0.0, 1.0)
    torch.testing.assert_close(moved.log_prob(scale * y + location), posterior.log_prob(y) - scale.abs().log())
    torch.testing.assert_close(moved.affine(1 / scale, -location / scale).borders, posterior.borders.expand(3, -1))
    several = posterior.affine(double(1.0, 2.0).view(2, 1))
    assert several.batch_shape == (2, 3)
    torch.testing.assert_close(several.median, double(1.0, 2.0).view(2, 1) * posterior.median)


def test_a_scale_of_zero_is_an_error():
    with pytest.raises(ValueError, match=r"scale=\[1.0, 0.0, 2.0\] has a 0.*use a scale ≠ 0"):
        random_posterior(0).affine(torch.tensor([1.0, 0.0, 2.0]))


def log_of_positive(y):
    return y.clamp_min(0.0).log()


def test_density_of_a_transformed_posterior_integrates_to_its_cdf_and_mean():
    posterior = random_posterior(1, batch=()).affine(0.3)
    warped = posterior.transformed(torch.exp, log_of_positive)
    points = posterior.borders[1:-1].exp().tolist()

    def density(y):
        return warped.log_prob(double(y)).exp().item()

    for y in (0.3, 1.0, 2.5):
        below, _ = scipy.integrate.quad(density, 0, y, points=[p for p in points if p < y], limit=500)
        assert warped.cdf(double(y)).item() == pytest.approx(below, abs=1e-7)
        assert warped.survival(double(y)).item() == pytest.approx(1 - below, abs=1e-7)
    mean, _ = scipy.integrate.quad(lambda y: y * density(y), 0, 60, points=points, limit=500)
    square, _ = scipy.integrate.quad(lambda y: y * y * density(y), 0, 60, points=points, limit=500)
    assert warped.mean.item() == pytest.approx(mean, rel=1e-6)
    assert warped.variance.item() == pytest.approx(square - mean**2, rel=1e-4)
    assert warped.log_prob(double(-1.0, 0.0)).tolist() == [-math.inf, -math.inf]
    assert warped.cdf(double(-1.0)).item() == 0


def test_quantiles_and_draws_are_transformed():
    posterior, q = random_posterior(2), double(0.01, 0.5, 0.99)
    warped = posterior.transformed(torch.sinh, torch.asinh)
    torch.testing.assert_close(warped.quantile(q), posterior.quantile(q).sinh())
    torch.testing.assert_close(warped.median, posterior.median.sinh())
    torch.testing.assert_close(warped.unsqueeze().cdf(warped.quantile(q)), q.expand(3, 3))
    draws = [p.sample(4, generator=torch.Generator().manual_seed(0)) for p in (warped, posterior)]
    torch.testing.assert_close(draws[0], draws[1].sinh())


def test_mean_agrees_with_samples():
    warped = random_posterior(3).affine(0.5).transformed(torch.exp, log_of_positive)
    y = warped.sample(1_000_000, generator=torch.Generator().manual_seed(0))
    assert ((y.mean(-1) - warped.mean).abs() < 4 * y.std(-1) / 1000).all()


def test_an_affine_map_by_either_way():
    posterior, y = random_posterior(4), double(-2.0, 0.5, 9.0)
    one, other = posterior.affine(2.0, 1.0), posterior.transformed(lambda y: 2 * y + 1, lambda y: (y - 1) / 2)
    for name in ("log_prob", "cdf"):
        torch.testing.assert_close(getattr(one, name)(y), getattr(other, name)(y))
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.variance, other.variance)


def test_density_is_differentiable_and_leaves_its_argument_alone():
    warped = random_posterior(5).transformed(torch.sinh, torch.asinh)
    y = double(-7.0, 0.4, 60.0)
    assert_gradient(warped.log_prob, y)
    assert not y.requires_grad
    assert not warped.log_prob(y).requires_grad
    with torch.no_grad():
        assert warped.log_prob(y.requires_grad_()).isfinite().all()


def test_a_decreasing_or_partial_function_is_an_error():
    with pytest.raises(ValueError, match=r"forward\(-1\) = 1.0 and forward\(1\) = -1.0.*affine\(-1.0\)"):
        random_posterior(0).transformed(torch.neg, torch.neg)
    with pytest.raises(ValueError, match="must increase on the whole real line"):
        random_posterior(0).transformed(torch.log, torch.exp)
