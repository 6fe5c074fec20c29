"""Bayesian linear regression and the Dirichlet–categorical model: conjugate priors, so the exact posterior is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from priors.distributions import Gamma, InverseGamma, Parameter, check_parameter, draw_parameter, fixed_value
from priors.draw import Draw
from priors.labels import finish_labels
from priors.task import TaskBatch, TaskShape, check_generator


def ridge(
    features: Tensor,   # (..., n, d)
    y: Tensor,          # (..., n)
    query: Tensor,      # (..., m, d)
    noise: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior of y = φ·w + ε, w ~ N(0, I), Var ε = `noise`, through the singular values of the features.

    `noise` = 0 is allowed and gives the least-squares solution of minimum norm. With φ = U S Vᵀ the mean of the weights is
    V diag(s / (s² + noise)) Uᵀ y, and their covariance I - V diag(s² / (s² + noise)) Vᵀ.

    Returns
    -------
    mean, variance : Tensors of shape (..., m), float64
        Of the noiseless function at the queries.
    fit : Tensor of shape (...)
        yᵀ (φ φᵀ + noise·I)⁻¹ y, or 0 if `noise` = 0.
    """
    features, y, query = features.double(), y.double(), query.double()
    u, s, vh = torch.linalg.svd(features, full_matrices=False)
    smallest = torch.finfo(s.dtype).eps * max(features.shape[-2:]) * s.amax(-1, keepdim=True) if s.shape[-1] else 0.0
    known = (s > smallest).double()                                                        # directions with information
    along = (u.mT @ y.unsqueeze(-1)).squeeze(-1)                                           # (..., k)
    denominator = torch.where(known > 0, s.square() + noise, 1.0)
    projected = query @ vh.mT                                                              # (..., m, k)
    mean = (projected * (known * s / denominator * along).unsqueeze(-2)).sum(-1)
    shrinkage = known * s.square() / denominator
    variance = query.square().sum(-1) - (projected.square() * shrinkage.unsqueeze(-2)).sum(-1)
    fit = (y.square().sum(-1) - (shrinkage * along.square()).sum(-1)) / noise if noise > 0 else torch.zeros_like(y.sum(-1))
    return mean, variance.clamp_min(0), fit


@dataclass(frozen=True)
class _LinearBase:
    """What both linear priors share: the law of the features, and weights relative to a scale."""

    weight_variance: Parameter = 1.0
    bias_variance: Parameter = 1.0
    is_correlated: bool = False

    def __post_init__(self) -> None:
        check_parameter("weight_variance", self.weight_variance)
        check_parameter("bias_variance", self.bias_variance, zero=True)

    def _draw_function(self, shape: TaskShape, draw: Draw) -> tuple[Tensor, Tensor]:  # x (B, R, F), f (B, R)
        batch = shape.batch_size
        x = draw_features(shape, draw, is_correlated=self.is_correlated)
        weight_std = draw_parameter(self.weight_variance, batch, 1, draw=draw).sqrt()
        bias_std = draw_parameter(self.bias_variance, batch, 1, draw=draw).sqrt()
        w = weight_std * draw.normal(batch, shape.n_features)
        return x, (x @ w.unsqueeze(-1)).squeeze(-1) + bias_std * draw.normal(batch, 1)

    def _whiten(self, x: Tensor) -> Tensor:
        """Features whose weights are N(0, 1): the last stands for the bias."""
        weight_std = fixed_value("weight_variance", self.weight_variance) ** 0.5
        bias_std = fixed_value("bias_variance", self.bias_variance) ** 0.5
        return torch.cat([weight_std * x.double(), x.new_full((*x.shape[:-1], 1), bias_std, dtype=torch.float64)], dim=-1)


def draw_features(shape: TaskShape, draw: Draw, *, is_correlated: bool) -> Tensor:  # (B, R, F)
    """N(0, I), or N(0, Σ) with Σ's eigenvalues ∝ j^(-a), a ~ U(0, 3), in a random basis and scaled to unit variances."""
    batch, n_features = shape.batch_size, shape.n_features
    x = draw.normal(batch, shape.n_rows, n_features)
    if not is_correlated:
        return x
    basis = torch.linalg.qr(draw.normal(batch, n_features, n_features)).Q
    decay = draw.uniform(batch, 1, low=0.0, high=3.0)
    root = basis * torch.arange(1, n_features + 1, device=draw.device).pow(-0.5 * decay).unsqueeze(1)     # Σ = root rootᵀ
    root = root / root.square().sum(2, keepdim=True).sqrt()
    return x @ root.mT


