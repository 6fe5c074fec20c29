import numpy as np
import pytest
import scipy.ndimage
import torch

from priors import Prior, StrokePrior, TaskShape
from priors.draw import Draw
from priors.strokes import draw_strokes, render

EPISODE = TaskShape(64, 30, 784, 25)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tasks():
    torch.set_num_threads(1)
    return StrokePrior().sample(EPISODE, generator=seeded())


def test_batch_has_the_shape_asked_for(tasks):
    assert isinstance(StrokePrior(), Prior)
    assert tasks.x.shape == (64, 30, 784)
    assert tasks.x.dtype == torch.float32
    assert tasks.y.dtype == torch.int64
    assert tasks.n_classes.tolist() == [5] * 64
    assert tasks.n_context == 25


def test_same_seed_gives_the_same_batch(tasks):
    again, other = (StrokePrior().sample(EPISODE, generator=seeded(seed)) for seed in (0, 1))
    assert torch.equal(tasks.x, again.x)
    assert torch.equal(tasks.y, again.y)
    assert not torch.equal(tasks.x, other.x)


def test_pixels_are_ink_on_paper(tasks):
    assert tasks.x.min() == 0
    assert tasks.x.max() <= 254 / 255
    darkest = tasks.x.amax(2)
    assert (darkest > 150 / 255).float().mean() > 0.9               # thin pens rarely cover a pixel
    share = (tasks.x > 0.3).float().mean()
    # A stroke of 5–20 by 1–4 pixels covers 12.5 · 2.5 + π · 2.5² / 4 = 36 on average, and an image has two of them;
    # a little less, since long strokes leave the frame more often and strokes cross.
    assert 0.7 * 2 * 36 / 784 < share < 1.1 * 2 * 36 / 784


def test_shots_are_even_and_in_random_order(tasks):
    context = tasks.y[:, :25]
    counts = torch.nn.functional.one_hot(context, 5).sum(1)
    assert (counts == 5).all()
    one_of_each = (context[:, :5].sort(1).values == torch.arange(5)).all(1).float().mean()
    p = 5**5 / 53_130                                               # of the 25-choose-5 sets of first rows
    assert one_of_each == pytest.approx(p, abs=4 * (p / 64) ** 0.5)
    queries = torch.nn.functional.one_hot(tasks.y[:, 25:], 5).float().mean((0, 1))
    assert (queries - 0.2).abs().max() < 4 * (0.16 / 320) ** 0.5


def test_uneven_shots_differ_by_one():
    batch = StrokePrior(n_classes=4).sample(TaskShape(200, 12, 784, 10), generator=seeded())
    counts = torch.nn.functional.one_hot(batch.y[:, :10], 4).sum(1)
    assert (counts.sort(1).values == torch.tensor([2, 2, 3, 3])).all()
    assert (counts.float().mean(0) - 2.5).abs().max() < 4 * 0.5 / 200**0.5         # which class has more is random


def test_images_of_a_class_resemble_each_other(tasks):
    z = tasks.x - tasks.x.mean(2, keepdim=True)
    z = z / z.norm(dim=2, keepdim=True).clamp_min(1e-6)
    correlation = z @ z.transpose(1, 2)
    same = tasks.y.unsqueeze(1) == tasks.y.unsqueeze(2)
    distinct = ~torch.eye(30, dtype=torch.bool)
    within, between = correlation[same & distinct].mean(), correlation[~same].mean()
    assert within > between + 0.1
    assert within < 0.9                                             # yet no image is a copy


def test_nearest_neighbours_do_well_above_chance():
    batch = StrokePrior().sample(TaskShape(100, 30, 784, 25), generator=seeded(1))
    nearest = torch.cdist(batch.x[:, 25:], batch.x[:, :25]).argmin(2)
    accuracy = (batch.y[:, :25].gather(1, nearest) == batch.y[:, 25:]).float().mean()
    assert 0.5 < accuracy < 0.95                                    # chance is 0.2, and something is left to learn


def test_smaller_images_show_the_same_drawings():
    large = StrokePrior().sample(TaskShape(20, 8, 784, 6), generator=seeded())
    small = StrokePrior(image_size=14).sample(TaskShape(20, 8, 196, 6), generator=seeded())
    assert torch.equal(large.y, small.y)
    pooled = torch.nn.functional.avg_pool2d(large.x.view(-1, 1, 28, 28), 2).flatten()
    assert torch.corrcoef(torch.stack([pooled, small.x.flatten()]))[0, 1] > 0.95


