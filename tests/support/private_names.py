"""Which private names of DBOS a file uses, read from its syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.sources import PACKAGES

_PRODUCT = PACKAGES[0]
ADAPTER = _PRODUCT / "dbos_adapter"


# Of these, the attributes that begin with an underscore are DBOS's, whatever attributes Holdfast has.
_OBJECTS = {"application", "dbos", "instance", "queue"}


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _chain(node: ast.expr) -> str | None:
    """``dbos._queue.name`` of an attribute of an attribute of a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := _chain(node.value)) is not None:
        return f"{inner}.{node.attr}"
    return None


def defined(files: list[Path]) -> set[str]:
    """Private names that these files define: functions, classes, variables, attributes of ``self``."""
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
    """Full names below ``dbos._module``, and ``._name`` for an attribute that is not one of ``ours``."""
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
    # Not DBOS's: methods of the standard library.
    names -= {"._exit", "._replace"}
    # A module alone is only the way to its names.
    return {name for name in names if not (name.startswith("dbos._") and name.count(".") == 1)}
