"""Gaussian-process regression tasks: the prior whose exact posterior is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from priors.distributions import Gamma, Parameter, check_parameter, draw_parameter, fixed_value
from priors.draw import Draw
from priors.task import TaskBatch, TaskShape, check_generator

RELATIVE_JITTER = 1e-6     # least noise in units of the scale: below it the factorisation of close points may fail
_BLOCK = 64                 # columns factorised at once; 32 and 128 are 10–40 % slower at 512 rows
_CPU_ELEMENTS = 2**21       # covariances in memory at once: 16 MiB stay in or near a cache
_ELEMENTS = 2**27           # 1 GiB elsewhere


class Hyperparameters(NamedTuple):
    """Those of one Gaussian process a task; B tasks, F features."""

    lengthscale: Tensor     # (B, 1) or (B, F), in units of x; infinite: the feature does not matter
    outputscale: Tensor     # (B,), prior variance of the function
    noise: Tensor           # (B,), variance of the observation noise
    mean: Tensor            # (B,)


class Posterior(NamedTuple):
    """What `gp_posterior` returns, in float64."""

    mean: Tensor                        # (..., m)
    variance: Tensor                    # (..., m), of noisy targets
    log_marginal_likelihood: Tensor     # (...), of the context, in nats


def _rbf(exponent: Tensor) -> Tensor:
    return exponent.exp()


def _matern32(exponent: Tensor) -> Tensor:
    r = (-2 * exponent).clamp_min(1e-30).sqrt()             # not 0, where the square root has no derivative
    return (1 + r) * torch.exp(-r)


def _matern52(exponent: Tensor) -> Tensor:
    squared = (-2 * exponent).clamp_min(1e-30)
    r = squared.sqrt()
    return (1 + r + squared / 3) * torch.exp(-r)


# Correlation as a function of -r²/2, and c: r is c times the distance in units of the lengthscale (Rasmussen and
# Williams, 2006, equation 4.17).
_KERNELS = {"rbf": (_rbf, 1.0), "matern32": (_matern32, 3**0.5), "matern52": (_matern52, 5**0.5)}


def gp_covariance(
    x1: Tensor,                         # (..., n, d)
    x2: Tensor,                         # (..., m, d)
    *,
    kernel: str,
    lengthscale: float | Tensor,        # a number, (..., 1) or (..., d)
    outputscale: float | Tensor = 1.0,  # a number or (...)
) -> Tensor:                            # (..., n, m), float64
    """Covariance of the function at two sets of points, without noise."""
    correlation, constant = _KERNELS[kernel]
    scale, variance = (torch.as_tensor(v, dtype=torch.float64, device=x1.device) for v in (lengthscale, outputscale))
    scale = (scale.unsqueeze(-2) if scale.ndim else scale) / constant
    # The expanded square that cdist uses by default loses the small distances that matter most.
    r = torch.cdist(x1.double() / scale, x2.double() / scale, compute_mode="donot_use_mm_for_euclid_dist")
    return variance[..., None, None] * correlation(-0.5 * r.square())


def draw_gp(
    x: Tensor,                  # (B, R, d)
    kernel: str,
    hyper: Hyperparameters,
    draw: Draw,
) -> Tensor:                    # (B, R), float32
    """Noisy values of one function a task: mean + L·z with L Lᵀ = K + noise·I and z ~ N(0, I).

    Tasks are taken a few at a time, so that memory stays bounded and, on a CPU, the factor in the cache.
    """
    batch, rows, _ = x.shape
    z = draw.normal(batch, rows, 1).double()
    at_once = max(1, (_CPU_ELEMENTS if x.device.type == "cpu" else _ELEMENTS) // rows**2)
    y = torch.cat(
        [
            _factor_times(x[part], z[part], kernel, Hyperparameters(*(value[part] for value in hyper)))
            for part in (slice(start, start + at_once) for start in range(0, batch, at_once))
        ]
    )
    return (y + hyper.mean.double().unsqueeze(1)).float()


def _factor_times(x: Tensor, z: Tensor, kernel: str, hyper: Hyperparameters) -> Tensor:  # z (B, R, 1); (B, R)
    """L·z, where the covariance is built and factorised by blocks of columns.

    On a CPU four times as fast as the whole covariance and a batched `torch.linalg.cholesky`: only the lower half is
    evaluated, and nearly all arithmetic is matrix products.
    """
    batch, rows, _ = x.shape
    correlation, constant = _KERNELS[kernel]
    # -r²/2 = x·x' - |x|²/2 - |x'|²/2 in one product. In float64, with x in [0, 1] and lengthscales of at least 1e-4 (any
    # smaller one leaves neighbours as independent), the cancellation costs less than the jitter.
    x = (x.double() - 0.5) / (hyper.lengthscale.double().clamp_min(1e-4).unsqueeze(1) / constant)
    half_square = -0.5 * x.square().sum(-1, keepdim=True)
    one = torch.ones_like(half_square)
    left, right = torch.cat([x, half_square, one], -1), torch.cat([x, one, half_square], -1).mT
    scale = hyper.outputscale.double().view(-1, 1, 1)
    diagonal = hyper.outputscale.double() + _noise_variance(hyper.outputscale, hyper.noise)
    factor = torch.empty(batch, rows, rows, dtype=torch.float64, device=x.device)
    y = torch.zeros_like(z)
    for start in range(0, rows, _BLOCK):
        stop = min(start + _BLOCK, rows)
        width = stop - start
        panel = scale * correlation((left[:, start:] @ right[:, :, start:stop]).clamp_max(0.0))   # (B, R - start, width)
        panel[:, :width].diagonal(dim1=1, dim2=2).copy_(diagonal.unsqueeze(1).expand(-1, width))
        if start:
            panel.baddbmm_(factor[:, start:, :start], factor[:, start:stop, :start].mT, alpha=-1.0)
        corner = torch.linalg.cholesky(panel[:, :width])
        identity = torch.eye(width, dtype=torch.float64, device=x.device).expand_as(corner)
        inverse = torch.linalg.solve_triangular(corner, identity, upper=False)
        factor[:, start:stop, start:stop] = corner
        factor[:, stop:, start:stop] = panel[:, width:] @ inverse.mT
        y[:, start:].baddbmm_(factor[:, start:, start:stop], z[:, start:stop])
    return y.squeeze(-1)


def _noise_variance(outputscale: Tensor, noise: Tensor) -> Tensor:
    return torch.maximum(noise.double(), RELATIVE_JITTER * outputscale.double())


def gp_posterior(
    x: Tensor,
    y: Tensor,
    x_query: Tensor,
    *,
    kernel: str = "rbf",
    lengthscale: float | Tensor,
    outputscale: float | Tensor,
    noise: float | Tensor,
    mean: float | Tensor = 0.0,
) -> Posterior:
    """Exact posterior predictive of noisy targets under known hyper-parameters.

    Parameters
    ----------
    x : Tensor of shape (..., n, d)
        No row at all (n = 0) gives the prior.
    y : Tensor of shape (..., n)
    x_query : Tensor of shape (..., m, d)
    kernel : {"rbf", "matern32", "matern52"}
    lengthscale : float or Tensor of shape (..., 1) or (..., d)
        An infinite one switches its feature off.
    outputscale, noise, mean : float or Tensor of shape (...)
        Noise is a variance; it is used with at least 1e-6 of the outputscale, as in `GPPrior`.

    Returns
    -------
    Posterior
        `mean` and `variance` (..., m), the variance including the noise, and `log_marginal_likelihood` (...).

    References
    ----------
    .. [1] C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006, algorithm 2.1.
    """
    check_kernel(kernel)
    device = x.device
    scale, noise, offset = (torch.as_tensor(v, dtype=torch.float64, device=device) for v in (outputscale, noise, mean))
    variance = _noise_variance(scale, noise)
    covariance = gp_covariance(x, x, kernel=kernel, lengthscale=lengthscale, outputscale=scale)
    identity = torch.eye(x.shape[-2], dtype=torch.float64, device=device)
    factor = torch.linalg.cholesky(covariance + variance[..., None, None] * identity)
    across = gp_covariance(x, x_query, kernel=kernel, lengthscale=lengthscale, outputscale=scale)        # (..., n, m)
    cross = torch.linalg.solve_triangular(factor, across, upper=False)
    centred = (y.double() - offset.unsqueeze(-1)).unsqueeze(-1)
    white = torch.linalg.solve_triangular(factor, centred, upper=False)                                  # (..., n, 1)
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_normaliser = log_determinant + x.shape[-2] * math.log(2 * math.pi)
    return Posterior(
        mean=offset.unsqueeze(-1) + (cross * white).sum(-2),
        variance=(scale + variance).unsqueeze(-1) - cross.square().sum(-2),
        log_marginal_likelihood=-0.5 * (white.square().sum((-2, -1)) + log_normaliser),
    )


def check_kernel(kernel: str) -> None:
    if kernel not in _KERNELS:
        raise ValueError(f"kernel={kernel!r} is unknown; use one of {', '.join(map(repr, _KERNELS))}.")


@dataclass(frozen=True)
class GPPrior:
    """Tasks y ~ N(mean, K + noise·I) with x ~ U[0, 1]^d and K = outputscale · correlation(distance / lengthscale).

    Parameters
    ----------
    lengthscale : float or Distribution
        In units of x. A distribution is drawn from once a task; with `ard`, once for every feature of a task.
    outputscale : float or Distribution
        Prior variance of the function, in squared units of y.
    noise : float or Distribution
        Variance of the observation noise; part of every target, of queries too. At least 1e-6 of the outputscale is
        used, whatever is given.
    kernel : {"rbf", "matern32", "matern52"}
    ard : bool
        One lengthscale for each feature ("automatic relevance determination").
    mean : float or Distribution
        Of the function, the same everywhere.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022. Its likelihood figure uses the
       defaults here with five features.

    Examples
    --------
    >>> from priors import GPPrior, TaskShape
    >>> prior = GPPrior.with_hyperpriors()
    >>> prior.sample(TaskShape(4, 64, 5, 32), generator=torch.Generator().manual_seed(0)).y.shape
    torch.Size([4, 64])
    """

    lengthscale: Parameter = 0.6
    outputscale: Parameter = 1.0
    noise: Parameter = 1e-4
    kernel: str = "rbf"
    ard: bool = False
    mean: Parameter = 0.0

    def __post_init__(self) -> None:
        for name in ("lengthscale", "outputscale", "noise"):
            check_parameter(name, getattr(self, name))
        check_kernel(self.kernel)

    @classmethod
    def with_hyperpriors(cls) -> GPPrior:
        """The variant of [1] over hyper-parameters: Matérn-5/2, a lengthscale for each feature, nearly no noise."""
        return cls(Gamma(3.0, 6.0), Gamma(2.0, 0.15), Gamma(1e-4, 1.0), kernel="matern52", ard=True)

    @property
    def has_hyperpriors(self) -> bool:
        """Whether a hyper-parameter is drawn, so that `posterior` is no Gaussian; see `priors.gp_reference`."""
        values = (self.lengthscale, self.outputscale, self.noise, self.mean)
        return not all(isinstance(value, int | float) for value in values)

    def draw_hyperparameters(self, batch_size: int, n_features: int, draw: Draw) -> Hyperparameters:
        """One set for each task; `sample` draws them after the features."""
        return Hyperparameters(
            lengthscale=draw_parameter(self.lengthscale, batch_size, n_features if self.ard else 1, draw=draw),
            outputscale=draw_parameter(self.outputscale, batch_size, draw=draw),
            noise=draw_parameter(self.noise, batch_size, draw=draw),
            mean=draw_parameter(self.mean, batch_size, draw=draw),
        )

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.uniform(shape.batch_size, shape.n_rows, shape.n_features)
        hyper = self.draw_hyperparameters(shape.batch_size, shape.n_features, draw)
        return TaskBatch(x=x, y=draw_gp(x, self.kernel, hyper, draw), n_context=shape.n_context)

    def covariance(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Covariance without noise: (..., n, d) and (..., m, d) give (..., n, m); for fixed hyper-parameters."""
        fixed = {name: fixed_value(name, getattr(self, name)) for name in ("lengthscale", "outputscale")}
        return gp_covariance(x1, x2, kernel=self.kernel, **fixed)

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor) -> tuple[Tensor, Tensor]:
        """Exact posterior predictive of noisy targets; see `gp_posterior`, which also takes drawn hyper-parameters.

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
        fixed = {name: fixed_value(name, getattr(self, name)) for name in ("lengthscale", "outputscale", "noise", "mean")}
        result = gp_posterior(x, y, x_query, kernel=self.kernel, **fixed)
        return result.mean, result.variance
