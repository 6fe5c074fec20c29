"""Classification by explicit rules on a few columns: parity, lookup tables, conjunctions, products, small trees."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from priors.draw import Draw, standardise
from priors.labels import cut_into_classes, draw_n_classes, finish_labels
from priors.scm import SCMPrior
from priors.task import Prior, TaskBatch, TaskShape, check_generator

_MAX_DRIVERS = 4
_FAMILIES = ("parity", "lookup", "and", "or", "product", "tree")
_WEIGHTS = (0.45, 0.10, 0.075, 0.075, 0.10, 0.20)
_XOR_SHARE = 0.25 / 0.45              # of the parity tasks: two drivers
_TEMPERATURE = 0.125


@dataclass(frozen=True)
class RulePrior:
    """Tasks whose label is a rule on one to four columns of `base`, the *drivers*; the other columns are distractors.

    Families: parity (XOR for two drivers; sum of digits modulo the number of classes), a random lookup table over
    cells, all-of, any-of, binned product of centred drivers, and trees of depth three. In a parity task the drivers
    are redrawn from their own marginals so that all cells have equal mass: no single column carries any signal. In a
    quarter of the other tasks some labels are those of the base's own target instead: the rule has logit U(0.75, 1.5), the
    base's label U(0, 0.5), at temperature 0.125.

    Parameters
    ----------
    base : Prior
        Where the columns come from, and the labels that sway some; its targets are real.
    max_classes : int
        Largest number of classes.
    max_label_noise : float
        The share of labels replaced by random ones is uniform between 0 and this, per task.

    References
    ----------
    .. [1] LightPFN technical report, rule component of the prior.
    """

    base: Prior = field(default_factory=SCMPrior)
    max_classes: int = 10
    max_label_noise: float = 0.15

    def __post_init__(self) -> None:
        if self.max_classes < 2:
            raise ValueError(f"max_classes={self.max_classes} allows a single class; use max_classes >= 2.")
        if not 0 <= self.max_label_noise < 1:
            raise ValueError(f"max_label_noise={self.max_label_noise} is no probability below 1; try 0.15.")

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        batch, rows, n_features = shape.batch_size, shape.n_rows, shape.n_features
        tasks = self.base.sample(shape, generator=generator)
        if tasks.n_classes is not None:
            raise ValueError(f"base={self.base!r} draws classes; use a prior with real targets, for example SCMPrior().")
        x = tasks.x
        columns = draw.permutation(batch, n_features)[:, :_MAX_DRIVERS]                         # (B, K)
        index = columns.unsqueeze(1).expand(-1, rows, -1)
        family = draw.choice(batch, weights=_WEIGHTS)
        n_drivers = draw.integers(batch, low=min(2, n_features), high=min(_MAX_DRIVERS, n_features))
        is_xor = (family == 0) & draw.chance(batch, p=_XOR_SHARE)
        n_drivers = torch.where(is_xor, min(2, n_features), n_drivers)
        n_classes = draw_n_classes(batch, self.max_classes, draw)
        n_classes = torch.where((family == 2) | (family == 3), 2, n_classes)

        is_parity = (family == 0).view(batch, 1, 1)
        base_digits = torch.where(family == 0, n_classes, 2 + draw.integers(batch, low=0, high=2)).clamp_max(4)
        drivers = x.gather(2, index)                                                            # (B, R, K)
        digits = _digits(drivers, base_digits, draw)
        free = (draw.uniform(*digits.shape) * base_digits.view(batch, 1, 1)).floor().long()
        digits = torch.where(is_parity, free, digits)
        x = x.scatter(2, index, torch.where(is_parity, _redraw(drivers, free, base_digits, draw), drivers))

        inactive = torch.arange(digits.shape[2], device=x.device) >= n_drivers.unsqueeze(1)     # (B, K)
        label = self._apply(family, digits.masked_fill(inactive.unsqueeze(1), 0), drivers, inactive, n_classes, draw)
        logit = draw.uniform(batch, low=0.75, high=1.5) - draw.uniform(batch, high=0.5)
        share = torch.sigmoid(-logit / _TEMPERATURE) * draw.chance(batch, p=0.25) * (family != 0)
        swayed = draw.chance(batch, rows, p=share.unsqueeze(1))
        label = torch.where(swayed, cut_into_classes(tasks.y, n_classes, draw), label)
        noisy = draw.chance(batch, rows, p=self.max_label_noise * draw.uniform(batch, 1))
        random_label = (draw.uniform(batch, rows) * n_classes.unsqueeze(1)).floor().long()
        return finish_labels(x, torch.where(noisy, random_label, label), shape.n_context, draw)

    def _apply(
        self, family: Tensor, digits: Tensor, drivers: Tensor, inactive: Tensor, n_classes: Tensor, draw: Draw
    ) -> Tensor:  # (B, R)
        """Evaluate every family for every task and keep the one drawn; rules are cheap beside the base prior."""
        batch, rows, n_drivers = digits.shape
        count = n_classes.unsqueeze(1)
        parity = digits.sum(2) % count
        cell = (digits * 4 ** torch.arange(n_drivers, device=digits.device)).sum(2)             # < 4^K
        table = draw.permutation(batch, 4**n_drivers) % count                                   # balanced random map
        lookup = table.gather(1, cell)
        on = (digits > 0) | inactive.unsqueeze(1)
        all_of, any_of = on.all(2).long(), ((digits > 0) & ~inactive.unsqueeze(1)).any(2).long()
        centred = drivers - drivers.median(1, keepdim=True).values
        two = torch.arange(n_drivers, device=digits.device) < 2
        product = torch.where(two, centred, 1.0).prod(2)
        rank = (product.argsort(1).argsort(1) * count) // rows
        binned = torch.where(count == 2, (product > 0).long(), rank)
        tree = _tree(drivers, count, draw)
        labels = torch.stack([parity, lookup, all_of, any_of, binned, tree])
        return labels.gather(0, family.view(1, batch, 1).expand(1, batch, rows)).squeeze(0)


def _thresholds(n_digits: Tensor, rows: int, draw: Draw) -> Tensor:
    """Cut positions as ranks (B, 3): one cut at a quantile in .3 … .7 for two digits, else equal shares."""
    cut = torch.arange(1, 4, device=draw.device) / n_digits.unsqueeze(1)                        # > 1 where unused
    one = draw.uniform(len(n_digits), 1, low=0.3, high=0.7)
    cut = torch.where((n_digits == 2).unsqueeze(1) & (cut < 1), one, cut)
    return cut * rows


def _digits(drivers: Tensor, n_digits: Tensor, draw: Draw) -> Tensor:  # (B, R, K)
    """Quantise columns into `n_digits` bins by value; equal values share a bin, the smallest value lies in the first."""
    ordered = drivers.sort(1).values
    position = _thresholds(n_digits, drivers.shape[1], draw)                                    # (B, 3)
    index = position.long().clamp_max(drivers.shape[1] - 1).unsqueeze(2).expand(-1, -1, drivers.shape[2])
    smallest = ordered[:, :1]
    second = drivers.masked_fill(drivers == smallest, torch.inf).amin(1, keepdim=True)
    # Where half of a column is its smallest value, a cut there would put all rows into the upper bin.
    cuts = torch.maximum(ordered.gather(1, index), second)
    cuts = cuts.masked_fill((position >= drivers.shape[1]).unsqueeze(2), torch.inf)
    return (drivers.unsqueeze(1) >= cuts.unsqueeze(2)).sum(1)


def _redraw(drivers: Tensor, digits: Tensor, n_digits: Tensor, draw: Draw) -> Tensor:  # (B, R, K)
    """Values with the columns' own marginals whose bin is the given digit: a random order statistic of that bin.

    A column in which equal values lie in two bins cannot show its digit; there the digit itself is the value.
    """
    rows = drivers.shape[1]
    ordered = drivers.sort(1).values
    count = n_digits.view(-1, 1, 1)
    first, end = (((digits + i) * rows + count - 1) // count for i in (0, 1))
    index = first + (draw.uniform(*digits.shape) * (end - first)).long()
    value = ordered.gather(1, index.clamp_max(rows - 1))
    border = (torch.arange(1, 4, device=drivers.device).view(1, 3, 1) * rows + count - 1) // count   # (B, 3, 1)
    used = (border < rows).expand(-1, -1, drivers.shape[2])
    above = ordered.gather(1, border.clamp(1, rows - 1).expand_as(used)) if rows > 1 else ordered[:, :1].expand_as(used)
    below = ordered.gather(1, (border - 1).clamp(0, rows - 1).expand_as(used))
    tied = ((above == below) & used).any(1, keepdim=True)
    return torch.where(tied, digits.float(), value)


def _tree(drivers: Tensor, n_classes: Tensor, draw: Draw, depth: int = 3) -> Tensor:  # (B, R)
    """Class of the leaf in a random tree; each node cuts one driver at the value of a random row."""
    batch, rows, n_drivers = drivers.shape
    node = torch.zeros(batch, rows, dtype=torch.long, device=drivers.device)                    # heap order, root 0
    column = draw.integers(batch, 2**depth - 1, low=0, high=n_drivers - 1)
    ordered = standardise(drivers).sort(1).values
    cut_row = (draw.uniform(batch, 2**depth - 1, low=0.25, high=0.75) * rows).long()
    cut = ordered.gather(1, cut_row.unsqueeze(2).expand(-1, -1, n_drivers)).gather(2, column.unsqueeze(2)).squeeze(2)
    values = standardise(drivers)
    for _ in range(depth):
        value = values.gather(2, column.gather(1, node).unsqueeze(2)).squeeze(2)
        node = 2 * node + 1 + (value > cut.gather(1, node)).long()
    leaf_class = draw.permutation(batch, 2**depth) % n_classes
    return leaf_class.gather(1, node - (2**depth - 1))
