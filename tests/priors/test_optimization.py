import math
from dataclasses import dataclass, field

import pytest
import scipy.stats
import torch

from priors import HEBOPrior, OptimizationPrior, Status, TaskShape, optimization
from priors.draw import Draw
from priors.optimization import _draw_levels, _draw_points


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_share(hits, probability):
    """The share of true values is `probability` up to four standard errors."""
    hits = hits.float()
    assert abs(hits.mean() - probability) <= 4 * (probability * (1 - probability) / hits.numel()) ** 0.5


@dataclass(frozen=True)
class Planes:
    """A plane a task, of `sign` times random positive weights; remembers what it returned."""

    sign: float = 1.0
    seen: list = field(default_factory=list)

    def values(self, x, draw):
        weight = self.sign * (0.1 + draw.uniform(len(x), x.shape[2], 1))
        self.seen.append((x @ weight).squeeze(2))
        return self.seen[-1]


PLANES = ((1.0, Planes()),)
LONG = TaskShape(1000, 200, 3, 199)


def sample(shape=LONG, seed=0, **arguments):
    return OptimizationPrior(PLANES, **arguments).sample(shape, generator=seeded(seed))


@pytest.fixture
def without_levels(monkeypatch):
    monkeypatch.setattr(optimization, "_draw_levels", lambda x, draw: x)


@pytest.fixture(scope="module")
def levels():
    """Uniform points (B, R, 6), and how they are shown."""
    x = torch.rand(4000, 60, 6, generator=seeded(1))
    return x, _draw_levels(x, Draw(seeded()))


def is_rounded(x, shown):
    """Whether each column shows x at the middle of one of 3 – 10 sections (B, F), and whether at 0 or 1, rounded."""
    middles = torch.stack([(((x * n).floor() + 0.5) / n - shown).abs().amax(1) < 1e-6 for n in range(3, 11)])
    return middles.any(0), ((x >= 0.5) == shown).all(1)


def test_a_column_stays_or_is_rounded_or_is_one_of_several_choices(levels):
    x, shown = levels
    same = (shown == x).all(1)
    middles, binary = is_rounded(x, shown)
    choice = ~(same | middles | binary)                              # (B, F)
    assert ((shown == 0) | (shown == 1)).mT[choice].all()
    # Neighbours, three to five of them, of which the largest is 1.
    n_choices = choice.sum(1)
    assert set(n_choices.tolist()) == {0, 3, 4, 5}
    assert ((choice.int().diff(dim=1) > 0).sum(1) <= 1 - choice[:, 0].int()).all()
    largest = torch.nn.functional.one_hot(x.masked_fill(~choice.unsqueeze(1), -1.0).argmax(2), 6)
    assert torch.equal(largest.float().mT[choice], shown.mT[choice])
    assert (shown * choice.unsqueeze(1)).sum(2)[n_choices > 0].eq(1).all()


def test_columns_are_coded_as_often_as_documented(levels):
    x, shown = levels
    in_group = 0.4 / 4                                               # a group starts at one of the first four columns
    assert_share((shown != x).any(1)[:, 0], 0.4 * (in_group + (1 - in_group) * 0.5))
    x = torch.rand(8000, 60, 2, generator=seeded(2))                 # two columns are no choice
    shown = _draw_levels(x, Draw(seeded()))
    coded = (shown != x).any(1)
    assert_share(coded[:, 0], 0.4 * 0.5)
    _, binary = is_rounded(x, shown)
    assert_share(binary[:, 0][coded[:, 0]], 0.4)
    assert_share(coded.any(1), 0.4 * 2 / 3)                          # 1 - ∫ (1 - p)² dp of the tasks that have any


def test_points_lie_in_the_cube_and_some_on_its_faces(without_levels):
    x = _draw_points(TaskShape(3000, 60, 4, 30), Draw(seeded()))
    assert x.min() == 0
    assert x.max() == 1
    at_face = ((x == 0) | (x == 1)).any((1, 2)).float().mean()
    assert 0.29 < at_face < 0.3 + 0.7 * 0.6                          # some of the crowds reach over them too
    assert 0.4 < (x == 0).sum() / ((x == 0) | (x == 1)).sum() < 0.6


