import math

import pytest
import scipy.integrate
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_bar import BORDERS, MASS, assert_gradient, double, posteriors, quick, random_posterior

from pfn import BarDistribution
from pfn.bar import BarPosterior
from pfn.bar_improvement import log_mean_excess

# Worked example of ../shared/specs/posterior-fidelity.md, section 8.
BEST = (-3.0, -1.5, 0.0, 0.5, 1.5, 3.0)
EXPECTED = (3.7170, 2.2798, 1.0232, 0.7107, 0.2998, 0.0486)
PROBABILITY = (0.9823, 0.9264, 0.7000, 0.5500, 0.2944, 0.0709)


@pytest.fixture
def example():
    return BarDistribution(BORDERS).posterior(MASS.log())


def test_worked_example(example):
    assert example.expected_improvement(double(*BEST)).tolist() == pytest.approx(EXPECTED, abs=5e-5)
    assert example.probability_of_improvement(double(*BEST)).tolist() == pytest.approx(PROBABILITY, abs=5e-5)


@pytest.mark.parametrize(("best", "right", "published"), [(-3.0, 3.7170, 2.129), (0.0, 1.0232, 0.623)])
def test_two_published_implementations_are_wrong(example, best, right, published):
    """PFNs 0.4.2 and PFNs4BO 0.1.5: no a_R − τ in the right tail, E min(sZ, d) instead of d − E min(sZ, d) in the left."""
    scale = 1 / scipy.special.ndtri(0.75)
    root = math.sqrt(2 / math.pi)
    interior = sum(
        p * ((right - best) ** 2 - (max(left, best) - best) ** 2) / 2
        for p, left, right in ((0.2, -1.0, 0.0), (0.3, 0.0, 1.0)) if right > best
    )
    u = (-1.0 - best) / scale
    density = math.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    smaller = scale * root - 2 * scale * density + 2 * (u * scale) * scipy.special.ndtr(-u)      # E min(sZ, d)
    wrong = interior + 0.4 * scale * root + (0.1 * smaller if best < -1 else 0)
    assert wrong == pytest.approx(published, abs=5e-4)
    assert example.expected_improvement(best).item() == pytest.approx(right, abs=5e-5)


def test_agrees_with_samples():
    """A million draws; four standard errors."""
    posterior = random_posterior(3, batch=())
    y = posterior.sample(1_000_000, generator=torch.Generator().manual_seed(1))
    for best in (-4.0, -1.0, 1.0, 4.0):
        for maximize, sign in ((True, 1), (False, -1)):
            gain = (sign * (y - best)).clamp_min(0)
            for values, exact in (
                (gain, posterior.expected_improvement(best, maximize=maximize)),
                ((gain > 0).double(), posterior.probability_of_improvement(best, maximize=maximize)),
            ):
                assert abs(values.mean() - exact) < 4 * values.std() / 1000 + 1e-6, (best, maximize)


@quick
@given(posteriors(), st.floats(-100, 1000))
def test_both_directions_differ_by_the_distance_to_the_mean(posterior, best):
    up, down = (posterior.expected_improvement(best, maximize=m) for m in (True, False))
    scale = posterior.mean.abs() + abs(best) + posterior.variance.sqrt()
    torch.testing.assert_close(up - down, posterior.mean - best, rtol=0, atol=1e-12 * scale.item())
    above, below = (posterior.probability_of_improvement(best, maximize=m) for m in (True, False))
    assert (above + below).item() == pytest.approx(1, abs=1e-12)
    assert below.item() == pytest.approx(posterior.cdf(best).item(), rel=1e-9, abs=1e-300)
    assert above.item() == pytest.approx(posterior.survival(best).item(), rel=1e-9, abs=1e-300)


