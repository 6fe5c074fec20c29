"""Structural causal models: random layered graphs whose nodes become the features and the target of a task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw, standardise
from priors.labels import cut_into_classes, draw_n_classes, finish_labels
from priors.mechanisms import ACTIVATION_WEIGHTS, apply_activations, random_trees
from priors.task import TaskBatch, TaskShape, check_generator

_ROOT_CLUSTERS = 12
_CAUSES = 12


@dataclass(frozen=True)
class SCMPrior:
    """Tasks from layered structural causal models with random mechanisms.

    Root causes (normal, uniform, categorical, skewed or heavy-tailed; independent, correlated or clustered) feed up to
    `max_depth` layers of nodes. A node is a random function of a sparse set of nodes of the layer before it: a weighted
    sum through one of 17 activations, or a small ensemble of random trees; plus noise. Features and target are then
    read off the graph. In a *causal* task they are arbitrary nodes, so the target may be a cause, an effect or a
    sibling of the features; otherwise the features are the roots, some without influence, and the target is a node of
    the last layer, an ordinary function.

    Parameters
    ----------
    max_classes : int
        0 draws real targets. From 2 on, `y` holds classes: intervals of a target node, the nearest of several
        prototypes in node space, or the cluster from which the row's causes were drawn.
    max_depth : int
        Largest number of layers after the roots; log-uniform from 1, per task.
    max_width : int
        Largest number of nodes in a layer; log-uniform from 4, per task.

    Notes
    -----
    Every hyper-parameter is drawn per task. Nodes are standardised over the rows of a task, so rows are exchangeable
    but not strictly independent. Differs from TabPFN v1: weights are scaled by the fan-in, the target's own node
    can never be among the features, and no task is zeroed.

    References
    ----------
    .. [1] N. Hollmann et al., "TabPFN: A Transformer That Solves Small Tabular Classification Problems in a Second",
       ICLR 2023.
    .. [2] J. Qu et al., "TabICL", ICML 2025: the wide choice of activations and the tree mechanism.
    """

    max_classes: int = 0
    max_depth: int = 5
    max_width: int = 48

    def __post_init__(self) -> None:
        if self.max_classes == 1 or self.max_classes < 0:
            raise ValueError(f"max_classes={self.max_classes}; use 0 for real targets or at least 2 for classes.")
        if self.max_depth < 1 or self.max_width < 4:
            raise ValueError(
                f"max_depth={self.max_depth} and max_width={self.max_width}; use max_depth >= 1, max_width >= 4."
            )

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        batch, n_features = shape.batch_size, shape.n_features
        is_causal = draw.chance(batch, p=0.4)
        causes, cluster = _draw_causes(shape, is_causal, draw)
        depth = draw.log_integers(batch, low=1, high=self.max_depth)
        relevant = draw.chance(batch, 1, causes.shape[2], p=draw.uniform(batch, 1, 1, low=0.2, high=1.3))
        layers = self._propagate(causes * relevant, depth, n_features, draw)
        x, target, prototypes = _read_off(causes, layers, is_causal, depth, shape, draw)
        if self.max_classes == 0:
            return TaskBatch(x=x, y=standardise(target), n_context=shape.n_context)
        label = self._classes(target, prototypes, cluster, draw)
        return finish_labels(x, label, shape.n_context, draw)

    def _propagate(self, causes: Tensor, depth: Tensor, n_features: int, draw: Draw) -> list[Tensor]:
        """Values of each layer's nodes, (B, R, W) with W wide enough for every feature; unused nodes are zero."""
        batch = len(causes)
        # The shallowest task has one layer, in which all features and the target must find a place.
        n_nodes = max(self.max_width, n_features + 2)
        width = draw.log_integers(batch, low=4, high=self.max_width)
        width = torch.maximum(width, (n_features + 2) // depth + 2).clamp_max(n_nodes).unsqueeze(1)
        unused = torch.arange(n_nodes, device=draw.device) >= width                              # (B, W)
        keep = 0.05 + 0.95 * draw.uniform(batch) ** 1.5                          # share of possible edges, median 0.39
        noise_std = draw.log_uniform(batch, 1, low=1e-4, high=0.3) * draw.normal(batch, n_nodes).abs()
        gain = draw.log_uniform(batch, 1, low=0.3, high=2.5)
        one_activation = draw.choice(batch, 1, weights=ACTIVATION_WEIGHTS)
        uniform_activation = draw.choice(batch, 1, weights=[0.35, 0.3, 0.35])     # per task, per layer, per node
        tree_share = torch.where(draw.chance(batch, p=0.35), draw.uniform(batch), torch.zeros(batch, device=draw.device))
        layers, h = [], causes
        for _ in range(self.max_depth):
            weights = _sparse_weights(batch, h.shape[2], n_nodes, keep, draw)
            z = standardise(h @ weights)
            shift = draw.normal(batch, 1, n_nodes) * draw.uniform(batch, 1, 1)
            node_gain = gain * torch.exp(0.3 * draw.normal(batch, n_nodes))
            layer_activation = draw.choice(batch, 1, weights=ACTIVATION_WEIGHTS)
            node_activation = draw.choice(batch, n_nodes, weights=ACTIVATION_WEIGHTS)
            which = torch.where(uniform_activation == 1, layer_activation, node_activation)
            which = torch.where(uniform_activation == 0, one_activation, which)
            value = standardise(apply_activations((z + shift) * node_gain.unsqueeze(1), which))
            by_trees = draw.chance(batch, n_nodes, p=tree_share.unsqueeze(1))
            value = torch.where(by_trees.unsqueeze(1), random_trees(h, n_nodes, draw), value)
            value = value + noise_std.unsqueeze(1) * draw.normal(*value.shape)
            h = value.masked_fill(unused.unsqueeze(1), 0.0)
            layers.append(h)
        return layers

    def _classes(self, target: Tensor, prototypes: Tensor, cluster: Tensor, draw: Draw) -> Tensor:  # (B, R)
        """Labels by one of three constructions, drawn per task."""
        batch = len(target)
        n_classes = draw_n_classes(batch, self.max_classes, draw)
        intervals = cut_into_classes(target, n_classes, draw)
        nearest = _nearest_prototype(prototypes, n_classes, draw)
        # Several clusters may share a class, which makes classes multi-modal.
        owner = (draw.uniform(batch, _ROOT_CLUSTERS) * n_classes.unsqueeze(1)).floor().long()
        owner = torch.minimum(owner, (n_classes - 1).unsqueeze(1))
        one_each = torch.arange(_ROOT_CLUSTERS, device=draw.device) % n_classes.unsqueeze(1)
        owner = torch.where(draw.chance(batch, 1, p=0.6), one_each, owner)
        generative = owner.gather(1, cluster)
        how = draw.choice(batch, 1, weights=[0.45, 0.3, 0.25])
        # Without clusters there is nothing to generate from.
        how = torch.where((how == 2) & (cluster == 0).all(1, keepdim=True), 1, how)
        return torch.where(how == 0, intervals, torch.where(how == 1, nearest, generative))


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

    n_clusters = draw.integers(batch, 1, low=2, high=_ROOT_CLUSTERS)
    imbalance = draw.log_uniform(batch, 1, low=0.6, high=2.5)
    cluster = (draw.uniform(batch, rows) ** imbalance * n_clusters).floor().long().clamp_max(_ROOT_CLUSTERS - 1)
    cluster = torch.minimum(cluster, n_clusters - 1)
    cluster = torch.where(draw.chance(batch, 1, p=0.45), cluster, 0)
    spread = draw.log_uniform(batch, 1, 1, low=0.4, high=5.0)
    centres = draw.normal(batch, _ROOT_CLUSTERS, n_causes) * spread
    informative = draw.chance(batch, 1, n_causes, p=draw.uniform(batch, 1, 1, low=0.2, high=1.2))
    scale = torch.exp(draw.uniform(batch, 1, 1) * draw.normal(batch, _ROOT_CLUSTERS, n_causes))
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
    alive = (nodes.std(1) > 1e-4) & (layer_of <= depth.unsqueeze(1))                               # (B, nodes)
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
    gumbel = -torch.log(-torch.log(draw.uniform(batch, rows, 20).clamp(1e-6, 1 - 1e-6)))
    distance = distance + offset - temperature * gumbel
    unused = torch.arange(20, device=draw.device) >= n_prototypes.unsqueeze(1)
    nearest = distance.masked_fill(unused.unsqueeze(1), torch.inf).argmin(2)
    return nearest % n_classes.unsqueeze(1)
