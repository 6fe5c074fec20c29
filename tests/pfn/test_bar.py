import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn import BarDistribution
from pfn.bar import BarPosterior

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


def random_posterior(seed, batch=(3,), n_bars=11, border_batch=()):
    generator = torch.Generator().manual_seed(seed)
    widths = torch.rand(*border_batch, n_bars + 1, generator=generator, dtype=torch.float64).mul(0.9).add(0.1)
    logits = 2 * torch.randn(*batch, n_bars, generator=generator, dtype=torch.float64)
    return BarPosterior(widths.cumsum(-1) - 3.0, logits.log_softmax(-1))


@st.composite
def posteriors(draw, batch=()):
    """Two to eight bars, widths and masses over six orders of magnitude."""
    n_bars = draw(st.integers(2, 8))
    exponent = st.floats(-3, 3)
    widths = 10 ** torch.tensor(draw(st.lists(exponent, min_size=n_bars, max_size=n_bars)), dtype=torch.float64)
    start = draw(st.floats(-10, 10))
    borders = start + torch.cat([torch.zeros(1, dtype=torch.float64), widths.cumsum(0)])
    size = math.prod(batch) * n_bars
    logits = 2.3 * torch.tensor(draw(st.lists(exponent, min_size=size, max_size=size)), dtype=torch.float64)
    return BarDistribution(borders).posterior(logits.view(*batch, n_bars))


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


quick = settings(max_examples=50, deadline=None, derandomize=True)


def assert_gradient(function, at, rtol=1e-5, atol=1e-8):
    """Autograd against central differences, every entry of `at`, float64."""
    at = at.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at).sum(), at)
    numeric = torch.empty_like(at)
    with torch.no_grad():
        for i in range(at.numel()):
            step = torch.zeros_like(at).flatten()
            step[i] = 1e-6
            step = step.view_as(at)
            numeric.view(-1)[i] = (function(at + step) - function(at - step)).sum() / 2e-6
    torch.testing.assert_close(gradient, numeric, rtol=rtol, atol=atol)


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


@quick
@given(posteriors(), st.lists(st.floats(1e-6, 1 - 1e-6), min_size=2, max_size=5, unique=True))
def test_cdf_of_a_quantile_is_its_probability(posterior, q):
    q = double(*sorted(q))
    y = posterior.quantile(q)
    assert (y.diff() >= 0).all()
    torch.testing.assert_close(posterior.cdf(y), q, rtol=1e-7, atol=1e-11)
    torch.testing.assert_close(posterior.survival(y), 1 - q, rtol=1e-7, atol=1e-11)


def test_tails_keep_their_relative_accuracy_in_float32():
    exact = random_posterior(2, batch=(), n_bars=200)
    rough = BarPosterior(exact.borders.float(), exact.log_mass.float())
    q = torch.logspace(-30, -2, 15, dtype=torch.float64)
    torch.testing.assert_close(rough.quantile(q), exact.quantile(q).float(), rtol=2e-5, atol=1e-5)
    upper = exact.affine(-1.0).quantile(q)                         # where P(Y > -upper) = q, exactly
    for values in (exact.quantile(q), upper):
        assert (values.diff() > 0).all()
    torch.testing.assert_close(rough.survival(-upper.float()).double(), q, rtol=2e-3, atol=0)
    torch.testing.assert_close(rough.cdf(exact.quantile(q).float()).double(), q, rtol=2e-3, atol=0)
    near_one = 1 - torch.logspace(-15, -2, 14, dtype=torch.float64)
    torch.testing.assert_close(rough.quantile(near_one), exact.quantile(near_one).float(), rtol=2e-5, atol=1e-5)
    assert (rough.cdf(torch.linspace(-50, 300, 1000)) <= 1).all()


