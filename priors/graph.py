"""The skeleton of a batch of causal graphs: nodes, edges, which columns sit on which node, what computes a node from what.

All of this is small, discrete and decides the shapes of later tensors, so it lives on the CPU; the values of the nodes are
computed on the generator's device (priors/scm.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw
from priors.node_functions import ACTIVATION_WEIGHTS, FUNCTION_WEIGHTS

MAX_COMBINED = 4                      # parents of a node whose contributions are computed one by one and then combined


def draw_edges(batch: int, n_nodes: int, draw: Draw) -> Tensor:
    """Adjacency (B, N, N), [b, i, j] true for an edge i → j, only for i < j.

    The probability is sigmoid(A + Bᵢ + Cⱼ) with standard Cauchy A (per graph), Bᵢ and Cⱼ: some graphs are nearly empty,
    some complete; some nodes are hubs.
    """
    sizes = (batch, 1, 1), (batch, n_nodes, 1), (batch, 1, n_nodes)
    level, out, into = (torch.tan(torch.pi * (draw.uniform(*size) - 0.5)) for size in sizes)
    edge = draw.uniform(batch, n_nodes, n_nodes) < torch.sigmoid(level + out + into)
    return edge & torch.ones(n_nodes, n_nodes, dtype=torch.bool, device=draw.device).triu(1)


def ancestors(edge: Tensor) -> Tensor:
    """(B, N, N), [b, i, j] true if i is j or an ancestor of j."""
    batch, n_nodes, _ = edge.shape
    result = torch.eye(n_nodes, dtype=torch.bool, device=edge.device).repeat(batch, 1, 1)
    for j in range(1, n_nodes):
        result[:, :, j] |= (result & edge[:, :, j].unsqueeze(1)).any(2)
    return result


def longest_paths(edge: Tensor) -> Tensor:
    """(B, N), number of edges on the longest path that ends in the node: its place in the order of computation."""
    batch, n_nodes, _ = edge.shape
    level = torch.zeros(batch, n_nodes, dtype=torch.long, device=edge.device)
    for j in range(1, n_nodes):
        level[:, j] = ((level + 1) * edge[:, :, j]).amax(1)
    return level


@dataclass(frozen=True)
class Columns:
    """Where features (column 1 …) and target (column 0) are read: node and coordinates, (B, 1 + F) each."""

    node: Tensor
    coordinate: Tensor
    second: Tensor                    # another coordinate, mixed in where `crowded`
    crowded: Tensor                   # more columns on the node than it has coordinates
    is_categorical: Tensor
    n_needed: Tensor                  # (B, N), coordinates that a node's columns ask for


def place_columns(edge: Tensor, exists: Tensor, n_features: int, n_coordinates: int, draw: Draw) -> Columns:
    """Put target and features on nodes of a random eligible subset, such that a feature shares an ancestor with the target.

    The target avoids nodes without parents where there are others. Of a few random subsets the first that qualifies is
    taken; where none does, every column sits on the target's node.
    """
    batch, n_nodes, _ = edge.shape
    n_tries = 4
    n_eligible = 1 + (draw.uniform(batch, n_tries, 1) * exists.sum(1).view(batch, 1, 1)).floor()
    score = draw.uniform(batch, n_tries, n_nodes).masked_fill(~exists.unsqueeze(1), 2.0)
    eligible = score.argsort(2).argsort(2) < n_eligible                                          # (B, T, N)
    wish = draw.uniform(batch, n_tries, n_nodes) + 2.0 * edge.any(1).unsqueeze(1) * draw.chance(batch, n_tries, 1, p=0.8)
    target = (wish * eligible).argmax(2)                                                         # (B, T)
    pick = (draw.uniform(batch, n_tries, n_features) * eligible.sum(2, keepdim=True)).floor().long()
    order = (~eligible).long().argsort(dim=2, stable=True)                                       # eligible nodes first
    node = order.gather(2, pick)                                                                 # (B, T, F)
    above = ancestors(edge).float()
    related = above.transpose(1, 2) @ above > 0                                                  # share an ancestor
    of_target = related.gather(1, target.unsqueeze(2).expand(-1, -1, n_nodes))                   # (B, T, N)
    qualifies = of_target.gather(2, node).any(2)
    chosen = qualifies.long().argmax(1)
    rows = torch.arange(batch, device=edge.device)
    target, node, fallback = target[rows, chosen], node[rows, chosen], ~qualifies[rows, chosen]
    node = torch.where(fallback.unsqueeze(1), target.unsqueeze(1), node)
    node = torch.cat([target.unsqueeze(1), node], dim=1)                                         # (B, 1 + F)

    on_node = torch.nn.functional.one_hot(node, n_nodes)
    rank = (on_node.cumsum(1) - 1).gather(2, node.unsqueeze(2)).squeeze(2)                       # the target has rank 0
    crowded = rank >= n_coordinates
    # A mixture never touches coordinate 0: on the target's node that is the target.
    spread = max(n_coordinates - 1, 1)
    first = torch.where(crowded, 1 + rank % spread, rank).clamp_max(n_coordinates - 1)
    second = 1 + (draw.uniform(batch, n_features + 1) * spread).long().clamp_max(spread - 1)
    second = torch.where(crowded, second.clamp_max(n_coordinates - 1), first)
    share = draw.uniform(batch, 1, low=-0.5, high=1.2).clamp(0.0, 1.0)
    is_categorical = draw.chance(batch, n_features + 1, p=share) & ~crowded
    is_categorical[:, 0] = False
    return Columns(node, first, second, crowded, is_categorical, on_node.sum(1))


@dataclass(frozen=True)
class Plan:
    """What to compute, in order. Items are nodes that matter, flattened over the batch; jobs are functions into an item.

    Coordinates are numbered item · n_coordinates + coordinate. An item has one job, or one per parent whose results are
    then combined.
    """

    item: Tensor                      # (B, N), number of the node's item, -1 for nodes that nothing is read from
    item_task: Tensor                 # (I,)
    item_level: Tensor                # (I,)
    item_rule: Tensor                 # (I,) how several jobs are combined: sum, product, maximum, logsumexp
    job_item: Tensor                  # (J,)
    job_slot: Tensor                  # (J,) 0 … MAX_COMBINED - 1 within its item
    job_inputs: Tensor                # (J, W) coordinates to read; -1 throughout for a root, whose inputs are drawn
    job_function: Tensor              # (J,) index into FUNCTIONS
    job_activation: Tensor            # (J,) index into ACTIVATIONS
    columns: Columns


def draw_plan(batch: int, n_features: int, max_nodes: int, n_coordinates: int, draw: Draw) -> Plan:
    """Draw the graphs of a batch. `draw` is on the CPU."""
    n_nodes = draw.log_integers(batch, low=min(2, max_nodes), high=max_nodes)
    widest = int(n_nodes.max())
    exists = torch.arange(widest, device=draw.device) < n_nodes.unsqueeze(1)
    edge = draw_edges(batch, widest, draw) & exists.unsqueeze(1) & exists.unsqueeze(2)
    columns = place_columns(edge, exists, n_features, n_coordinates, draw)
    read = torch.zeros(batch, widest, dtype=torch.bool, device=draw.device).scatter_(1, columns.node, True)
    matters = (ancestors(edge) & read.unsqueeze(1)).any(2)                                       # (B, N)
    item = torch.where(matters, matters.flatten().cumsum(0).view(batch, widest) - 1, -1)
    level = longest_paths(edge)

    n_live = torch.maximum(draw.log_integers(batch, widest, low=1, high=n_coordinates), columns.n_needed)
    n_live = n_live.clamp_max(n_coordinates)
    n_parents = edge.sum(1)                                                                      # (B, N)
    at_once = draw.chance(batch, widest, p=0.5) | (n_parents <= 1)
    order = draw.uniform(batch, widest, widest).masked_fill(~edge, 2.0).argsort(1)               # random parents first
    per_task = draw.normal(batch, 2).mul(0.5).exp()
    function_weights = _uneven(FUNCTION_WEIGHTS, per_task[:, :1], draw)
    activation_weights = _uneven(ACTIVATION_WEIGHTS, 2.0 * per_task[:, 1:], draw)

    parts = []
    for slot in range(min(MAX_COMBINED, max(widest - 1, 1))):
        present = matters & ((slot == 0) | (~at_once & (slot < n_parents)))
        task, node = present.nonzero(as_tuple=True)
        if not len(task):
            continue
        parent = order[task, slot, node]
        count = n_live[task, parent].unsqueeze(1)
        coordinates = torch.arange(n_coordinates, device=draw.device)
        steps = coordinates.expand(len(task), -1)
        one = item[task, parent].unsqueeze(1) * n_coordinates + steps % count                    # that parent's coordinates
        alive = coordinates < n_live[task].unsqueeze(2)                          # (J, N, W)
        alive = alive & edge[task, :, node].unsqueeze(2) & at_once[task, node].view(-1, 1, 1)
        pool = draw.uniform(len(task), widest * n_coordinates).masked_fill(~alive.flatten(1), -1.0)
        among = pool.topk(n_coordinates, dim=1).indices
        among = among.gather(1, steps % alive.flatten(1).sum(1, keepdim=True).clamp(1, n_coordinates))
        source, coordinate = among // n_coordinates, among % n_coordinates
        several = item[task].gather(1, source) * n_coordinates + coordinate
        inputs = torch.where(at_once[task, node].unsqueeze(1), several, one)
        inputs = inputs.masked_fill((n_parents[task, node] == 0).unsqueeze(1), -1)
        function = torch.multinomial(function_weights[task], 1, generator=draw.generator).squeeze(1)
        activation = torch.multinomial(activation_weights[task], 1, generator=draw.generator).squeeze(1)
        parts.append((item[task, node], torch.full_like(node, slot), inputs, function, activation))
    job_item, job_slot, job_inputs, job_function, job_activation = (torch.cat(part) for part in zip(*parts, strict=True))
    task, node = matters.nonzero(as_tuple=True)
    return Plan(
        item=item, item_task=task, item_level=level[task, node],
        item_rule=draw.choice(len(task), weights=[0.5, 0.2, 0.15, 0.15]),
        job_item=job_item, job_slot=job_slot, job_inputs=job_inputs, job_function=job_function,
        job_activation=job_activation, columns=columns,
    )


def _uneven(weights: tuple[float, ...], spread: Tensor, draw: Draw) -> Tensor:  # (B, len(weights))
    """Weights of a choice, multiplied for each task by log-normal factors: a task has its favourites."""
    factor = (spread * draw.normal(len(spread), len(weights))).exp()
    return torch.tensor(weights, device=draw.device) * factor
