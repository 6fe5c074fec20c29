"""Every notebook's script runs to its end, and the committed notebook is what `notebooks/build.py` makes of the script.

The scripts run with `PFNKIT_QUICK`, which makes them smaller, as plain code: magics are comments.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

pyplot = pytest.importorskip("matplotlib.pyplot")
ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("notebooks_build", ROOT / "notebooks" / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)
each_script = pytest.mark.parametrize("script", build.scripts(), ids=lambda script: script.stem)


def test_there_is_a_notebook_for_each_capability():
    names = {script.stem for script in build.scripts()}
    assert names >= {"classification", "regression", "own_prior", "bayesian_optimization", "learning_curves", "tabr",
                     "certificates"}


@pytest.fixture
def _display(monkeypatch):
    """The one name that a script imports of IPython, which the tests can do without."""
    module = types.ModuleType("IPython.display")
    module.display = repr
    monkeypatch.setitem(sys.modules, "IPython.display", module)


@each_script
@pytest.mark.slow
@pytest.mark.usefixtures("_display")
def test_script_runs(script, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PFNKIT_QUICK", "1")
    namespace = {"__name__": script.stem}
    backend = pyplot.get_backend()
    pyplot.switch_backend("agg")
    try:
        with pyplot.rc_context():
            exec(compile(script.read_text(encoding="utf-8"), script.name, "exec"), namespace)
    finally:
        pyplot.close("all")
        pyplot.switch_backend(backend)


@each_script
def test_committed_notebook_is_that_of_the_script(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert found == build.cells_of(script), f"run: python notebooks/build.py {script.stem}"


@each_script
def test_committed_notebook_was_run_in_order_without_errors_and_warnings(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any(output["output_type"] != "error" for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


@each_script
def test_committed_notebook_is_small(script):
    assert script.with_suffix(".ipynb").stat().st_size < build.LARGEST