@dataclass(frozen=True)
class LinearPrior(_LinearBase):
    """Tasks y = x·w + b + ε with w ~ N(0, weight_variance·I), b ~ N(0, bias_variance) and ε ~ N(0, noise).

    Parameters
    ----------
    weight_variance : float or Distribution
        A distribution is drawn from once a task.
    bias_variance : float or Distribution
        0 gives functions through the origin.
    is_correlated : bool
        Whether x ~ N(0, Σ) with a random Σ of unit diagonal instead of N(0, I).
    noise : float or Distribution
        Variance of ε; may be 0.

    Notes
    -----
    `LinearPrior(bias_variance=0.0, noise=0.0)` is the class of linear functions of in-context learning studies; on n of
    its rows, n < d, the posterior mean has an expected squared error of d - n.

    Examples
    --------
    >>> from priors import LinearPrior, TaskShape
    >>> prior = LinearPrior(noise=0.1)
    >>> tasks = prior.sample(TaskShape(4, 30, 3, 20), generator=torch.Generator().manual_seed(0))
    >>> mean, variance = prior.posterior(tasks.x[:, :20], tasks.y[:, :20], tasks.x[:, 20:])
    >>> mean.shape
    torch.Size([4, 10])
    """

    noise: Parameter = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parameter("noise", self.noise, zero=True)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x, f = self._draw_function(shape, draw)
        noise_std = draw_parameter(self.noise, shape.batch_size, 1, draw=draw).sqrt()
        return TaskBatch(x=x, y=f + noise_std * draw.normal(*f.shape), n_context=shape.n_context)

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor) -> tuple[Tensor, Tensor]:
        """Exact posterior predictive of noisy targets, a Gaussian.

        Parameters
        ----------
        x : Tensor of shape (..., n, d)
        y : Tensor of shape (..., n)
        x_query : Tensor of shape (..., m, d)

        Returns
        -------
        mean, variance : Tensors of shape (..., m), float64
            Variance includes the noise.

        Raises
        ------
        ValueError
            If a hyper-parameter is a distribution.
        """
        noise = fixed_value("noise", self.noise)
        mean, variance, _ = ridge(self._whiten(x), y, self._whiten(x_query), noise)
        return mean, variance + noise


@dataclass(frozen=True)
class StudentT:
    """Student's t distribution, located and scaled."""

    degrees_of_freedom: Tensor  # () or (...)
    location: Tensor            # (..., m)
    scale: Tensor               # (..., m)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density, in 1 / units of y."""
        dof = self.degrees_of_freedom
        z = (y.double() - self.location) / self.scale
        constant = torch.lgamma((dof + 1) / 2) - torch.lgamma(dof / 2) - 0.5 * torch.log(dof * math.pi)
        return constant - self.scale.log() - (dof + 1) / 2 * torch.log1p(z.square() / dof)


@dataclass(frozen=True)
class ConjugateLinearPrior(_LinearBase):
    """Linear tasks of unknown noise: Var ε is inverse-Gamma, weights and bias are in units of the noise.

    Var ε = v ~ InverseGamma(noise_shape, noise_rate), w ~ N(0, v·weight_variance·I), b ~ N(0, v·bias_variance).

    Parameters
    ----------
    weight_variance, bias_variance : float or Distribution
        In units of the noise variance.
    is_correlated : bool
        As in `LinearPrior`.
    noise_shape, noise_rate : float
    """

    noise_shape: float = 2.0
    noise_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        InverseGamma(self.noise_shape, self.noise_rate)             # checks both

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x, f = self._draw_function(shape, draw)
        noise_std = InverseGamma(self.noise_shape, self.noise_rate).sample(shape.batch_size, 1, draw=draw).sqrt()
        return TaskBatch(x=x, y=noise_std * (f + draw.normal(*f.shape)), n_context=shape.n_context)

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor) -> StudentT:
        """Exact posterior predictive of noisy targets: Student's t with 2·noise_shape + n degrees of freedom.

        Parameters
        ----------
        x : Tensor of shape (..., n, d)
        y : Tensor of shape (..., n)
        x_query : Tensor of shape (..., m, d)

        Returns
        -------
        StudentT
            With location and scale of shape (..., m), float64.

        Raises
        ------
        ValueError
            If a hyper-parameter is a distribution.
        """
        mean, variance, fit = ridge(self._whiten(x), y, self._whiten(x_query), 1.0)
        shape, rate = self.noise_shape + x.shape[-2] / 2, self.noise_rate + fit / 2
        degrees_of_freedom = torch.tensor(2 * shape, dtype=torch.float64, device=x.device)
        return StudentT(degrees_of_freedom, mean, ((rate / shape).unsqueeze(-1) * (1 + variance)).sqrt())


