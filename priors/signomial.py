"""Formulas of engineering: sums of products of powers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw, standardise
from priors.task import TaskBatch, TaskShape, check_generator

_POWERS = (-3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0, 4.0)
_POWER_WEIGHTS = (0.05, 0.08, 0.15, 0.04, 0.05, 0.35, 0.18, 0.07, 0.03)


@dataclass(frozen=True)
class SignomialPrior:
    """Targets are signomials, Σ_k c_k Π_j t_j^(p_kj), of features on U[0, 1]^d: the form of most design formulas.

    A feature enters as t_j = r_j + (1 - r_j) x_j, a quantity between r_j and 1 in units of its upper bound, with
    r_j ~ LogU(0.02, 1); the other way round, with 1 - x_j, for three of ten. Of 1 … `max_terms` terms each takes 1 … 4
    features to powers between -3 and 4, mostly 1, 2 and -1. Terms are scaled to unit variance over the rows, then
    weighted by N(0, 1); a quarter of the sums then go through a root, an absolute value, a maximum of two or a ratio.
    Targets are without noise, of mean 0 and standard deviation 1.

    Parameters
    ----------
    max_terms : int

    Notes
    -----
    Our own design. Generalised geometric programming is the theory of problems of this form; the usual test problems of
    constrained optimisation (beams, springs, vessels, gears) are of it.

    Examples
    --------
    >>> from priors import SignomialPrior, TaskShape
    >>> tasks = SignomialPrior().sample(TaskShape(2, 20, 3, 10), generator=torch.Generator().manual_seed(0))
    >>> tasks.y.shape
    torch.Size([2, 20])
    """

    max_terms: int = 6

    def __post_init__(self) -> None:
        if not isinstance(self.max_terms, int) or self.max_terms < 1:
            raise ValueError(f"max_terms={self.max_terms!r} is not a positive integer.")

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.uniform(shape.batch_size, shape.n_rows, shape.n_features)
        return TaskBatch(x=x, y=self.values(x, draw), n_context=shape.n_context)

    def values(self, x: Tensor, draw: Draw) -> Tensor:  # (B, R, F); (B, R)
        """Values at given points of the cube, of a formula a task; standardised over these points."""
        tasks, _, n_features = x.shape
        least = draw.log_uniform(tasks, 1, n_features, low=0.02, high=1.0)
        turned = draw.chance(tasks, 1, n_features, p=0.3)
        log_t = (least + (1 - least) * torch.where(turned, 1 - x, x)).log()
        first, second = self._draw_sum(log_t, draw), self._draw_sum(log_t, draw)
        low = first.amin(1, keepdim=True)
        shapes = torch.stack([
            first,
            (first - low + 1e-3).sqrt(),
            (first - draw.normal(tasks, 1)).abs(),
            torch.maximum(first, second),
            first / (second - second.amin(1, keepdim=True) + draw.log_uniform(tasks, 1, low=0.2, high=5.0)),
        ])
        kind = draw.choice(1, tasks, 1, weights=[0.75, 0.0625, 0.0625, 0.0625, 0.0625])
        return standardise(shapes.gather(0, kind.expand(1, *first.shape)).squeeze(0))

    def _draw_sum(self, log_t: Tensor, draw: Draw) -> Tensor:  # (B, R, F); (B, R)
        tasks, _, n_features = log_t.shape
        most = self.max_terms
        powers = torch.tensor(_POWERS, device=log_t.device)[draw.choice(tasks, most, n_features, weights=_POWER_WEIGHTS)]
        n_factors = draw.choice(tasks, most, 1, weights=[0.35, 0.3, 0.2, 0.15]) + 1
        powers = powers * (draw.permutation(tasks, most, n_features) < n_factors)
        terms = standardise((log_t @ powers.mT).clamp(-30, 30).exp(), eps=1e-9)                           # (B, R, K)
        n_terms = draw.integers(tasks, 1, low=1, high=most)
        weights = draw.normal(tasks, most) * (torch.arange(most, device=log_t.device) < n_terms)
        return standardise((terms * weights.unsqueeze(1)).sum(2))
