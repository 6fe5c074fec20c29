"""Targets that are sums over the columns of a table: linear models, splines, Friedman's functions."""

from __future__ import annotations

import torch
from torch import Tensor

from priors.columns import draw_counting
from priors.draw import Draw, standardise
from priors.task import Prior, TaskBatch
from priors.transforms import TransformedTarget, check_probability


def additive_target(x: Tensor, draw: Draw) -> Tensor:
    """Σ wⱼ fⱼ(xⱼ) + Σ v g(xᵢ xⱼ) for a table x (B, R, F), standardised, (B, R).

    A random share of the columns counts. In three of ten tasks every fⱼ is linear; else it is linear, a parabola, a sine, a
    sigmoid, a step, a kink or an exponential. Up to three products of two columns, or sines of them, join in two of five
    tasks. All terms are standardised before they are weighted; the weights' spread over the columns varies by task.
    """
    tasks, _, n_features = x.shape
    per_column = tasks, 1, n_features
    z = standardise(torch.nan_to_num(x)).clamp(-3.0, 3.0)
    centre, rate = draw.normal(*per_column), draw.log_uniform(*per_column, low=0.5, high=3.0)
    shapes = torch.stack([
        z, (z - centre).square(), torch.sin(rate * z + 3.0 * centre), torch.tanh(rate * (z - centre)),
        (z > centre).to(z.dtype), (z - centre).abs(), torch.exp(0.5 * rate * z),
    ])
    kind = draw.choice(1, *per_column, weights=[0.3, 0.15, 0.15, 0.15, 0.1, 0.05, 0.1])
    kind = kind.masked_fill(draw.chance(1, tasks, 1, 1, p=0.3), 0)
    terms = standardise(shapes.gather(0, kind.expand(1, *z.shape)).squeeze(0))
    spread = draw.uniform(tasks, 1, 1, high=1.5)
    weight = draw.normal(*per_column) * torch.exp(spread * draw.normal(*per_column))
    counts = draw_counting(tasks, n_features, draw)
    total = (terms * weight * counts).sum(2)

    first, second = (draw.integers(tasks, 1, 3, low=0, high=n_features - 1).expand(-1, x.shape[1], -1) for _ in range(2))
    product = z.gather(2, first) * z.gather(2, second)
    waves = torch.sin(draw.log_uniform(tasks, 1, 3, low=0.5, high=3.0) * product)
    product = standardise(torch.where(draw.chance(tasks, 1, 3, p=0.5), waves, product))
    strength = draw.normal(tasks, 1, 3) * draw.chance(tasks, 1, 3, p=0.6) * draw.chance(tasks, 1, 1, p=0.4)
    return standardise(total + total.std(1, keepdim=True, correction=0) * (product * strength).sum(2))


class _WithAdditiveTarget(TransformedTarget):
    made_by = "with_additive_target"

    def target(self, batch: TaskBatch, draw: Draw) -> Tensor:
        return additive_target(batch.x, draw)


def with_additive_target(prior: Prior, *, probability: float = 0.25) -> Prior:
    """Replace the target by a sum of functions of single columns of `prior`, in this share of its tasks.

    Graphs seldom give targets on which many columns have an effect of their own, as linear and additive models assume;
    many real tables do. See `additive_target` for the functions. There is no noise: add it with `with_target_noise`.

    References
    ----------
    .. [1] J. H. Friedman, "Multivariate Adaptive Regression Splines", Annals of Statistics 1991, for the flavour.
    """
    return _WithAdditiveTarget(prior, check_probability("probability", probability))
