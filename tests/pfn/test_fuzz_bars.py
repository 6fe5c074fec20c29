"""Random bar distributions, wilder than those of test_bar.py: many and empty bars, batches, float32, widths of 1e-6 to 1e6.

`test_bar.py` and its siblings hold the algebra in float64 on bars of like widths.
"""

import math

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from pfn import BarDistribution
from pfn.bar import BarPosterior
from pfn.bar_mixture import mixture

DTYPES = st.sampled_from([torch.float32, torch.float64])


@st.composite
def posteriors(draw, dtype):
    """A batch of up to three rows, borders shared or each row's own, some bars without mass."""
    seed, n_bars = draw(st.integers(0, 2**32)), draw(st.integers(2, 6) | st.integers(50, 300))
    generator = torch.Generator().manual_seed(seed)
    batch = draw(st.sampled_from([(), (1,), (3,)]))
    own = batch if draw(st.booleans()) else ()
    spread = draw(st.floats(0.0, 3.0 if dtype == torch.float32 else 6.0))
    widths = 10 ** (spread * (2 * torch.rand(*own, n_bars + 1, generator=generator, dtype=torch.float64) - 1))
    borders = widths.cumsum(-1) - draw(st.floats(0, 1)) * widths.sum(-1, keepdim=True)
    logits = draw(st.floats(0.0, 20.0)) * torch.randn(*batch, n_bars, generator=generator, dtype=torch.float64)
    empty = torch.rand(*batch, n_bars, generator=generator) < draw(st.sampled_from([0.0, 0.0, 0.3]))
    empty &= ~empty.all(-1, keepdim=True)                           # not all of them
    logits = logits.masked_fill(empty, -torch.inf)
    return BarPosterior(borders.to(dtype), logits.to(dtype).log_softmax(-1))


def increases(borders):
    return bool((borders.diff(dim=-1) > 0).all())


@examples(25)
@given(data=st.data())
def test_cdf_rises_from_0_to_1_and_quantiles_invert_it(data):
    dtype = data.draw(DTYPES)
    posterior = data.draw(posteriors(dtype).filter(lambda p: increases(p.borders)))
    q = torch.tensor(sorted(data.draw(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=6))), dtype=torch.float64)
    y = posterior.quantile(q)
    assert y.shape == (*posterior.batch_shape, len(q))
    assert y.isfinite().all()
    assert (y.diff(dim=-1) >= 0).all()
    below, above = posterior.unsqueeze().cdf(y), posterior.unsqueeze().survival(y)
    # In float32 a border near 1e5 is known to 1e-2: the mass of the bars within that is the error.
    room = posterior.borders.abs().amax(-1, keepdim=True) * 4 * torch.finfo(dtype).eps
    error = (posterior.unsqueeze().cdf(y + room) - posterior.unsqueeze().cdf(y - room)) + 1e-5
    assert ((below - q).abs() <= error).all()
    assert ((below + above - 1).abs() < 1e-5).all()
    everywhere = torch.cat([y, posterior.borders.expand(*posterior.batch_shape, -1)], -1).sort(-1).values
    cdf = posterior.unsqueeze().cdf(everywhere)
    assert ((cdf >= 0) & (cdf <= 1)).all()
    assert (cdf.diff(dim=-1) >= -1e-6).all()


@examples(25)
@given(data=st.data())
def test_tails_are_finite_wherever_they_hold_mass(data):
    dtype = data.draw(DTYPES)
    posterior = data.draw(posteriors(dtype).filter(lambda p: increases(p.borders)))
    width = (posterior.borders[..., -1] - posterior.borders[..., 0]) * data.draw(st.floats(1.0, 1e6))
    for y, mass in ((posterior.borders[..., 0] - width, posterior.log_mass[..., 0]),
                    (posterior.borders[..., -1] + width, posterior.log_mass[..., -1])):
        density = posterior.log_prob(y)
        assert torch.equal(density.isfinite(), mass.isfinite().expand(density.shape))
        assert not density.isnan().any()
        for maximize in (True, False):
            gain = posterior.log_expected_improvement(y, maximize=maximize)
            assert not gain.isnan().any()
            assert (gain < math.inf).all()
        crps = posterior.crps(y)
        assert crps.isfinite().all()
        assert (crps >= 0).all()
        # So far out, the score is the distance to the mean but for the spread.
        assert (crps <= (y - posterior.mean).abs() * (1 + 1e-4)).all()
    for summary in (posterior.mean, posterior.variance, posterior.median, posterior.mode, posterior.entropy):
        assert summary.shape == posterior.batch_shape
        assert summary.isfinite().all()
    assert (posterior.variance >= 0).all()


@examples(25)
@given(data=st.data())
def test_an_affine_map_there_and_back(data):
    posterior = data.draw(posteriors(torch.float64).filter(lambda p: increases(p.borders)))
    scale = data.draw(st.sampled_from([-1.0, 1.0])) * 10 ** data.draw(st.floats(-200, 200))
    q = torch.tensor([0.0137, 0.3123, 0.5077, 0.9871], dtype=torch.float64)           # at no border of equal bars
    moved = posterior.affine(scale)
    expected = scale * posterior.quantile(q if scale > 0 else 1 - q)
    torch.testing.assert_close(moved.quantile(q), expected, rtol=1e-7, atol=abs(scale) * 1e-9)
    y = posterior.quantile(q)[..., 1]
    torch.testing.assert_close(moved.log_prob(scale * y), posterior.log_prob(y) - math.log(abs(scale)), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(moved.crps(scale * y), abs(scale) * posterior.crps(y), rtol=1e-6, atol=abs(scale) * 1e-9)
    back = moved.affine(1 / scale)
    torch.testing.assert_close(back.mean, posterior.mean, rtol=1e-7, atol=1e-9)


@examples(8)
@given(data=st.data())
def test_a_mixture_lies_between_its_components(data):
    one, other = (data.draw(posteriors(torch.float64).filter(lambda p: increases(p.borders) and p.batch_shape == ()))
                  for _ in range(2))
    weight = data.draw(st.floats(0.01, 0.99))
    mixed = mixture([one, other], [weight, 1 - weight])
    y = data.draw(st.floats(-100, 100))
    expected = weight * one.cdf(y) + (1 - weight) * other.cdf(y)
    torch.testing.assert_close(mixed.cdf(y), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(mixed.mean, weight * one.mean + (1 - weight) * other.mean, rtol=1e-6, atol=1e-6)
    q = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    between = torch.stack([one.quantile(q), other.quantile(q)])
    room = 1e-6 * (1 + between.abs().amax(0))
    assert (mixed.quantile(q) >= between.amin(0) - room).all()
    assert (mixed.quantile(q) <= between.amax(0) + room).all()


@examples(25)
@given(y=st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=60), n_bars=st.integers(2, 20))
def test_borders_from_samples_or_an_error_that_says_why(y, n_bars):
    y = torch.tensor(y, dtype=torch.float64)
    try:
        bars = BarDistribution.from_samples(y, n_bars)
    except ValueError as error:
        assert f"n_bars={n_bars}" in str(error)  # noqa: PT017
        assert len(y) <= n_bars or len(y.float().unique()) < len(y) or y.abs().max() > 1e3
        return
    assert bars.n_bars == n_bars
    assert increases(bars.borders)
    with pytest.raises(ValueError, match=f"logits end in {n_bars + 1} values, but there are {n_bars} bars"):
        bars.posterior(torch.zeros(n_bars + 1))
