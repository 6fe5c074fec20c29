"""Tables in which no column causes another: independent columns, ones that share a few factors, collinear ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.columns import draw_counting, emit_categories
from priors.draw import Draw, standardise
from priors.task import TaskBatch, TaskShape, check_generator

_N_FACTORS = 3
_MOST_FACTORS = 8


@dataclass(frozen=True)
class FactorPrior:
    """Linear regression on columns that are independent, in half of the tasks, or share up to three factors.

    Columns are normal, uniform or log-normal; in six of ten tasks a random share of them holds categories, most of which
    have an effect of their own for each level. Between three tenths and all of the columns have an effect, with weights of
    a spread that varies by task. The target is standardised and has no noise: add it with `with_target_noise`, and other
    functions of these columns with `with_additive_target` and `with_smooth_target`.

    Notes
    -----
    In random causal graphs columns depend on each other and few of them are near the target. A network that has seen graphs
    alone is poor at regression on ten columns that matter alike, as in designed experiments and many surveys.

    References
    ----------
    .. [1] D. J. Bartholomew, M. Knott and I. Moustaki, "Latent Variable Models and Factor Analysis", 3rd edition, 2011,
       chapter 3, the normal linear factor model.
    """

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        latent = _latent_columns(shape, draw)
        size = shape.batch_size, 1, shape.n_features
        shapes = torch.stack([
            latent, torch.special.ndtr(latent), torch.exp(draw.log_uniform(*size, low=0.3, high=1.2) * latent)])
        kind = draw.choice(1, *size, weights=[0.45, 0.35, 0.2])
        x = shapes.gather(0, kind.expand(1, *latent.shape)).squeeze(0)
        acts = x.clone()
        share = draw.uniform(shape.batch_size, 1) * draw.chance(shape.batch_size, 1, p=0.6)
        task, column = draw.chance(shape.batch_size, shape.n_features, p=share).nonzero(as_tuple=True)
        if len(task):
            codes, effects = emit_categories(latent[task, :, column], latent.mT, task, draw)
            several = (codes != codes[:, :1]).any(1)                                      # of few rows, all may be alike
            task, column = task[several], column[several]
            x[task, :, column], acts[task, :, column] = codes[several], effects[several]
        counts = draw_counting(shape.batch_size, shape.n_features, draw, least=0.3)
        weight = draw.normal(*size) * torch.exp(draw.uniform(shape.batch_size, 1, 1) * draw.normal(*size))
        y = standardise((standardise(acts) * weight * counts).sum(2))
        return TaskBatch(x, y, shape.n_context)


def _latent_columns(shape: TaskShape, draw: Draw) -> Tensor:
    """N(0, 1) values (B, R, F), with up to 0.9 of the variance from common factors in half of the tasks."""
    tasks, rows, n_features = shape.batch_size, shape.n_rows, shape.n_features
    common = draw.uniform(tasks, 1, 1, high=0.9) * draw.chance(tasks, 1, 1, p=0.5)
    loading = torch.nn.functional.normalize(draw.normal(tasks, _N_FACTORS, n_features), dim=1)
    factors = torch.bmm(draw.normal(tasks, rows, _N_FACTORS), loading)
    return (1.0 - common).sqrt() * draw.normal(tasks, rows, n_features) + common.sqrt() * factors


@dataclass(frozen=True)
class CollinearPrior:
    """Linear regression on factors that show themselves in columns which are nearly the same, as in spectra.

    Each of two to eight factors is N(0, 1), and each next one moves the columns by a fifth to all of what the one before
    it does; every column is a random mixture of them, with 0.3 % to 30 % of noise. All factors act on the target alike,
    so that what it needs may be a small part of what the columns hold. The target is standardised and has no noise.

    References
    ----------
    .. [1] I. T. Jolliffe, "A Note on the Use of Principal Components in Regression", Applied Statistics 1982: components
       of small variance can matter as much as those of large.
    """

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        tasks, rows, n_features = shape.batch_size, shape.n_rows, shape.n_features
        number = torch.arange(_MOST_FACTORS, device=draw.device)
        present = number < draw.log_integers(tasks, 1, low=2, high=_MOST_FACTORS)                      # (B, K)
        scale = draw.log_uniform(tasks, 1, low=0.2, high=1.0) ** number * present
        factors = draw.normal(tasks, rows, _MOST_FACTORS)
        x = standardise(torch.bmm(factors * scale.unsqueeze(1), draw.normal(tasks, _MOST_FACTORS, n_features)))
        x = x + draw.log_uniform(tasks, 1, 1, low=0.003, high=0.3) * draw.normal(tasks, rows, n_features)
        y = standardise((factors * (draw.normal(tasks, _MOST_FACTORS) * present).unsqueeze(1)).sum(2))
        return TaskBatch(x, y, shape.n_context)