def test_points_crowd_in_six_tasks_of_ten(without_levels):
    """Two points closer than 0.1 in eight dimensions: by chance in one uniform task of 5,000, in any tight crowd."""
    x = _draw_points(TaskShape(2000, 100, 8, 50), Draw(seeded()))
    pairs = torch.stack([(torch.pdist(points) < 0.1).sum() for points in x])
    share = (pairs > 5).float().mean()
    tight, loose = (scipy.stats.loguniform(0.01, 0.3).cdf(std) for std in (0.02, 0.06))
    assert 0.6 * tight - 0.05 < share < 0.6 * loose + 0.05
    assert (pairs == 0).float().mean() > 0.4


def test_functions_are_drawn_with_their_weights_and_see_their_own_tasks():
    prior = OptimizationPrior([(3.0, Planes()), (1.0, Planes(-1.0))])
    x = torch.rand(3000, 20, 1, generator=seeded(1))
    y = prior._draw_functions(x, Draw(seeded()))
    z = optimization.standardise(x.squeeze(2))
    up = (y - z).abs().amax(1) < 1e-4
    assert ((y + z).abs().amax(1) < 1e-4)[~up].all()
    assert_share(up, 0.75)


def targets_of_equal_points():
    """Targets at points (B, 2R, 4) of which the second half repeats the first, and the planes there."""
    points = torch.rand(4000, 40, 4, generator=seeded(1))
    planes = Planes()
    y = OptimizationPrior([(1.0, planes)])._draw_targets(torch.cat([points, points], dim=1), Draw(seeded()))
    return y, planes.seen[0]


def test_targets_are_noisy_bent_or_cut_as_often_as_documented():
    y, planes = targets_of_equal_points()
    cut = (torch.minimum(y.abs(), (y - 1).abs()) < 0.12).all(1)      # six standard deviations
    assert_share(cut, 0.1)
    y, f = y[~cut], planes[~cut]
    difference = (y[:, :40] - y[:, 40:]).std(1) / 2**0.5
    noisy = difference > 1e-4
    assert_share(noisy, 0.5)
    assert difference[noisy].min() > 0.003 * 0.5
    assert difference[noisy].max() < 0.6 * 1.5
    middle = difference[noisy].log().mean().exp()                    # of a log-uniform number
    assert middle == pytest.approx((0.003 * 0.6) ** 0.5, rel=0.2)
    # Without noise and trend the order of points is that of the function, and in a quarter of these it is bent.
    y, f = y[~noisy, :40], f[~noisy, :40]
    ordered = y.gather(1, f.argsort(1))
    plain = (ordered.diff(dim=1) >= 0).all(1)
    assert_share(plain, 1 - 0.33 * (1 - 0.3**4))                     # a trend may have no weight at all
    line = optimization.standardise(f[plain])
    bent = (optimization.standardise(y[plain]) - line).abs().amax(1) > 1e-2
    assert_share(bent, 0.25)


@pytest.mark.parametrize("failures", [0.0, 0.3, 1.0])
def test_as_many_tasks_fail_as_asked_for(without_levels, failures):
    batch = sample(failures=failures, bounds=0.5)
    failed = batch.status == Status.FAILED
    assert torch.equal(failed, batch.y[:, :199].isnan())
    assert batch.y[:, 199:].isfinite().all()
    assert_share(failed.any(1), failures)
    assert failed.sum(1).max() <= 0.4 * 200
    if failures:
        middle = failed.sum(1)[failed.any(1)].float().mean() / 200
        assert middle == pytest.approx(0.21, abs=0.02)               # of 2 – 40 %


