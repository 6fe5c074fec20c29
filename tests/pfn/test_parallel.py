import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import CONFIG, assert_same_weights, run

from pfn import load_pretrained, pretrain
from pfn.checkpoint import read_tensors
from pfn.cli import main
from pfn.parallel import Processes, leads

LENGTH = replace(CONFIG, n_steps=8, decay_steps=2, batches_per_step=4, precision="float32", learning_rate=1e-4)

# Several runs in one process, so the group is the script's; each process keeps the weights that it got.
SCRIPT = """
import os, sys
from dataclasses import replace
sys.path.insert(0, {tests!r})
import torch, torch.distributed as dist
torch.set_num_threads(1)
import pfn.training
from pfn import pretrain, save_checkpoint
from test_parallel import LENGTH

rank = int(os.environ["RANK"])
dist.init_process_group("gloo")

def run(name, config, **arguments):
    model = pretrain(config, progress=False, **arguments)
    save_checkpoint(model, f"{{name}}-{{rank}}.safetensors", model.card)

run("whole", LENGTH, out="whole.safetensors", log_every=4)
run("resumed", LENGTH, resume="trunk.safetensors")
run("stopped", LENGTH, out="stopped.safetensors", time_limit=1e-9 if rank == 0 else 1e9)
inner, calls = pfn.training.task_loss, iter(range(10**6))
if rank == 1:                                         # both of its batches of the third step
    pfn.training.task_loss = lambda *a: inner(*a) * (torch.nan if next(calls) in (4, 5) else 1.0)
run("spoiled", replace(LENGTH, n_steps=3, decay_steps=0))
try:
    pretrain(replace(LENGTH, batches_per_step=3))
except ValueError as error:
    open(f"error-{{rank}}.txt", "w").write(str(error))
dist.destroy_process_group()
"""


def torchrun(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes made."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("parallel")
    run(replace(LENGTH, n_steps=4, decay_steps=0), out=folder / "trunk.safetensors")
    (folder / "script.py").write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    torchrun("script.py", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return run(LENGTH)


def assert_close_weights(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_make_the_weights_of_one(folder, alone):
    """Averages are compared; the sums differ in their order only."""
    both = [load_pretrained(folder / f"whole-{rank}.safetensors") for rank in (0, 1)]
    assert_same_weights(*both)
    assert_close_weights(both[0], alone)
    assert both[0].card.training["tasks"] == alone.card.training["tasks"]
    assert both[0].card.training["validation_loss"] == pytest.approx(alone.card.training["validation_loss"], rel=1e-4)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(folder, alone):
    """Four steps alone, then four by two processes; one by two processes, then the others alone."""
    assert_close_weights(load_pretrained(folder / "resumed-1.safetensors"), alone)
    stopped = folder / "stopped.safetensors"
    assert load_pretrained(stopped).card.training["step"] == 1
    assert_close_weights(run(LENGTH, resume=stopped), alone)


@pytest.mark.slow
def test_the_first_process_decides_when_time_is_up(folder):
    assert [load_pretrained(folder / f"stopped-{rank}.safetensors").card.training["step"] for rank in (0, 1)] == [1, 1]


@pytest.mark.slow
def test_all_processes_skip_a_step_that_is_not_finite_in_one(folder):
    both = [load_pretrained(folder / f"spoiled-{rank}.safetensors") for rank in (0, 1)]
    assert [model.card.training["skipped"] for model in both] == [1, 1]
    assert_same_weights(*both)
    assert_close_weights(both[0], run(replace(LENGTH, n_steps=2, decay_steps=0)))


@pytest.mark.slow
def test_only_the_first_process_writes(folder):
    lines = [json.loads(line) for line in (folder / "whole.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert lines[-1]["tasks"] == load_pretrained(folder / "whole.safetensors").card.training["tasks"]
    assert {name.split(".")[0] for name in read_tensors(folder / "whole.safetensors")[0]} == {"model", "ema", "optimizer"}


@pytest.mark.slow
def test_batches_that_cannot_be_shared_are_an_error(folder):
    for rank in (0, 1):
        message = (folder / f"error-{rank}.txt").read_text()
        assert message.startswith("batches_per_step=3 is no multiple of the 2 processes; use 4, or another --nproc-per-node")


CLI = """
import sys
from dataclasses import replace
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_parallel import LENGTH
from pfn.cli import main
from pfn.recipes import RECIPES
RECIPES["tiny"] = lambda: replace(LENGTH, batches_per_step=2)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_torchrun_of_the_command(tmp_path, alone):
    """pretrain makes and ends the group itself, and one process speaks."""
    (tmp_path / "command.py").write_text(CLI.format(tests=str(Path(__file__).parent)))
    out = torchrun("command.py", "pretrain", "tiny", "--device", "cpu", "--out", "run.safetensors",
                   "--batches-per-step", "4", "--prefetch", cwd=tmp_path)
    assert out.count("step 8 of 8") == 1
    assert_close_weights(load_pretrained(tmp_path / "run.safetensors"), alone)


def test_help_says_how_to_start_several_processes(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    out = capsys.readouterr().out
    assert "torchrun --nproc-per-node 4 -m pfn pretrain RECIPE --batches-per-step 8" in out
    assert "--rdzv-endpoint HOST:29500 \\\n" in out


def test_one_process_needs_no_group():
    alone = Processes(0, 1, torch.device("cpu"))
    values = torch.tensor([1.0, 2.0])
    alone.sum_([values])
    assert values.tolist() == [1.0, 2.0]
    assert alone.agree(True)
    assert not alone.agree(False)
    assert list(alone.share(3)) == [0, 1, 2]
    assert leads()


def test_shares_are_disjoint_and_complete():
    shares = [Processes(rank, 3, torch.device("cpu")).share(6) for rank in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(6))


def test_pretrain_without_torchrun_makes_no_group():
    pretrain(replace(CONFIG, n_steps=1, decay_steps=0), progress=False)
    assert not torch.distributed.is_initialized()
