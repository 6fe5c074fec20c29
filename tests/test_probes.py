"""Benchmark scripts that judge networks: against exact answers, and in pairs."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from priors import LinearPrior

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


class ExactNetwork:
    """Answers with the posterior of linear regression, shifted by `error`."""

    def __init__(self, n_features, noise, error=0.0):
        self.prior = LinearPrior(weight_variance=1 / n_features, bias_variance=0.0, noise=noise**2)
        self.error = error

    def posterior(self, x, y, x_query):
        mean, variance = self.prior.posterior(x, y, x_query)
        normal = torch.distributions.Normal(mean + self.error, variance.sqrt())
        return SimpleNamespace(mean=mean + self.error, log_prob=lambda y: normal.log_prob(y.double()))


def test_the_exact_posterior_has_no_gap_to_itself(load):
    probe = load("linear_tasks").probe
    assert probe(ExactNetwork(5, 0.5), 5, 30, 0.5) == {"gap": 0.0, "distance": 0.0}
    shifted = probe(ExactNetwork(5, 0.5, error=0.1), 5, 200, 0.5)
    assert shifted["distance"] == pytest.approx(0.1)
    assert shifted["gap"] == pytest.approx(0.5 * 0.1**2 / 0.25, abs=0.01)      # of two normals that far apart


def test_the_benchmark_of_designs_runs(tmp_path):
    """It makes its models with the help of others' code, which once asked for arguments that it did not have."""
    out = tmp_path / "engineering.json"
    command = [sys.executable, BENCHMARKS / "engineering.py", "--out", out, "--models", "pfn", "logistic",
               "--sets", "three_bar_truss", "--sizes", "20", "--seeds", "1"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    rows = json.loads(out.read_text())["rows"]
    assert set(rows) == {"three_bar_truss/20/0/pfn", "three_bar_truss/20/0/logistic"}
    assert all(0 <= row["f1"] <= 1 and row["log_loss"] > 0 for row in rows.values())


def test_comparisons_with_titles_stay_together(load, tmp_path, monkeypatch, capsys):
    for side, auc in (("A", 0.8), ("B", 0.9)):
        rows = {f"set{k}/0/pfn": {"auc": auc + 0.01 * k, "log_loss": 1 - auc} for k in range(3)}
        (tmp_path / f"{side}.json").write_text(json.dumps({"rows": rows}))
    out = tmp_path / "both.json"
    for title, first, second in (("up", "A", "B"), ("down", "B", "A"), ("up", "A", "B")):
        monkeypatch.setattr("sys.argv", ["compare.py", str(tmp_path / f"{first}.json"), str(tmp_path / f"{second}.json"),
                                         "--out", str(out), "--title", title, "--note", f"note of {title}"])
        load("compare").main()
    found = json.loads(out.read_text())
    assert list(found) == ["up", "down"]
    assert [found[title]["comparison"]["auc"]["gain"] for title in found] == pytest.approx([0.1, -0.1])
    assert found["down"]["note"] == "note of down"
    assert "+0.1000" in capsys.readouterr().out
