"""What real columns look like: warped, rounded, categorical, with outliers and gaps. Each transform wraps a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from priors.columns import MAX_LEVELS, compact_codes, cut_into_levels, draw_n_levels, level_masses
from priors.draw import Draw, standardise
from priors.hebo import kumaraswamy
from priors.task import Prior, TaskBatch, TaskShape, check_generator


def check_probability(name: str, value: float) -> float:
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
        active = draw.chance(len(batch), p=self.probability).nonzero().squeeze(1)
        if not len(active):
            return batch
        part = batch.select(active)
        changed = self._transform(part, draw)
        constant = (changed == changed[:, :1]).all(1, keepdim=True)             # a column that lost all it had to say
        x = batch.x.clone()
        x[active] = torch.where(constant, part.x, changed)
        return batch.with_features(x)

    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        raise AssertionError("wrappers override this")


class _WithWarps(_Transformed):
    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        tasks, rows, n_features = batch.x.shape
        z = standardise(batch.x).transpose(1, 2).reshape(tasks * n_features, rows)
        # Nearly all columns in some tables, few in others.
        touched = draw.chance(tasks, n_features, p=draw.uniform(tasks, 1)).flatten()
        kind = draw.choice(tasks * n_features, weights=[weight for weight, _ in _WARPS])
        for number, (_, warp) in enumerate(_WARPS):
            chosen = (touched & (kind == number)).nonzero().squeeze(1)
            z[chosen] = warp(z[chosen], draw)
        warped = z.view(tasks, n_features, rows).transpose(1, 2)
        # Outliers: single cells, up to 30 standard deviations away, in every tenth task.
        wild = draw.chance(*warped.shape, p=0.01) & draw.chance(tasks, 1, 1, p=0.1)
        return torch.where(wild, warped * draw.log_uniform(*warped.shape, low=1.0, high=30.0), warped)


def _sign(n_columns: int, draw: Draw) -> Tensor:
    return torch.where(draw.chance(n_columns, 1, p=0.5), 1.0, -1.0)


def _skew(z: Tensor, draw: Draw) -> Tensor:
    sign = _sign(len(z), draw)
    return sign * torch.exp((draw.uniform(len(z), 1, low=0.2, high=1.5) * sign * z).clamp(-8, 8))


def _power(z: Tensor, draw: Draw) -> Tensor:
    return z.sign() * z.abs() ** torch.exp(draw.uniform(len(z), 1, low=-1.0, high=1.0))


def _round(z: Tensor, draw: Draw) -> Tensor:
    levels = torch.exp(draw.uniform(len(z), 1, high=2.5))                                # 1 … 12 a standard deviation
    return torch.round(z * levels) / levels


def _censor(z: Tensor, draw: Draw) -> Tensor:
    """Many equal values at one end, as in rain."""
    return torch.maximum(_sign(len(z), draw) * z, draw.uniform(len(z), 1, low=-1.0, high=1.0))


def _rank(z: Tensor, draw: Draw) -> Tensor:
    return torch.searchsorted(z.sort(1).values, z) / z.shape[1]


def _kumaraswamy(z: Tensor, draw: Draw) -> Tensor:
    """Distribution function 1 - (1 - u^a)^b of the position u between the column's ends."""
    low, high = z.amin(1, keepdim=True), z.amax(1, keepdim=True)
    share = ((z - low) / (high - low).clamp_min(1e-6)).clamp(1e-4, 1 - 1e-4)
    a, b = torch.exp(draw.uniform(2, len(z), 1, low=-1.6, high=1.6))
    return kumaraswamy(share, a, b)


_WARPS: tuple[tuple[float, Callable[[Tensor, Draw], Tensor]], ...] = (
    (0.25, _skew), (0.15, _power), (0.25, _round), (0.15, _censor), (0.1, _rank), (0.1, _kumaraswamy),
)


