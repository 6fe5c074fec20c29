import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from estimators.truncated_bars import TruncatedBars
from pfn import BarPosterior

BORDERS = torch.tensor([-3.0, -1.5, -0.4, 0.1, 0.7, 1.1, 2.5, 4.0], dtype=torch.float64)
LIMITS = [(-math.inf, math.inf), (-0.2, 0.6), (-2.0, 3.5), (-9.0, 0.5), (0.1, 9.0), (-4.0, -1.8), (2.6, 3.0), (0.2, 0.3),
          (-0.4, 1.1)]


@pytest.fixture(scope="module")
def bars():
    logits = torch.randn(len(LIMITS), 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_mass = logits.log_softmax(-1)
    low, high = torch.tensor(LIMITS, dtype=torch.float64).T
    return TruncatedBars(BORDERS, log_mass, low, high)


def inside(bars, n=41):
    """Values between the limits, (curves, steps, n)."""
    x = torch.stack([torch.linspace(max(low, -5), min(high, 6), n + 2, dtype=torch.float64)[1:-1] for low, high in LIMITS])
    return x.unsqueeze(1).expand(-1, 3, -1)


def test_density_and_shares_are_those_of_the_bars_divided_by_the_mass_between_the_limits(bars):
    whole = BarPosterior(BORDERS, bars.log_mass).unsqueeze()
    low, high = bars.low.view(-1, 1, 1), bars.high.view(-1, 1, 1)
    mass = whole.cdf(high) - whole.cdf(low)
    x = inside(bars)
    torch.testing.assert_close(bars.log_prob(x), whole.log_prob(x) - mass.log())
    below, above = bars.shares(x)
    torch.testing.assert_close(below, (whole.cdf(x) - whole.cdf(low)) / mass)
    torch.testing.assert_close(above, (whole.cdf(high) - whole.cdf(x)) / mass)


def test_density_integrates_to_the_shares(bars):
    for number, (low, high) in enumerate(LIMITS):
        low, high = max(low, -30.0), min(high, 30.0)
        x = 0.4 * low + 0.6 * high

        def density(x, number=number):
            return bars.log_prob(torch.full((len(LIMITS), 3, 1), x, dtype=torch.float64))[number, 1, 0].exp().item()

        points = [b for b in BORDERS.tolist() if low < b < x]
        below, _ = quad(density, low, x, points=points or None, limit=200)
        share = bars.shares(torch.full((len(LIMITS), 3, 1), x, dtype=torch.float64))[0][number, 1, 0].item()
        assert share == pytest.approx(below, abs=1e-9), (low, high)


def test_nothing_lies_beyond_the_limits(bars):
    far = torch.tensor([-20.0, 20.0], dtype=torch.float64).expand(len(LIMITS), 3, -1)
    below, above = bars.shares(far)
    torch.testing.assert_close(below[1:], torch.tensor([0.0, 1.0]).double().expand(len(LIMITS) - 1, 3, -1))
    torch.testing.assert_close(above[1:], torch.tensor([1.0, 0.0]).double().expand(len(LIMITS) - 1, 3, -1))
    assert (bars.log_prob(far)[1:] == -math.inf).all()


def test_quantile_inverts_the_cdf(bars):
    q = torch.linspace(0.001, 0.999, 57, dtype=torch.float64).expand(len(LIMITS), 3, -1)
    torch.testing.assert_close(bars.shares(bars.quantile(q))[0], q)
    x = inside(bars)
    torch.testing.assert_close(bars.quantile(bars.shares(x)[0]), x, rtol=1e-7, atol=1e-9)


def test_the_extreme_quantiles_are_the_limits(bars):
    ends = bars.quantile(torch.tensor([0.0, 1.0]).double().expand(len(LIMITS), 3, -1))
    torch.testing.assert_close(ends[:, 0], torch.tensor(LIMITS, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("function", [lambda x: x, torch.square, lambda x: x**5], ids=["x", "x²", "x⁵"])
def test_expectations_of_polynomials_are_exact(bars, function):
    """Against a piecewise quadrature of the density."""
    found = bars.expectations(function(bars.nodes))
    node, weight = np.polynomial.legendre.leggauss(200)
    for number, (low, high) in enumerate(LIMITS):
        low, high = max(low, -25.0), min(high, 25.0)
        edges = [low, *(b for b in BORDERS.tolist()[1:-1] if low < b < high), high]
        total = 0.0
        for left, right in pairwise(edges):
            x = torch.tensor(left + (right - left) * (node + 1) / 2)
            density = bars.log_prob(x.expand(len(LIMITS), 3, -1))[number].exp()
            total = total + (density * function(x) * torch.tensor(weight)).sum(-1) * (right - left) / 2
        torch.testing.assert_close(found[number], total, rtol=1e-9, atol=1e-10)


def test_expectation_of_a_logarithm_that_is_infinite_at_a_limit(bars):
    """A bounded metric's infinite end: E ln(X - low), as by the antiderivative in a bar cut at 0.2 and 0.3."""
    number = LIMITS.index((0.2, 0.3))
    found = bars.expectations((bars.nodes - bars.low.clamp_min(-100).unsqueeze(1)).log())[number]
    torch.testing.assert_close(found, torch.full((3,), math.log(0.1) - 1, dtype=torch.float64), rtol=0, atol=2e-6)


def test_a_distribution_far_outside_the_limits_has_no_nan():
    """All that is left between them is what every bar has."""
    mass = torch.full((1, 1, 7), 1e-9, dtype=torch.float64)
    mass[..., -1] = 1.0
    bars = TruncatedBars(BORDERS, (mass / mass.sum()).log(), torch.tensor([-0.3]).double(), torch.tensor([0.3]).double())
    x = torch.linspace(-0.3, 0.3, 7).double().view(1, 1, -1)
    assert bars.log_prob(x).isfinite().all()
    below, above = bars.shares(x)
    torch.testing.assert_close(below + above, torch.ones_like(below))
    torch.testing.assert_close(bars.quantile(below), x)
