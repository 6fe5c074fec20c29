"""Freeze-thaw tasks of a network: one row a configuration, with its parameters and a summary of its curve so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from priors import FreezeThawPrior, TaskBatch, TaskShape
from priors.draw import Draw
from priors.task import check_generator

MAX_PARAMS = 10
# Ends of the parts of a horizon whose mean values summarise a curve.
PARTS = (0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.22, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
N_ROW_FEATURES = MAX_PARAMS + len(PARTS) + 7
_NEW = 8                                 # configurations of a task without observations


def part_means(share: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    """Mean of what has been observed in each part of the horizon, (..., 13), NaN where nothing has.

    Parameters
    ----------
    share : Tensor of shape (..., m)
        Steps as shares of the horizon, in (0, 1].
    y : Tensor of shape (..., m)
    seen : Tensor of shape (..., m), bool
    """
    ends = torch.tensor(PARTS, dtype=share.dtype, device=share.device)
    part = torch.searchsorted(ends, (share - 1e-6).contiguous()).clamp_max(len(PARTS) - 1)
    weight = seen.to(y.dtype)
    zeros = y.new_zeros(*torch.broadcast_shapes(share.shape, y.shape)[:-1], len(PARTS))
    total = zeros.scatter_add(-1, part.expand_as(y), torch.where(seen, y, 0.0))
    return total / zeros.scatter_add(-1, part.expand_as(y), weight)


@dataclass(frozen=True)
class TaskScale:
    """Level and spread (B, 1) of all curves of a task; the network reads and predicts (y - level) / spread."""

    level: Tensor
    spread: Tensor

    @classmethod
    def of(cls, means: Tensor) -> TaskScale:
        """Of `part_means` of the context, (B, C, 13).

        One more value, of deviation 0.2 / √n beside n others, keeps the spread from 0.
        """
        values = means.flatten(1)
        seen = ~values.isnan()
        count = seen.sum(1, keepdim=True)
        level = torch.where(count > 0, torch.where(seen, values, 0.0).sum(1, keepdim=True) / count.clamp_min(1), 0.5)
        squares = torch.where(seen, values - level, 0.0).square().sum(1, keepdim=True)
        return cls(level, ((squares + 0.04 / count.clamp_min(1)) / (count + 1)).sqrt())

    def apply(self, y: Tensor) -> Tensor:
        return (y - self.level) / self.spread


def row_features(
    configs: Tensor,         # (B, R, p), p <= 10, in [0, 1]
    means: Tensor,           # (B, R, 13), see part_means
    last: Tensor,            # (B, R), last value observed; NaN if there is none
    observed: Tensor,        # (B, R), share of the horizon that has been observed, 0 if nothing has
    asked: Tensor,           # (B, R), share at which the row's target lies
    scale: TaskScale,
) -> Tensor:                 # (B, R, 30)
    """What the network is shown of a row. Context rows are asked for what has been observed last."""
    def shown(values: Tensor) -> Tensor:
        return 0.5 + 0.25 * values

    same = [scale.level.expand_as(last), (1.0 + 0.2 * (5 * scale.spread).log()).expand_as(last)]
    times = [t for share in (observed, asked) for t in (share, (1 + 99 * share).log() / math.log(100))]
    padded = torch.nn.functional.pad(configs, (0, MAX_PARAMS - configs.shape[2]), value=math.nan)
    curve = shown((means - scale.level.unsqueeze(-1)) / scale.spread.unsqueeze(-1))
    return torch.cat([padded, curve, torch.stack([shown(scale.apply(last)), *times, *same], dim=-1)], dim=-1)


@dataclass(frozen=True)
class FreezeThawTasks:
    """Partial curves of many configurations as context; queries are later steps of them, and any step of new ones.

    Parameters
    ----------
    prior : FreezeThawPrior
    """

    prior: FreezeThawPrior = field(default_factory=FreezeThawPrior)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        if shape.n_features != N_ROW_FEATURES or shape.n_context < 1:
            raise ValueError(f"{shape} is none of freeze-thaw tasks: use n_features={N_ROW_FEATURES} and n_context >= 1.")
        draw = Draw(check_generator(generator))
        luck = draw.on_cpu()
        n, n_context = shape.batch_size, shape.n_context
        n_params = int(luck.integers(1, low=1, high=MAX_PARAMS))
        n_steps = int(luck.log_integers(1, low=10, high=100))
        configs, y = self.prior.sample_curves(n, n_context + _NEW, n_params, n_steps, generator=generator)
        steps = torch.arange(1, n_steps + 1, device=y.device)
        skew = draw.log_uniform(n, 1, low=0.3, high=4.0)
        reached = (n_steps * draw.uniform(n, n_context) ** skew).ceil().long().clamp(1, n_steps)
        reached = torch.where(draw.chance(n, 1, p=0.1), n_steps, reached)                    # tasks of complete curves
        reached = torch.nn.functional.pad(reached, (0, _NEW))
        means = part_means(steps / n_steps, y, steps <= reached.unsqueeze(-1))
        scale = TaskScale.of(means[:, :n_context])
        # Queries: three in four continue a curve that is not complete, and of all one in three asks for the end.
        unfinished = (reached < n_steps).float()
        unfinished[:, :n_context] *= 3 * _NEW / unfinished[:, :n_context].sum(1, keepdim=True).clamp_min(1)
        n_queries = shape.n_rows - n_context
        chosen = torch.multinomial(unfinished, n_queries, replacement=True, generator=generator)
        rows = torch.cat([torch.arange(n_context, device=y.device).expand(n, -1), chosen], dim=1)
        so_far = reached.gather(1, rows)
        left = n_steps - so_far
        asked = so_far + 1 + (draw.uniform(*rows.shape) * left).long().clamp_max(left - 1)
        asked = torch.where(draw.chance(*rows.shape, p=1 / 3), n_steps, asked)
        asked[:, :n_context] = so_far[:, :n_context]

        def of_row(values: Tensor) -> Tensor:
            return values.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[2]))

        curves = of_row(y)
        last = curves.gather(2, (so_far - 1).clamp_min(0).unsqueeze(-1)).squeeze(-1).masked_fill(so_far == 0, math.nan)
        target = scale.apply(curves.gather(2, asked.unsqueeze(-1) - 1).squeeze(-1))
        x = row_features(of_row(configs), of_row(means), last, so_far / n_steps, asked / n_steps, scale)
        return TaskBatch(x, target, n_context)
