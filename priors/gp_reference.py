"""Gaussian processes with unknown hyper-parameters: posterior predictives by adaptive importance sampling.

The likelihood of a context is exact for every draw of the hyper-parameters, so the only error is that of a weighted mean
over a few thousand draws, and the effective sample size says how large it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import scipy.special
import torch
from torch import Tensor

from priors.distributions import Gamma, fixed_value
from priors.draw import Draw
from priors.functions import GaussianMixture
from priors.gp import RELATIVE_JITTER, GPPrior, Hyperparameters, gp_posterior

_DRAWS_AT_ONCE = 512        # covariances of 30 rows then fit the cache
_PRIOR_SHARE = 0.1          # of each later proposal: bounds the weights at 10 times those of the prior
_DEGREES = 4.0              # of freedom, of the Student-t that is the rest


@dataclass(frozen=True)
class WeightedHyperparameters:
    """Draws whose weighted distribution is the posterior of one task's hyper-parameters; S draws."""

    hyper: Hyperparameters  # (S, 1) or (S, F), (S,), (S,), (S,), float64
    log_weight: Tensor      # (S,), normalised
    log_evidence: float     # log density of the context with the hyper-parameters integrated out

    @property
    def effective_size(self) -> float:
        """Equally weighted draws that would give as good a mean, 1 … S."""
        return math.exp(-(2 * self.log_weight).logsumexp(0).item())

    def predict(self, kernel: str, x: Tensor, y: Tensor, x_query: Tensor) -> GaussianMixture:
        """Of noisy targets at x_query (m, F) after the context x (n, F), y (n,)."""
        posterior = _posteriors(kernel, self.hyper, x, y, x_query)
        return GaussianMixture(self.log_weight, posterior[0], posterior[1])


def _posteriors(
    kernel: str, hyper: Hyperparameters, x: Tensor, y: Tensor, x_query: Tensor
) -> tuple[Tensor, Tensor, Tensor]:                 # mean and variance (S, m), log marginal likelihood (S,)
    parts = []
    for start in range(0, len(hyper.noise), _DRAWS_AT_ONCE):
        part = [value[start:start + _DRAWS_AT_ONCE] for value in hyper]
        context, target, query = (value.expand(len(part[1]), *value.shape) for value in (x, y, x_query))
        parts.append(gp_posterior(context, target, query, kernel=kernel, lengthscale=part[0], outputscale=part[1],
                                  noise=part[2], mean=part[3]))
    return torch.cat([p.mean for p in parts]), torch.cat([p.variance for p in parts]), torch.cat([p[2] for p in parts])


def _log_density_of_log(law: Gamma, value: Tensor) -> Tensor:
    """Log density of ln v at v = `value`."""
    return law.shape * (math.log(law.rate) + value.log()) - law.rate * value - math.lgamma(law.shape)


