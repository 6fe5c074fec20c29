"""Each event and kind of noise against what it promises."""

import pytest
import scipy.stats
import torch

from priors import LearningCurvePrior, TaskShape
from priors.curve_events import NOISE, SHAPES, autocorrelated, wandering
from priors.draw import Draw


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def curves(n, m=100, seed=0, **arguments):
    return LearningCurvePrior(**arguments).sample_curves(n, m, generator=seeded(seed))


@pytest.mark.parametrize("name", SHAPES)
def test_shape_is_as_frequent_as_asked(name):
    plain, _ = curves(4000)
    changed, _ = curves(4000, shapes={name: 0.3})
    share = (plain != changed).any(1).float().mean().item()
    # One that comes after the last step, or falls by nothing, leaves the curve as it was: at most one in twenty.
    tolerance = 4 * (0.3 * 0.7 / 4000) ** 0.5
    assert 0.3 * 0.95 - tolerance < share < 0.3 + tolerance
    assert torch.equal(plain, curves(4000, shapes={name: 0.0})[0])


def all_with(name, n=4000):
    plain, _ = curves(n)
    changed, _ = curves(n, shapes={name: 1.0})
    bare = SHAPES[name](plain, Draw(seeded(1)))                     # before rounding errors are clipped away
    assert bare.min() >= -1e-6
    assert bare.max() <= 1 + 1e-6
    assert changed.min() >= 0
    assert changed.max() <= 1
    return plain, changed


def test_slow_starts_rise_with_an_inflection():
    _, f = all_with("slow_start")
    assert (f.diff(dim=1) >= -1e-6).all()
    steepest = f.diff(dim=1).argmax(1)
    assert (steepest >= 5).float().mean() > 0.25                    # the released prior's curves start at once
    assert (curves(4000)[0].diff(dim=1).argmax(1) >= 5).float().mean() < 0.1


def test_learning_rate_drops_only_add():
    plain, f = all_with("learning_rate_drops")
    assert (f - plain >= -1e-6).all()
    assert torch.equal(f[:, :10], plain[:, :10])                    # none before a tenth of the horizon
    assert ((f - plain)[:, -1] > 0.05).float().mean() > 0.5


def test_double_descent_is_temporary():
    plain, f = all_with("double_descent")
    assert (f - plain <= 1e-6).all()
    deepest = (plain - f).argmax(1)
    inner = (deepest > 3) & (deepest < 20)
    loss = (plain - f)[inner]
    assert inner.sum() > 500
    assert (loss[:, -1] < 0.05 * loss.amax(1)).all()                # ln 5 and 0.6 apart: at most exp(-½ (ln 5 / 0.6)²) = .03


def test_divergence_loses_for_good():
    plain, f = all_with("divergence")
    assert (f - plain <= 1e-6).all()
    assert ((plain - f).diff(dim=1) >= -1e-6).all()
    assert torch.equal(f[:, :10], plain[:, :10])
    assert (f[:, -1] < f[:, 0]).float().mean() > 0.3
    assert ((plain - f) / plain.clamp_min(1e-3))[:, -1].quantile(0.95) > 0.85               # some lose nearly everything


def test_overfitting_is_a_straight_line_down():
    plain, f = all_with("overfitting")
    same = f == plain
    turn = same.long().cumprod(1).sum(1)                            # steps up to and including the best
    for curve, n_same in zip(f[:200], turn[:200].tolist(), strict=True):
        slopes = curve[n_same - 1 :].diff()
        if len(slopes):
            assert (slopes <= 0).all()
            assert slopes.max() - slopes.min() < 1e-6
    assert (f - plain)[:, -1].max() <= 1
    assert turn.float().mean() == pytest.approx(55, abs=4 * 26 / 4000**0.5 + 1)            # U{11 … 100}


def test_declines_lose_more_and_more_from_an_early_step_on():
    plain, f = all_with("decline")
    loss = plain - f
    assert (loss >= -1e-6).all()
    assert (loss.diff(dim=1) >= -1e-6).all()
    begins = (loss > 1e-6).long().argmax(1)
    assert ((begins < 10) & (loss[:, -1] > 0.01)).float().mean() > 0.3                 # log-uniform: early ones are common
    late, early = loss[:, -1] - loss[:, 75], loss[:, 75] - loss[:, 50]
    moved = early > 1e-3
    assert 0.2 < (late < early)[moved].float().mean() < 0.8                                 # slowing down and speeding up


def test_small_gains_are_a_share_of_the_curve_s_own():
    plain, f = all_with("small_gain")
    moved = plain - plain[:, :1]
    biggest = moved.abs().argmax(1, keepdim=True)
    share = ((f - f[:, :1]).gather(1, biggest) / moved.gather(1, biggest)).squeeze(1)
    torch.testing.assert_close(f, f[:, :1] + share.unsqueeze(1) * moved, atol=1e-6, rtol=0)
    learns = moved.gather(1, biggest).squeeze(1) > 0.1                                      # else rounding decides
    assert scipy.stats.kstest(share[learns].numpy(), scipy.stats.loguniform(1e-3, 1).cdf).pvalue > 1e-4


