"""Without sockets, and with nothing writable but a temporary folder: everything that users do, in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REFUSE = '''
import builtins, io, os, socket, sys

def refuse(*args, **options):
    raise AssertionError(f"network: {args}")

class Refused:
    def __init__(self, *args, **options):
        refuse(*args)

socket.socket = Refused
for name in ("create_connection", "create_server", "socketpair", "getaddrinfo", "gethostbyname", "fromfd"):
    setattr(socket, name, refuse)

allowed = os.path.realpath(sys.argv[1]) + os.sep

def inspect(event, args):
    """Python's own hook: every file that is opened, made, renamed or removed, and every socket, comes by here."""
    if event.startswith(("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request")):
        refuse(event, args)
    if event == "open":
        path, mode, flags = args
        writes = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        changed = [path] if writes else []
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree"):
        changed = [args[0]]
    elif event in ("os.rename", "os.link", "os.symlink"):
        changed = list(args[:2])
    else:
        return
    for path in changed:
        if isinstance(path, (str, bytes, os.PathLike)) and os.fspath(path) != os.devnull:
            if not (os.path.realpath(os.fsdecode(path)) + os.sep).startswith(allowed):
                raise AssertionError(f"{event} of {path!r}, which lies outside {allowed}")

sys.addaudithook(inspect)
'''

DEEDS = {
    "tables": """
        import numpy as np
        from estimators import PFNClassifier, PFNDensity, PFNImputer, PFNRegressor, TabRClassifier
        X = np.random.default_rng(0).normal(size=(24, 3))
        clf = PFNClassifier(1, random_state=0).fit(X, X[:, 0] > 0)
        clf.save(folder + "/clf.safetensors")
        assert (PFNClassifier.load(folder + "/clf.safetensors").predict(X) == clf.predict(X)).all()
        PFNRegressor(1).fit(X, X[:, 0]).predict(X, quantiles=[0.1, 0.9])
        PFNImputer(1).fit_transform(np.where(X > 1, np.nan, X))
        PFNDensity(1).fit(X).score_samples(X)
        TabRClassifier(n_estimators=1, max_epochs=1).fit(X, X[:, 0] > 0).predict(X)
        """,
    "optimise and extrapolate": """
        from optuna.distributions import FloatDistribution
        from estimators import minimize
        result = minimize(lambda p: p["x"] ** 2, {"x": FloatDistribution(-1, 1)}, n_trials=8, random_state=0)
        result.optimizer.save(folder + "/state.json")
        import optuna
        from estimators.optuna import PFNSampler
        study = optuna.create_study(sampler=PFNSampler(seed=0))
        study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=12)
        from estimators import FreezeThawOptimizer, LearningCurveExtrapolator
        LearningCurveExtrapolator(horizon=20).fit([1, 2, 3], [0.1, 0.2, 0.3]).predict([10, 20])
        optimizer = FreezeThawOptimizer({"x": FloatDistribution(0, 1)}, horizon=5, random_state=0)
        for _ in range(6):
            for run in optimizer.ask():
                optimizer.tell(run, run.step, run.params["x"] / run.step)
        """,
    "pretrain": """
        from pfn import PFNConfig, PretrainConfig, TaskSizes, load_pretrained, pretrain
        from priors import GPPrior
        small = PFNConfig(task="regression", n_outputs=16, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32)
        sizes = TaskSizes(rows=(12, 16), features=(1, 2), cells=64, n_shapes=4, row_step=4)
        config = PretrainConfig(GPPrior(), small, sizes, n_steps=3, decay_steps=0)
        pretrain(config, progress=False, out=folder + "/own.safetensors", device="cpu")
        load_pretrained(folder + "/own.safetensors")
        """,
    "commands": """
        import priors, pfn, estimators, estimators.optuna, estimators.search, estimators.plots
        from pfn.cli import main
        with open(folder + "/train.csv", "w") as file:
            file.write("x,y\\n" + "".join(f"{k},{'ab'[k % 2]}\\n" for k in range(12)))
        assert main(["info", "classifier"]) == 0
        assert main(["sample", "gp", "--tasks", "2", "--rows", "20"]) == 0
        table = folder + "/train.csv"
        assert main(["predict", table, table, "--target", "y", "--out", folder + "/out.csv"]) == 0
        """,
}


def run(code, folder):
    """In an empty folder, with a home that does not exist."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL", "TORCH"))}
    environment |= dict.fromkeys(("TMPDIR", "MPLCONFIGDIR"), str(folder))
    environment |= {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-W", "error::ResourceWarning", "-c", code, str(folder)], capture_output=True,
                          text=True, cwd=folder, env=environment)


@pytest.mark.parametrize("deed", DEEDS)
def test_needs_no_network_and_writes_nowhere_else(deed, tmp_path):
    result = run(REFUSE + "folder = sys.argv[1]\n" + textwrap.dedent(DEEDS[deed]), tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("forbidden", [
    "socket.socket()", "socket.create_connection(('127.0.0.1', 9))",
    "__import__('_socket').socket().connect(('127.0.0.1', 9))", "open('/tmp/pfnkit-forbidden', 'w')",
    "os.mkdir('/tmp/pfnkit-forbidden')",
])
def test_the_watchman_is_awake(forbidden, tmp_path):
    result = run(REFUSE + forbidden, tmp_path)
    assert result.returncode != 0
    assert "AssertionError" in result.stderr
    assert not Path("/tmp/pfnkit-forbidden").exists()
