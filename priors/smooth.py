"""Smooth functions of many columns at once, from nearly linear to wavy: targets, or the scores of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from priors.columns import draw_counting
from priors.draw import Draw, standardise
from priors.labels import check_max_classes, draw_n_classes, finish_labels
from priors.task import Prior, TaskBatch, TaskShape, check_generator
from priors.transforms import TransformedTarget, check_probability

_N_WAVES = 128


def smooth_functions(x: Tensor, n_functions: int, draw: Draw) -> Tensor:
    """Functions of a Gaussian process for a table x (B, R, F), at its rows and standardised, (B, R, `n_functions`).

    The kernel, one a task, is a Gaussian or a Matérn (½, 3/2, 5/2) of the standardised columns, by `_N_WAVES` random
    Fourier features. A random share of the columns counts, each with a lengthscale of its own; the rate, the standard
    deviation of a wave's argument, is 0.1 … 4 in all: below about 0.5 functions are hardly more than linear. In three of
    ten tasks some columns count by their difference from another one, which is what matters where columns are nearly the
    same, as in spectra.
    """
    tasks, _, n_features = x.shape
    z = standardise(torch.nan_to_num(x)).clamp(-3.0, 3.0)
    columns = torch.arange(n_features, device=x.device)
    other = draw.permutation(tasks, 1, n_features)
    share = draw.uniform(tasks, 1, 1) * draw.chance(tasks, 1, 1, p=0.3)
    contrast = draw.chance(tasks, 1, n_features, p=share) & (other != columns)
    z = torch.where(contrast, standardise(z - z.gather(2, other.expand_as(z))).clamp(-3.0, 3.0), z)

    counts = draw_counting(tasks, n_features, draw).squeeze(1)
    relevance = counts * torch.exp(draw.uniform(tasks, 1, high=1.0) * draw.normal(tasks, n_features))
    rate = draw.log_uniform(tasks, 1, low=0.1, high=4.0) * relevance / relevance.norm(dim=1, keepdim=True)
    degrees = torch.tensor([1.0, 3.0, 5.0, 1e4], device=x.device)[draw.choice(tasks, 1, weights=[0.1, 0.2, 0.2, 0.5])]
    waves = random_waves(z, rate, degrees, draw)
    return standardise(torch.bmm(waves, draw.normal(tasks, _N_WAVES, n_functions)))


def random_waves(
    z: Tensor,          # (B, R, F)
    rate: Tensor,       # (B, F), reciprocal lengthscales
    degrees: Tensor,    # (B, 1), twice the smoothness of the Matérn kernel; thousands for a Gaussian one
    draw: Draw,
) -> Tensor:            # (B, R, K)
    """Random Fourier features: the mean of 2 wave(z) wave(z') is the kernel of z and z'.

    The spectral density of a Matérn kernel of smoothness v is Student's t with 2v degrees of freedom.
    """
    tasks, _, n_features = z.shape
    half = (0.5 * degrees).expand(-1, _N_WAVES)
    tails = (draw.gamma(half) / half).clamp_min(1e-3).rsqrt()
    frequency = rate.unsqueeze(2) * draw.normal(tasks, n_features, _N_WAVES) * tails.unsqueeze(1)
    phase = draw.uniform(tasks, 1, _N_WAVES, high=2.0 * math.pi)
    return torch.cos(torch.baddbmm(phase, z, frequency))


def softmax_labels(logits: Tensor, n_classes: Tensor, draw: Draw) -> Tensor:  # (B, R, K), (B,); (B, R)
    """A class for each row, drawn from the softmax of the first `n_classes` logits of its task."""
    unused = torch.arange(logits.shape[2], device=logits.device) >= n_classes.view(-1, 1, 1)
    return (logits + draw.gumbel(*logits.shape)).masked_fill(unused, -torch.inf).argmax(2)


class _WithSmoothTarget(TransformedTarget):
    made_by = "with_smooth_target"

    def target(self, batch: TaskBatch, draw: Draw) -> Tensor:
        return smooth_functions(batch.x, 1, draw).squeeze(2)


def with_smooth_target(prior: Prior, *, probability: float = 0.2) -> Prior:
    """Replace the target by a draw of a Gaussian process on the columns of `prior`, in this share of its tasks.

    Graphs seldom give smooth targets in which many columns act together with little noise, as measurements of physical
    systems do. See `smooth_functions` for the kernels. There is no noise: add it with `with_target_noise`.

    References
    ----------
    .. [1] A. Rahimi and B. Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007.
    .. [2] C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006, equations 4.15 and 4.17.
    """
    return _WithSmoothTarget(prior, check_probability("probability", probability))


@dataclass(frozen=True)
class _WithSoftmaxClasses:
    prior: Prior
    max_classes: int

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        batch = self.prior.sample(shape, generator=generator)
        tasks = len(batch)
        n_classes = draw_n_classes(tasks, self.max_classes, draw)
        most = int(n_classes.max())
        logits = smooth_functions(batch.x, most, draw) * draw.log_uniform(tasks, 1, 1, low=0.5, high=20.0)
        offset = draw.normal(tasks, 1, most) * draw.uniform(tasks, 1, 1, high=2.0)
        label = softmax_labels(logits + offset, n_classes, draw)
        return finish_labels(batch.x, label, batch.n_context, draw)


def with_softmax_classes(prior: Prior, *, max_classes: int = 10) -> Prior:
    """Classes drawn from a softmax of smooth functions of the columns of `prior`, one function for each class.

    The rows of its tables stay, its targets go. Slow functions make it multinomial logistic regression, from nearly
    certain labels to ones that are mostly noise.

    Parameters
    ----------
    prior : Prior
        Draws the features.
    max_classes : int
        Largest number of classes; see `priors.labels.draw_n_classes` for their law.

    Returns
    -------
    Prior
        Same features, class indices in `y`, `n_classes` set; every class occurs in the context.

    Raises
    ------
    ValueError
        If `max_classes` is below 2.

    References
    ----------
    .. [1] C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006, section 3.5.
    """
    return _WithSoftmaxClasses(prior, check_max_classes(max_classes))
