"""docs/what_users_ask.md answers each line by tests that exist, or says "not yet"."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "what_users_ask.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
ANSWERS = [row for row in ROWS if row[-1] != "Held by"]


def names_in(path):
    """Tests of a file as pytest writes them: function, or Class and Class::function."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("row", ANSWERS, ids=[row[0][:40] for row in ANSWERS])
def test_answer_is_held_by_tests_that_exist(row):
    held = row[-1]
    if held == "not yet":
        return
    places = re.findall(r"`([^`]+)`", held)
    assert places
    for place in places:
        file, _, name = place.partition("::")
        assert (TESTS / file).is_file(), place
        assert not name or name in names_in(TESTS / file), place


def test_there_are_answers():
    assert len(ANSWERS) > 35
    assert all(len(row) == 3 for row in ROWS)