@dataclass(frozen=True)
class DirichletPrior:
    """Classification by one categorical column: each of its levels has class probabilities θ ~ Dirichlet(concentration).

    All columns hold codes 0 … n_levels - 1, uniform and independent; the column that matters is uniform too. With two
    classes this is the Beta–Bernoulli model.

    Parameters
    ----------
    n_levels : int
        Of every column.
    n_classes : int
    concentration : float
        Of every class.

    Notes
    -----
    `sample` makes classes compact and lets every class occur in the context (see `finish_labels`). For `posterior` to be
    the exact predictive of what was drawn, contexts must be long enough for that to change nothing.
    """

    n_levels: int = 4
    n_classes: int = 2
    concentration: float = 1.0

    def __post_init__(self) -> None:
        for name in ("n_levels", "n_classes"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}={getattr(self, name)!r} leaves nothing to tell apart; use {name} >= 2.")
        check_parameter("concentration", self.concentration)

    def draw(self, shape: TaskShape, draw: Draw) -> tuple[Tensor, Tensor]:
        """Codes (B, R, F) and labels (B, R) of the model itself, as int64; a class may be missing anywhere."""
        batch, rows, n_features = shape.batch_size, shape.n_rows, shape.n_features
        x = draw.integers(batch, rows, n_features, low=0, high=self.n_levels - 1)
        # No column is constant; the law of the features does not enter the posterior.
        constant = (x == x[:, :1]).all(1, keepdim=True) & (torch.arange(rows, device=draw.device) == rows - 1).view(1, -1, 1)
        x = torch.where(constant, (x + 1) % self.n_levels, x)
        driver = draw.integers(batch, 1, 1, low=0, high=n_features - 1).expand(-1, rows, 1)
        level = x.gather(2, driver)                                                                      # (B, R, 1)
        log_theta = Gamma(self.concentration, 1.0).log_sample(batch, self.n_levels, self.n_classes, draw=draw)
        log_theta = log_theta.gather(1, level.expand(-1, -1, self.n_classes))                            # (B, R, C)
        # The largest of ln θ + Gumbel noise is a draw from θ, which need not be normalised.
        return x, (log_theta - draw.exponential(batch, rows, self.n_classes).clamp_min(1e-30).log()).argmax(2)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x, label = self.draw(shape, draw)
        return finish_labels(x.float(), label, shape.n_context, draw)

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor) -> Tensor:
        """Exact class probabilities, averaged over which column matters.

        Column j has posterior weight ∝ Π_l Γ(A) / Γ(A + n_l) Π_c Γ(α + n_lc) / Γ(α) with n_lc its counts and A the sum of
        all α; given j, p(c | level l) = (α + n_lc) / (A + n_l).

        Parameters
        ----------
        x : Tensor of shape (..., n, d)
            Codes 0 … n_levels - 1.
        y : Tensor of shape (..., n), int64
        x_query : Tensor of shape (..., m, d)

        Returns
        -------
        Tensor of shape (..., m, n_classes), float64
        """
        alpha, total = self.concentration, self.concentration * self.n_classes
        one_hot = torch.nn.functional.one_hot
        levels, query = (one_hot(codes.long(), self.n_levels).double() for codes in (x, x_query))        # (..., n, d, L)
        counts = torch.einsum("...ndl,...nc->...dlc", levels, one_hot(y, self.n_classes).double())
        sums = counts.sum(-1)
        evidence = (math.lgamma(total) - torch.lgamma(total + sums)).sum(-1)
        evidence = evidence + (torch.lgamma(alpha + counts) - math.lgamma(alpha)).sum((-2, -1))          # (..., d)
        probability = (alpha + counts) / (total + sums).unsqueeze(-1)
        return torch.einsum("...d,...mdl,...dlc->...mc", evidence.softmax(-1), query, probability)
