"""What real columns look like: warped, rounded, categorical, with outliers and gaps. Each transform wraps a prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw, standardise
from priors.task import Prior, TaskBatch, TaskShape, check_generator


def _check_probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r} is no probability; use a number in [0, 1].")
    return value


@dataclass(frozen=True)
class _Transformed:
    """A prior whose features are passed through `_transform`; what every wrapper in this file shares."""

    prior: Prior
    probability: float

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        batch = self.prior.sample(shape, generator=generator)
        changed = self._transform(batch, draw)
        constant = (changed == changed[:, :1]).all(1, keepdim=True)             # a column that lost all it had to say
        changed = torch.where(constant, batch.x, changed)
        active = draw.chance(len(batch), 1, 1, p=self.probability)
        return batch.with_features(torch.where(active, changed, batch.x))

    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        raise AssertionError("wrappers override this")


class _WithWarps(_Transformed):
    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        z = standardise(batch.x)
        tasks, _, n_features = z.shape

        def per_column(low: float, high: float) -> Tensor:
            return draw.uniform(tasks, 1, n_features, low=low, high=high)

        strength = per_column(0.2, 1.5)
        sign = torch.where(draw.chance(tasks, 1, n_features, p=0.5), 1.0, -1.0)
        exponential = sign * torch.exp((strength * sign * z).clamp(-8, 8))
        power = z.sign() * z.abs() ** torch.exp(per_column(-1.0, 1.0))
        levels = torch.exp(per_column(0.0, 2.5))                                         # 1 … 12 a standard deviation
        rounded = torch.round(z * levels) / levels
        censored = torch.maximum(sign * z, per_column(-1.0, 1.0))                        # many equal values, as in rain
        rank = z.argsort(1).argsort(1).float() / z.shape[1]
        warps = torch.stack([z, exponential, power, rounded, censored, rank])
        # Nearly all columns in some tables, few in others.
        touched = draw.chance(tasks, 1, n_features, p=draw.uniform(tasks, 1, 1))
        kind = draw.choice(tasks, 1, n_features, weights=[0.0, 0.3, 0.2, 0.25, 0.15, 0.1]) * touched
        warped = warps.gather(0, kind.unsqueeze(0).expand(1, *z.shape)).squeeze(0)
        # Outliers: single cells, up to 30 standard deviations away, in every tenth task.
        wild = draw.chance(*z.shape, p=0.01) & draw.chance(tasks, 1, 1, p=0.1)
        return torch.where(wild, warped * draw.log_uniform(*z.shape, low=1.0, high=30.0), warped)


class _WithCategoricals(_Transformed):
    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        x = batch.x
        tasks, rows, n_features = x.shape
        most = 64
        levels = 2 + draw.gamma(torch.ones(tasks, n_features, device=x.device)).mul(5.0).floor().long()
        levels = torch.where(draw.chance(tasks, n_features, p=0.3), 2, levels).clamp_max(most)
        edges = x.gather(1, draw.integers(tasks, most - 1, n_features, low=0, high=rows - 1))    # values of random rows
        unused = torch.arange(most - 1, device=x.device).view(1, -1, 1) >= (levels - 1).unsqueeze(1)
        edges = edges.masked_fill(unused, torch.inf).transpose(1, 2).contiguous().sort(2).values
        code = torch.searchsorted(edges, x.transpose(1, 2).contiguous()).transpose(1, 2)          # (B, R, F)
        shuffled = draw.permutation(tasks, n_features, most).transpose(1, 2).gather(1, code)
        # Codes as an encoder would give them: 0 … K-1 over the levels that occur.
        shuffled = torch.where(draw.chance(tasks, 1, n_features, p=0.35), code, shuffled)
        occurs = torch.zeros(tasks, most, n_features, device=x.device, dtype=torch.long).scatter_(1, shuffled, 1)
        compact = (occurs.cumsum(1) - 1).gather(1, shuffled).float()
        share = draw.uniform(tasks, 1, 1) * 1.3                                                   # all columns in a quarter
        chosen = draw.chance(tasks, 1, n_features, p=share) & (compact.amax(1, keepdim=True) > 0)
        return torch.where(chosen, compact, x)


class _WithDistractors(_Transformed):
    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        x = standardise(batch.x)
        tasks, rows, n_features = x.shape
        shuffled_rows = x.gather(1, draw.permutation(tasks, rows).unsqueeze(2).expand_as(x))     # same marginal, no signal
        source = draw.integers(tasks, 1, n_features, low=0, high=n_features - 1).expand_as(x)
        copy = x.gather(2, source) + draw.log_uniform(tasks, 1, n_features, low=0.05, high=2.0) * draw.normal(*x.shape)
        replaced = draw.chance(tasks, 1, n_features, p=draw.uniform(tasks, 1, 1) * 0.8)
        keep_one = draw.integers(tasks, 1, 1, low=0, high=n_features - 1)
        replaced = replaced & (torch.arange(n_features, device=x.device) != keep_one)
        return torch.where(replaced, torch.where(draw.chance(tasks, 1, n_features, p=0.5), shuffled_rows, copy), x)


class _WithMissing(_Transformed):
    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        x = batch.x
        tasks, rows, n_features = x.shape
        z = standardise(torch.nan_to_num(x))
        one = torch.ones(tasks, 1, n_features, device=x.device)
        rate = draw.beta(one, 3.0 * one)
        other = z.gather(2, draw.integers(tasks, 1, n_features, low=0, high=n_features - 1).expand_as(z))
        slope = draw.normal(tasks, 1, n_features) * 2.0
        mechanism = draw.choice(tasks, 1, n_features, weights=[0.5, 0.25, 0.25])                  # MCAR, MAR, MNAR
        driver = torch.where(mechanism == 1, other, z) * slope * (mechanism > 0)
        # The rows with the largest score are the missing ones, which hits the rate exactly whatever the mechanism.
        logistic = torch.logit(draw.uniform(*x.shape).clamp(1e-6, 1 - 1e-6))
        rank = (driver + logistic).argsort(1, descending=True).argsort(1)
        chosen = draw.chance(tasks, 1, n_features, p=draw.uniform(tasks, 1, 1))
        return x.masked_fill((rank < (rate * rows).long()) & chosen, torch.nan)


def with_warps(prior: Prior, *, probability: float = 0.5) -> Prior:
    """Skew, round, censor and rank-transform columns of `prior`, and plant outliers, in this share of its tasks."""
    return _WithWarps(prior, _check_probability("probability", probability))


def with_categoricals(prior: Prior, *, probability: float = 0.35) -> Prior:
    """Cut columns of `prior` into 2 – 64 categories with mostly arbitrary codes, in this share of its tasks.

    Category borders are values of random rows, so frequencies are uneven; codes are 0 … K-1 over the categories that
    occur. The share of categorical columns varies from none to all.
    """
    return _WithCategoricals(prior, _check_probability("probability", probability))


def with_distractors(prior: Prior, *, probability: float = 0.3) -> Prior:
    """Replace columns of `prior` by noise or by noisy copies of other columns, in this share of its tasks."""
    return _WithDistractors(prior, _check_probability("probability", probability))


def with_missing(prior: Prior, *, probability: float = 0.3) -> Prior:
    """Hide cells of `prior` as NaN, in this share of its tasks.

    A column's missing rate is Beta(1, 3); its cells go missing at random, in dependence of another column, or in
    dependence of their own value (half, a quarter, a quarter of the columns).
    """
    return _WithMissing(prior, _check_probability("probability", probability))
