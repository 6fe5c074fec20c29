import json
import sys
import time
from dataclasses import dataclass, replace

import pytest
import torch
from test_training import CONFIG, run

from pfn.cli import main
from pfn.log import RunLog, StepRecord
from pfn.recipes import RECIPES
from pfn.state import RunState


def test_log_has_what_one_wants_to_plot(tmp_path):
    run(CONFIG, out=tmp_path / "run.safetensors", log_every=8, validate_every=24)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [8, 16, 24]
    assert all(line["loss"] > 0 and line["gradient_norm"] > 0 and line["tasks"] > 0 for line in lines)
    assert lines[-1]["validation_loss"] > 0


def test_a_validation_between_two_lines_has_a_line_of_its_own(tmp_path):
    run(replace(CONFIG, n_steps=10, decay_steps=0), out=tmp_path / "run.safetensors", log_every=4, validate_every=6)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [(line["step"], "validation_loss" in line) for line in lines] == [(4, False), (6, True), (8, False), (10, False)]


def test_throughput_is_that_of_the_steps_since_the_last_line():
    log = RunLog(None, None, 0)
    state = RunState.fresh(CONFIG, torch.device("cpu"))
    log.add(StepRecord(1.0, 0.1, 6, 2.0))
    log.add(StepRecord(2.0, 0.3, 10, 2.0))
    first = log.write(state, None)
    assert (first["loss"], first["gradient_norm"]) == (1.5, 0.2)
    assert (first["tasks_per_second"], first["tasks_per_step"]) == (4.0, 8.0)
    log.add(StepRecord(1.0, 0.1, 3, 0.5))
    assert log.write(state, None)["tasks_per_second"] == 6.0


@dataclass(frozen=True)
class Slow:
    """A prior that takes its time."""

    def sample(self, shape, *, generator):
        time.sleep(0.05)
        return CONFIG.prior.sample(shape, generator=generator)


def test_throughput_counts_the_time_of_drawing(tmp_path):
    run(replace(CONFIG, prior=Slow(), n_steps=4, decay_steps=0), out=tmp_path / "run.safetensors", log_every=2,
        validate_every=10**6)
    for line in (tmp_path / "run.jsonl").read_text().splitlines():
        assert 0 < json.loads(line)["tasks_per_second"] < json.loads(line)["tasks_per_step"] / 0.1


def scalars(folder):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_shows_what_the_log_says(tmp_path):
    pytest.importorskip("tensorboard")
    out, board = tmp_path / "run.safetensors", tmp_path / "board"
    run(replace(CONFIG, n_steps=4, decay_steps=0), out=out, log_every=2, validate_every=4, tensorboard=board)
    run(replace(CONFIG, n_steps=8, decay_steps=0), out=out, resume=out, log_every=2, validate_every=4, tensorboard=board)
    lines = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    curves = scalars(board)
    assert set(curves) == {"loss", "validation_loss", "gradient_norm", "learning_rate", "tasks_per_second"}
    for name, curve in curves.items():
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert [step for step, _ in curve] == [step for step, _ in expected] == ([4, 8] if "valid" in name else [2, 4, 6, 8])
        assert [value for _, value in curve] == pytest.approx([value for _, value in expected], rel=1e-5)


def test_command_writes_for_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(RECIPES, "tiny", lambda: replace(CONFIG, n_steps=2, decay_steps=0))
    out, board = str(tmp_path / "run.safetensors"), str(tmp_path / "board")
    assert main(["pretrain", "tiny", "--device", "cpu", "--out", out, "--tensorboard", board]) == 0
    assert [step for step, _ in scalars(board)["loss"]] == [2]


def test_without_tensorboard_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"needs the tensorboard package; pip install pfnkit\[tensorboard\]"):
        run(CONFIG, tensorboard=tmp_path)
    run(replace(CONFIG, n_steps=1, decay_steps=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_every": 0}, "log_every=0 is not positive"),
        ({"validate_every": -1}, "validate_every=-1 is not positive"),
        ({"time_limit": -1.0}, "time_limit=-1.0 is negative"),
    ],
)
def test_impossible_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        run(CONFIG, **arguments)
