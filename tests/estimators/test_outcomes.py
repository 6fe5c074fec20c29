"""Transformations of outcomes and their inverses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata, yeojohnson, yeojohnson_normmax

from estimators.outcomes import Identity, PowerTransform, RankTransform, fit_transform, without_infinities
from pfn import BarDistribution

KINDS = ["power", "rank", "none"]
SAMPLES = {
    "normal": np.random.default_rng(0).normal(3.0, 2.0, 30),
    "skewed": np.random.default_rng(1).lognormal(0.0, 2.0, 40),
    "negative": -np.random.default_rng(2).lognormal(1.0, 1.0, 25),
    "few": np.array([0.3, -1.0, 2.5]),
    "two values": np.array([1.0, 1.0, 4.0, 4.0, 4.0, 1.0]),
    "one": np.array([-7.0]),
    "constant": np.full(8, 0.1),
    "zero": np.zeros(6),
    "tiny spread": 1.0 + 1e-12 * np.arange(10.0),
    "small": 1e-300 * np.arange(1.0, 9.0),
    "huge": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 1e300]),
    "huge of both signs": np.array([-1e300, -1.0, 0.0, 2.0, 3.0, 1e300]),
}


@pytest.fixture
def bars():
    """Three posteriors of transformed outcomes, in float64."""
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return BarDistribution(torch.linspace(-3.0, 3.0, 21).double()).posterior(logits)


@pytest.mark.parametrize("keeps_zero", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("y", SAMPLES.values(), ids=SAMPLES)
def test_observations_come_back(y, kind, keeps_zero, bars):
    transform = fit_transform(y, kind, keeps_zero=keeps_zero)
    z = transform.forward(y)
    assert np.isfinite(z).all()
    assert np.isfinite(z.astype(np.float32)).all()
    order = np.argsort(y)
    assert (np.diff(z[order]) >= 0).all()
    back = transform.posterior(bars).forward(torch.from_numpy(z)).numpy()
    # Ranks tell all values apart, between 1 and 1e300 too; there, what is added to keep 0 at 0 costs the last digits.
    spread = np.abs(y).max() if keeps_zero and kind == "rank" else np.quantile(np.abs(y), 0.75)
    np.testing.assert_allclose(back, y, rtol=1e-9, atol=1e-9 * spread)


@pytest.mark.parametrize("kind", KINDS)
@given(y=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), keeps_zero=st.booleans())
@settings(max_examples=40, deadline=None)
def test_whatever_is_observed_has_finite_scores_in_order(kind, y, keeps_zero):
    y = np.array(y)
    z = fit_transform(y, kind, keeps_zero=keeps_zero).forward(np.sort(y))
    assert np.isfinite(z).all()
    assert (np.diff(z) >= -1e-12 * np.abs(z).max()).all()


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 1.55, 2.0])
def test_powers_are_those_of_scipy(power):
    u = np.array([-40.0, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 300.0])
    np.testing.assert_allclose(PowerTransform(0.0, 1.0, power).forward(u), yeojohnson(u, power), rtol=1e-12)
    np.testing.assert_allclose(PowerTransform(2.0, 4.0, power).forward(2.0 + 4.0 * u), yeojohnson(u, power), rtol=1e-6)


@pytest.mark.parametrize("keeps_zero", [False, True])
@pytest.mark.parametrize("sample", ["skewed", "negative"])
def test_the_power_is_the_likeliest_between_0_and_2(sample, keeps_zero):
    y = SAMPLES[sample]
    found = PowerTransform.fit(y, keeps_zero=keeps_zero)
    likeliest = yeojohnson_normmax((y - found.location) / found.scale)
    assert found.power == pytest.approx(np.clip(likeliest, 0.0, 2.0), abs=0.026)       # half a step of the grid


def test_nothing_is_gained_by_a_power_of_normal_values():
    assert PowerTransform.fit(SAMPLES["normal"]).power == 1.0
    assert PowerTransform.fit(np.exp(SAMPLES["normal"])).power == 0.0


def test_few_or_equal_values_say_nothing_about_the_power():
    assert PowerTransform.fit(np.array([1.0, 2.0, 4.0, 800.0])).power == 1.0
    assert PowerTransform.fit(np.full(20, 3.0)).power == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("y", SAMPLES.values(), ids=SAMPLES)
def test_the_threshold_of_a_constraint_stays_at_0(kind, y):
    transform = fit_transform(y, kind, keeps_zero=True)
    assert transform.forward(np.zeros(1))[0] == 0
    assert (np.sign(transform.forward(y)) == np.sign(y)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sample", ["normal", "skewed", "negative", "few", "two values", "constant"])
def test_posteriors_are_transformed_exactly(kind, sample, bars):
    y = SAMPLES[sample]
    transform = fit_transform(y, kind)
    posterior = transform.posterior(bars)
    grid = np.linspace(y.min() - 0.5, y.max() + 0.5, 7)
    cdf = posterior.unsqueeze().cdf(torch.from_numpy(grid))
    torch.testing.assert_close(cdf, bars.unsqueeze().cdf(torch.from_numpy(transform.forward(grid))), rtol=1e-9, atol=1e-12)
    q = torch.tensor([0.01, 0.3, 0.5, 0.97], dtype=torch.float64)
    quantiles = posterior.quantile(q)
    assert bool((quantiles.diff(dim=1) > 0).all())
    scores = torch.from_numpy(transform.forward(quantiles.numpy()))
    torch.testing.assert_close(scores, bars.quantile(q), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.unsqueeze().cdf(quantiles), q.expand(3, 4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sample", ["normal", "skewed", "negative"])
def test_densities_are_slopes_of_the_cdf(kind, sample, bars):
    posterior = fit_transform(SAMPLES[sample], kind).posterior(bars)
    edges = posterior.quantile(torch.tensor([0.001, 0.999], dtype=torch.float64))[0].tolist()
    knots = posterior.forward(bars.borders[1:-1]).tolist()
    if kind == "rank":
        knots += SAMPLES[sample].tolist()
    ends = np.unique([*edges, *(k for k in knots if edges[0] < k < edges[1])])
    nodes, weights = np.polynomial.legendre.leggauss(30)            # within each piece it is smooth
    middles, halves = (ends[1:] + ends[:-1])[:, None] / 2, np.diff(ends)[:, None] / 2
    density = posterior.unsqueeze().log_prob(torch.from_numpy((middles + halves * nodes).ravel()).expand(3, -1)).exp()[0]
    assert density.numpy() @ (halves * weights).ravel() == pytest.approx(0.998, abs=1e-6)


def test_gradients_reach_the_posterior_of_outcomes(bars):
    for kind in KINDS:
        y = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(fit_transform(SAMPLES["few"], kind).posterior(bars).cdf(y).sum(), y)
        assert bool((slope > 0).all())


def test_ranks_are_normal_scores():
    y = SAMPLES["skewed"]
    np.testing.assert_allclose(RankTransform.fit(y).forward(y), norm.ppf((rankdata(y) - 0.5) / len(y)), atol=1e-12)
    tied = np.array([1.0, 1.0, 3.0, 9.0])
    expected = norm.ppf([0.25, 0.25, 0.625, 0.875])
    np.testing.assert_allclose(RankTransform.fit(tied).forward(tied), expected)
    between = RankTransform.fit(tied).forward(np.array([2.0]))[0]
    assert between == pytest.approx((expected[1] + expected[2]) / 2)


def test_values_that_no_power_tames_are_ranked():
    assert isinstance(fit_transform(SAMPLES["skewed"], "power"), PowerTransform)
    assert isinstance(fit_transform(SAMPLES["huge"], "power"), PowerTransform)
    for factor in (1.0, 1e-150, 1e-290):
        assert isinstance(fit_transform(factor * SAMPLES["huge of both signs"], "power"), RankTransform)
    outlier = np.append(np.random.default_rng(0).normal(size=60), 1e12)
    z = fit_transform(outlier, "power").forward(outlier)
    assert np.abs(z - z.mean()).max() <= 5 * z.std()


def test_none_is_affine():
    y = SAMPLES["skewed"]
    z = fit_transform(y, "none").forward(y)
    np.testing.assert_allclose((z - z[0]) / (z[1] - z[0]), (y - y[0]) / (y[1] - y[0]), rtol=1e-9)
    assert np.abs(z).max() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_stay_missing_and_change_nothing(kind):
    y = np.array([0.3, np.nan, -1.0, 2.5, np.nan, 7.0, 0.0, 1.0])
    with_gaps, without = fit_transform(y, kind), fit_transform(y[~np.isnan(y)], kind)
    z = with_gaps.forward(y)
    assert np.isnan(z).tolist() == np.isnan(y).tolist()
    np.testing.assert_array_equal(z[~np.isnan(y)], without.forward(y[~np.isnan(y)]))


def test_where_nothing_was_observed_nothing_changes(bars):
    for kind in KINDS:
        transform = fit_transform(np.full(3, np.nan), kind)
        assert transform == Identity()
        assert np.isnan(transform.forward(np.full(3, np.nan))).all()
        assert transform.posterior(bars) is bars


def test_inputs_are_left_alone():
    y = np.array([np.nan, 1.0, 5.0, 2.0, 3.0, 1e4, 0.0])
    before = y.copy()
    for kind in KINDS:
        fit_transform(y, kind).forward(y)
        np.testing.assert_array_equal(y, before)


def test_infinities_stand_at_the_largest_magnitude():
    table = np.array([[1.0, np.inf, -np.inf], [-3.0, np.nan, 0.0], [np.inf, np.inf, 0.0]])
    expected = [[1.0, 1.0, -1.0], [-3.0, np.nan, 0.0], [3.0, 1.0, 0.0]]
    np.testing.assert_array_equal(without_infinities(table), expected)
    assert without_infinities(np.empty((0, 2))).shape == (0, 2)


def test_unknown_kind():
    with pytest.raises(ValueError, match=r"outcome_transform='log' is unknown; use one of 'power', 'rank', 'none'"):
        fit_transform(np.ones(3), "log")
