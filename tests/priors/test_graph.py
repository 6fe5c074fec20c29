import numpy as np
import pytest
import torch

from priors.draw import Draw
from priors.graph import MAX_COMBINED, ancestors, draw_edges, draw_plan, longest_paths, place_columns


def draw(seed=0):
    return Draw(torch.Generator().manual_seed(seed))


def by_hand(edge):
    """Ancestors (with the node itself) and longest path to each node of one graph, by plain recursion."""
    n = len(edge)
    parents = [[i for i in range(n) if edge[i, j]] for j in range(n)]
    above, longest = [], []
    for j in range(n):
        above.append({j}.union(*(above[i] for i in parents[j])))
        longest.append(max((longest[i] + 1 for i in parents[j]), default=0))
    return above, longest


def test_edges_follow_the_cauchy_law():
    """P(edge) is 1/2 by symmetry; how often two edges come together is compared with NumPy's draws of the definition."""
    batch = 20_000
    edge = draw_edges(batch, 5, draw()).numpy()
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_cauchy((10 * batch, *size)) for size in ((1, 1), (5, 1), (1, 5)))
    p = 1.0 / (1.0 + np.exp(-np.clip(a + b + c, -50, 50)))
    upper = np.triu_indices(5, 1)
    assert not edge[:, ~np.triu(np.ones((5, 5), dtype=bool), 1)].any()
    assert edge[:, *upper].mean(0) == pytest.approx(0.5, abs=5 * 0.5 / batch**0.5)
    for first, second in [((0, 1), (2, 3)), ((0, 1), (0, 2)), ((0, 4), (3, 4))]:       # share nothing, a parent, a child
        together = (edge[:, *first] & edge[:, *second]).mean()
        expected = (p[:, *first] * p[:, *second]).mean()
        assert together == pytest.approx(expected, abs=5 * 0.5 / batch**0.5)


def test_ancestors_and_longest_paths_are_those_of_the_graph():
    edge = draw_edges(40, 9, draw(1))
    above, level = ancestors(edge), longest_paths(edge)
    for task in range(40):
        expected, longest = by_hand(edge[task].numpy())
        assert [set(above[task, :, j].nonzero().squeeze(1).tolist()) for j in range(9)] == expected
        assert level[task].tolist() == longest


@pytest.mark.parametrize("n_features", [1, 7, 60])
def test_columns_never_coincide_with_the_target_and_one_is_related_to_it(n_features):
    batch, n_nodes, n_coordinates = 300, 12, 16
    cpu = draw(2)
    n_real = cpu.integers(batch, 1, low=1, high=n_nodes)
    exists = torch.arange(n_nodes) < n_real
    edge = draw_edges(batch, n_nodes, cpu) & exists.unsqueeze(1) & exists.unsqueeze(2)
    columns = place_columns(edge, exists, n_features, n_coordinates, cpu)
    assert exists.gather(1, columns.node).all()
    above = ancestors(edge)
    for task in range(batch):
        node, crowded = columns.node[task].tolist(), columns.crowded[task].tolist()
        first = list(zip(node, columns.coordinate[task].tolist(), strict=True))
        second = list(zip(node, columns.second[task].tolist(), strict=True))
        assert first[0] == (node[0], 0)
        assert first[0] not in first[1:] + second[1:]
        alone = [place for place, shared in zip(first, crowded, strict=True) if not shared]
        assert len(alone) == len(set(alone))
        assert any((above[task, :, n] & above[task, :, node[0]]).any() for n in node[1:])


def test_plan_computes_parents_first_and_only_what_is_read():
    plan = draw_plan(60, 5, 20, 16, draw(3))
    n_items = len(plan.item_task)
    assert plan.item.max() == n_items - 1
    inputs = plan.job_inputs
    sources = torch.div(inputs, 16, rounding_mode="floor")
    level = plan.item_level[plan.job_item].unsqueeze(1).expand_as(sources)
    known = inputs >= 0
    assert (plan.item_level[sources.clamp_min(0)][known] < level[known]).all()
    task = plan.item_task[plan.job_item].unsqueeze(1).expand_as(sources)
    assert (plan.item_task[sources.clamp_min(0)][known] == task[known]).all()              # a task reads its own nodes only
    assert torch.equal(plan.job_item[plan.job_slot == 0].sort().values, torch.arange(n_items))
    assert plan.job_slot.max() < MAX_COMBINED
    read = plan.item.gather(1, plan.columns.node)
    assert (read >= 0).all()
    used = set(read.flatten().tolist()) | set(sources[known].tolist())
    # Where a node has more parents, or they more coordinates, than it takes, some are computed for nothing.
    assert len(used) > 0.9 * n_items
