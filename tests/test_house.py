"""The direction of imports, and what importing costs."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

FORBIDDEN = {"priors": {"pfn", "estimators"}, "pfn": {"estimators"}, "estimators": set()}


def folder_of(package):
    """Where it is imported from: the checkout, or site-packages if the tests are those of a release."""
    return Path(import_module(package).__file__).parent


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_flow_from_priors_to_pfn_to_estimators(package):
    files = list(folder_of(package).rglob("*.py"))
    assert files
    for path in files:
        assert not set(imported_packages(path)) & FORBIDDEN[package], path


def test_estimators_use_the_names_of_priors_only():
    for path in folder_of("estimators").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("priors.")), path


def run(code):
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_priors_and_pfn_import_without_optuna_pandas_and_matplotlib():
    run(
        "import sys\n"
        "sys.modules['optuna'] = sys.modules['pandas'] = sys.modules['matplotlib'] = None\n"
        "import priors, pfn, pfn.cli, priors.gallery, priors.summary, priors.testing\n"
        "pfn.load_pretrained('classifier')\n"
    )


def test_slow_imports_wait_until_they_are_needed():
    slow = ("sklearn.cluster", "sklearn.model_selection", "sklearn.preprocessing", "matplotlib", "xgboost", "botorch")
    assert run(f"import sys, estimators\nprint([name for name in {slow} if name in sys.modules])\n") == "[]\n"


def test_no_socket_is_opened_from_import_to_prediction():
    run(
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network access')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "import numpy as np, estimators\n"
        "X = np.random.default_rng(0).normal(size=(20, 3))\n"
        "estimators.PFNClassifier(n_estimators=1).fit(X, X[:, 0] > 0).predict(X)\n"
    )


def test_import_leaves_random_state_and_threads_alone():
    out = run(
        "import random, numpy as np, torch\n"
        "before = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(), "
        "torch.get_num_threads())\n"
        "import priors, pfn, estimators\n"
        "after = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(), "
        "torch.get_num_threads())\n"
        "print(before == after)\n"
    )
    assert out.strip() == "True"