def test_strokes_have_the_lengths_and_ends_of_the_definition():
    ends = draw_strokes(4000, Draw(seeded())).flatten(0, 1)
    start, end = ends[:, :2], ends[:, 2:]
    length = (end - start).norm(dim=1)
    assert ((start >= 2) & (start <= 25)).all()
    assert ((end >= 0) & (end <= 27)).all()
    assert length.min() >= 5 - 1e-4
    assert length.max() <= 20 + 1e-4


def test_redrawing_agrees_with_a_slow_loop():
    """Lengths and starts against one stroke at a time: direction redrawn, start and length after three failures."""
    rng = np.random.default_rng(0)
    slow = []
    for _ in range(4000):
        failures = 0
        while True:
            if failures % 3 == 0:
                length, start = rng.uniform(5, 20), rng.uniform(2, 25, 2)
            angle = rng.uniform(0, 2 * np.pi)
            end = start + length * np.array([np.cos(angle), np.sin(angle)])
            if ((end >= 0) & (end <= 27)).all():
                break
            failures += 1
        slow.append([length, *start, *end])
    slow = np.array(slow)
    ends = draw_strokes(4000, Draw(seeded(3))).flatten(0, 1).numpy()
    length = np.linalg.norm(ends[:, 2:] - ends[:, :2], axis=1)
    for ours, theirs in [(length, slow[:, 0]), *zip(ends.T, slow[:, 1:].T, strict=True)]:
        assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_rendering_agrees_with_a_fine_raster():
    """Ink per pixel against the share of a 16 × 16 sub-grid that lies within half a width of the stroke."""
    ends, width = draw_strokes(30, Draw(seeded(4)))[:, :1], torch.arange(30) % 4 + 1
    image = render(ends, torch.ones(30, 1, dtype=torch.bool), width).numpy()
    fine = (np.arange(28 * 16) + 0.5) / 16 - 0.5
    x, y = np.meshgrid(fine, fine)
    points = np.stack([x, y], -1)
    for drawn, stroke, w in zip(image, ends[:, 0].numpy(), width.tolist(), strict=True):
        a, b = stroke[:2], stroke[2:]
        share = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        inside = np.linalg.norm(points - a - share[..., None] * (b - a), axis=-1) <= w / 2
        exact = inside.reshape(28, 16, 28, 16).mean((1, 3))
        exact = scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(exact, [0.02, 0.96, 0.02], 0, mode="constant"),
                                         [0.02, 0.96, 0.02], 1, mode="constant")
        assert np.abs(drawn - exact).max() < 0.25                   # ends and corners of pixels are approximate
        assert np.abs(drawn - exact).mean() < 0.005
        assert drawn.sum() == pytest.approx(exact.sum(), rel=0.1)


def test_absent_strokes_leave_no_ink_and_chunks_do_not_show(monkeypatch):
    ends, width = draw_strokes(50, Draw(seeded(5))), torch.full((50,), 2)
    n_strokes = torch.arange(50) % 3 + 1
    drawn = torch.arange(3) < n_strokes.unsqueeze(1)
    image = render(ends, drawn, width)
    one = render(ends[:, :1], drawn[:, :1], width)
    assert torch.equal(image[n_strokes == 1], one[n_strokes == 1])
    monkeypatch.setattr("priors.strokes._CHUNK", 784 * 7)
    torch.testing.assert_close(render(ends, drawn, width), image, atol=1e-6, rtol=0)


def test_leaves_global_random_state_alone():
    before = torch.random.get_rng_state()
    StrokePrior().sample(TaskShape(2, 26, 784, 25), generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (TaskShape(2, 26, 785, 25), r"n_features=785, but images of image_size=28 .*use n_features=784"),
        (TaskShape(2, 26, 784, 4), r"n_context=4 has no room .*n_classes=5; use n_context >= 5"),
    ],
)
def test_rejects_shapes_that_are_no_episodes(shape, message):
    with pytest.raises(ValueError, match=message):
        StrokePrior().sample(shape, generator=seeded())


@pytest.mark.parametrize(("name", "value"), [("n_classes", 1), ("image_size", 1)])
def test_rejects_impossible_sizes(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        StrokePrior(**{name: value})


def test_rejects_what_is_no_generator():
    with pytest.raises(TypeError, match=r"must be a torch.Generator, got int 7"):
        StrokePrior().sample(EPISODE, generator=7)
