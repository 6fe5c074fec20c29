"""What the tasks of a prior look like in numbers: marginals, correlation, targets, and how much there is to learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import standardise
from priors.learnable import learnability
from priors.task import Prior, TaskBatch, TaskShape

_LEARNABLE = 0.1                                                    # signal from which a task counts as learnable
_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class PriorSummary:
    """Statistics of a sample of tasks; printed, a table of their mean and quantiles.

    Parameters
    ----------
    prior : str
    shape : TaskShape
        Of the batch that was drawn.
    statistics : mapping of str to Tensor of shape (n,)
        One number for each task, or for each column of each task where the name says so.
    """

    prior: str
    shape: TaskShape
    statistics: Mapping[str, Tensor]

    def rows(self) -> list[tuple[str, float, float, float, float]]:
        """Name, mean, and 10 %, 50 % and 90 % quantile of each statistic."""
        levels = torch.tensor(_QUANTILES)
        return [
            (name, values.mean().item(), *values.quantile(levels.to(values)).tolist())
            for name, values in self.statistics.items()
        ]

    def __str__(self) -> str:
        shape = self.shape
        rows = self.rows()
        width = max(len(name) for name, *_ in rows)
        head = f"{shape.batch_size} tasks of {shape.n_rows} rows × {shape.n_features} features from {self.prior}"
        titles = " " * width + "".join(f"{title:>10}" for title in ("mean", "10 %", "50 %", "90 %"))
        lines = [f"{name:<{width}}" + "".join(f"{round(value, 6):>10.3g}" for value in values) for name, *values in rows]
        return "\n".join([head, titles, *lines])


def summarise(
    prior: Prior,
    shape: TaskShape | None = None,
    *,
    generator: torch.Generator,
) -> PriorSummary:
    """Draw a batch of tasks and describe it.

    Signal is the share of the target's variance that `priors.learnability` predicts from the features.

    Parameters
    ----------
    prior : Prior
    shape : TaskShape, optional
        100 tasks of 100 rows and 5 features by default.
    generator : torch.Generator

    Returns
    -------
    PriorSummary

    Examples
    --------
    >>> from priors import GPPrior
    >>> summary = summarise(GPPrior(), generator=torch.Generator().manual_seed(0))
    >>> summary.statistics["signal"].median() > 0.5
    tensor(True)
    """
    shape = TaskShape(100, 100, 5, 50) if shape is None else shape
    batch = prior.sample(shape, generator=generator)
    signal = learnability(batch)
    statistics = _feature_statistics(batch) | _target_statistics(batch)
    statistics |= {"signal": signal, f"learnable (signal > {_LEARNABLE})": (signal > _LEARNABLE).float()}
    return PriorSummary(repr(prior), shape, statistics)


def _filled(batch: TaskBatch) -> Tensor:
    """Features with the column mean in place of missing values."""
    missing = batch.x.isnan()
    count = (~missing).sum(1, keepdim=True).clamp_min(1)
    return torch.where(missing, torch.where(missing, 0.0, batch.x).sum(1, keepdim=True) / count, batch.x)


def _feature_statistics(batch: TaskBatch) -> dict[str, Tensor]:
    x, missing = batch.x, batch.x.isnan()
    real = torch.ones_like(x[:, 0], dtype=torch.bool) if batch.feature_mask is None else batch.feature_mask
    varies = (_filled(batch) != _filled(batch)[:, :1]).any(1)
    seen = varies & real                                                                 # (B, F)
    z = standardise(_filled(batch).double(), eps=1e-30)
    whole = ((x == x.round()) | missing).all(1) & seen
    statistics = {
        "feature skewness, by column": z.pow(3).mean(1)[seen],
        "feature excess kurtosis, by column": z.pow(4).mean(1)[seen] - 3.0,
        "whole-numbered columns (codes, counts)": whole.sum(1) / real.sum(1),
        "missing cells": (missing & real.unsqueeze(1)).sum((1, 2)) / (real.sum(1) * x.shape[1]),
    }
    if x.shape[2] > 1:
        z = torch.where(seen.unsqueeze(1), z, 0.0)
        correlation = (z.transpose(1, 2) @ z / x.shape[1]).abs()                         # (B, F, F)
        pairs = (seen.unsqueeze(1) & seen.unsqueeze(2)).triu(diagonal=1)
        statistics["|correlation| of two features"] = (correlation * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
    return {name: values.float() for name, values in statistics.items() if len(values)}


def _target_statistics(batch: TaskBatch) -> dict[str, Tensor]:
    if batch.n_classes is None:
        z = standardise(batch.y.double(), eps=1e-30)
        return {"target skewness": z.pow(3).mean(1).float(), "target excess kurtosis": z.pow(4).mean(1).float() - 3.0}
    share = torch.nn.functional.one_hot(batch.y, int(batch.n_classes.max())).float().mean(1)
    rarest = torch.where(share > 0, share, 1.0).amin(1)
    return {
        "classes": batch.n_classes.float(), "share of the largest class": share.amax(1), "share of the rarest class": rarest
    }