def test_wandering_paths_are_brownian_in_a_power_of_time():
    paths = wandering(20_000, 50, Draw(seeded()))
    ends = paths[:, -1]
    scale = scipy.stats.loguniform(1e-3, 0.1).rvs(20_000, random_state=0)
    normal = scipy.stats.norm.rvs(size=20_000, random_state=1)
    assert scipy.stats.ks_2samp(ends.numpy(), scale * normal).pvalue > 1e-4
    # Var B(u) = u^γ of the end's: 0.5^γ at half time, averaged over γ ~ U(0.3, 1); increments are uncorrelated.
    ratio = paths[:, 24].square().mean() / ends.square().mean()
    expected = (0.5**1.0 - 0.5**0.3) / (0.7 * torch.tensor(0.5).log())
    assert ratio == pytest.approx(expected.item(), rel=0.1)
    first, second = paths[:, 24], ends - paths[:, 24]
    assert torch.corrcoef(torch.stack([first.sign(), second.sign()]))[0, 1].abs() < 4 / 20_000**0.5


def test_autocorrelated_noise_agrees_with_the_recursion():
    white = torch.randn(5, 37, generator=seeded(), dtype=torch.float64)
    phi = torch.tensor([0.0, 0.3, 0.6, 0.9, 0.99], dtype=torch.float64).unsqueeze(1)
    slow = white.clone()
    for t in range(1, 37):
        slow[:, t] = phi[:, 0] * slow[:, t - 1] + (1 - phi[:, 0] ** 2).sqrt() * white[:, t]
    torch.testing.assert_close(autocorrelated(white, phi), slow)
    assert torch.equal(autocorrelated(white[:, :1], phi), white[:, :1])


def residuals(n=10_000, m=50, **noise):
    prior = LearningCurvePrior(noise=noise)
    f, std = prior.sample_curves(n, m, generator=seeded(2))
    return f, std, prior.sample(TaskShape(n, m, 1, 1), generator=seeded(2)).y


@pytest.mark.parametrize("name", ["decaying", "binomial", "autocorrelated"])
def test_noise_has_the_standard_deviation_that_it_reports(name):
    f, std, y = residuals(**{name: 1.0})
    for step in (0, 9, 49):
        usable = std[:, step] > 1e-3
        z = ((y - f)[:, step] / std[:, step])[usable]
        assert z.square().mean() == pytest.approx(1, abs=4 * (2 / len(z)) ** 0.5)


def test_decaying_and_binomial_noise_follow_their_definitions():
    plain = residuals()[1]
    rho = -(residuals(decaying=1.0)[1] / plain).log()[:, 1:] / torch.arange(2.0, 51.0).log()
    torch.testing.assert_close(rho, rho[:, -1:].expand_as(rho), atol=1e-3, rtol=0)
    assert scipy.stats.kstest(rho[:, -1].numpy(), "uniform").pvalue > 1e-4
    f, std, _ = residuals(binomial=1.0)
    torch.testing.assert_close(std / plain, 2 * (f * (1 - f)).sqrt())


def test_spikes_fall_below_the_curve_once_in_fifty_steps():
    f, std, y = residuals(spikes=1.0)
    far = y < f - 6 * std
    reachable = (6 * std / f.clamp_min(1e-3)).clamp_max(1)          # a spike is that far below with 1 - this
    expected = 0.02 * (1 - reachable).mean()
    assert far.float().mean() == pytest.approx(expected.item(), abs=4 * (0.02 / far.numel()) ** 0.5)
    assert y[far].min() >= 0


def test_rounded_curves_are_accuracies():
    _, _, y = residuals(n=500, rounded=1.0)
    assert y.min() >= 0
    assert y.max() <= 1
    examples = torch.arange(10, 10_001, dtype=torch.float64)
    for curve in y[:50].double():
        scaled = curve.unsqueeze(1) * examples
        error = ((scaled - scaled.round()).abs() / examples).amax(0)
        assert error.min() < 1e-7                                   # float32 resolution: some K fits all values


@pytest.mark.parametrize("name", NOISE)
def test_noise_leaves_the_curve_itself_alone(name):
    plain = curves(100)[0]
    assert torch.equal(curves(100, noise={name: 1.0})[0], plain)
    noisy = LearningCurvePrior(noise={name: 1.0}).sample(TaskShape(100, 100, 1, 1), generator=seeded()).y
    assert not torch.equal(noisy, LearningCurvePrior().sample(TaskShape(100, 100, 1, 1), generator=seeded()).y)
