"""Function classes of the in-context learning literature, x ~ N(0, I), with the best predictor known for most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from priors.draw import Draw
from priors.labels import finish_labels
from priors.linear import ridge
from priors.task import TaskBatch, TaskShape, check_generator

_MAX_SUPPORTS = 20_000
_LEAST_NOISE = 1e-8         # variance assumed by oracles of noiseless classes; float32 targets are no more exact


@dataclass(frozen=True)
class GaussianMixture:
    """Posterior predictive that is a mixture of K Gaussians at each of m points."""

    log_weight: Tensor          # (..., K), normalised
    component_mean: Tensor      # (..., K, m)
    component_variance: Tensor  # (..., K, m)

    @property
    def mean(self) -> Tensor:  # (..., m)
        return (self.log_weight.exp().unsqueeze(-1) * self.component_mean).sum(-2)

    @property
    def variance(self) -> Tensor:  # (..., m)
        second = self.component_variance + (self.component_mean - self.mean.unsqueeze(-2)).square()
        return (self.log_weight.exp().unsqueeze(-1) * second).sum(-2)

    def log_prob(self, y: Tensor) -> Tensor:  # (..., m)
        """Log density, in 1 / units of y."""
        squared = (y.double().unsqueeze(-2) - self.component_mean).square() / self.component_variance
        log_density = -0.5 * (squared + self.component_variance.log() + math.log(2 * math.pi))
        return torch.logsumexp(self.log_weight.unsqueeze(-1) + log_density, dim=-2)


def _check_noise(noise: float) -> None:
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise!r} is no variance; use noise >= 0.")


def _with_noise(f: Tensor, noise: float, draw: Draw) -> Tensor:
    return f + noise**0.5 * draw.normal(*f.shape) if noise else f


@dataclass(frozen=True)
class SparseLinearPrior:
    """y = x·w with `sparsity` weights N(0, 1) at random places and zeros elsewhere.

    Parameters
    ----------
    sparsity : int
        Non-zero weights; all of them in tasks with fewer features.
    noise : float
        Variance of Gaussian noise on every target.

    References
    ----------
    .. [1] S. Garg et al., "What Can Transformers Learn In-Context?", NeurIPS 2022 (20 features, 3 of them used).
    """

    sparsity: int = 3
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.sparsity < 1:
            raise ValueError(f"sparsity={self.sparsity!r} leaves no weight; use sparsity >= 1.")
        _check_noise(self.noise)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.normal(shape.batch_size, shape.n_rows, shape.n_features)
        is_used = draw.permutation(shape.batch_size, shape.n_features) < self.sparsity
        w = draw.normal(shape.batch_size, shape.n_features) * is_used
        y = _with_noise((x @ w.unsqueeze(2)).squeeze(2), self.noise, draw)
        return TaskBatch(x=x, y=y, n_context=shape.n_context)

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor) -> GaussianMixture:
        """Exact posterior predictive of noisy targets: one Gaussian for every possible support.

        Given a support S, this is Bayesian linear regression on x_S, whose marginal likelihood weighs S. With v the noise,
        G = x_Sᵀ x_S + v·I and c = x_Sᵀ y it is, up to what all supports share, `v^(s/2) |G|^(-1/2) exp(cᵀ G⁻¹ c / 2v)`.

        Parameters
        ----------
        x : Tensor of shape (..., n, d)
        y : Tensor of shape (..., n)
        x_query : Tensor of shape (..., m, d)

        Returns
        -------
        GaussianMixture
            At m points. Noiseless tasks are treated as if the noise variance were 1e-8.
        """
        x, y, x_query = x.double(), y.double(), x_query.double()
        n_features = x.shape[-1]
        size = min(self.sparsity, n_features)
        if math.comb(n_features, size) > _MAX_SUPPORTS:
            raise ValueError(
                f"{size} of {n_features} features have {math.comb(n_features, size)} supports to sum over; "
                f"use tasks with at most {_MAX_SUPPORTS}."
            )
        support = torch.tensor(list(combinations(range(n_features), size)), device=x.device)             # (S, s)
        noise = max(self.noise, _LEAST_NOISE)
        gram = (x.mT @ x)[..., support.unsqueeze(2), support.unsqueeze(1)]                               # (..., S, s, s)
        gram = gram + noise * torch.eye(size, dtype=x.dtype, device=x.device)
        moment = (x.mT @ y.unsqueeze(-1)).squeeze(-1)[..., support]                                      # (..., S, s)
        factor = torch.linalg.cholesky(gram)
        w = torch.cholesky_solve(moment.unsqueeze(-1), factor).squeeze(-1)
        log_weight = (moment * w).sum(-1) / (2 * noise) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        inverse = torch.cholesky_inverse(factor)
        query = x_query[..., support].transpose(-3, -2)                                                  # (..., S, m, s)
        return GaussianMixture(
            log_weight=log_weight.log_softmax(-1),
            component_mean=(query @ w.unsqueeze(-1)).squeeze(-1),
            component_variance=noise * (1 + (query @ inverse * query).sum(-1)),
        )


@dataclass(frozen=True)
class MixtureOfRegressionsPrior:
    """y = x·w_k + ε, where the task draws k and the vectors w_1 … w_K are the same in all tasks.

    Parameters
    ----------
    n_components : int
        How many vectors, K.
    noise : float
        Variance of ε.
    seed : int
        Of the K vectors, which are part of the definition of the prior: N(0, I) from a generator of their own.

    References
    ----------
    .. [1] R. Pathak et al., "Transformers can optimally learn regression mixture models", ICLR 2024.
    """

    n_components: int = 5
    noise: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_components < 1:
            raise ValueError(f"n_components={self.n_components!r} leaves no regression; use n_components >= 1.")
        _check_noise(self.noise)

    def regressors(self, n_features: int, device: torch.device | str = "cpu") -> Tensor:  # (K, F), float32
        """The known vectors; drawn on the CPU, so that they are the same on all devices."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        return torch.randn(self.n_components, n_features, generator=generator, device="cpu").to(device)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.normal(shape.batch_size, shape.n_rows, shape.n_features)
        which = draw.integers(shape.batch_size, low=0, high=self.n_components - 1)
        w = self.regressors(shape.n_features, draw.device)[which]
        y = _with_noise((x @ w.unsqueeze(2)).squeeze(2), self.noise, draw)
        return TaskBatch(x=x, y=y, n_context=shape.n_context)

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor) -> GaussianMixture:
        """Exact posterior predictive of noisy targets: weights ∝ exp(-residual sum of squares / 2 noise).

        Parameters
        ----------
        x : Tensor of shape (..., n, d)
        y : Tensor of shape (..., n)
        x_query : Tensor of shape (..., m, d)

        Returns
        -------
        GaussianMixture
            At m points. Noiseless tasks are treated as if the noise variance were 1e-8.
        """
        w = self.regressors(x.shape[-1], x.device).double()
        noise = max(self.noise, _LEAST_NOISE)
        residual = y.double().unsqueeze(-2) - w @ x.double().mT                                          # (..., K, n)
        mean = w @ x_query.double().mT                                                                   # (..., K, m)
        log_weight = (-residual.square().sum(-1) / (2 * noise)).log_softmax(-1)
        return GaussianMixture(log_weight, mean, torch.full_like(mean, noise))


