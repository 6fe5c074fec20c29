"""Categorical columns of a causal graph: a node's coordinate becomes a code, and the code's effect is what is handed on."""

from __future__ import annotations

import torch
from torch import Tensor

from priors.draw import Draw, standardise
from priors.node_functions import squared_distance

MAX_LEVELS = 200
_NEAREST_UP_TO = 12                   # levels; more come from intervals of one coordinate


def compact_codes(code: Tensor, n_levels: int) -> Tensor:
    """Codes (..., R) as an encoder would give them: 0 … K-1 over the levels that occur."""
    occurs = torch.zeros(*code.shape[:-1], n_levels, device=code.device, dtype=torch.long).scatter_(-1, code, 1)
    return (occurs.cumsum(-1) - 1).gather(-1, code)


def level_masses(n_levels: Tensor, most: int, draw: Draw) -> Tensor:  # (J, most)
    """Random shares of `n_levels` categories: Dirichlet(1), or Zipf with an exponent of 0.8 – 1.3 for many of them."""
    n_columns = len(n_levels)
    dirichlet = draw.gamma(torch.ones(n_columns, most, device=draw.device)) + 1e-3
    exponent = draw.uniform(n_columns, 1, low=0.8, high=1.3)
    zipf = (draw.permutation(n_columns, most) % n_levels.unsqueeze(1) + 1.0) ** -exponent
    mass = torch.where((n_levels.unsqueeze(1) > 16) & draw.chance(n_columns, 1, p=0.7), zipf, dirichlet)
    mass = mass.masked_fill(torch.arange(most, device=draw.device) >= n_levels.unsqueeze(1), 0.0)
    return mass / mass.sum(1, keepdim=True)


def draw_n_levels(n_columns: int, draw: Draw) -> Tensor:
    """Number of categories: 2 – 12 mostly, in a tenth of the columns up to 200; log-uniform."""
    few = draw.log_integers(n_columns, low=2, high=12)
    return torch.where(draw.chance(n_columns, p=0.1), draw.log_integers(n_columns, low=12, high=MAX_LEVELS), few)


def cut_into_levels(value: Tensor, mass: Tensor) -> Tensor:
    """Interval (..., R) of each row when the levels in the order of `value` hold these shares of the rows."""
    rows = value.shape[-1]
    last = (mass.cumsum(-1) * rows).ceil().long().clamp(1, rows) - 1                              # rank of each level's end
    ends = value.sort(-1).values.gather(-1, last)
    return torch.searchsorted(ends, value.contiguous()).clamp_max(mass.shape[-1] - 1)


def draw_counting(tasks: int, n_features: int, draw: Draw, *, least: float = 0.1) -> Tensor:  # (B, 1, F), bool
    """Which columns have an effect: each with a probability of the task's own, from `least` to 1, and at least one."""
    counts = draw.chance(tasks, 1, n_features, p=draw.uniform(tasks, 1, 1, low=least))
    columns = torch.arange(n_features, device=draw.device)
    return counts | (columns == draw.integers(tasks, 1, 1, low=0, high=n_features - 1))


def emit_categories(
    value: Tensor,    # (J, R), the coordinate
    nodes: Tensor,    # (I, W, R), all nodes
    item: Tensor,     # (J,), the node that the coordinate belongs to
    draw: Draw,
) -> tuple[Tensor, Tensor]:  # codes and what takes the coordinate's place, (J, R) each
    """Levels are intervals of the coordinate, or cells around random rows of its node. Codes are mostly arbitrary.

    In two of three columns the coordinate then takes one N(0, 1) value a level: what depends on it depends on the
    category alone.
    """
    n_columns, rows = value.shape
    n_levels = draw_n_levels(n_columns, draw)
    code = cut_into_levels(value, level_masses(n_levels, MAX_LEVELS, draw))
    # A few columns: looking them up costs less than the distances of all.
    near = ((n_levels <= _NEAREST_UP_TO) & draw.chance(n_columns, p=0.4)).nonzero().squeeze(1)
    h = nodes[item[near]]                                                                        # (J', W, R)
    place = draw.integers(len(near), 1, _NEAREST_UP_TO, low=0, high=rows - 1)
    centres = h.gather(2, place.expand(-1, h.shape[1], -1))                                      # (J', W, K)
    unused = torch.arange(_NEAREST_UP_TO, device=draw.device) >= n_levels[near].unsqueeze(1)
    code[near] = squared_distance(h, centres).masked_fill(unused.unsqueeze(1), torch.inf).argmin(2)

    effect = standardise(draw.normal(n_columns, MAX_LEVELS).gather(1, code))
    arbitrary = draw.permutation(n_columns, MAX_LEVELS).gather(1, code)
    name = torch.where(draw.chance(n_columns, 1, p=0.7), arbitrary, code)
    handed_on = torch.where(draw.chance(n_columns, 1, p=0.67), effect, value)
    return compact_codes(name, MAX_LEVELS).float(), handed_on
