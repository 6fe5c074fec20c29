import itertools
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from pfn import CheckpointError, PFNConfig, PretrainConfig, TaskSizes, load_pretrained, pretrain, save_checkpoint
from pfn.checkpoint import read_tensors
from pfn.optimizer import learning_rate_factor
from pfn.training import draw_batches, task_loss
from priors import GPPrior, SCMPrior, TaskBatch, as_classification

TINY = PFNConfig(n_outputs=3, embed_dim=16, n_layers=2, n_heads=2, hidden_dim=32, n_thinking_rows=2)
SIZES = TaskSizes(rows=(12, 24), features=(1, 3), cells=256, n_shapes=6, row_step=4)
CONFIG = PretrainConfig(SCMPrior(max_classes=3), TINY, SIZES, n_steps=24, warmup_steps=4, decay_steps=8)


@dataclass(frozen=True)
class Threshold:
    """Two classes: the sign of the first feature."""

    def sample(self, shape, *, generator):
        x = torch.randn(shape.batch_size, shape.n_rows, shape.n_features, generator=generator)
        x[:, 0, 0], x[:, 1, 0] = -1.0, 1.0                          # both classes in the context
        y = (x[:, :, 0] > 0).long()
        return TaskBatch(x, y, shape.n_context, n_classes=torch.full((shape.batch_size,), 2))


@dataclass(frozen=True)
class Slope:
    """y = ±x + noise."""

    def sample(self, shape, *, generator):
        x = torch.randn(shape.batch_size, shape.n_rows, shape.n_features, generator=generator)
        sign = torch.randint(2, (shape.batch_size, 1), generator=generator) * 2.0 - 1.0
        return TaskBatch(x, sign * x[:, :, 0] + 0.1 * torch.randn(x.shape[:2], generator=generator), shape.n_context)


def run(config, **arguments):
    return pretrain(config, progress=False, **arguments)


