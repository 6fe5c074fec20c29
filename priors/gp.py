"""Gaussian-process regression tasks with a fixed RBF kernel: the prior whose exact posterior is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw
from priors.task import TaskBatch, TaskShape, check_generator


@dataclass(frozen=True)
class GPPrior:
    """Tasks y ~ N(0, K + noise·I) with K_ij = outputscale · exp(-|x_i - x_j|² / (2 lengthscale²)), x ~ U[0, 1]^d.

    Parameters
    ----------
    lengthscale : float
        In units of x.
    outputscale : float
        Prior variance of the function, in squared units of y.
    noise : float
        Variance of the observation noise; part of every target, of queries too.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022. Its likelihood figure uses the
       defaults here with five features.
    """

    lengthscale: float = 0.6
    outputscale: float = 1.0
    noise: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("lengthscale", "outputscale", "noise"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} is not positive; use {name} > 0.")

    @property
    def noise_variance(self) -> float:
        """`noise`, but at least 1e-6 of the scale: below it the factorisation of close points fails."""
        return max(self.noise, 1e-6 * self.outputscale)

    def kernel(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Covariance without noise: (..., n, d) and (..., m, d) give (..., n, m)."""
        # The expanded square that cdist uses by default loses the small distances that matter most.
        distance = torch.cdist(x1, x2, compute_mode="donot_use_mm_for_euclid_dist")
        return self.outputscale * torch.exp(-0.5 * (distance / self.lengthscale).square())

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.uniform(shape.batch_size, shape.n_rows, shape.n_features)
        covariance = self.kernel(x.double(), x.double())
        covariance.diagonal(dim1=-2, dim2=-1).add_(self.noise_variance)
        z = draw.normal(shape.batch_size, shape.n_rows, 1).double()
        y = (torch.linalg.cholesky(covariance) @ z).squeeze(-1)
        return TaskBatch(x=x, y=y.float(), n_context=shape.n_context)

    def posterior(self, x: Tensor, y: Tensor, x_query: Tensor) -> tuple[Tensor, Tensor]:
        """Exact posterior predictive of noisy targets.

        Parameters
        ----------
        x : Tensor of shape (..., n, d)
        y : Tensor of shape (..., n)
        x_query : Tensor of shape (..., m, d)

        Returns
        -------
        mean, variance : Tensors of shape (..., m), float64
            Variance includes the noise.
        """
        x, y, x_query = x.double(), y.double(), x_query.double()
        covariance = self.kernel(x, x)
        covariance.diagonal(dim1=-2, dim2=-1).add_(self.noise_variance)
        factor = torch.linalg.cholesky(covariance)
        cross = torch.linalg.solve_triangular(factor, self.kernel(x, x_query), upper=False)       # (..., n, m)
        white = torch.linalg.solve_triangular(factor, y.unsqueeze(-1), upper=False)               # (..., n, 1)
        mean = (cross * white).sum(-2)
        variance = self.outputscale + self.noise_variance - cross.square().sum(-2)
        return mean, variance
