"""How much of a task's target can be learned from its features: a cheap score, and a filter that redraws hopeless tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from priors.draw import Draw, standardise
from priors.task import Prior, TaskBatch, TaskShape, check_generator

_MAX_ROWS = 192
_BINS = 6
_RIDGES = (0.1, 1.0)
_TASKS_AT_ONCE = 64
_LEAST_ROWS = 32                      # of a task that the filter judges


@torch.no_grad()
def learnability(batch: TaskBatch) -> Tensor:
    """Share of the target's variance that kernel ridge regression predicts on rows it has not seen.

    Of the first 384 rows, every second one serves to weigh the features, each by the share of the target's variance that
    lies between bins of the feature; on the others, leave-one-out predictions of kernel ridge regression (a Gaussian and a
    linear kernel on the weighted ranks; the better of two ridges) are compared with leave-one-out means. Classes count as
    one-hot targets.

    Parameters
    ----------
    batch : TaskBatch

    Returns
    -------
    Tensor of shape (B,)
        At most 1; about 0, or a little below, for pure noise. Interactions of features none of which says anything
        alone (parity) go unnoticed. 0 for tasks of fewer than 8 rows.
    """
    if batch.x.shape[1] < 8:
        return torch.zeros(len(batch), device=batch.x.device)
    parts = torch.arange(len(batch), device=batch.x.device).split(_TASKS_AT_ONCE)
    return torch.cat([_learnability(batch.select(part)) for part in parts])


def _learnability(batch: TaskBatch) -> Tensor:
    rows = min(batch.x.shape[1] // 2, _MAX_ROWS)
    target = batch.y[:, : 2 * rows]
    if batch.n_classes is None:
        y = standardise(target).clamp(-4.0, 4.0).unsqueeze(2)
    else:
        y = torch.nn.functional.one_hot(target, int(batch.n_classes.max())).float()
    ranks = _ranks(batch.x[:, : 2 * rows])                                                       # (B, 2 rows, F)
    # Context rows come first and rare classes are moved among them: even and odd rows are alike.
    weight = _relevance(ranks[:, 1::2], y[:, 1::2])                                              # (B, F)
    z, y = ranks[:, ::2] * weight.sqrt().unsqueeze(1), y[:, ::2]
    z = z - z.mean(1, keepdim=True)                                   # else a shared offset swamps the ridge in float32
    distance = torch.cdist(z, z).square()
    width = distance.mean((1, 2), keepdim=True).clamp_min(1e-6)
    kernel = torch.exp(-distance / (0.5 * width)) + 0.5 * (z @ z.transpose(1, 2)) / width
    baseline = (y - y.mean(1, keepdim=True)).square().sum((1, 2)) * (rows / (rows - 1.0)) ** 2
    errors = [_leave_one_out_error(kernel, y, ridge) for ridge in _RIDGES]
    return 1.0 - torch.stack(errors).amin(0) / baseline.clamp_min(1e-9)


def _ranks(x: Tensor) -> Tensor:
    """Ranks scaled to -1 … 1, equal for equal values; missing values in the middle."""
    missing = x.isnan()
    filled = x.masked_fill(missing, torch.inf).transpose(1, 2).contiguous()                      # (B, F, R)
    ordered = filled.sort(2).values
    low, high = torch.searchsorted(ordered, filled), torch.searchsorted(ordered, filled, right=True)
    known = (~missing).sum(1).clamp_min(1).unsqueeze(2)                                          # (B, F, 1)
    rank = ((low + high) / known - 1.0).transpose(1, 2)
    return rank.masked_fill(missing, 0.0)


def _relevance(ranks: Tensor, y: Tensor) -> Tensor:  # (B, R, F), (B, R, C) -> (B, F)
    """Share of the target's variance between bins of the feature, less what chance would give; a floor keeps all in."""
    rows = ranks.shape[1]
    bins = ((ranks + 1.0) * 0.5 * _BINS).long().clamp(0, _BINS - 1)
    member = torch.nn.functional.one_hot(bins, _BINS).to(y.dtype).flatten(2)                     # (B, R, F·K)
    centred = y - y.mean(1, keepdim=True)
    count = member.sum(1).clamp_min(1e-9).unsqueeze(2)
    total = member.transpose(1, 2) @ centred                                                     # (B, F·K, C)
    between = (total.square() / count).sum(2).view(*ranks.shape[::2], _BINS).sum(2)
    share = between / centred.square().sum((1, 2)).clamp_min(1e-9).unsqueeze(1)
    share = (share - (_BINS - 1) / rows).clamp_min(0.0)
    return share / share.amax(1, keepdim=True).clamp_min(1e-9) + 0.02


def _leave_one_out_error(kernel: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Sum of squared leave-one-out residuals of kernel ridge regression with an unpenalised mean."""
    rows = kernel.shape[1]
    noisy = kernel + 10.0                                                                        # the mean
    noisy.diagonal(dim1=1, dim2=2).add_(ridge * rows / 64.0)
    factor, failed = torch.linalg.cholesky_ex(noisy)
    identity = torch.eye(rows, device=y.device)
    inverse = torch.cholesky_inverse(torch.where(failed.view(-1, 1, 1) > 0, identity, factor))   # no gain where it failed
    residual = (inverse @ y) / inverse.diagonal(dim1=1, dim2=2).unsqueeze(2)
    return residual.square().sum((1, 2)).nan_to_num(torch.inf)


@dataclass(frozen=True)
class _WithLearnable:
    prior: Prior
    least: float
    keep: float
    overdraw: float

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        if shape.n_rows < _LEAST_ROWS:
            return self.prior.sample(shape, generator=generator)
        wanted = shape.batch_size
        candidates = self.prior.sample(replace(shape, batch_size=int(wanted * self.overdraw) + 1), generator=generator)
        passes = (learnability(candidates) >= self.least) | draw.chance(len(candidates), p=self.keep)
        return candidates.select((~passes).long().argsort(stable=True)[:wanted].sort().values)


def with_learnable(prior: Prior, *, least: float = 0.02, keep: float = 0.1, overdraw: float = 1.5) -> Prior:
    """Replace tasks of `prior` whose target is close to noise by others.

    A batch is drawn larger than asked for; tasks that pass come first, in the order drawn. Where too few pass, the batch
    is filled with tasks that do not.

    Parameters
    ----------
    prior : Prior
    least : float
        Least `learnability` of a task that passes.
    keep : float
        Share of the other tasks that pass all the same: a network should know noise when it sees it.
    overdraw : float
        Tasks drawn for each one asked for, at least 1.

    Notes
    -----
    Tasks of fewer than 32 rows are not judged. Differs from TabICLv2, which fits a forest to every task.
    """
    if not overdraw >= 1:
        raise ValueError(f"overdraw={overdraw!r} draws fewer tasks than are asked for; use overdraw >= 1.")
    if not 0 <= keep <= 1:
        raise ValueError(f"keep={keep!r} is no probability; use a number in [0, 1].")
    return _WithLearnable(prior, least, keep, overdraw)
