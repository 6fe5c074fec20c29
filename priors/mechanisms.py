"""How a node of a structural causal model depends on its parents: activation functions and random trees."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from priors.draw import Draw, standardise

# Functions of a pre-activation of unit scale. Steps and indicators make nodes that trees explain well, smooth ones
# those that linear models and kernels do.
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda z: z,
    torch.tanh,
    torch.relu,
    lambda z: torch.nn.functional.leaky_relu(z, 0.2),
    torch.abs,
    torch.square,
    torch.sin,
    lambda z: torch.sin(3.0 * z),
    lambda z: torch.exp(-z.square()),
    lambda z: torch.exp(z.clamp(max=3.0)),
    lambda z: z.abs().sqrt(),
    lambda z: z.abs().log1p() * z.sign(),
    torch.nn.functional.softplus,
    lambda z: z.clamp(-1.0, 1.0),
    torch.sign,
    lambda z: (z.abs() <= 1.0).float(),
    lambda z: torch.round(1.5 * z),
)
# Monotone functions come more often: a chain of the others is soon as hard to learn as noise, and real tables are easier
# than that (benchmarks/learnability.py).
ACTIVATION_WEIGHTS = (3.0, 3.0, 2.0, 2.0, 0.7, 0.7, 0.7, 0.2, 0.7, 1.5, 0.5, 1.5, 1.5, 2.0, 1.0, 0.5, 1.5)


def apply_activations(
    z: Tensor,        # (B, R, W), pre-activations
    which: Tensor,    # (B, W), index into ACTIVATIONS
) -> Tensor:          # (B, R, W)
    """Apply to every node the activation that was drawn for it."""
    out = z
    for index, activation in enumerate(ACTIVATIONS[1:], start=1):
        out = torch.where((which == index).unsqueeze(1), activation(z), out)
    return out


def random_trees(
    h: Tensor,        # (B, R, W), parents
    n_outputs: int,
    draw: Draw,
    *,
    n_trees: int = 8,
    max_depth: int = 5,
) -> Tensor:          # (B, R, n_outputs), standardised
    """Average of random oblivious trees with vector-valued N(0, 1) leaves.

    A tree asks the same question, "is coordinate c above the value that it has in row r?", at all nodes of a level, so
    a leaf is found with one sum of bits and one gather. Depth is uniform in 1 … `max_depth`, per tree.
    """
    batch, rows, width = h.shape
    coordinate = draw.integers(batch, n_trees * max_depth, low=0, high=width - 1)
    row = draw.integers(batch, n_trees * max_depth, low=0, high=rows - 1)
    values = h.gather(2, coordinate.unsqueeze(1).expand(-1, rows, -1))                      # (B, R, T·D)
    threshold = values.gather(1, row.unsqueeze(1))                                          # (B, 1, T·D)
    bits = (values > threshold).view(batch, rows, n_trees, max_depth)
    depth = draw.integers(batch, n_trees, 1, low=1, high=max_depth)
    level = torch.arange(max_depth, device=h.device)
    leaf = (bits & (level < depth).unsqueeze(1)).long().mul(2**level).sum(-1)               # (B, R, T)
    n_leaves = 2**max_depth
    leaf = leaf + n_leaves * torch.arange(n_trees, device=h.device)
    table = draw.normal(batch, n_trees * n_leaves, n_outputs)
    # The number of trees is log-uniform: few trees give coarse steps, many give nearly smooth functions.
    used = torch.arange(n_trees, device=h.device) < draw.log_integers(batch, 1, low=1, high=n_trees)
    table = table * used.repeat_interleave(n_leaves, 1).unsqueeze(-1)
    gathered = table.gather(1, leaf.flatten(1).unsqueeze(-1).expand(-1, -1, n_outputs))     # (B, R·T, n_outputs)
    return standardise(gathered.view(batch, rows, n_trees, n_outputs).sum(2))
