"""No module is long, and no function: what grows is split. The exceptions here can only shrink."""

from __future__ import annotations

import ast
from pathlib import Path

from holdfast.installations.embedded import ROOT

_MODULE_LINES, _FUNCTION_LINES = 300, 60

# Where it stays longer: how long, and why.
_LONG_MODULES: dict[str, int] = {}
_LONG_FUNCTIONS: dict[str, int] = {}


def _sources() -> list[Path]:
    return [path for package in ("holdfast", "services") for path in sorted((ROOT / package).rglob("*.py"))]


def test_modules_are_short() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in _sources()}
    assert len(lines) > 150
    assert {name: count for name, count in lines.items() if count > _MODULE_LINES} == _LONG_MODULES


def test_functions_are_short() -> None:
    long: dict[str, int] = {}
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or 0) - node.lineno + 1
                if count > _FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = count
    assert long == _LONG_FUNCTIONS
