"""Predictions of deterministic functions made to agree with what was observed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pfn import BarPosterior

_LENGTHSCALES = torch.tensor([0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0], dtype=torch.float64)   # in units of √features
_NUGGET = 1e-4                              # variance of what is left of a residual, relative to its own
_REACH = 0.05                               # up to where an observation tells a network's error, in units of √features
_NARROWEST = 0.02


class Interpolation:
    """What a network misses at the observations, and how that carries over to the points between them.

    A network reads deterministic functions to a percent or so of their range, and says so: at an observed point its standard
    deviation is not 0, and improvement there seems possible for ever. The residuals at the observations, interpolated by a
    Gaussian process with the lengthscale of highest likelihood, are added to the mean; and near an observation the variance
    that the network has at this observation is taken off.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        Observed points, as the network sees them.
    residual : Tensor of shape (n_outputs, n)
        Observed outcomes minus the network's means, 0 where nothing was observed; outputs that are 0 throughout have no say.
    variance : Tensor of shape (n_outputs, n)
        Of the network, there.
    """

    def __init__(self, x: Tensor, residual: Tensor, variance: Tensor) -> None:
        self.x, self.variance = x.double(), variance
        self.root = math.sqrt(x.shape[1])
        size = residual.double().square().mean(1, keepdim=True).sqrt()
        scaled = (residual.double() / size.clamp_min(1e-30)).mT                          # (n, k)
        counts = size[:, 0] > 0
        distance = torch.cdist(self.x, self.x)
        identity = torch.eye(len(x), dtype=torch.float64)
        best = -math.inf
        for lengthscale in _LENGTHSCALES * self.root:
            factor = torch.linalg.cholesky(_matern(distance / lengthscale) + _NUGGET * identity)
            solved = torch.cholesky_solve(scaled, factor)
            # With the variance of each output at its most likely value.
            quadratic = (scaled * solved).mean(0)[counts]
            fit = -0.5 * len(x) * quadratic.log().sum() - len(quadratic) * factor.diagonal().log().sum()
            if fit > best:
                best, self.lengthscale, self.weights = float(fit), lengthscale, solved * size.mT

    def __call__(self, posterior: BarPosterior, x: Tensor) -> BarPosterior:  # (n_outputs, Q), (Q, n_features)
        """The posterior with its mean corrected and its width reduced near observations."""
        distance = torch.cdist(x.double(), self.x)                                       # (Q, n)
        correction = (_matern(distance / self.lengthscale) @ self.weights).mT
        nearest, index = distance.min(1)
        mean, variance = posterior.mean, posterior.variance
        near = torch.exp(-(nearest / (_REACH * self.root)).square()).float()
        known = near * (self.variance[:, index] / variance.clamp_min(1e-30)).clamp_max(1.0)
        shrink = (1 - known).clamp_min(_NARROWEST**2).sqrt()
        return posterior.affine(shrink, (1 - shrink) * mean + correction.float())


def _matern(r: Tensor) -> Tensor:
    """Matérn-5/2 correlation at scaled distances r."""
    r = math.sqrt(5) * r
    return (1 + r + r.square() / 3) * torch.exp(-r)