@dataclass(frozen=True)
class QuadraticPrior:
    """y = Σ_j w_j x_j² / √3 with w ~ N(0, I); E[x_j⁴] = 3, so y has variance n_features.

    References
    ----------
    .. [1] S. Garg et al., "What Can Transformers Learn In-Context?", NeurIPS 2022.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        _check_noise(self.noise)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.normal(shape.batch_size, shape.n_rows, shape.n_features)
        f = (x.square() @ draw.normal(shape.batch_size, shape.n_features, 1)).squeeze(2) / 3**0.5
        return TaskBatch(x=x, y=_with_noise(f, self.noise, draw), n_context=shape.n_context)

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor) -> tuple[Tensor, Tensor]:
        """Exact posterior predictive: Bayesian linear regression on x² / √3; mean and variance (..., m), float64."""
        mean, variance, _ = ridge(x.double().square() / 3**0.5, y, x_query.double().square() / 3**0.5, self.noise)
        return mean, variance + self.noise


@dataclass(frozen=True)
class LinearClassificationPrior:
    """Two classes, by the sign of x·w with w ~ N(0, I)."""

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.normal(shape.batch_size, shape.n_rows, shape.n_features)
        side = (x @ draw.normal(shape.batch_size, shape.n_features, 1)).squeeze(2) > 0
        return finish_labels(x, side.long(), shape.n_context, draw)


@dataclass(frozen=True)
class DecisionTreePrior:
    """Complete binary trees: each inner node splits at the sign of a random coordinate, leaves hold N(0, 1).

    Parameters
    ----------
    depth : int
        Splits between root and leaf; a coordinate may occur twice on the way, and then splits nothing.
    noise : float
        Variance of Gaussian noise on every target.

    References
    ----------
    .. [1] S. Garg et al., "What Can Transformers Learn In-Context?", NeurIPS 2022. Differs from its code, whose seeded
       trees never split on the last coordinate: here all are equally likely.
    """

    depth: int = 4
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 16:
            raise ValueError(f"depth={self.depth!r} is out of range; use 1 <= depth <= 16.")
        _check_noise(self.noise)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        batch = shape.batch_size
        x = draw.normal(batch, shape.n_rows, shape.n_features)
        n_inner = 2**self.depth - 1
        coordinate = draw.integers(batch, n_inner, low=0, high=shape.n_features - 1)
        node = torch.zeros(batch, shape.n_rows, dtype=torch.long, device=draw.device)
        for _ in range(self.depth):                                         # the children of node i are 2i + 1 and 2i + 2
            split = coordinate.gather(1, node).unsqueeze(2)
            node = 2 * node + 1 + (x.gather(2, split).squeeze(2) > 0).long()
        f = draw.normal(batch, n_inner + 1).gather(1, node - n_inner)
        return TaskBatch(x=x, y=_with_noise(f, self.noise, draw), n_context=shape.n_context)


@dataclass(frozen=True)
class TwoLayerNetPrior:
    """y = √(2/h) Σ_k a_k max(0, w_k·x) with a, w ~ N(0, 1) and h = `width`, so that `E[y² | x] = |x|²`.

    Parameters
    ----------
    width : int
    noise : float
        Variance of Gaussian noise on every target.

    References
    ----------
    .. [1] S. Garg et al., "What Can Transformers Learn In-Context?", NeurIPS 2022.
    .. [2] Y. Cho and L. Saul, "Kernel Methods for Deep Learning", NeurIPS 2009 (the kernel of order one).
    """

    width: int = 100
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width={self.width!r} leaves no hidden unit; use width >= 1.")
        _check_noise(self.noise)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.normal(shape.batch_size, shape.n_rows, shape.n_features)
        hidden = (x @ draw.normal(shape.batch_size, shape.n_features, self.width)).relu()
        f = (2 / self.width) ** 0.5 * (hidden @ draw.normal(shape.batch_size, self.width, 1)).squeeze(2)
        return TaskBatch(x=x, y=_with_noise(f, self.noise, draw), n_context=shape.n_context)

    def covariance(self, x1: Tensor, x2: Tensor) -> Tensor:
        """`E[f(x1) f(x2)] = |x1| |x2| (sin θ + (π - θ) cos θ) / π`, exact for any width; (..., n, m), float64."""
        x1, x2 = x1.double(), x2.double()
        norms = x1.norm(dim=-1).unsqueeze(-1) * x2.norm(dim=-1).unsqueeze(-2)
        cosine = (x1 @ x2.mT / norms.clamp_min(1e-300)).clamp(-1, 1)
        angle = torch.arccos(cosine)
        return norms * (torch.sin(angle) + (math.pi - angle) * cosine) / math.pi

    def best_linear_predictor(self, x: Tensor, y: Tensor, x_query: Tensor) -> tuple[Tensor, Tensor]:
        """The predictor linear in y with the least mean squared error, and that error.

        It needs second moments only, and those are the kernel's at every width; the posterior mean, which is not linear in
        y, can be better at finite width and coincides with it as the width grows.

        Parameters
        ----------
        x : Tensor of shape (..., n, d)
        y : Tensor of shape (..., n)
        x_query : Tensor of shape (..., m, d)

        Returns
        -------
        mean, squared_error : Tensors of shape (..., m), float64
            The expected squared error of noisy targets.
        """
        noise = max(self.noise, _LEAST_NOISE)
        identity = torch.eye(x.shape[-2], dtype=torch.float64, device=x.device)
        factor = torch.linalg.cholesky(self.covariance(x, x) + noise * identity)
        cross = torch.linalg.solve_triangular(factor, self.covariance(x, x_query), upper=False)          # (..., n, m)
        white = torch.linalg.solve_triangular(factor, y.double().unsqueeze(-1), upper=False)
        error = x_query.double().square().sum(-1) + self.noise - cross.square().sum(-2)
        return (cross * white).sum(-2), error