class _Space:
    """Logarithms of the hyper-parameters that have a Gamma law, as columns of a matrix (S, D).

    The noise in use is the larger of its draw and the floor, 1e-6 of the outputscale, so its law is an atom at the floor and
    a density above. Each is a space of its own: `is_free` is the one above the floor, where the noise has a column.
    """

    def __init__(self, prior: GPPrior, n_features: int, is_free: bool) -> None:
        self.prior, self.is_free = prior, is_free
        self.n_scales = n_features if prior.ard else 1
        self.lengthscale = prior.lengthscale if isinstance(prior.lengthscale, Gamma) else None
        self.outputscale = prior.outputscale if isinstance(prior.outputscale, Gamma) else None
        self.noise = prior.noise if isinstance(prior.noise, Gamma) else None
        self.mean = fixed_value("mean", prior.mean)
        for name in ("lengthscale", "outputscale", "noise"):
            if getattr(self, name) is None:
                fixed_value(name, getattr(prior, name))
        self.n_dims = self.n_scales * (self.lengthscale is not None) + (self.outputscale is not None) + is_free

    def hyper(self, theta: Tensor) -> Hyperparameters:
        def fixed(value: object, *size: int) -> Tensor:
            assert isinstance(value, int | float)
            return torch.full(size, float(value), dtype=torch.float64)

        count, column = len(theta), 0
        if self.lengthscale is None:
            lengthscale = fixed(self.prior.lengthscale, count, self.n_scales)
        else:
            lengthscale, column = theta[:, :self.n_scales].exp(), self.n_scales
        outputscale = fixed(self.prior.outputscale, count) if self.outputscale is None else theta[:, column].exp()
        noise = fixed(self.prior.noise, count) if self.noise is None else RELATIVE_JITTER * outputscale
        if self.is_free:
            noise = theta[:, -1].exp()
        return Hyperparameters(lengthscale, outputscale, noise, fixed(self.mean, count))

    def _log_scales(self, hyper: Hyperparameters) -> Tensor:  # (S,)
        total = torch.zeros_like(hyper.outputscale)
        if self.lengthscale is not None:
            total = total + _log_density_of_log(self.lengthscale, hyper.lengthscale).sum(1)
        if self.outputscale is not None:
            total = total + _log_density_of_log(self.outputscale, hyper.outputscale)
        return total

    def _above_floor(self, outputscale: Tensor) -> Tensor:
        """P(noise > floor)."""
        assert self.noise is not None
        # By SciPy: torch.special.gammaincc is right to 3e-8 only at a shape of 1e-4, and has no inverse.
        floor = self.noise.rate * RELATIVE_JITTER * outputscale.numpy()
        return torch.from_numpy(scipy.special.gammaincc(self.noise.shape, floor))

    def log_prior(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of the prior in this space, whose mass is below 1, and that of `draw`; (S,) each."""
        hyper = self.hyper(theta)
        scales = self._log_scales(hyper)
        if self.noise is None:
            return scales, scales
        above = self._above_floor(hyper.outputscale)
        if not self.is_free:
            return scales + (-above).log1p(), scales
        is_above = hyper.noise >= RELATIVE_JITTER * hyper.outputscale
        free = (scales + _log_density_of_log(self.noise, hyper.noise)).masked_fill(~is_above, -torch.inf)
        return free, free - above.log()

    def draw(self, count: int, draw: Draw) -> Tensor:  # (S, D)
        """From the prior of the scales, and of the noise above its floor."""
        columns = []
        if self.lengthscale is not None:
            columns.append(self.lengthscale.log_sample(count, self.n_scales, draw=draw).double())
        if self.outputscale is not None:
            columns.append(self.outputscale.log_sample(count, 1, draw=draw).double())
        theta = torch.cat([*columns, torch.zeros(count, int(self.is_free), dtype=torch.float64)], 1)
        if self.is_free:
            assert self.noise is not None
            u = 1 - torch.rand(count, dtype=torch.float64, generator=draw.generator)
            tail = u * self._above_floor(self.hyper(theta).outputscale)
            noise = scipy.special.gammainccinv(self.noise.shape, tail.numpy()) / self.noise.rate
            theta[:, -1] = torch.from_numpy(noise).log()
        return theta


class _StudentT(NamedTuple):
    mean: Tensor            # (D,)
    factor: Tensor          # (D, D), lower triangular

    @classmethod
    def fitted(cls, theta: Tensor, log_weight: Tensor) -> _StudentT:
        """To weighted draws, whose weights are flattened until some count."""
        least = 10.0 * theta.shape[1]
        power = 1.0
        weight = log_weight.softmax(0)
        while 1 / weight.square().sum() < least and power > 1e-3:
            power *= 0.8
            weight = (power * log_weight).softmax(0)
        mean = weight @ theta
        centred = theta - mean
        covariance = (centred * weight.unsqueeze(1)).mT @ centred
        covariance.diagonal().add_(1e-4)
        return cls(mean, torch.linalg.cholesky(covariance))

    def draw(self, count: int, draw: Draw) -> Tensor:  # (S, D)
        normal = torch.randn(count, len(self.mean), dtype=torch.float64, generator=draw.generator)
        chi_squared = 2 * draw.gamma(torch.full((count, 1), _DEGREES / 2)).double()
        return self.mean + (normal @ self.factor.mT) * (_DEGREES / chi_squared).sqrt()

    def log_prob(self, theta: Tensor) -> Tensor:  # (S,)
        n_dims = len(self.mean)
        white = torch.linalg.solve_triangular(self.factor, (theta - self.mean).mT, upper=False)
        normaliser = (
            math.lgamma((_DEGREES + n_dims) / 2) - math.lgamma(_DEGREES / 2) - n_dims / 2 * math.log(_DEGREES * math.pi)
        )
        return (
            normaliser - self.factor.diagonal().log().sum()
            - (_DEGREES + n_dims) / 2 * (white.square().sum(0) / _DEGREES).log1p()
        )


def _sample_space(
    space: _Space, kernel: str, x: Tensor, y: Tensor, n_draws: int, n_rounds: int, draw: Draw
) -> tuple[Tensor, Tensor]:                         # draws (S, D); log of prior · likelihood / proposal (S,)
    nothing = x[:0]
    student: _StudentT | None = None
    for done in range(n_rounds + 1):
        # A few thousand draws of the prior, as few may be near the posterior; then as many as are needed to adapt.
        count = n_draws if done in (0, n_rounds) else max(1, n_draws // 4)
        theta = space.draw(count, draw)
        if student is not None:
            from_prior = (torch.rand(count, 1, generator=draw.generator) < _PRIOR_SHARE)
            theta = torch.where(from_prior, theta, student.draw(count, draw))
        log_prior, log_proposal = space.log_prior(theta)
        if student is not None:
            parts = [math.log(_PRIOR_SHARE) + log_proposal, math.log(1 - _PRIOR_SHARE) + student.log_prob(theta)]
            log_proposal = torch.stack(parts).logsumexp(0)
        inside = log_prior > -torch.inf
        log_weight = torch.full_like(log_prior, -torch.inf)
        hyper = space.hyper(theta[inside])
        log_weight[inside] = (log_prior - log_proposal)[inside] + _posteriors(kernel, hyper, x, y, nothing)[2]
        if space.n_dims == 0:
            break
        if done < n_rounds:
            student = _StudentT.fitted(theta[inside], log_weight[inside])
    return theta[inside], log_weight[inside] - math.log(count)


def sample_hyperparameters(
    prior: GPPrior,
    x: Tensor,                          # (n, F)
    y: Tensor,                          # (n,)
    *,
    generator: torch.Generator,
    n_draws: int = 4096,
    n_rounds: int = 4,
) -> WeightedHyperparameters:
    """Weighted draws from the posterior of one task's hyper-parameters; each is a number or has a Gamma law.

    The first proposal is the prior; each of `n_rounds` later ones a mixture of the prior and a Student-t in the logarithms,
    fitted to the weighted draws before. Only the last round's draws are returned. Noise at its floor and above are sampled
    apart, with a quarter of the draws above, and the pieces weigh what their evidence says.

    References
    ----------
    .. [1] O. Cappé et al., "Adaptive importance sampling in general mixture classes", Statistics and Computing 2008.
    """
    draw = Draw(generator)
    x, y = x.double(), y.double()
    pieces = [(_Space(prior, x.shape[1], is_free=False), n_draws)]
    if isinstance(prior.noise, Gamma):
        pieces.append((_Space(prior, x.shape[1], is_free=True), max(1, n_draws // 4)))
    hypers, log_weights = [], []
    for space, count in pieces:
        theta, log_weight = _sample_space(space, prior.kernel, x, y, count, n_rounds, draw)
        hypers.append(space.hyper(theta))
        log_weights.append(log_weight)
    log_weight = torch.cat(log_weights)
    log_evidence = log_weight.logsumexp(0)
    hyper = Hyperparameters(*(torch.cat(values) for values in zip(*hypers, strict=True)))
    return WeightedHyperparameters(hyper, log_weight - log_evidence, log_evidence.item())
