"""docs/operate/security.md: each line names tests, and in each test the assertion that shows it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from holdfast.installations.embedded import ROOT

_TEXT = (ROOT / "docs" / "operate" / "security.md").read_text("utf-8")
_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in _TEXT.splitlines()
    if line.startswith("|") and not re.fullmatch(r"[|\- ]+", line) and "| shown by |" not in line
]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`(?:: `([^`]+)`)?")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

_CHECKS = re.compile(r"wait_until$|wait_for$|pytest\.fail$|expect\(")


def _spaceless(text: str) -> str:
    return re.sub(r"\s+|\\(?=\|)", "", text)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


@cache
def _functions(file: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {node.name: node for node in ast.walk(_tree(file)) if isinstance(node, _FUNCTIONS)}


def _asserts(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the statements that assert, and the expected errors."""
    for each in ast.walk(node):
        if isinstance(each, ast.Assert):
            yield each
        elif isinstance(each, ast.With | ast.AsyncWith):
            yield from (i.context_expr for i in each.items if "raises(" in ast.unparse(i.context_expr))
        elif isinstance(each, ast.Call) and _CHECKS.match(ast.unparse(each.func)):
            yield each


def _helpers(file: Path) -> set[str]:
    """Returns the names in a test's module of functions that assert, its own and those of tests.support."""
    found = {name for name, node in _functions(file).items() if any(_asserts(node))}
    for node in _tree(file).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            for name in node.names:
                module = ROOT / Path(*(node.module or "").split("."), name.name).with_suffix(".py")
                names = _helpers_of_module(module)
                found |= {f"{name.asname or name.name}.{each}" for each in names}
                source = ROOT / Path(*(node.module or "").split(".")).with_suffix(".py")
                if name.name in _helpers_of_module(source):
                    found.add(name.asname or name.name)
    return found


@cache
def _helpers_of_module(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    return {name for name, node in _functions(file).items() if any(_asserts(node))}


def _shown(file: Path, test: str) -> str:
    """What a test asserts: these statements, calls of helpers that assert, and the values it is run for."""
    function = _functions(file)[test]
    helpers = _helpers(file)
    parts = [*_asserts(function), *function.decorator_list]
    parts += [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in helpers
    ]
    called = {ast.unparse(node.func) for node in parts if isinstance(node, ast.Call)}
    for name, node in _functions(file).items():  # its helpers' assertions, and those of fixtures of all tests
        if name in called or any("autouse=True" in ast.unparse(each) for each in node.decorator_list):
            parts += _asserts(node)
    assert len(parts) > len(function.decorator_list), f"{test} asserts nothing"
    used = {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}
    for statement in _tree(file).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if used & {target.id for target in targets if isinstance(target, ast.Name)}:
            parts.append(statement)
    source = file.read_text("utf-8")
    return _spaceless("\n".join(ast.get_source_segment(source, part) or "" for part in parts))


def test_there_are_lines() -> None:
    assert len(_ROWS) > 15


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[0][:50])
def test_every_line_names_tests_and_what_they_assert(row: list[str]) -> None:
    assert len(row) == 3, "what | against whom | shown by"
    assert all(row)
    named = _NAMED.findall(row[2])
    assert named, "no test shows it"
    assert _NAMED.sub("", row[2]).strip(", ") == "", "nothing but tests and assertions"
    for path, test, assertion in named:
        file = ROOT / path
        assert file.is_file(), path
        assert test in _functions(file), f"{path} has no {test}"
        assert assertion, f"{test}: name its assertion"
        assert _spaceless(assertion) in _shown(file, test), f"{test} does not assert {assertion}"


@pytest.mark.parametrize(
    ("assertion", "holds"),
    [
        ("assert all(row)", True),
        ("assert all(rows)", False),
        ("named = _NAMED", False),
        ("the lines are few", False),
    ],
)
def test_an_assertion_that_a_test_does_not_make_is_found(assertion: str, holds: bool) -> None:
    shown = _shown(Path(__file__), "test_every_line_names_tests_and_what_they_assert")
    assert (_spaceless(assertion) in shown) is holds


@pytest.mark.parametrize(("path", "test"), sorted({named[:2] for named in _NAMED.findall(_TEXT)}))
def test_every_named_test_exists(path: str, test: str) -> None:
    """Also those that the text below the tables names."""
    assert test in _functions(ROOT / path)
