import threading
from dataclasses import dataclass, replace

import pytest
import torch
from test_training import CONFIG, assert_same_weights, run

from pfn import PFN, PFNConfig
from pfn.tasks import TaskStream, draw_batches, task_loss
from priors import TaskBatch

CPU = torch.device("cpu")


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pfn-tasks")]


def assert_same_batches(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.x.nan_to_num(9e9), b.x.nan_to_num(9e9))
        assert torch.equal(a.y, b.y)


def test_drawn_ahead_or_not_the_weights_are_the_same():
    config = replace(CONFIG, n_steps=12, decay_steps=4)
    assert_same_weights(run(config, prefetch=True), run(config, prefetch=False))
    assert threads() == []


def test_any_part_of_the_batches_can_be_drawn():
    config = replace(CONFIG, batches_per_step=4)
    together = draw_batches(config, 7, CPU)
    assert_same_batches(draw_batches(config, 7, CPU, numbers=[3, 1]), [together[3], together[1]])
    # Another number of batches is a prefix of the same stream.
    assert_same_batches(draw_batches(replace(config, batches_per_step=2), 7, CPU), together[:2])


def test_the_next_step_is_drawn_while_this_one_trains():
    drawn, asked = [], threading.Event()

    def draw(step):
        drawn.append((step, threading.current_thread().name))
        if step == 1:
            asked.set()
        return []

    with TaskStream(draw, 2, CPU, ahead=True) as stream:
        stream.take(0)
        assert asked.wait(10), "nobody has asked for step 1 yet, and it is drawn all the same"
        stream.take(1)
    assert [step for step, _ in drawn] == [0, 1]
    assert all(name.startswith("pfn-tasks") for _, name in drawn)


@dataclass(frozen=True)
class Failing:
    """Fails at its eleventh batch."""

    calls: list

    def sample(self, shape, *, generator):
        self.calls.append(threading.current_thread().name)
        if len(self.calls) == 11:
            raise ZeroDivisionError("in the prior")
        x = torch.randn(shape.batch_size, shape.n_rows, shape.n_features, generator=generator)
        return TaskBatch(x, x[:, :, 0].gt(0).long(), shape.n_context, n_classes=torch.full((shape.batch_size,), 2))


@pytest.mark.parametrize("prefetch", [True, False])
def test_an_exception_of_the_prior_surfaces_and_the_thread_ends(prefetch):
    calls = []
    with pytest.raises(ZeroDivisionError, match="in the prior"):
        run(replace(CONFIG, prior=Failing(calls)), prefetch=prefetch)
    assert any(name.startswith("pfn-tasks") for name in calls) == prefetch
    assert threads() == []


def test_the_thread_ends_when_training_raises(monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pfn.training.task_loss", broken)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, prefetch=True)
    assert threads() == []


def test_the_thread_ends_when_time_is_up():
    run(CONFIG, prefetch=True, time_limit=0.0)
    assert threads() == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_drawn_ahead_on_a_stream_of_its_own():
    device = torch.device("cuda")
    config = replace(CONFIG, n_steps=12)

    def draw(step):
        return draw_batches(config, step, device)

    with TaskStream(draw, 12, device, ahead=True) as stream:
        for step in range(12):
            batches = stream.take(step)
            torch.randn(500, 500, device=device).matrix_exp()       # keeps the training stream busy
            assert_same_batches(batches, draw(step))


def test_a_target_a_million_standard_deviations_away_counts_as_one_twenty_away(generator):
    model = PFN(PFNConfig(task="regression", n_outputs=16, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32))
    x, y = torch.randn(1, 12, 2, generator=generator), torch.randn(1, 12, generator=generator)
    y[0, :10] = (y[0, :10] - y[0, :10].mean()) / y[0, :10].std(correction=0)
    losses = []
    for far in (1e6, 20.0, 2.0):
        y[0, 11] = far
        losses.append(task_loss(model, TaskBatch(x, y.clone(), 10)).item())
    assert losses[0] == pytest.approx(losses[1])
    assert losses[1] > losses[2]
