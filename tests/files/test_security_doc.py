"""docs/operate/security.md: each line names tests, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from holdfast.installations.embedded import ROOT

_TEXT = (ROOT / "docs" / "operate" / "security.md").read_text("utf-8")
_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in _TEXT.splitlines()
    if line.startswith("|") and not re.fullmatch(r"[|\- ]+", line) and "| shown by |" not in line
]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@cache
def _tests_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {n.name for n in ast.walk(tree) if isinstance(n, functions) and n.name.startswith("test_")}


def test_there_are_lines() -> None:
    assert len(_ROWS) > 15


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[0][:50])
def test_every_line_says_what_against_whom_and_names_a_test(row: list[str]) -> None:
    assert len(row) == 3, "what | against whom | shown by"
    assert all(row)
    named = _NAMED.findall(row[2])
    assert named, "no test shows it"
    assert all(test for _, test in named), "name the test, not its file alone"


@pytest.mark.parametrize(("path", "test"), sorted(set(_NAMED.findall(_TEXT))))
def test_every_named_test_exists(path: str, test: str) -> None:
    assert (ROOT / path).is_file()
    assert not test or test in _tests_of(path)
