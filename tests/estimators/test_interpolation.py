"""Predictions agree with observations, and are otherwise what the network said."""

import torch

from estimators.interpolation import Interpolation
from pfn import BarPosterior

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 2, generator=GENERATOR)
BORDERS = torch.linspace(-3, 3, 201)


def normal(mean, std):
    """Bars of normals with means and standard deviations (k, Q)."""
    centres = (BORDERS[1:] + BORDERS[:-1]) / 2
    log_mass = (-0.5 * ((centres - mean.unsqueeze(-1)) / std.unsqueeze(-1)).square()).log_softmax(-1)
    return BarPosterior(BORDERS, log_mass)


def setting():
    said = normal(torch.zeros(2, 12), torch.full((2, 12), 0.2))
    residual = 0.1 * torch.randn(2, 12, generator=GENERATOR)
    return said, residual, Interpolation(X, residual, said.variance)


def test_at_observations_the_mean_is_the_observation_and_little_is_uncertain():
    said, residual, interpolation = setting()
    corrected = interpolation(said, X)
    torch.testing.assert_close(corrected.mean, said.mean + residual, atol=2e-3, rtol=0)
    assert (corrected.variance.sqrt() < 0.05 * said.variance.sqrt()).all()


def test_far_away_nothing_changes():
    _, _, interpolation = setting()
    there = torch.full((1, 2), 40.0)
    said = normal(torch.full((2, 1), 0.3), torch.full((2, 1), 0.2))
    corrected = interpolation(said, there)
    torch.testing.assert_close(corrected.mean, said.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(corrected.variance, said.variance, atol=1e-6, rtol=1e-4)


def test_what_the_network_does_not_know_at_all_stays_unknown():
    """Near an observation only that part of the variance goes that the network has at the observation itself."""
    _, _, interpolation = setting()
    wide = normal(torch.zeros(2, 12), torch.full((2, 12), 0.8))
    corrected = interpolation(wide, X)
    expected = (wide.variance - interpolation.variance).sqrt()
    torch.testing.assert_close(corrected.variance.sqrt(), expected, atol=1e-3, rtol=1e-2)


def test_smooth_residuals_carry_over_to_the_points_between():
    x = torch.rand(40, 2, generator=GENERATOR)
    smooth = (0.2 * (2 * x[:, 0]).sin() + 0.1 * x[:, 1]).unsqueeze(0)
    interpolation = Interpolation(x, smooth, torch.full((1, 40), 0.04))
    new = 0.1 + 0.8 * torch.rand(50, 2, generator=GENERATOR)
    corrected = interpolation(normal(torch.zeros(1, 50), torch.full((1, 50), 0.2)), new)
    expected = 0.2 * (2 * new[:, 0]).sin() + 0.1 * new[:, 1]
    assert (corrected.mean[0] - expected).abs().max() < 0.02


def test_no_residual_repeated_points_and_gradients():
    x = torch.cat([X, X[:3]])
    interpolation = Interpolation(x, torch.zeros(2, 15), torch.full((2, 15), 0.04))
    query = torch.rand(4, 2, generator=GENERATOR).double().requires_grad_()
    corrected = interpolation(normal(torch.zeros(2, 4), torch.full((2, 4), 0.2)), query)
    (gradient,) = torch.autograd.grad(corrected.variance.sum(), query)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(corrected.mean, torch.zeros(2, 4), atol=1e-6, rtol=0)