class _WithCategoricals(_Transformed):
    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        columns = batch.x.transpose(1, 2).contiguous()                                            # (B, F, R)
        tasks, n_features, _ = columns.shape
        n_levels = draw_n_levels(tasks * n_features, draw)
        mass = level_masses(n_levels, MAX_LEVELS, draw).view(tasks, n_features, MAX_LEVELS)
        code = cut_into_levels(columns, mass)
        arbitrary = draw.permutation(tasks, n_features, MAX_LEVELS).gather(2, code)
        code = compact_codes(torch.where(draw.chance(tasks, n_features, 1, p=0.35), code, arbitrary), MAX_LEVELS)
        share = draw.uniform(tasks, 1, 1) * 1.3                                                   # all columns in a quarter
        chosen = draw.chance(tasks, n_features, 1, p=share) & (code.amax(2, keepdim=True) > 0)
        return torch.where(chosen, code.float(), columns).transpose(1, 2)


class _WithDistractors(_Transformed):
    def _transform(self, batch: TaskBatch, draw: Draw) -> Tensor:
        x = standardise(batch.x)
        tasks, rows, n_features = x.shape
        shuffled_rows = x.gather(1, draw.permutation(tasks, rows).unsqueeze(2).expand_as(x))     # same marginal, no signal
        source = draw.integers(tasks, 1, n_features, low=0, high=n_features - 1).expand_as(x)
        noise = draw.log_uniform(tasks, 1, n_features, low=0.05, high=2.0) * draw.chance(tasks, 1, n_features, p=0.8)
        copy = x.gather(2, source) + noise * draw.normal(*x.shape)                               # a fifth are duplicates
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
        # A block: the gaps of all columns with this mechanism fall on the same rows.
        block = draw.normal(tasks, rows, 1).mul(4.0).expand_as(z)
        driver = torch.where(draw.chance(tasks, 1, 1, p=0.1), block, driver)
        # The rows with the largest score are the missing ones, which hits the rate exactly whatever the mechanism.
        logistic = torch.logit(draw.uniform(*x.shape).clamp(1e-6, 1 - 1e-6))
        rank = (driver + logistic).argsort(1, descending=True).argsort(1)
        chosen = draw.chance(tasks, 1, n_features, p=draw.uniform(tasks, 1, 1))
        missing = (rank < (rate * rows).long()) & chosen
        # A column that was not recorded yet when the context was: nothing but gaps there.
        in_context = (torch.arange(rows, device=x.device) < batch.n_context).view(1, -1, 1)
        not_first = torch.arange(n_features, device=x.device) > 0
        unrecorded = draw.chance(tasks, 1, n_features, p=0.01) & in_context & not_first
        return x.masked_fill(missing | unrecorded, torch.nan)


@dataclass(frozen=True)
class TransformedTarget:
    """A prior whose real targets `target` replaces; what every wrapper of targets shares."""

    prior: Prior
    probability: float
    made_by: ClassVar[str]                                                            # the public function, for messages

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        batch = self.prior.sample(shape, generator=generator)
        if batch.n_classes is not None:
            raise ValueError(f"{self.prior!r} draws classes; {self.made_by}() is for priors with real targets.")
        changed = self.target(batch, draw)
        return replace(batch, y=torch.where(draw.chance(len(batch), 1, p=self.probability), changed, batch.y))

    def target(self, batch: TaskBatch, draw: Draw) -> Tensor:
        """The new targets (B, R)."""
        raise AssertionError("wrappers override this")


