from dataclasses import astuple, replace

import numpy as np
import pytest

from pfn import PFNConfig, PretrainConfig, TaskSizes
from priors import SCMPrior

N_TOKENS = PFNConfig(dense_features=24).n_tokens


def test_task_sizes_cover_their_ranges_within_the_budget():
    sizes = TaskSizes(rows=(40, 1024), features=(1, 64), cells=10_240)
    model = PFNConfig()
    shapes = [sizes.shape(number, model.n_tokens) for number in range(sizes.n_shapes)]
    assert {shape.n_features for shape in shapes} >= {1, 2, 3, 4, 5}
    assert max(shape.n_features for shape in shapes) > 55
    assert max(shape.n_rows for shape in shapes) > 700
    assert all(shape.n_rows * model.n_tokens(shape.n_features) <= 2 * 10_240 for shape in shapes)
    assert all(0.35 < shape.n_context / shape.n_rows < 0.95 for shape in shapes)


def test_shapes_of_runs_in_progress_stay_as_they_are():
    """A run that is resumed by a later version must go on with the same tasks."""
    sizes = TaskSizes(rows=(24, 1024), features=(1, 64))
    shapes = [astuple(sizes.shape(number, N_TOKENS)) for number in range(3)]
    assert shapes == [(5, 144, 13, 94), (2, 736, 4, 565), (4, 80, 58, 71)]


def test_rows_features_and_context_shares_are_spread_evenly():
    """Each tenth of the (log-)range of 96 shapes holds 9.6 of them, give or take three; nearly all lengths differ."""
    sizes = TaskSizes(rows=(100, 10_000), features=(100, 10_000), row_step=1, max_cells=10**12)
    shapes = [sizes.shape(number, lambda n_features: 1) for number in range(sizes.n_shapes)]
    rows, features = np.array([s.n_rows for s in shapes]), np.array([s.n_features for s in shapes])
    shares = np.array([s.n_context / s.n_rows for s in shapes])
    for u in ((np.log10(rows) - 2) / 2, (np.log10(features) - 2) / 2, (shares - 0.4) / 0.5):
        counts, _ = np.histogram(u, bins=10, range=(0, 1))
        assert counts.sum() == 96
        assert np.abs(counts - 9.6).max() < 3.5
    assert abs(np.corrcoef(np.log(rows), np.log(features))[0, 1]) < 0.1
    assert len(set(rows)) > 90


def test_a_late_stage_holds_large_tasks_in_ordinary_batches():
    """2,048 rows × 51 tokens come alone; small tasks fill batches of the usual size."""
    sizes = TaskSizes(rows=(256, 2048), features=(4, 100), n_shapes=200, max_cells=2048 * 51)
    shapes = [sizes.shape(number, N_TOKENS) for number in range(sizes.n_shapes)]
    cells = [shape.n_rows * N_TOKENS(shape.n_features) for shape in shapes]
    assert max(cells) > 7 * 10_240
    assert all(shape.batch_size == 1 for shape, n in zip(shapes, cells, strict=True) if n > 10_240)
    assert all(shape.batch_size * n <= 1.5 * 10_240 for shape, n in zip(shapes, cells, strict=True) if n <= 10_240)
    assert max(shape.n_rows for shape in shapes if shape.n_features > 80) > 1500


def test_the_largest_task_is_twice_a_batch_by_default():
    sizes = TaskSizes(rows=(16, 4096), features=(1, 100), cells=2000)
    explicit = replace(sizes, max_cells=4000)
    for number in range(sizes.n_shapes):
        assert sizes.shape(number, N_TOKENS) == explicit.shape(number, N_TOKENS)
        shape = sizes.shape(number, N_TOKENS)
        assert shape.n_rows * N_TOKENS(shape.n_features) <= 4000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": (20, 10)}, r"rows=\(20, 10\) is no range"),
        ({"context_share": (0.5, 1.0)}, r"context_share=\(0.5, 1.0\) is no range of shares"),
        ({"n_shapes": 0}, "n_shapes=0 and row_step=16 must be positive"),
        ({"max_cells": 8}, "max_cells=8 has no room for tasks of 32 rows"),
    ],
)
def test_impossible_sizes_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskSizes(**arguments)


def test_late_sizes_hold_from_the_beginning_of_the_decay():
    early, late = TaskSizes(), TaskSizes(rows=(400, 2048))
    config = PretrainConfig(SCMPrior(2), sizes=early, late_sizes=late, n_steps=10, decay_steps=3)
    assert [config.sizes_at(step) is late for step in range(10)] == [False] * 7 + [True] * 3
    assert not any(replace(config, decay_steps=0).sizes_at(step) is late for step in range(10))
    assert all(replace(config, late_sizes=None).sizes_at(step) is early for step in range(10))


def test_sizes_of_another_type_are_rejected():
    with pytest.raises(TypeError, match=r"late_sizes=\(400, 2048\) is no TaskSizes"):
        PretrainConfig(SCMPrior(2), late_sizes=(400, 2048))


def test_with_queries_rows_are_contexts_of_any_length():
    sizes = TaskSizes(rows=(1, 180), features=(12, 12), queries=28, cells=4096)
    shapes = [sizes.shape(number, lambda n_features: 1) for number in range(sizes.n_shapes)]
    assert {shape.n_rows - shape.n_context for shape in shapes} == {28}
    contexts = sorted(shape.n_context for shape in shapes)
    assert contexts[0] == 1
    assert 100 < contexts[-1] <= 180
    assert 5 < contexts[len(contexts) // 2] < 25                                # log-uniform: √180 is 13
    assert all(shape.n_features == 12 for shape in shapes)
    assert all(0.6 * 4096 < shape.batch_size * shape.n_rows < 1.3 * 4096 for shape in shapes)


def test_negative_queries_are_rejected():
    with pytest.raises(ValueError, match="queries=-1 is negative"):
        TaskSizes(queries=-1)
    with pytest.raises(ValueError, match=r"rows=\(1, 20\) is no range; use 2"):
        TaskSizes(rows=(1, 20))
