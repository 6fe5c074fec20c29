"""Every Python block of the documents runs, each in a namespace of its own, and the reference covers every public name."""

import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from pfn import cli

ROOT = Path(__file__).resolve().parent.parent
GENERATED = {"_build", "generated", "tutorials"}                    # folders of the site, ignored by git
SITE = [page for page in sorted((ROOT / "docs").rglob("*.md")) if not GENERATED.intersection(page.relative_to(ROOT).parts)]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE]
BLOCKS = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "document", "exec"), {"__name__": "document"})


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 25


def test_commands_are_understood():
    commands = [
        shlex.split(line, comments=True)
        for page in PAGES
        for line in re.findall(r"^    (?:.* -m )?pfn ([^>\n]*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(commands) >= 20
    for command in commands:
        assert cli._parser(command).parse_args(command).run, command


def _modules_of_the_reference():
    page = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    needs = {"estimators.botorch": "botorch"}                       # an extra that the tests do without
    names = re.findall(r"^   ((?:priors|pfn|estimators)[\w.]*)$", page, re.MULTILINE)
    return [import_module(name) for name in names if find_spec(needs.get(name, name))]


@pytest.mark.parametrize("package", ["priors", "pfn", "estimators"])
def test_every_public_name_is_in_the_reference(package):
    # The page of a package lists its classes and functions, that of a module its constants; `make docs` looks at the result.
    module, listed = import_module(package), _modules_of_the_reference()
    constants = {name for one in listed if not hasattr(one, "__all__") for name in vars(one)}
    in_package = {name for name in module.__all__ if module in listed and callable(getattr(module, name))}
    assert set(module.__all__) - in_package - constants == set()


def test_public_names_are_described():
    undescribed = [
        f"{module.__name__}.{name}"
        for module in _modules_of_the_reference()
        for name in getattr(module, "__all__", [])
        if callable(value := getattr(module, name)) and not (value.__doc__ or "").strip()
    ]
    assert undescribed == []


def test_links_between_pages_lead_somewhere():
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []
