"""Turn a continuous target into classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw, standardise
from priors.task import Prior, TaskBatch, TaskShape, check_generator

MAX_CLUSTERS = 12                                                # of root causes, each of one class


def check_max_classes(max_classes: int) -> int:
    """The number, if it allows two classes; else a ValueError."""
    if max_classes < 2:
        raise ValueError(f"max_classes={max_classes} allows a single class; use max_classes >= 2.")
    return max_classes


def draw_n_classes(batch_size: int, max_classes: int, draw: Draw) -> Tensor:  # (B,), int64
    """2 with probability 0.4, else uniform in 2 … `max_classes`."""
    several = draw.integers(batch_size, low=2, high=max_classes)
    return torch.where(draw.chance(batch_size, p=0.4), torch.full_like(several, 2), several)


def cut_into_classes(
    y: Tensor,          # (B, R), continuous target
    n_classes: Tensor,  # (B,)
    draw: Draw,
) -> Tensor:            # (B, R), class index before compaction
    """Class = number of boundaries below y; boundaries are values of random rows ("rank") or N(0, 1) ("value").

    Classes are permuted at random, except in one task of ten, where they stay ordered.
    """
    batch, rows = y.shape
    most = int(n_classes.max())
    y = standardise(y)
    by_rank = y.gather(1, draw.integers(batch, most - 1, low=0, high=rows - 1))
    by_value = draw.normal(batch, most - 1)
    boundaries = torch.where(draw.chance(batch, 1, p=0.7), by_rank, by_value)
    unused = torch.arange(most - 1, device=y.device) >= (n_classes - 1).unsqueeze(1)
    boundaries = boundaries.masked_fill(unused, torch.inf)
    label = (y.unsqueeze(-1) > boundaries.unsqueeze(1)).sum(-1)                        # (B, R)
    order = torch.where(draw.chance(batch, 1, p=0.9), draw.permutation(batch, most), torch.arange(most, device=y.device))
    return order.gather(1, label)


def node_labels(
    target: Tensor,      # (B, R), value of the target node
    points: Tensor,      # (B, R, P), coordinates around it
    cluster: Tensor,     # (B, R), cluster of the row's causes, all 0 where a task has none
    max_classes: int,
    draw: Draw,
) -> Tensor:             # (B, R)
    """Classes from nodes of a causal graph by one of three constructions, drawn per task.

    Intervals of the target; the nearest of several prototypes; or the cluster from which the row's causes were drawn.
    """
    batch = len(target)
    n_classes = draw_n_classes(batch, max_classes, draw)
    intervals = cut_into_classes(target, n_classes, draw)
    # Several clusters may share a class, which makes classes multi-modal.
    owner = (draw.uniform(batch, MAX_CLUSTERS) * n_classes.unsqueeze(1)).floor().long()
    owner = torch.minimum(owner, (n_classes - 1).unsqueeze(1))
    one_each = torch.arange(MAX_CLUSTERS, device=draw.device) % n_classes.unsqueeze(1)
    owner = torch.where(draw.chance(batch, 1, p=0.6), one_each, owner)
    generative = owner.gather(1, cluster)
    how = draw.choice(batch, 1, weights=[0.45, 0.3, 0.25])
    # Without clusters there is nothing to generate from.
    how = torch.where((how == 2) & (cluster == 0).all(1, keepdim=True), 1, how)
    label = torch.where(how == 0, intervals, generative)
    chosen = (how == 1).squeeze(1).nonzero().squeeze(1)
    label[chosen] = _nearest_prototype(points[chosen], n_classes[chosen], draw)
    return label


def _nearest_prototype(points: Tensor, n_classes: Tensor, draw: Draw) -> Tensor:
    """Class of the nearest prototype; prototypes are data points, some classes have several of them."""
    batch, rows, _ = points.shape
    points = standardise(points)
    n_prototypes = (n_classes * draw.log_integers(batch, low=1, high=3)).clamp_max(20)
    index = draw.integers(batch, 20, low=0, high=rows - 1)
    centres = points.gather(1, index.unsqueeze(-1).expand(-1, -1, points.shape[2]))
    distance = torch.cdist(points, centres, p=2.0).square()
    # An additive offset makes cells of unequal size, Gumbel noise makes soft borders.
    offset = draw.normal(batch, 1, 20) * draw.uniform(batch, 1, 1)
    temperature = draw.log_uniform(batch, 1, 1, low=0.003, high=0.5)
    distance = distance + offset - temperature * draw.gumbel(batch, rows, 20)
    unused = torch.arange(20, device=draw.device) >= n_prototypes.unsqueeze(1)
    nearest = distance.masked_fill(unused.unsqueeze(1), torch.inf).argmin(2)
    return nearest % n_classes.unsqueeze(1)


def finish_labels(
    x: Tensor,        # (B, R, F)
    label: Tensor,    # (B, R), any non-negative integers
    n_context: int,
    draw: Draw,
) -> TaskBatch:
    """Make labels compact and see to it that every class occurs in the context.

    Tasks in which only one class is left are split at random into two: pure-noise tasks, which are legitimate. Where a
    class has no context row, one of its rows changes places with a context row, so rare classes keep 1–3 rows there.
    With fewer context rows than classes the surplus classes are merged.

    Notes
    -----
    Differs from TabPFN v1, which redraws the split until context and queries hold the same classes and thereby
    removes rare classes from the prior.
    """
    batch, rows = label.shape
    only_one = (label == label[:, :1]).all(1)
    coin = (draw.permutation(batch, rows) < max(1, rows // 2)).long()                   # both classes occur
    label = torch.where(only_one.unsqueeze(1), coin, label)
    most = int(label.max()) + 1
    present = torch.zeros(batch, most, dtype=torch.long, device=label.device).scatter_(1, label, 1)
    compact = (present.cumsum(1) - 1).gather(1, label)
    n_classes = present.sum(1)
    if n_context > 0:
        n_classes = n_classes.clamp_max(n_context)
        compact = compact % n_classes.unsqueeze(1)
        place = torch.arange(rows, device=label.device).expand(batch, -1)
        first_row = torch.full_like(present, rows).scatter_reduce_(1, compact, place, "amin")      # of each class
        first = torch.zeros(batch, rows + 1, dtype=torch.bool, device=label.device).scatter_(1, first_row, True)[:, :rows]
        missing = first & (place >= n_context)
        # Sort keys: the context keeps its place, rows to be moved in go before the last context rows that no class
        # needs as its only witness.
        witness = first[:, :n_context]
        key = torch.arange(rows, device=label.device, dtype=torch.float32).expand(batch, rows).clone()
        key[:, :n_context] += torch.where(witness, 0.0, float(rows))
        key[:, n_context:] += 2.0 * rows
        key = torch.where(missing, -1.0, key)
        order = key.argsort(dim=1, stable=True)
        moved = missing.any(1, keepdim=True)
        order = torch.where(moved, order, torch.arange(rows, device=label.device))
        x = x.gather(1, order.unsqueeze(-1).expand_as(x))
        compact = compact.gather(1, order)
    return TaskBatch(x=x, y=compact, n_context=n_context, n_classes=n_classes)


@dataclass(frozen=True)
class _AsClassification:
    prior: Prior
    max_classes: int

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        batch = self.prior.sample(shape, generator=generator)
        n_classes = draw_n_classes(len(batch), self.max_classes, draw)
        label = cut_into_classes(batch.y, n_classes, draw)
        return finish_labels(batch.x, label, batch.n_context, draw)


def as_classification(prior: Prior, *, max_classes: int = 10) -> Prior:
    """Classify the continuous target of `prior` instead of predicting it.

    Parameters
    ----------
    prior : Prior
        Draws tasks with real-valued `y`.
    max_classes : int
        Largest number of classes; see `draw_n_classes` for their law.

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
    .. [1] N. Hollmann et al., "TabPFN", ICLR 2023, section on classification targets.
    """
    return _AsClassification(prior, check_max_classes(max_classes))