@pytest.mark.parametrize("bounds", [0.0, 0.15, 1.0])
def test_as_many_tasks_have_bounds_as_asked_for(bounds):
    batch = sample(failures=0.5, bounds=bounds)
    at_least, at_most = (batch.status == kind for kind in (Status.AT_LEAST, Status.AT_MOST))
    bounded = (at_least | at_most).any(1)
    assert_share(bounded, bounds)
    assert not (at_least.any(1) & at_most.any(1)).any()
    if bounds:
        assert_share(at_least.any(1)[bounded], 0.7)
        rows = sample(failures=0.0, bounds=bounds).status[:, 2:].ne(0).float().mean(1)
        assert rows[rows > 0].mean() == pytest.approx(0.225, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold(seed):
    """The same seed without bounds has the same tasks with their values."""
    latent, batch = sample(failures=0.0, bounds=0.0, seed=seed), sample(failures=0.0, bounds=1.0, seed=seed)
    assert torch.equal(latent.x, batch.x)
    assert torch.equal(latent.y[:, 199:], batch.y[:, 199:])
    gap = latent.y[:, :199] - batch.y[:, :199]
    assert (gap[batch.status == Status.AT_LEAST] >= 0).all()
    assert (gap[batch.status == Status.AT_MOST] <= 0).all()
    assert (gap[batch.status == Status.VALUE] == 0).all()
    distance = gap[batch.status != Status.VALUE].abs()
    assert distance.mean() == pytest.approx(0.9 / math.log(10), rel=0.1)    # of LogU(0.1, 1)


def test_failures_tend_to_be_where_targets_are_large(without_levels):
    latent, batch = sample(failures=0.0, bounds=0.0), sample(failures=1.0, bounds=0.0)
    failed = batch.status == Status.FAILED
    y = latent.y[:, :199]
    assert torch.equal(y[~failed], batch.y[:, :199][~failed])
    z = optimization.standardise(y)
    mean = (z * failed).sum(1) / failed.sum(1)
    assert mean.mean() > 4 * mean.std() / len(mean) ** 0.5
    assert (mean < -0.5).any()                                       # and yet they may be where they are small


@pytest.mark.parametrize("shape", [TaskShape(200, 60, 3, 30), TaskShape(500, 6, 2, 3), TaskShape(20, 3, 1, 2)], ids=str)
def test_the_first_two_rows_always_have_values(shape):
    batch = OptimizationPrior(failures=1.0, bounds=1.0).sample(shape, generator=seeded())
    assert (batch.status[:, :2] == Status.VALUE).all()
    assert batch.y[:, :2].isfinite().all()
    assert batch.status.shape == (shape.batch_size, shape.n_context)
    assert (batch.status[:, 2:] != Status.VALUE).any() or shape.n_context == 2


@pytest.mark.parametrize("shape", [TaskShape(3, 40, 18, 20), TaskShape(1, 2, 1, 1), TaskShape(2, 6, 2, 0)], ids=str)
@pytest.mark.parametrize("prior", [OptimizationPrior(), OptimizationPrior(failures=1.0, bounds=1.0)], ids=["default", "all"])
def test_same_seed_gives_the_same_batch(prior, shape):
    first, second = (prior.sample(shape, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y.nan_to_num(1e9), second.y.nan_to_num(1e9))
    assert torch.equal(first.status, second.status)
    assert first.x.isfinite().all()
    assert 0 <= first.x.min() <= first.x.max() <= 1
    assert first.y[:, shape.n_context :].isfinite().all()
    assert first.y.dtype == first.x.dtype == torch.float32


@pytest.mark.parametrize("number", range(len(optimization.FUNCTIONS)))
def test_each_family_of_functions_varies_at_crowded_and_coded_points(number):
    _, functions = optimization.FUNCTIONS[number]
    x = _draw_points(TaskShape(40, 128, 3, 60), Draw(seeded()))
    y = functions.values(x, Draw(seeded()))
    assert y.shape == (40, 128)
    assert y.dtype == torch.float32
    assert y.isfinite().all()
    assert (y.std(1) > 0).all()


def test_without_failures_and_bounds_every_target_is_a_value():
    assert sample(failures=0.0, bounds=0.0).status is None
    assert sample(failures=0.0, bounds=1e-9).status is not None


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"failures": 1.5}, ValueError, r"failures=1.5 is no share of tasks; use a number from 0 to 1"),
    ({"bounds": -0.1}, ValueError, r"bounds=-0.1 is no share of tasks"),
    ({"functions": []}, ValueError, r"functions is empty; pass at least one pair"),
    ({"functions": [(1.0, HEBOPrior()), (0.0, HEBOPrior())]}, ValueError, r"weight at position 1 is 0.0; use a positive"),
    ({"functions": [(1.0, torch.sin)]}, TypeError, r"position 0 are .*sin.*, which has no method values\(x, draw\)"),
])
def test_errors_name_argument_value_and_remedy(arguments, error, message):
    with pytest.raises(error, match=message):
        OptimizationPrior(**arguments)
