import json
import subprocess
import sys

import pytest

from pfn import PFNConfig, PretrainConfig, TaskSizes, load_pretrained
from pfn.cli import main
from pfn.recipes import RECIPES, classifier
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


def test_shipped_weights_are_of_the_recipe():
    assert load_pretrained("classifier").card.config == classifier().model
    assert load_pretrained("classifier").card.prior == repr(classifier().prior)