def test_tails_are_half_normals():
    """All mass in the left tail: Y = −|Z| with scale 1 / Φ⁻¹(¾)."""
    posterior = BarDistribution(double(-1.0, 0.0, 1.0)).posterior(double(0.0, -torch.inf))
    oracle = scipy.stats.halfnorm(scale=1 / scipy.stats.norm.ppf(0.75))
    y = double(-12.0, -3.0, -0.5)
    torch.testing.assert_close(posterior.log_prob(y), torch.from_numpy(oracle.logpdf(-y)))
    torch.testing.assert_close(posterior.cdf(y), torch.from_numpy(oracle.sf(-y)))
    q = double(1e-12, 0.3, 0.9)
    torch.testing.assert_close(posterior.quantile(q), -torch.from_numpy(oracle.isf(q)))
    assert posterior.mean.item() == pytest.approx(-oracle.mean())
    assert posterior.variance.item() == pytest.approx(oracle.var())
    assert posterior.entropy.item() == pytest.approx(oracle.entropy())
    assert posterior.mode.item() == 0.0


def test_mode_is_the_middle_of_a_bar_or_the_inner_border_of_a_tail(example):
    assert example.mode.item() == 0.5                              # .3, while the denser-looking tail has .4 · .538
    for mass, mode in (([0.1, 0.1, 0.1, 0.7], 1.0), ([0.7, 0.1, 0.1, 0.1], -1.0), ([0.1, 0.6, 0.2, 0.1], -0.5)):
        posterior = BarDistribution(BORDERS).posterior(double(*mass).log())
        assert posterior.mode.item() == mode
        grid = torch.linspace(-6, 6, 997, dtype=torch.float64)
        assert posterior.log_prob(posterior.mode) >= posterior.log_prob(grid).max()


@pytest.mark.parametrize("seed", range(3))
def test_entropy_agrees_with_quadrature(seed):
    posterior = random_posterior(seed, batch=())

    def surprise(y):
        log_density = posterior.log_prob(double(y)).item()
        return -log_density * math.exp(log_density)

    total, _ = scipy.integrate.quad(surprise, -30, 30, points=posterior.borders.tolist(), limit=500)
    assert posterior.entropy.item() == pytest.approx(total, abs=1e-6)


def test_expectation_agrees_with_closed_forms():
    posterior = random_posterior(4)
    torch.testing.assert_close(posterior.expectation(lambda y: y), posterior.mean, rtol=1e-12, atol=1e-12)
    squared = posterior.variance + posterior.mean.square()
    torch.testing.assert_close(posterior.expectation(torch.square), squared, rtol=1e-12, atol=1e-12)
    tail = BarDistribution(double(-1.0, 0.0, 1.0)).posterior(double(-torch.inf, 0.0))
    scale = 1 / scipy.stats.norm.ppf(0.75)
    for t in (0.3, 1.0, 4 / scale):                                # E exp(t s|Z|) = 2 exp(t²s²/2) Φ(ts)
        expected = 2 * math.exp((t * scale) ** 2 / 2) * scipy.stats.norm.cdf(t * scale)
        assert tail.expectation(lambda y, t=t: (t * y).exp()).item() == pytest.approx(expected, rel=1e-10)


def test_every_row_may_have_its_own_borders():
    together = random_posterior(5, border_batch=(3,))
    y, q, generator = double(-4.0, 0.3, 9.0), double(0.001, 0.4, 0.999), torch.Generator()
    everything = [
        lambda p, y: p.log_prob(y), lambda p, y: p.cdf(y), lambda p, y: p.survival(y), lambda p, y: p.crps(y),
        lambda p, y: p.quantile(q), lambda p, y: p.pinball(y, q), lambda p, y: p.mean, lambda p, y: p.variance,
        lambda p, y: p.median, lambda p, y: p.mode, lambda p, y: p.entropy, lambda p, y: p.expectation(torch.sin),
        lambda p, y: p.expected_improvement(y), lambda p, y: p.expected_improvement(y, maximize=False),
        lambda p, y: p.probability_of_improvement(y), lambda p, y: p.probability_of_improvement(y, maximize=False),
        lambda p, y: p.sample(5, generator=generator.manual_seed(0))[..., :0],
    ]
    for method in everything:
        alone = [
            method(BarPosterior(borders, log_mass), value)
            for borders, log_mass, value in zip(together.borders, together.log_mass, y, strict=True)
        ]
        torch.testing.assert_close(method(together, y), torch.stack(alone))


