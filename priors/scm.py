"""Structural causal models: random graphs of random functions whose nodes become the features and the target of a task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.columns import emit_categories
from priors.draw import Draw, standardise
from priors.graph import Plan, draw_plan
from priors.labels import finish_labels, node_labels
from priors.layered import draw_layered
from priors.node_functions import FUNCTIONS, Correlated, Jobs, random_weights, row_standardise
from priors.task import TaskBatch, TaskShape, check_generator, in_chunks

_COORDINATES = 16                     # of a node
_ROWS_AT_ONCE = 2**18
_NO_ACTIVATION = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class SCMPrior:
    """Tasks read off structural causal models.

    Parameters
    ----------
    max_classes : int
        0 draws real targets. From 2 on, `y` holds classes: intervals of a target node, the nearest of several
        prototypes in node space, or (layered) the cluster from which the row's causes were drawn.
    style : {"graph", "layered"}
        "graph": a random directed acyclic graph of up to `max_nodes` nodes with up to 16 coordinates each. A node is a
        random function of its parents (linear, perceptron, trees, discretisation, Gaussian process, quadratic, product
        or soft clusters), of all at once or of each with the results summed, multiplied or maximised; features and
        target sit on some of the nodes, and categorical features hand on the effect of their category. "layered": a
        network with up to `max_depth` layers of up to `max_width` nodes, with noise at each.
    max_nodes, max_depth, max_width : int
        Largest sizes; log-uniform, per task.

    Notes
    -----
    Every hyper-parameter is drawn per task. Nodes are standardised over the rows of a task, so rows are exchangeable
    but not strictly independent. Differs from TabICLv2: categories reach 200 levels, a warp never reaches other nodes
    (see `with_warps`), there is always a feature that shares an ancestor with the target. Differs from TabPFN v1:
    weights are scaled by the fan-in, the target's own coordinate can never be among the features, and no task is zeroed.

    References
    ----------
    .. [1] N. Hollmann et al., "TabPFN: A Transformer That Solves Small Tabular Classification Problems in a Second",
       ICLR 2023.
    .. [2] J. Qu et al., "TabICL", ICML 2025, and "TabICLv2", 2026: the graph and most of its functions.

    Examples
    --------
    >>> tasks = SCMPrior(max_classes=10).sample(TaskShape(4, 64, 5, 32), generator=torch.Generator().manual_seed(0))
    >>> tasks.x.shape, tasks.y.dtype
    (torch.Size([4, 64, 5]), torch.int64)
    """

    max_classes: int = 0
    style: str = "graph"
    max_nodes: int = 32
    max_depth: int = 5
    max_width: int = 48

    def __post_init__(self) -> None:
        if self.max_classes == 1 or self.max_classes < 0:
            raise ValueError(f"max_classes={self.max_classes}; use 0 for real targets or at least 2 for classes.")
        if self.style not in ("graph", "layered"):
            raise ValueError(f"style={self.style!r} is unknown; use 'graph' or 'layered'.")
        for name, least in (("max_nodes", 1), ("max_depth", 1), ("max_width", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}; use {name} >= {least}.")

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        check_generator(generator)
        return in_chunks(self._sample, shape, generator, rows_at_once=_ROWS_AT_ONCE)

    def _sample(self, shape: TaskShape, generator: torch.Generator) -> TaskBatch:
        draw = Draw(generator)
        if self.style == "graph":
            x, target, points, cluster = draw_graph(shape, self.max_nodes, draw)
        else:
            x, target, points, cluster = draw_layered(shape, self.max_depth, self.max_width, draw)
        if self.max_classes == 0:
            return TaskBatch(x=x, y=standardise(target), n_context=shape.n_context)
        label = node_labels(target, points, cluster, self.max_classes, draw)
        return finish_labels(x, label, shape.n_context, draw)


def draw_graph(shape: TaskShape, max_nodes: int, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (B, R, F), target (B, R), coordinates of its node (B, R, W), and no clusters (B, R)."""
    batch, rows, n_features = shape.batch_size, shape.n_rows, shape.n_features
    plan = draw_plan(batch, n_features, max_nodes, _COORDINATES, draw.on_cpu())
    columns, device = plan.columns, draw.device
    item = plan.item.gather(1, columns.node)                                                     # (B, 1 + F)
    values = torch.zeros(len(plan.item_task) * _COORDINATES, rows, device=device)
    codes = _compute(plan, values, draw)
    first = (item * _COORDINATES + columns.coordinate).to(device)
    second = (item * _COORDINATES + columns.second).to(device)
    read = values[first]                                                                         # (B, 1 + F, R)
    mixed = read + draw.normal(batch, n_features + 1, 1) * values[second]
    read = torch.where(columns.crowded.to(device).unsqueeze(2), mixed, read)
    x = read[:, 1:]
    for task, feature, code in codes:
        x[task, feature] = code
    useless = (x == x[:, :, :1]).all(2, keepdim=True)                                            # constant
    if rows > 2:                                                       # a copy of the target, up to scale, gives it away
        target = row_standardise(read[:, :1])
        useless = useless | ((row_standardise(x) * target).mean(2, keepdim=True).abs() > 0.9999)
    x = torch.where(useless, draw.normal(*x.shape), x)                                           # an irrelevant feature
    weights = draw.log_uniform(batch, _COORDINATES, 1, low=0.05, high=1.0)
    points = row_standardise(values.view(-1, _COORDINATES, rows)[item[:, 0].to(device)]) * weights
    cluster = torch.zeros(batch, rows, dtype=torch.long, device=device)
    return x.transpose(1, 2).contiguous(), read[:, 0], points.transpose(1, 2), cluster


