import pytest
import torch
from scipy import stats

from priors import (
    GPPrior,
    SCMPrior,
    TaskBatch,
    TaskShape,
    with_categoricals,
    with_distractors,
    with_missing,
    with_normal_scores,
    with_target_noise,
    with_warps,
)

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


class Wide:
    """Independent normal columns, the target their sum."""

    def sample(self, shape, *, generator):
        x = torch.randn(shape.batch_size, shape.n_rows, shape.n_features, generator=generator)
        return TaskBatch(x, x.sum(2), shape.n_context)


def test_some_columns_are_exact_copies_and_some_are_noisy_ones():
    x = with_distractors(Wide(), probability=1.0).sample(TaskShape(200, 100, 8, 50), generator=seeded()).x
    z = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)
    r = (z.transpose(1, 2) @ z / 100).abs() - torch.eye(8)
    assert 10 < (r.amax((1, 2)) > 0.99999).sum() < 150
    assert ((r > 0.6) & (r < 0.999)).any((1, 2)).sum() > 50                     # chance correlations are 0.1 in size


def test_gaps_of_a_block_fall_on_the_same_rows():
    """In a tenth of the tasks; elsewhere the gaps of independent columns are independent unless one drives the other."""
    gaps = with_missing(Wide(), probability=1.0).sample(TaskShape(400, 200, 6, 100), generator=seeded()).x.isnan().float()
    centred = gaps - gaps.mean(1, keepdim=True)
    r = (centred.transpose(1, 2) @ centred) / centred.square().sum(1).clamp_min(1e-9).sqrt().unsqueeze(1)
    r = r / centred.square().sum(1).clamp_min(1e-9).sqrt().unsqueeze(2)
    busy = (gaps.mean(1) > 0.1) & (gaps.mean(1) < 0.6)
    pairs = busy.unsqueeze(1) & busy.unsqueeze(2) & ~torch.eye(6, dtype=torch.bool)
    together = ((r > 0.35) & pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
    enough = pairs.sum((1, 2)) >= 6
    assert ((together > 0.6) & enough).sum() / enough.sum() == pytest.approx(0.1, abs=0.06)


def test_one_column_in_a_hundred_has_no_value_in_the_context():
    x = with_missing(Wide(), probability=1.0).sample(TaskShape(1000, 40, 10, 30), generator=seeded()).x
    unrecorded = x[:, :30].isnan().all(1) & ~x[:, 30:].isnan().all(1)
    share = unrecorded[:, 1:].float().mean().item()
    assert share == pytest.approx(0.01, abs=4 * (0.01 / 9000) ** 0.5)
    assert not x[:, :30, 0].isnan().all(1).any()


def test_warps_keep_the_order_of_a_column_except_its_direction():
    """All warps are monotone (rounding and censoring make ties); outliers are the exception, in a tenth of the tasks."""
    shape = TaskShape(100, 80, 4, 40)
    plain = Wide().sample(shape, generator=seeded()).x
    warped = with_warps(Wide(), probability=1.0).sample(shape, generator=seeded()).x
    order = plain.argsort(1)
    steps = warped.gather(1, order).diff(dim=1)
    monotone = (steps >= -1e-5).all(1) | (steps <= 1e-5).all(1)
    assert 0.85 < monotone.float().mean() < 1.0
    standardised = (plain - plain.mean(1, keepdim=True)) / plain.std(1, keepdim=True, correction=0)
    changed = (warped - standardised).abs().amax(1) > 1e-3
    assert 0.3 < changed.float().mean() < 0.7


def test_categories_reach_two_hundred_levels():
    x = with_categoricals(Wide(), probability=1.0).sample(TaskShape(60, 2000, 10, 1000), generator=seeded()).x
    assert max(len(c.unique()) for c in x.transpose(1, 2).flatten(0, 1) if torch.equal(c, c.round())) > 120


def test_target_noise_bends_blurs_and_leaves_the_features():
    shape = TaskShape(600, 100, 3, 50)
    plain = Wide().sample(shape, generator=seeded())
    noisy = with_target_noise(Wide(), probability=1.0).sample(shape, generator=seeded())
    assert torch.equal(plain.x, noisy.x)
    assert noisy.y.isfinite().all()
    assert noisy.y.std(1, correction=0).numpy() == pytest.approx(1.0, abs=1e-3)
    plain_y = (plain.y - plain.y.mean(1, keepdim=True)) / plain.y.std(1, keepdim=True, correction=0)
    untouched = (plain_y - noisy.y).abs().amax(1) < 1e-3
    assert untouched.float().mean() == pytest.approx(0.5 * 0.3, abs=0.06)           # not bent, no noise
    few = torch.tensor([len(y.round(decimals=4).unique()) for y in noisy.y]) <= 11
    assert few.float().mean() == pytest.approx(0.3 * 0.1, abs=0.04)                 # ordinal without noise, some counts


def test_normal_scores_are_those_of_the_middle_ranks():
    prior = with_target_noise(Wide())                                              # some of its targets are ordinal
    shape = TaskShape(200, 90, 3, 50)
    plain, scored = prior.sample(shape, generator=seeded()), with_normal_scores(prior).sample(shape, generator=seeded())
    assert torch.equal(plain.x, scored.x)
    changed = (plain.y != scored.y).any(1)
    assert changed.float().mean() == pytest.approx(0.2, abs=0.1)                   # 200 tasks: 3.5 standard deviations
    ranks = stats.rankdata(plain.y[changed].numpy(), axis=1)
    torch.testing.assert_close(scored.y[changed].double(), torch.from_numpy(stats.norm.ppf((ranks - 0.5) / 90)),
                               atol=1e-4, rtol=0)


@pytest.mark.parametrize("wrap", [with_target_noise, with_normal_scores])
def test_transforms_of_targets_refuse_classes(wrap):
    with pytest.raises(ValueError, match="draws classes"):
        wrap(SCMPrior(max_classes=3)).sample(SHAPE, generator=seeded())


def test_target_noise_of_no_task_changes_nothing():
    assert with_target_noise(GPPrior(), probability=0.0).sample(SHAPE, generator=seeded()).n_classes is None
