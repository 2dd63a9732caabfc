"""docs/design/recovery.md lists the modules that use DBOS's private names: those that import one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from holdfast.installations.embedded import ROOT
from tests.support.sources import source_files

_DOCS, _PRODUCT = ROOT / "docs", ROOT / "holdfast"


def _imported(file: Path) -> set[str]:
    """Full names of what a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


USERS = {
    str(file.relative_to(_PRODUCT if file.is_relative_to(_PRODUCT) else ROOT))
    for file in source_files()
    if any(re.match(r"dbos\..*\b_", name) for name in _imported(file))
}


def test_recovery_lists_the_modules() -> None:
    text = (_DOCS / "design" / "recovery.md").read_text("utf-8")
    paragraph = text.partition("## Private names of DBOS\n")[2].partition("\n#")[0]
    assert "process/engine.py" in USERS
    assert set(re.findall(r"`([\w/]+\.py)`", paragraph)) - {"tests/integration/test_contracts.py"} == USERS


def test_only_the_product_uses_them() -> None:
    assert [user for user in USERS if user.startswith("services/")] == []