def test_several_values_in_each_row():
    for posterior in (random_posterior(6), random_posterior(6, border_batch=(3,))):
        y = torch.linspace(-4, 6, 15, dtype=torch.float64).view(3, 5)
        rows = posterior.unsqueeze()
        assert rows.batch_shape == (3, 1)
        for name in ("log_prob", "cdf", "crps", "expected_improvement", "log_probability_of_improvement"):
            columns = [getattr(posterior, name)(column) for column in y.T]
            torch.testing.assert_close(getattr(rows, name)(y), torch.stack(columns, dim=1))


def test_log_prob_and_quantile_are_differentiable():
    borders, logits = random_posterior(7).borders, random_posterior(7).log_mass
    bars = BarDistribution(borders)
    y = double(-4.0, 0.33, 7.0)
    assert_gradient(lambda y: bars.posterior(logits).log_prob(y), y)
    assert_gradient(lambda logits: bars.posterior(logits).log_prob(y), logits)
    assert_gradient(lambda y: bars.posterior(logits).cdf(y), y)
    assert_gradient(lambda logits: bars.posterior(logits).cdf(y), logits)
    q = double(1e-4, 0.3, 0.7, 0.9999)
    assert_gradient(lambda logits: bars.posterior(logits).quantile(q), logits, rtol=1e-4, atol=1e-6)
    for name in ("mean", "variance", "entropy"):
        assert_gradient(lambda logits, name=name: getattr(bars.posterior(logits), name), logits)


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
    y = torch.tensor([-500.0, -1e15, 1e15], requires_grad=True)
    log_density = posterior.log_prob(y)
    assert log_density.isfinite().all()
    (gradient,) = torch.autograd.grad(log_density.sum(), y)
    assert gradient.isfinite().all()
    assert gradient.sign().tolist() == [1, 1, -1]


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"quantiles must lie in \[0, 1\], got \[95.0\]; 95 % is 0.95"):
        BarDistribution(BORDERS).posterior(MASS.log()).quantile(torch.tensor([95.0]))
    with pytest.raises(ValueError, match="increase strictly"):
        BarDistribution(torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="logits end in 3 values, but there are 4 bars"):
        BarDistribution(BORDERS).posterior(torch.zeros(3))
    with pytest.raises(ValueError, match="10 samples cannot fill n_bars=50"):
        BarDistribution.from_samples(torch.randn(10), 50)


def test_errors_of_the_algebra_name_the_value(example):
    rows = random_posterior(0)
    with pytest.raises(ValueError, match=r"y has shape \(2,\), the distributions \(3,\).*unsqueeze"):
        rows.log_prob(torch.zeros(2))
    with pytest.raises(TypeError, match=r"best is '1', a str; pass a float"):
        rows.expected_improvement("1")
    with pytest.raises(ValueError, match="borders end in 5 values and log_mass in 3"):
        BarPosterior(BORDERS, torch.zeros(3))
    with pytest.raises(ValueError, match=r"must have an axis, got the number 0.5; pass torch.tensor\(\[0.5\]\)"):
        example.quantile(torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"inside \(0, 1\), got \[0.0\]"):
        example.pinball(0.0, torch.tensor([0.0]))


def test_nan_stays_nan(example):
    nan = torch.tensor(math.nan)
    for name in ("log_prob", "cdf", "survival", "crps", "expected_improvement", "probability_of_improvement"):
        assert getattr(example, name)(nan).isnan(), name
    assert example.log_expected_improvement(nan, maximize=False).isnan()