def _compute(plan: Plan, values: Tensor, draw: Draw) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Fill `values`, level by level; returns the categorical columns as (tasks, features, codes)."""
    columns, batch, n_items = plan.columns, len(plan.item), len(plan.item_task)
    by_node = values.view(n_items, _COORDINATES, -1)
    of_jobs = Correlated(plan.item_task[plan.job_item].to(draw.device), batch, draw)
    of_items = Correlated(plan.item_task.to(draw.device), batch, draw)
    job_level = plan.item_level[plan.job_item]
    column_item = plan.item.gather(1, columns.node)
    column_level = plan.item_level[column_item]
    codes = []
    for level in range(int(plan.item_level.max()) + 1):
        jobs = (job_level == level).nonzero().squeeze(1)
        items = (plan.item_level == level).nonzero().squeeze(1)
        node = _combine(plan, jobs, items, _evaluate(plan, jobs, values, of_jobs, draw))
        items = items.to(draw.device)
        some = Jobs(node, items, _NO_ACTIVATION, _COORDINATES, of_items)
        importance = random_weights(some, "importance", _COORDINATES).clamp_min(1e-3).unsqueeze(2)
        by_node[items] = row_standardise(node) * importance
        tasks, column = (columns.is_categorical & (column_level == level)).nonzero(as_tuple=True)
        if len(tasks):
            item = column_item[tasks, column]
            where = (item * _COORDINATES + columns.coordinate[tasks, column]).to(draw.device)
            code, effect = emit_categories(values[where], by_node, item.to(draw.device), draw)
            values[where] = effect
            codes.append((tasks.to(draw.device), (column - 1).to(draw.device), code))
    return codes


_RULES = (torch.add, torch.mul, torch.maximum, torch.logaddexp)


def _combine(plan: Plan, jobs: Tensor, items: Tensor, results: Tensor) -> Tensor:  # (I, W, R)
    """The value of each item from the results (J, W, R) of its jobs, by the item's rule."""
    place = torch.searchsorted(items, plan.job_item[jobs])                                       # items are in order
    slot, rule, device = plan.job_slot[jobs], plan.item_rule[plan.job_item[jobs]], results.device
    node = torch.empty(len(items), *results.shape[1:], device=device)
    first = slot == 0
    node[place[first].to(device)] = results[first.to(device)]
    for number in slot.unique().tolist()[1:]:
        for name in rule[slot == number].unique().tolist():
            chosen = (slot == number) & (rule == name)
            to = place[chosen].to(device)
            node[to] = _RULES[name](node[to], results[chosen.to(device)])
    return node


def _evaluate(plan: Plan, jobs: Tensor, values: Tensor, scalars: Correlated, draw: Draw) -> Tensor:
    """Results (J, W, R) of `jobs`, standardised; jobs of one function are evaluated together."""
    function = plan.job_function[jobs]
    out = torch.empty(len(jobs), _COORDINATES, values.shape[1], device=draw.device)
    for number in function.unique().tolist():
        chosen = (function == number).nonzero().squeeze(1)
        job = jobs[chosen]
        use = job.to(draw.device)
        inputs = plan.job_inputs[job]
        is_root = inputs[:, 0] < 0
        h = values[inputs.clamp_min(0).to(draw.device)]                                          # (J, W, R)
        if is_root.any():
            roots = is_root.nonzero().squeeze(1).to(draw.device)
            h[roots] = _root_causes(use[roots], h.shape[2], scalars, draw)
        result = FUNCTIONS[number][1](Jobs(h, use, plan.job_activation[job], _COORDINATES, scalars))
        out[chosen.to(draw.device)] = row_standardise(result)
    return out


def _root_causes(use: Tensor, rows: int, scalars: Correlated, draw: Draw) -> Tensor:  # (J, W, R)
    """Inputs of nodes without parents: normal, uniform in the cube or ball, heavy-tailed or clustered; some correlated."""
    size = len(use), _COORDINATES, rows
    normal = draw.normal(*size)
    uniform = torch.erf(normal / 2**0.5) * 3**0.5
    radius = draw.uniform(size[0], 1, rows) ** (1.0 / _COORDINATES)
    ball = normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-6) * radius * _COORDINATES**0.5
    heavy = torch.sinh(1.2 * normal)
    n_clusters = scalars.log_integer("root clusters", use, 2, 12).view(-1, 1, 1)
    cluster = (draw.uniform(size[0], 1, rows) * n_clusters).long().clamp_max(11)
    spread = scalars.log("root spread", use, 1.0, 8.0).view(-1, 1, 1)
    centres = draw.normal(size[0], _COORDINATES, 12) * spread
    clustered = row_standardise(centres.gather(2, cluster.expand(size)) + normal)
    kind = draw.choice(size[0], 1, 1, weights=[0.35, 0.2, 0.05, 0.1, 0.3])
    causes = normal
    for number, value in enumerate((uniform, ball, heavy, clustered), start=1):
        causes = torch.where(kind == number, value, causes)
    some = Jobs(causes, use, _NO_ACTIVATION, _COORDINATES, scalars)
    strength = random_weights(some, "root mixing", _COORDINATES).unsqueeze(1)
    mixing = draw.normal(size[0], _COORDINATES, _COORDINATES) * strength
    return torch.where(draw.chance(size[0], 1, 1, p=0.5), row_standardise(mixing @ causes), causes)
