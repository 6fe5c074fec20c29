"""What the freeze-thaw network is shown of runs, against slow loops."""

import math

import pytest
import torch

from pfn.freeze_thaw import MAX_PARAMS, N_ROW_FEATURES, PARTS, FreezeThawTasks, TaskScale, part_means, row_features
from pfn.recipes import freeze_thaw
from priors import TaskShape

SHAPE = TaskShape(6, 52, N_ROW_FEATURES, 20)


@pytest.fixture
def batch():
    return FreezeThawTasks().sample(SHAPE, generator=torch.Generator().manual_seed(3))


def columns(x):
    """The named parts of rows (..., 30)."""
    sizes = {"configs": MAX_PARAMS, "means": len(PARTS)}
    sizes |= dict.fromkeys(["last", "observed", "log_observed", "asked", "log_asked", "level", "spread"], 1)
    parts = x.split(list(sizes.values()), dim=-1)
    return {name: part.squeeze(-1) if size == 1 else part for (name, size), part in zip(sizes.items(), parts, strict=True)}


def means_by_loop(share, y, seen):
    parts = [[] for _ in PARTS]
    for s, value, is_seen in zip(share, y, seen, strict=True):
        if is_seen:
            number = next(i for i, end in enumerate(PARTS) if s <= end + 1e-6)
            parts[number].append(value)
    return [sum(part) / len(part) if part else math.nan for part in parts]


