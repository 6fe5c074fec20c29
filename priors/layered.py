"""Layered causal graphs: a random network between layers of nodes, some of which become features and target."""

from __future__ import annotations

import torch
from torch import Tensor

from priors.draw import Draw, standardise
from priors.labels import MAX_CLUSTERS
from priors.node_functions import ACTIVATION_WEIGHTS, Correlated, Jobs, activate, trees
from priors.task import TaskShape

_CAUSES = 12


def draw_layered(
    shape: TaskShape, max_depth: int, max_width: int, draw: Draw
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (B, R, F), target node (B, R), nodes for class prototypes (B, R, P), root cluster of each row (B, R).

    Root causes (normal, uniform, categorical, skewed or heavy-tailed; independent, correlated or clustered) feed up to
    `max_depth` layers of nodes. A node is a random function of a sparse set of nodes of the layer before it: a weighted
    sum through one of 24 activations, or a small ensemble of random trees; plus noise. Features and target are then
    read off the graph. In a *causal* task they are arbitrary nodes, so the target may be a cause, an effect or a
    sibling of the features; otherwise the features are the roots, some without influence, and the target is a node of
    the last layer, an ordinary function.
    """
    batch, n_features = shape.batch_size, shape.n_features
    is_causal = draw.chance(batch, p=0.4)
    causes, cluster = _draw_causes(shape, is_causal, draw)
    depth = draw.log_integers(batch, low=1, high=max_depth)
    relevant = draw.chance(batch, 1, causes.shape[2], p=draw.uniform(batch, 1, 1, low=0.2, high=1.3))
    layers = _propagate(causes * relevant, depth, n_features, max_depth, max_width, draw)
    return *_read_off(causes, layers, is_causal, depth, shape, draw), cluster


def _propagate(
    causes: Tensor, depth: Tensor, n_features: int, max_depth: int, max_width: int, draw: Draw
) -> list[Tensor]:
    """Values of each layer's nodes, (B, R, W) with W wide enough for every feature; unused nodes are zero."""
    batch = len(causes)
    # The shallowest task has one layer, in which all features and the target must find a place.
    n_nodes = max(max_width, n_features + 2)
    width = draw.log_integers(batch, low=4, high=max_width)
    width = torch.maximum(width, (n_features + 2) // depth + 2).clamp_max(n_nodes).unsqueeze(1)
    unused = torch.arange(n_nodes, device=draw.device) >= width                              # (B, W)
    keep = 0.05 + 0.95 * draw.uniform(batch) ** 1.5                          # share of possible edges, median 0.39
    noise_std = draw.log_uniform(batch, 1, low=1e-4, high=0.3) * draw.normal(batch, n_nodes).abs()
    gain = draw.log_uniform(batch, 1, low=0.3, high=2.5)
    one_activation = draw.choice(batch, 1, weights=ACTIVATION_WEIGHTS)
    uniform_activation = draw.choice(batch, 1, weights=[0.35, 0.3, 0.35])     # per task, per layer, per node
    tree_share = torch.where(draw.chance(batch, p=0.35), draw.uniform(batch), torch.zeros(batch, device=draw.device))
    growing = (tree_share > 0).nonzero().squeeze(1)
    scalars = Correlated(torch.arange(batch, device=draw.device), batch, draw)
    layers, h = [], causes
    for _ in range(max_depth):
        weights = _sparse_weights(batch, h.shape[2], n_nodes, keep, draw)
        z = standardise(h @ weights)
        shift = draw.normal(batch, 1, n_nodes) * draw.uniform(batch, 1, 1)
        node_gain = gain * torch.exp(0.3 * draw.normal(batch, n_nodes))
        layer_activation = draw.choice(batch, 1, weights=ACTIVATION_WEIGHTS)
        node_activation = draw.choice(batch, n_nodes, weights=ACTIVATION_WEIGHTS)
        which = torch.where(uniform_activation == 1, layer_activation, node_activation)
        which = torch.where(uniform_activation == 0, one_activation, which)
        value = ((z + shift) * node_gain.unsqueeze(1)).transpose(1, 2)                           # (B, W, R)
        which = which.expand(-1, n_nodes).flatten().cpu()
        value = standardise(activate(value.flatten(0, 1), which).view(value.shape).transpose(1, 2))
        if len(growing):
            grown = trees(Jobs(h[growing].transpose(1, 2), growing, which, n_nodes, scalars)).transpose(1, 2)
            by_trees = draw.chance(len(growing), 1, n_nodes, p=tree_share[growing].view(-1, 1, 1))
            value[growing] = torch.where(by_trees, standardise(grown), value[growing])
        value = value + noise_std.unsqueeze(1) * draw.normal(*value.shape)
        h = value.masked_fill(unused.unsqueeze(1), 0.0)
        layers.append(h)
    return layers


def _draw_causes(shape: TaskShape, is_causal: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Root nodes (B, R, K), and the cluster (B, R) of each row; cluster 0 throughout where a task has none."""
    batch, rows = shape.batch_size, shape.n_rows
    n_causes = max(shape.n_features, _CAUSES)
    used = torch.where(is_causal, draw.log_integers(batch, low=1, high=_CAUSES), shape.n_features)
    unused = torch.arange(n_causes, device=draw.device) >= used.unsqueeze(1)

    normal = draw.normal(batch, rows, n_causes)
    uniform = draw.uniform(batch, rows, n_causes, low=-1.7, high=1.7)
    levels = draw.integers(batch, 1, n_causes, low=2, high=10)
    skew = draw.log_uniform(batch, 1, n_causes, low=0.5, high=3.0)       # > 1 makes low codes the frequent ones
    code = (draw.uniform(batch, rows, n_causes) ** skew * levels).floor()
    categorical = standardise(code)
    skewed = draw.normal(batch, rows, n_causes).mul(0.7).exp() - 1.28
    heavy = draw.normal(batch, rows, n_causes) / (0.3 + draw.normal(batch, rows, n_causes).abs())
    kinds = (normal, uniform, categorical, skewed, heavy)
    kind = draw.choice(batch, 1, n_causes, weights=[0.4, 0.2, 0.2, 0.1, 0.1])
    style = draw.choice(batch, 1, 1, weights=[0.45, 0.15, 0.4])          # all normal, all uniform, mixed
    kind = torch.where(style == 2, kind, style)
    causes = sum((torch.where(kind == i, value, 0.0) for i, value in enumerate(kinds)), torch.zeros_like(normal))

    mixing = draw.normal(batch, n_causes, n_causes) / n_causes**0.5
    mixing = mixing.masked_fill(unused.unsqueeze(2), 0.0)
    correlated = standardise(causes + (draw.uniform(batch, 1, 1) * 3.0) * (causes @ mixing))
    causes = torch.where(draw.chance(batch, 1, 1, p=0.3), correlated, causes)

    n_clusters = draw.integers(batch, 1, low=2, high=MAX_CLUSTERS)
    imbalance = draw.log_uniform(batch, 1, low=0.6, high=2.5)
    cluster = (draw.uniform(batch, rows) ** imbalance * n_clusters).floor().long().clamp_max(MAX_CLUSTERS - 1)
    cluster = torch.minimum(cluster, n_clusters - 1)
    cluster = torch.where(draw.chance(batch, 1, p=0.45), cluster, 0)
    spread = draw.log_uniform(batch, 1, 1, low=0.4, high=5.0)
    centres = draw.normal(batch, MAX_CLUSTERS, n_causes) * spread
    informative = draw.chance(batch, 1, n_causes, p=draw.uniform(batch, 1, 1, low=0.2, high=1.2))
    scale = torch.exp(draw.uniform(batch, 1, 1) * draw.normal(batch, MAX_CLUSTERS, n_causes))
    index = cluster.unsqueeze(-1).expand(-1, -1, n_causes)
    clustered = (centres * informative).gather(1, index) + causes * scale.gather(1, index)
    causes = torch.where((cluster != 0).any(1).view(batch, 1, 1), standardise(clustered), causes)
    return causes.masked_fill(unused.unsqueeze(1), 0.0), cluster


def _sparse_weights(batch: int, n_parents: int, n_nodes: int, keep: Tensor, draw: Draw) -> Tensor:
    """Edge weights (B, n_parents, n_nodes): N(0, 1), thinned at random or in blocks, at least one parent a node."""
    weights = draw.normal(batch, n_parents, n_nodes)
    edge = draw.chance(batch, n_parents, n_nodes, p=keep.view(batch, 1, 1))
    n_blocks = draw.integers(batch, 1, low=2, high=6)
    parent_block = (draw.uniform(batch, n_parents) * n_blocks).floor().unsqueeze(2)
    node_block = (draw.uniform(batch, n_nodes) * n_blocks).floor().unsqueeze(1)
    edge = torch.where(draw.chance(batch, 1, 1, p=0.25), parent_block == node_block, edge)
    one_parent = torch.zeros_like(edge).scatter_(1, draw.integers(batch, 1, n_nodes, low=0, high=n_parents - 1), True)
    dominance = draw.uniform(batch, 1, 1) * 2.5                            # some parents matter far more than others
    return weights * torch.exp(dominance * draw.normal(batch, n_parents, n_nodes)) * (edge | one_parent)


def _read_off(
    causes: Tensor, layers: list[Tensor], is_causal: Tensor, depth: Tensor, shape: TaskShape, draw: Draw
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, R, F), target node (B, R) and the nodes (B, R, P) in which class prototypes are placed."""
    batch, n_features, n_prototype_nodes = shape.batch_size, shape.n_features, 8
    nodes = torch.cat([causes, *layers], dim=2)
    layer_of = torch.cat([torch.full((h.shape[2],), i, device=draw.device) for i, h in enumerate([causes, *layers])])
    alive = (nodes.std(1, correction=0) > 1e-4) & (layer_of <= depth.unsqueeze(1))                               # (B, nodes)
    last = layer_of == depth.unsqueeze(1)

    # Target: any node of the graph in a causal task, a node of the last layer otherwise.
    score = draw.uniform(batch, nodes.shape[2]) + 2.0 * last * ~(is_causal & draw.chance(batch, p=0.6)).unsqueeze(1)
    score = score.masked_fill(~alive | (layer_of == 0), -1.0)
    target_index = score.argmax(1, keepdim=True)
    target = nodes.gather(2, target_index.unsqueeze(1).expand(-1, nodes.shape[1], -1)).squeeze(2)

    # Prototypes live in nodes around the target: the same layer, some irrelevant to it.
    score = draw.uniform(batch, nodes.shape[2]) + 2.0 * (layer_of == layer_of[target_index])
    chosen = score.masked_fill(~alive, -1.0).topk(min(n_prototype_nodes, nodes.shape[2]), dim=1).indices
    prototypes = nodes.gather(2, chosen.unsqueeze(1).expand(-1, nodes.shape[1], -1))
    used = draw.log_integers(batch, 1, low=1, high=n_prototype_nodes)
    prototypes = prototypes * (torch.arange(chosen.shape[1], device=draw.device) < used).unsqueeze(1)

    # Features: roots first in a non-causal task; any living node, or neighbours in node order, in a causal one.
    score = draw.uniform(batch, nodes.shape[2])
    start = draw.uniform(batch, 1) * nodes.shape[2]
    distance = (torch.arange(nodes.shape[2], device=draw.device) - start).abs() / nodes.shape[2]
    score = torch.where(draw.chance(batch, 1, p=0.25), 1.0 - distance, score)
    # In two of three causal tasks the layers next to the target's come first: its parents, siblings and children.
    nearby = (layer_of - layer_of[target_index]).abs() <= 1
    score = score + 1.0 * nearby * draw.chance(batch, 1, p=0.67)
    score = score + 2.0 * (layer_of == 0) * ~is_causal.unsqueeze(1)
    score = score.masked_fill(~alive, -1.0).scatter(1, target_index, -2.0)
    picked = score.topk(n_features, dim=1).indices
    x = nodes.gather(2, picked.unsqueeze(1).expand(-1, nodes.shape[1], -1))
    dead = score.gather(1, picked) < 0
    x = torch.where(dead.unsqueeze(1), draw.normal(*x.shape), x)              # too few living nodes: an irrelevant feature
    shuffle = draw.permutation(batch, n_features).unsqueeze(1).expand_as(x)
    return x.gather(2, shuffle), target, prototypes
