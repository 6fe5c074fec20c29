"""A process that dies while it writes, or a disk that is full: the file at the final path stays whole."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from estimators import BayesianOptimizer, FreezeThawOptimizer, PFNRegressor
from pfn import PFN, Envelope, ModelCard, PFNConfig, load_pretrained, save_checkpoint
from pfn.files import STALE_SECONDS, read_json, replacing, write_json

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "killed_runs.py"
CONFIG = PFNConfig(n_outputs=3, embed_dim=16, n_layers=1, n_heads=2, hidden_dim=32)
CARD = ModelCard(CONFIG, "a prior", Envelope(100, 5, 3))
SPACE = {"x": FloatDistribution(0, 1)}


@pytest.mark.slow
def test_killed_at_random_moments_files_stay_whole_and_runs_go_on(tmp_path):
    """In a process of its own, as it forks."""
    out = tmp_path / "killed.json"
    subprocess.run([sys.executable, str(BENCHMARK), "--trials", "15", "--seed", "3", "--out", str(out)], check=True,
                   env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    found = json.loads(out.read_text())
    assert sum(sum(kind.values()) for kind in found["moments"].values()) == 15
    assert sum(kind.get("in a write", 0) for kind in found["moments"].values()) >= 3


def checkpoint(path):
    save_checkpoint(PFN(CONFIG), path, CARD)


def estimator(path):
    X = np.random.default_rng(0).normal(size=(2000, 3))
    PFNRegressor(n_estimators=1).fit(X, X[:, 0]).save(path)


def optimizer(path):
    made = BayesianOptimizer(SPACE, random_state=0)
    for x in np.linspace(0, 1, 50):
        made.tell({"x": x}, x)
    made.save(path)


def freeze_thaw(path):
    made = FreezeThawOptimizer(SPACE, horizon=50, random_state=0)
    run = made.ask()[0]
    made.tell(run.number, list(range(1, 51)), [0.5] * 50)
    made.save(path)


@contextmanager
def small_disk():
    """Files cannot grow beyond 1 kB; that holds for pytest's own output too, so for no longer than needed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("save", [checkpoint, estimator, optimizer, freeze_thaw])
def test_a_full_disk_leaves_the_old_file_and_no_litter(save, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"(?s)File too large.*(before|/file).*"), small_disk():
        save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("save", [checkpoint, estimator, optimizer, freeze_thaw])
def test_files_have_the_permissions_that_the_user_wants(save, tmp_path):
    """Saved tables are confidential: nobody else reads them if the umask says so."""
    before = os.umask(0o077)
    try:
        save(tmp_path / "private")
        os.umask(0o022)
        save(tmp_path / "public")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "public": 0o644}


def test_leftovers_of_killed_processes_go_after_ten_minutes_and_others_stay(tmp_path):
    target = tmp_path / "a"
    block = replacing(target)
    block.__enter__().write_text("half")                            # the process ends here
    (abandoned,) = tmp_path.iterdir()
    write_json(target, 1)
    assert abandoned.is_dir()                                       # perhaps somebody is still writing there
    foreign = tmp_path / ".b.0.pfnkit-tmp"
    foreign.mkdir()
    for path in (abandoned / "a", abandoned, foreign):
        os.utime(path, (time.time() - STALE_SECONDS - 60,) * 2)
    write_json(target, 2)
    assert sorted(tmp_path.iterdir()) == [foreign, target]
    assert read_json(target) == 2


def test_threads_that_save_to_one_path_do_not_disturb_each_other(tmp_path):
    failures = []

    def work(number):
        try:
            for _ in range(30):
                write_json(tmp_path / "a", [number] * 1000)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "a").exists():
            assert len(set(read_json(tmp_path / "a"))) == 1
    assert failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_does_not_exist_is_made_and_one_that_cannot_be_says_so(tmp_path):
    checkpoint(tmp_path / "new" / "model.safetensors")
    assert load_pretrained(tmp_path / "new" / "model.safetensors").card == CARD
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        checkpoint(tmp_path / "file" / "model.safetensors")