@pytest.mark.parametrize("n_steps", [1, 7, 10, 50, 100, 1000])
def test_means_of_parts(n_steps, generator):
    y = torch.rand(2, 3, n_steps, generator=generator)
    seen = torch.rand(2, 3, n_steps, generator=generator) < 0.7
    share = torch.arange(1, n_steps + 1) / n_steps
    found = part_means(share, y, seen)
    expected = [[means_by_loop(share.tolist(), y[i, j].tolist(), seen[i, j].tolist()) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True)


def test_steps_of_each_run_may_differ(generator):
    share = torch.rand(4, 9, generator=generator).sort(1).values
    y, seen = torch.rand(4, 9, generator=generator), torch.ones(4, 9, dtype=torch.bool)
    each = torch.stack([part_means(s, v, m) for s, v, m in zip(share, y, seen, strict=True)])
    torch.testing.assert_close(part_means(share, y, seen), each, equal_nan=True)


def test_values_that_are_not_seen_do_not_matter(generator):
    y, seen = torch.rand(5, 20, generator=generator), torch.rand(5, 20, generator=generator) < 0.5
    share = torch.arange(1, 21) / 20
    other = torch.where(seen, y, math.nan)
    torch.testing.assert_close(part_means(share, y, seen), part_means(share, other, seen), equal_nan=True)


def test_level_and_spread_of_a_task(generator):
    means = torch.rand(3, 8, 13, generator=generator)
    means[means < 0.3] = math.nan
    means[2] = math.nan
    scale = TaskScale.of(means)
    for task in range(2):
        values = [value for value in means[task].flatten().tolist() if not math.isnan(value)]
        level = sum(values) / len(values)
        spread = math.sqrt((sum((value - level) ** 2 for value in values) + 0.2**2 / len(values)) / (len(values) + 1))
        assert scale.level[task].item() == pytest.approx(level, rel=1e-5)
        assert scale.spread[task].item() == pytest.approx(spread, rel=1e-5)
    assert scale.level[2] == 0.5                                    # nothing is known
    assert scale.spread[2].item() == pytest.approx(0.2)


def test_what_is_shown_of_a_row():
    scale = TaskScale(torch.tensor([[0.6]]), torch.tensor([[0.1]]))
    means = torch.full((1, 1, 13), math.nan)
    means[0, 0, 4] = 0.7
    last, observed, asked = (torch.tensor([[value]]) for value in (0.8, 0.1, 0.5))
    x = row_features(torch.tensor([[[0.2, 0.9]]]), means, last, observed, asked, scale)
    shown = columns(x[0, 0])
    assert shown["configs"][:2].tolist() == pytest.approx([0.2, 0.9])
    assert shown["configs"][2:].isnan().all()
    assert shown["means"][4].item() == pytest.approx(0.5 + 0.25 * (0.7 - 0.6) / 0.1, rel=1e-5)
    assert shown["means"].isnan().sum() == 12
    assert shown["last"].item() == pytest.approx(0.5 + 0.25 * (0.8 - 0.6) / 0.1, rel=1e-5)
    assert shown["observed"].item() == pytest.approx(0.1)
    assert shown["log_observed"].item() == pytest.approx(math.log(1 + 99 * 0.1) / math.log(100), rel=1e-5)
    assert shown["asked"].item() == pytest.approx(0.5)
    assert shown["log_asked"].item() == pytest.approx(math.log(1 + 99 * 0.5) / math.log(100), rel=1e-5)
    assert shown["level"].item() == pytest.approx(0.6)
    assert shown["spread"].item() == pytest.approx(1.0 + 0.2 * math.log(5 * 0.1), rel=1e-5)


def test_tasks_have_the_shape_asked_for_and_follow_the_generator(batch):
    assert batch.x.shape == (6, 52, N_ROW_FEATURES)
    assert batch.y.shape == (6, 52)
    assert batch.n_context == 20
    again, other = (FreezeThawTasks().sample(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    torch.testing.assert_close(batch.x, again.x, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(batch.y, again.y)
    assert not torch.equal(batch.y, other.y)


def test_context_rows_are_asked_for_what_was_observed_last(batch):
    shown = columns(batch.x[:, :20])
    assert torch.equal(shown["observed"], shown["asked"])
    assert torch.equal(shown["log_observed"], shown["log_asked"])
    assert (shown["observed"] > 0).all()
    torch.testing.assert_close(shown["last"], 0.5 + 0.25 * batch.y[:, :20], atol=1e-5, rtol=1e-5)


def test_queries_lie_behind_what_was_observed(batch):
    shown = columns(batch.x[:, 20:])
    assert (shown["asked"] > shown["observed"]).all()
    new = shown["observed"] == 0
    assert 0.05 < new.float().mean() < 0.6
    assert shown["last"][new].isnan().all()
    assert shown["means"][new].isnan().all()
    assert not shown["last"][~new].isnan().any()
    assert 0.3 < (shown["asked"] == 1).float().mean() < 0.8


def test_a_query_that_continues_a_run_is_shown_as_that_run(batch):
    parts = columns(batch.x)
    curve = torch.cat([parts["configs"], parts["means"], parts["last"].unsqueeze(-1)], dim=-1).nan_to_num(-1.0)
    known = [{tuple(row) for row in task[:20].tolist()} for task in curve]
    for task in range(6):
        for row in range(20, 52):
            is_known = tuple(curve[task, row].tolist()) in known[task]
            assert is_known == (parts["observed"][task, row] > 0)


def test_scale_of_a_task_is_that_of_its_context(batch):
    shown = columns(batch.x)
    level, spread = shown["level"][:, :1], ((shown["spread"][:, :1] - 1.0) * 5).exp() / 5
    means = level.unsqueeze(-1) + spread.unsqueeze(-1) * (shown["means"][:, :20] - 0.5) * 4
    scale = TaskScale.of(means)
    torch.testing.assert_close(scale.level, level, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(scale.spread, spread, atol=1e-4, rtol=1e-3)
    assert (shown["level"] == shown["level"][:, :1]).all()


def test_a_single_run():
    batch = FreezeThawTasks().sample(TaskShape(4, 9, N_ROW_FEATURES, 1), generator=torch.Generator().manual_seed(0))
    assert batch.y.isfinite().all()


@pytest.mark.parametrize("shape", [TaskShape(2, 30, 29, 10), TaskShape(2, 30, N_ROW_FEATURES, 0)])
def test_other_shapes_are_none_of_these_tasks(shape):
    with pytest.raises(ValueError, match=f"is none of freeze-thaw tasks: use n_features={N_ROW_FEATURES}"):
        FreezeThawTasks().sample(shape, generator=torch.Generator())


def test_the_recipe_reads_these_rows():
    config = freeze_thaw()
    assert config.model.row_features == N_ROW_FEATURES == 30
    shape = config.sizes.shape(0, config.model.n_tokens)
    assert config.prior.sample(shape, generator=torch.Generator().manual_seed(0)).x.shape[2] == N_ROW_FEATURES
