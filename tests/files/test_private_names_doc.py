"""DBOS's private names stay in one package, and its table names them with their contract tests."""

from __future__ import annotations

import re

from holdfast.dbos_adapter import patches
from holdfast.installations.embedded import ROOT
from tests.support.private_names import ADAPTER, defined, used_names
from tests.support.sources import source_files

_TABLE = "dbos_adapter/patches.py"
_MARKS = re.compile(r"\bdbos\._|\bfrom dbos import _|\._sys_db\b|_dbos\._|\._active_workflows_set\b")


def test_recovery_points_to_the_table() -> None:
    text = (ROOT / "docs" / "design" / "recovery.md").read_text("utf-8")
    paragraph = text.partition("## Private names of DBOS\n")[2].partition("\n#")[0]
    assert f"`{_TABLE}`" in paragraph
    assert (ROOT / "holdfast" / _TABLE).is_file()


def test_no_other_module_uses_one() -> None:
    others = [file for file in source_files() if not file.is_relative_to(ADAPTER)]
    ours = defined(source_files())
    names = {row.name for row in patches.PRIVATE_NAMES}
    for file in others:
        assert not _MARKS.search(file.read_text("utf-8")), file
        assert used_names(file, ours) & names == set(), file


def test_each_name_is_there_once_with_a_reason_and_a_contract_test() -> None:
    names = [row.name for row in patches.PRIVATE_NAMES]
    assert len(names) == len(set(names))
    sources: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):  # two folders may have a file of one name
        sources[path.name] = sources.get(path.name, "") + path.read_text("utf-8")
    for row in patches.PRIVATE_NAMES:
        assert row.why, row
        file, _, test = row.test.partition("::")
        assert re.search(rf"^(async )?def {test}\(", sources[file], re.MULTILINE), row
