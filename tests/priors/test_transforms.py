import pytest
import torch

from priors import SCMPrior, TaskShape, with_categoricals, with_distractors, with_missing, with_warps

SHAPE = TaskShape(100, 60, 6, 30)


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("wrap", [with_categoricals, with_distractors, with_missing, with_warps])
def test_targets_stay_and_untouched_tasks_are_equal(wrap):
    plain = SCMPrior().sample(SHAPE, generator=seeded())
    wrapped = wrap(SCMPrior(), probability=0.5).sample(SHAPE, generator=seeded())
    assert torch.equal(plain.y, wrapped.y)
    same = ((plain.x == wrapped.x) | (plain.x.isnan() & wrapped.x.isnan())).flatten(1).all(1)
    assert 0.35 < same.float().mean() < 0.8                         # 0.5, and some active tasks change nothing


@pytest.mark.parametrize("wrap", [with_categoricals, with_distractors, with_missing, with_warps])
def test_probability_zero_changes_nothing(wrap):
    plain = SCMPrior().sample(SHAPE, generator=seeded())
    assert torch.equal(plain.x, wrap(SCMPrior(), probability=0.0).sample(SHAPE, generator=seeded()).x)


@pytest.mark.parametrize("wrap", [with_categoricals, with_distractors, with_missing, with_warps])
def test_probability_must_be_one(wrap):
    with pytest.raises(ValueError, match=r"probability=1.5 is no probability"):
        wrap(SCMPrior(), probability=1.5)


def test_missing_rate_is_that_of_the_definition():
    """Active columns are U(0, 1) of all, their rate is Beta(1, 3) with mean 1/4, rounded down to rows."""
    shape = TaskShape(400, 60, 6, 30)
    batch = with_missing(SCMPrior(), probability=1.0).sample(shape, generator=seeded())
    rate = batch.x.isnan().float().mean((1, 2))
    expected = 0.5 * (0.25 - 0.5 / 60)                               # rounding down costs half a row
    assert rate.mean() == pytest.approx(expected, abs=4 * rate.std().item() / 400**0.5 + 0.002)


def test_some_columns_lose_their_large_values():
    """Missing not at random: in some columns the gaps prefer one end of the column."""
    plain = SCMPrior().sample(SHAPE, generator=seeded())
    holes = with_missing(SCMPrior(), probability=1.0).sample(SHAPE, generator=seeded()).x.isnan()
    z = (plain.x - plain.x.mean(1, keepdim=True)) / plain.x.std(1, keepdim=True)
    n_gaps = holes.sum(1)
    deviation = (z * holes).sum(1).abs() / n_gaps.clamp_min(1).sqrt()
    # In standard errors: four are exceeded with probability 6e-5 if gaps are random.
    assert (deviation[n_gaps >= 10] > 4).float().mean() > 0.03


def test_categories_are_codes_from_zero():
    batch = with_categoricals(SCMPrior(), probability=1.0).sample(SHAPE, generator=seeded())
    columns = batch.x.transpose(1, 2).flatten(0, 1)
    coded = [c for c in columns if torch.equal(c, c.round()) and c.min() == 0 and len(c.unique()) < 60]
    assert len(coded) > 0.4 * len(columns)
    assert all(torch.equal(c.unique(), torch.arange(len(c.unique()), dtype=torch.float32)) for c in coded)
    assert max(len(c.unique()) for c in coded) > 12


def test_distractors_leave_at_least_one_column():
    plain = SCMPrior().sample(SHAPE, generator=seeded())
    noisy = with_distractors(SCMPrior(), probability=1.0).sample(SHAPE, generator=seeded())
    z = (plain.x - plain.x.mean(1, keepdim=True)) / plain.x.std(1, keepdim=True, correction=0)
    kept = (z - noisy.x).abs().amax(1) < 1e-3
    assert kept.any(1).all()
    assert kept.float().mean() < 0.9
