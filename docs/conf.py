"""The documentation site: `make docs` builds docs/_build/html from these pages, the notebooks and the docstrings."""

import re
import shutil
from importlib import import_module, metadata
from pathlib import Path
from types import BuiltinFunctionType, GetSetDescriptorType, MethodDescriptorType

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PACKAGES = ("priors", "pfn", "estimators")

project = "pfnkit"
author = "the pfnkit authors"
copyright = author
release = metadata.version("pfnkit")

templates_path = ["_templates"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_nb"]
exclude_patterns = ["_build"]
default_role = "literal"                                            # `name` in docstrings is code
smartquotes = False

html_theme = "furo"
html_title = f"pfnkit {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]

nb_execution_mode = "off"                                           # outputs are committed, see notebooks/build.py
myst_heading_anchors = 3

# Packages list the names of __all__, modules without one what they define; a page each.
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"                                          # types are in the descriptions
autodoc_member_order = "bysource"
numpydoc_show_class_members = False                                 # autodoc lists them, in full
# Annotations name classes of torch, NumPy and others; no address is fetched, so they cannot be links.
nitpick_ignore_regex = [("py:class", ".*")]


def copy_notebooks() -> None:
    """Sphinx reads below its own folder only; copies are ignored by git."""
    target = DOCS / "tutorials"
    target.mkdir(exist_ok=True)
    notebooks = {path.name: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    for old in target.glob("*.ipynb"):
        if old.name not in notebooks:
            old.unlink()
    for name, path in notebooks.items():
        copy = target / name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def read_results(app, docname, source) -> None:
    """The page `results` is benchmarks/RESULTS.md; its links to files lead there, those to folders and pages become text."""

    def relative(link: re.Match[str]) -> str:
        text, target = link.groups()
        is_file = (page.parent / target).is_file() and not target.endswith(".md")
        return f"{text}(../benchmarks/{target})" if is_file else text.strip("![]")

    page = ROOT / "benchmarks" / "RESULTS.md"
    if docname == "results" and page.exists():
        app.env.note_dependency(str(page))
        source[0] = re.sub(r"(!?\[[^\]]*\])\((?!\w+:|#)([^)]*)\)", relative, page.read_text(encoding="utf-8"))


def skip_foreign(app, what, name, member, skip, options) -> bool | None:
    """Leave out what classes inherit from torch, scikit-learn, Optuna or BoTorch; keep `sample` of every prior."""
    if name == "sample" and not member.__doc__:
        return False
    if isinstance(member, (BuiltinFunctionType, GetSetDescriptorType, MethodDescriptorType)):
        return True
    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
    module = getattr(function, "__module__", None) or ""
    return True if what == "class" and module and module.split(".")[0] not in PACKAGES else None


def mend_docstring(app, what, name, obj, options, lines) -> None:
    """`S. Müller` at the beginning of a reference is no item of a list; what priors do with `sample` is said once."""
    if what == "method" and name.endswith(".sample") and not lines:
        lines.append("Draw a batch of tasks, see :meth:`priors.Prior.sample`.")
    lines[:] = [re.sub(r"^(\s*\.\. \[\d+\] [A-Z])\. ", r"\1\\. ", line) for line in lines]


def check_reference(app, env) -> list[str]:
    """Every public name has its entry; a missing one is a warning, and so an error of `make docs`."""
    from sphinx.util import logging

    documented = {entry[0] for entry in env.domains["py"].get_objects()}
    for package in PACKAGES:
        for name in import_module(package).__all__:
            if not any(re.fullmatch(rf"{package}(\.[a-z_]+)?\.{name}", entry) for entry in documented):
                logging.getLogger(__name__).warning("%s.%s is missing in the reference", package, name)
    return []


def setup(app) -> None:
    copy_notebooks()
    app.connect("source-read", read_results)
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("autodoc-process-docstring", mend_docstring, priority=100)      # before numpydoc
    app.connect("env-check-consistency", lambda app, env: check_reference(app, env))