def assert_same_weights(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_learns_to_use_the_context():
    """The loss on new tasks falls far below ln 2, which is what a network without its context reaches."""
    config = PretrainConfig(Threshold(), replace(TINY, n_outputs=2), replace(SIZES, rows=(24, 24), cells=1024),
                            n_steps=150, warmup_steps=10, decay_steps=50, learning_rate=3e-3, ema_decay=0.95)
    model = run(config)
    with torch.no_grad():
        loss = sum(task_loss(model, batch).item() for batch in draw_batches(config, 0, torch.device("cpu"), "test")) / 2
    assert loss < 0.35


def test_regression_learns_to_use_the_context():
    """The sign of the slope is known from the context only; without it the loss is that of the marginal, 1.4 nats."""
    config = PretrainConfig(
        Slope(), replace(TINY, task="regression", n_outputs=20), replace(SIZES, rows=(24, 24), features=(1, 1), cells=1024),
        n_steps=250, warmup_steps=10, decay_steps=50, learning_rate=3e-3, ema_decay=0.95,
    )
    model = run(config)
    with torch.no_grad():
        loss = sum(task_loss(model, batch).item() for batch in draw_batches(config, 0, torch.device("cpu"), "test")) / 2
    assert loss < 0.5 * math.log(2 * math.pi * math.e) - 0.4
    assert model.borders.diff().min() > 0


def test_stopped_and_resumed_is_the_same_as_uninterrupted(tmp_path):
    whole = run(CONFIG)
    trunk = tmp_path / "trunk.safetensors"
    run(CONFIG, out=trunk, time_limit=1e-9)
    assert 0 < load_pretrained(trunk).card.training["step"] < CONFIG.n_steps
    assert_same_weights(run(CONFIG, resume=trunk, out=trunk), whole)


def test_a_constant_trunk_can_be_prolonged(tmp_path):
    """Stopping a long run at step 10 and decaying from there equals planning the short run from the start."""
    short = replace(CONFIG, n_steps=14, decay_steps=4)
    trunk = tmp_path / "trunk.safetensors"
    run(replace(CONFIG, n_steps=10, decay_steps=0), out=trunk)
    assert_same_weights(run(short, resume=trunk), run(short))


def test_shipped_weights_start_a_new_run(tmp_path):
    model = run(CONFIG)
    save_checkpoint(model, tmp_path / "shipped.safetensors", model.card)
    again = run(replace(CONFIG, n_steps=3, decay_steps=0, seed=1), resume=tmp_path / "shipped.safetensors")
    assert again.card.training["step"] == 3
    assert again.card.training["tasks"] > model.card.training["tasks"]


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from test_training import CONFIG, run
from dataclasses import replace
run(replace(CONFIG, n_steps=60), out={out!r}, resume={resume!r}, checkpoint_every=0.0, log_every=1)
"""


@pytest.mark.slow
def test_killed_at_any_moment_resumes_to_the_same_weights(tmp_path):
    """SIGKILL lands wherever it lands, four times; the file is always whole and the end is bit for bit the same."""
    torch.set_num_threads(1)
    expected = run(replace(CONFIG, n_steps=60))
    out = tmp_path / "run.safetensors"
    killed = 0
    for attempt in range(5):
        code = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out), resume=str(out) if out.exists() else None)
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        if attempt < 4:
            seen, deadline = out.stat().st_mtime_ns if out.exists() else 0, time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if out.exists() and out.stat().st_mtime_ns != seen:
                    time.sleep(0.013 * (attempt + 1))               # let it get somewhere within a step
                    break
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
            read_tensors(out)
        else:
            assert process.wait() == 0, process.stderr.read().decode()
        process.stderr.close()
    assert killed >= 2
    assert_same_weights(load_pretrained(out), expected)
    steps = [json.loads(line)["step"] for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 60


def spoil(monkeypatch, when):
    """Make the loss NaN in the batches for which `when(number)` holds."""
    calls = iter(range(10**6))

    def loss(model, batch, weights=None):
        value = task_loss(model, batch, weights)
        return value * torch.nan if when(next(calls)) else value

    monkeypatch.setattr(sys.modules["pfn.training"], "task_loss", loss)


def test_a_step_that_is_not_finite_changes_nothing(monkeypatch):
    config = replace(CONFIG, n_steps=3, decay_steps=0)
    expected = run(replace(config, n_steps=2))
    spoil(monkeypatch, lambda number: number in (4, 5))             # both batches of the third step
    model = run(config, validate_every=10**6)
    assert model.card.training["skipped"] == 1
    assert_same_weights(model, expected)


def test_fifty_such_steps_in_a_row_end_the_run(monkeypatch):
    spoil(monkeypatch, lambda number: number >= 20)
    with pytest.raises(RuntimeError, match=r"50 steps in a row .* lower learning_rate=0.001"):
        run(replace(CONFIG, n_steps=200))


def test_the_record_keeps_earlier_stages(tmp_path):
    trunk = tmp_path / "trunk.safetensors"
    run(replace(CONFIG, n_steps=3, decay_steps=0), out=trunk)
    longer = replace(CONFIG, n_steps=5, decay_steps=0)
    assert run(longer, resume=trunk).card.training["earlier"] == []
    (stage,) = run(replace(longer, prior=Threshold()), resume=trunk).card.training["earlier"]
    assert stage["step"] == 3
    assert stage["prior"] == repr(CONFIG.prior)
    assert stage["sizes"]["rows"] == [12, 24]


def test_padded_features_are_not_seen():
    batch = draw_batches(CONFIG, 0, torch.device("cpu"))[0]
    mask = torch.ones(len(batch), batch.x.shape[2] + 1, dtype=torch.bool)
    mask[:, -1] = False

    def loss(padding):
        x = torch.cat([batch.x, torch.full((*batch.x.shape[:2], 1), padding)], dim=2)
        return task_loss(model, replace(batch, x=x, feature_mask=mask))

    model = run(replace(CONFIG, n_steps=1, decay_steps=0))
    assert loss(3.0) == loss(-1e6)


def test_resuming_with_another_architecture_says_so(tmp_path):
    trunk = tmp_path / "trunk.safetensors"
    run(CONFIG, out=trunk, time_limit=1e-9)
    with pytest.raises(CheckpointError, match=r"trunk.safetensors' holds a network of another configuration"):
        run(replace(CONFIG, model=replace(TINY, n_layers=1)), resume=trunk)


def test_prior_and_network_must_agree_on_the_task():
    with pytest.raises(ValueError, match="draws real targets but the network classifies"):
        run(replace(CONFIG, prior=SCMPrior()))
    model = run(replace(CONFIG, prior=GPPrior(noise=0.1), model=replace(TINY, task="regression"), n_steps=1, decay_steps=0))
    batch = draw_batches(replace(CONFIG, prior=as_classification(GPPrior())), 0, torch.device("cpu"))[0]
    with pytest.raises(ValueError, match="draws classes but the network regresses"):
        task_loss(model, batch)


def test_schedule_warms_up_stays_and_decays():
    factors = [learning_rate_factor(s, n_steps=100, warmup_steps=10, decay_steps=20) for s in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert factors[10:80] == [1.0] * 70
    assert all(a > b for a, b in itertools.pairwise(factors[80:]))
    assert factors[100] == 0.0


def test_pretraining_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    run(replace(CONFIG, n_steps=2, decay_steps=0))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "n_steps=0 is not positive"),
        ({"decay_steps": 25}, "do not fit n_steps=24"),
        ({"precision": "float16"}, "precision='float16' is unknown"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not positive"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 is no decay"),
    ],
)
def test_impossible_settings_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **arguments)
