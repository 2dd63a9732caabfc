"""Finds the private names of DBOS that a file uses, by its syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.sources import PACKAGES

_PRODUCT = PACKAGES[0]
ADAPTER = _PRODUCT / "dbos_adapter"


# Attributes of these that begin with an underscore are DBOS's, whatever attributes Holdfast has.
_OBJECTS = {"application", "dbos", "instance", "queue"}


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _chain(node: ast.expr) -> str | None:
    """Returns the dotted name of nested attributes of a name, such as ``dbos._queue.name``."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := _chain(node.value)) is not None:
        return f"{inner}.{node.attr}"
    return None


def defined(files: list[Path]) -> set[str]:
    """Returns the private names that the files define: functions, classes, variables, ``self`` attributes."""
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id in {"self", "cls"}
            ):
                names.add(node.attr)
    return {name for name in names if _private(name)}


def used_names(file: Path, ours: set[str]) -> set[str]:
    """Returns full names below ``dbos._module``, and ``._name`` for an attribute that is not in ``ours``."""
    tree = ast.parse(file.read_text("utf-8"))
    modules: dict[str, str] = {}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dbos._"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "dbos":
            names |= {f"dbos.{alias.name}" for alias in node.names if _private(alias.name)}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Attribute):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            chain = _chain(node.value) or ""
            if isinstance(target, ast.Name) and chain.startswith("dbos._"):
                modules[target.id] = chain
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        first, *rest = (_chain(node) or "").split(".")
        chain = ".".join([modules.get(first, first), *rest])
        if chain.startswith("dbos._"):
            names.add(".".join(chain.split(".")[:3]))
        elif _private(node.attr) and (node.attr not in ours or (rest[:-1] or [first])[-1] in _OBJECTS):
            names.add(f".{node.attr}")
    # Methods of the standard library do not belong to DBOS.
    names -= {"._exit", "._replace"}
    # A module alone is only a prefix of its names.
    return {name for name in names if not (name.startswith("dbos._") and name.count(".") == 1)}