@quick
@given(posteriors())
def test_expected_improvement_is_convex_decreasing_and_its_slope_is_the_probability(posterior):
    middle, spread = posterior.mean.item(), 4 * posterior.variance.sqrt().item()
    best = torch.linspace(middle - spread, middle + spread, 101, dtype=torch.float64).requires_grad_()
    value = posterior.expected_improvement(best)
    assert (value.diff() <= 0).all()
    assert (value.diff().diff() >= -1e-12 * spread).all()
    (slope,) = torch.autograd.grad(value.sum(), best)
    torch.testing.assert_close(slope, -posterior.probability_of_improvement(best), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_excess_agrees_with_quadrature(dtype):
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    for u in (0.0, 1e-3, 0.5, 3.0, 9.99, 10.01, 15.0, 29.9, 30.1, 60.0):
        # E(Z − u)₊ = 2φ(u) ∫₀^∞ t exp(−ut − t²/2) dt, which has no small number in it.
        end = 45 / (1 + u)
        integral, _ = scipy.integrate.quad(lambda t, u=u: t * math.exp(-u * t - t * t / 2), 0, end, epsrel=1e-12)
        exact = math.log(2 / math.sqrt(2 * math.pi)) - u * u / 2 + math.log(integral)
        answer = log_mean_excess(torch.tensor(u, dtype=dtype)).item()
        assert answer == pytest.approx(exact, abs=tolerance, rel=torch.finfo(dtype).eps * 2), u


@pytest.mark.parametrize("maximize", [True, False])
def test_float32_agrees_with_float64_far_out(maximize):
    exact = random_posterior(1, batch=(), n_bars=30)
    rough = BarPosterior(exact.borders.float(), exact.log_mass.float())
    end, sign = (exact.borders[-1], 1) if maximize else (exact.borders[0], -1)
    scale = exact.borders.diff()[-1 if maximize else 0] / scipy.special.ndtri(0.75)
    best = (end + sign * scale * double(0.0, 1.0, 5.0, 9.0, 12.0, 40.0, 1e3, 1e6)).float()       # what float32 is asked
    for name in ("log_expected_improvement", "log_probability_of_improvement"):
        here, there = (best.to(p.log_mass.dtype).requires_grad_() for p in (rough, exact))
        value, truth = getattr(rough, name)(here, maximize=maximize), getattr(exact, name)(there, maximize=maximize)
        torch.testing.assert_close(value.double(), truth, rtol=2e-6, atol=2e-5)
        assert (value.diff() < 0).all()
        slopes = [torch.autograd.grad(v.sum(), b)[0] for v, b in ((value, here), (truth, there))]
        torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-4, atol=0)


def test_asymptotics_of_the_tail(example):
    """ln EI → ln p + ln 2 + ln s + ln φ(u) − 2 ln u."""
    scale = 1 / scipy.special.ndtri(0.75)
    for u in (1e3, 1e5, 1e8):
        expected = math.log(0.4 * 2 * scale / math.sqrt(2 * math.pi)) - u * u / 2 - 2 * math.log(u)
        assert example.log_expected_improvement(1 + u * scale).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("maximize", [True, False])
def test_gradients_are_finite_everywhere(dtype, maximize):
    bars = BarDistribution(BORDERS.to(dtype))
    best = torch.cat([BORDERS, double(-1e6, -60.0, -1e-30, 1e-30, 60.0, 1e6)]).to(dtype).requires_grad_()
    for mass in (MASS, double(1e-30, 0.5, 0.5, 1e-30), double(0.5, 0.0, 0.0, 0.5)):
        logits = mass.log().to(dtype).requires_grad_()
        for name in ("log_expected_improvement", "expected_improvement", "log_probability_of_improvement"):
            value = getattr(bars.posterior(logits), name)(best, maximize=maximize)
            assert value.isfinite().all()
            for gradient in torch.autograd.grad(value.sum(), (logits, best)):
                assert gradient.isfinite().all()


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("name", ["expected_improvement", "log_expected_improvement", "log_probability_of_improvement"])
def test_gradients_agree_with_finite_differences(name, maximize):
    posterior = random_posterior(8)
    bars = BarDistribution(posterior.borders)
    for best in (double(-6.0, 0.33, 9.0), double(20.0, 40.0, -20.0)):
        assert_gradient(lambda b: getattr(posterior, name)(b, maximize=maximize), best, rtol=1e-5)
        assert_gradient(
            lambda z, best=best: getattr(bars.posterior(z), name)(best, maximize=maximize), posterior.log_mass, rtol=1e-5
        )


def test_one_incumbent_for_all_rows_or_one_each():
    posterior = random_posterior(9)
    each = posterior.expected_improvement(double(0.5, 0.5, 0.5))
    torch.testing.assert_close(posterior.expected_improvement(0.5), each)
    assert posterior.expected_improvement(double(0.0, 1.0).view(2, 1)).shape == (2, 3)
    assert posterior.unsqueeze().expected_improvement(double(0.0, 1.0)).shape == (3, 2)


def test_a_posterior_without_right_tail_may_have_nothing_to_gain():
    posterior = BarDistribution(BORDERS).posterior(double(0.5, 0.3, 0.2, 0.0).log())
    assert posterior.expected_improvement(1.0).item() == 0
    assert posterior.expected_improvement(0.5).item() == pytest.approx(0.2 * 0.125)