class _WithTargetNoise(TransformedTarget):
    made_by = "with_target_noise"

    def target(self, batch: TaskBatch, draw: Draw) -> Tensor:
        tasks, rows, n_features = batch.x.shape
        y = standardise(batch.y)
        low, high = y.amin(1, keepdim=True), y.amax(1, keepdim=True)
        strength = draw.log_uniform(tasks, 1, low=0.3, high=1.5)
        skewed = torch.exp((strength * y).clamp(-6, 6))
        cubed = y.clamp(-5, 5) ** 3
        counted = torch.round(draw.log_uniform(tasks, 1, low=1.0, high=20.0) * (y - low))
        levels = draw.log_integers(tasks, 1, low=2, high=10)
        ordinal = torch.round((y - low) / (high - low).clamp_min(1e-6) * levels)
        censored = torch.maximum(y, draw.uniform(tasks, 1, low=-1.0, high=0.7))
        shapes = torch.stack([y, skewed, cubed, counted, ordinal, censored])
        kind = draw.choice(1, tasks, 1, weights=[0.5, 0.15, 0.05, 0.1, 0.1, 0.1])
        shaped = standardise(shapes.gather(0, kind.expand(1, tasks, rows)).squeeze(0))
        # Noise that depends on a feature or on the target itself, with tails from normal to Student's t with 2 degrees.
        z = standardise(torch.nan_to_num(batch.x)).clamp(-3, 3)
        feature = z.gather(2, draw.integers(tasks, 1, 1, low=0, high=n_features - 1).expand(-1, rows, 1)).squeeze(2)
        driver = torch.where(draw.chance(tasks, 1, p=0.5), feature, shaped.clamp(-3, 3))
        spread = torch.exp(draw.chance(tasks, 1, p=0.4) * draw.uniform(tasks, 1, low=-1.0, high=1.0) * driver)
        degrees = draw.log_uniform(tasks, 1, low=2.0, high=100.0).expand(-1, rows)
        student = draw.normal(tasks, rows) / (draw.gamma(0.5 * degrees) / (0.5 * degrees)).clamp_min(1e-3).sqrt()
        heavy = draw.chance(tasks, 1, p=0.3)
        noise = torch.where(heavy, student, draw.normal(tasks, rows)) * spread
        noise = noise * draw.log_uniform(tasks, 1, low=0.01, high=1.0) * draw.chance(tasks, 1, p=0.7)
        return standardise(shaped + noise)


class _WithNormalScores(TransformedTarget):
    made_by = "with_normal_scores"

    def target(self, batch: TaskBatch, draw: Draw) -> Tensor:
        y = batch.y.contiguous()
        ordered = y.sort(1).values                                                    # equal targets share their middle rank
        middle = (torch.searchsorted(ordered, y) + torch.searchsorted(ordered, y, right=True)) / 2
        return torch.special.ndtri(middle / y.shape[1])


def with_warps(prior: Prior, *, probability: float = 0.5) -> Prior:
    """Skew, round, censor, rank-transform and squeeze columns of `prior`, and plant outliers, in this share of its tasks.

    Only the columns change: what the target depends on stays as it was (TabICLv2's warps reach the target).
    """
    return _WithWarps(prior, check_probability("probability", probability))


def with_categoricals(prior: Prior, *, probability: float = 0.35) -> Prior:
    """Cut columns of `prior` into categories with mostly arbitrary codes, in this share of its tasks.

    Columns have 2 – 12 categories, a tenth of them up to 200. Frequencies are Dirichlet(1), or Zipf in columns with many
    categories; codes are 0 … K-1 over the categories that occur. The share of categorical columns varies from none to all.
    """
    return _WithCategoricals(prior, check_probability("probability", probability))


def with_distractors(prior: Prior, *, probability: float = 0.3) -> Prior:
    """Replace columns of `prior` by noise or by noisy copies of other columns, in this share of its tasks."""
    return _WithDistractors(prior, check_probability("probability", probability))


def with_missing(prior: Prior, *, probability: float = 0.3) -> Prior:
    """Hide cells of `prior` as NaN, in this share of its tasks.

    A column's missing rate is Beta(1, 3); its cells go missing at random, in dependence of another column, or in
    dependence of their own value (half, a quarter, a quarter of the columns). In a tenth of the tasks the gaps of all
    columns fall on the same rows. One column in a hundred (never the first) has no value at all in the context.
    """
    return _WithMissing(prior, check_probability("probability", probability))


def with_target_noise(prior: Prior, *, probability: float = 0.8) -> Prior:
    """Bend the real target of `prior` and add noise, in this share of its tasks.

    Half of these targets are bent: skewed, cubed, rounded to counts, cut to 3 – 11 ordinal values, or censored from
    below. Seven of ten get noise of 1 % to 100 % of the target's standard deviation; its scale depends on a feature or on
    the target in two of five tasks, and its tails are those of Student's t in three of ten.
    """
    return _WithTargetNoise(prior, check_probability("probability", probability))


def with_normal_scores(prior: Prior, *, probability: float = 0.2) -> Prior:
    """Replace the real target of `prior` by the normal scores of its ranks, Φ⁻¹(rank), in this share of its tasks.

    A network that has seen such tasks can be shown the ranks of a skewed target; equal targets share their middle rank.
    """
    return _WithNormalScores(prior, check_probability("probability", probability))
