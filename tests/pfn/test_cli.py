import json
import os
import subprocess
import sys

import pytest

from pfn import PFNConfig, PretrainConfig, TaskSizes, load_pretrained
from pfn.checkpoint import bundled_weights
from pfn.cli import main
from pfn.recipes import RECIPES
from priors import SCMPrior


@pytest.fixture
def tiny_recipe(monkeypatch):
    model = PFNConfig(n_outputs=3, embed_dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    sizes = TaskSizes(rows=(12, 16), features=(1, 2), cells=64, n_shapes=4, row_step=4)
    config = PretrainConfig(SCMPrior(max_classes=3), model, sizes, n_steps=6, decay_steps=2)
    monkeypatch.setitem(RECIPES, "tiny", lambda: config)


def test_pretrain_resume_export_info(tiny_recipe, tmp_path, capsys):
    trunk, weights = str(tmp_path / "trunk.safetensors"), str(tmp_path / "weights.safetensors")
    assert main(["pretrain", "tiny", "--out", trunk, "--time-limit", "0", "--device", "cpu"]) == 0
    assert "unfinished; go on with: pfn pretrain tiny --resume" in capsys.readouterr().out
    assert main(["pretrain", "tiny", "--out", trunk, "--resume", trunk, "--n-steps", "8", "--device", "cpu"]) == 0
    assert "step 8 of 8" in capsys.readouterr().out
    assert main(["export", trunk, "--out", weights]) == 0
    assert load_pretrained(weights).card == load_pretrained(trunk).card
    kept = str(tmp_path / "kept.safetensors")
    assert main(["export", trunk, "--trunk", "--out", kept]) == 0
    assert main(["pretrain", "tiny", "--out", kept, "--resume", kept, "--n-steps", "9", "--device", "cpu"]) == 0
    assert load_pretrained(kept).card.training["step"] == 9
    capsys.readouterr()
    assert main(["info", weights]) == 0
    out = capsys.readouterr().out
    assert "classification, " in out
    assert "steps, validation loss" in out
    assert "minutes on cpu, torch 2." in out
    assert "validated up to: 16 rows, 2 features, 3 classes" in out
    assert "SCMPrior(max_classes=3" in out
    assert main(["info", weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["step"] == 8


def test_an_existing_run_is_not_overwritten(tiny_recipe, tmp_path, capsys):
    out = tmp_path / "run.safetensors"
    out.write_bytes(b"precious")
    assert main(["pretrain", "tiny", "--out", str(out), "--device", "cpu"]) == 1
    assert "exists; continue it with --resume" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"


def test_errors_are_one_line_and_exit_code_1(capsys):
    assert main(["info", "nothing.safetensors"]) == 1
    assert capsys.readouterr().err.startswith("pfn: no checkpoint at 'nothing.safetensors'")


def test_wrong_usage_is_exit_code_2():
    result = subprocess.run([sys.executable, "-m", "pfn", "pretrain", "nonsense"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "invalid choice" in result.stderr


def test_module_runs_as_a_command():
    result = subprocess.run([sys.executable, "-m", "pfn", "info", "classifier"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "parameters" in result.stdout


@pytest.mark.parametrize("name", bundled_weights())
def test_shipped_weights_are_of_the_recipe(name):
    config, card = RECIPES[name](), load_pretrained(name).card
    assert card.config == config.model
    assert card.prior == repr(config.prior)


def test_sample_prints_a_table(capsys):
    assert main(["sample", "gp", "--tasks", "8", "--rows", "40", "--features", "3", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8 tasks of 40 rows × 3 features from GPPrior(")
    assert "learnable" in out


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_sample_knows_the_prior_of_each_recipe(recipe, capsys):
    assert main(["sample", recipe, "--tasks", "2", "--rows", "20"]) == 0
    assert "missing cells" in capsys.readouterr().out


def test_sample_plots(tmp_path, capsys):
    out = tmp_path / "gp.png"
    assert main(["sample", "gp", "--plot", "--summary", "--tasks", "2", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "gp.png: 2 tasks of gp" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gp", "--out", "a.png"], "--out a.png is where a plot goes; add --plot"),
        (["gp", "--rows", "0"], "n_rows=0 is not positive"),
        (["gp", "--tasks", "-1"], "batch_size=-1 is not positive"),
    ],
)
def test_sample_names_what_is_wrong(arguments, message, capsys):
    assert main(["sample", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_sample_without_matplotlib_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["sample", "gp", "--plot"]) == 1
    assert "pip install pfnkit[plot]" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of another kind")
def test_a_reader_that_stops_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed:
        command = [sys.executable, "-m", "pfn", "info", "gp"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (128 + 13, b"")
