"""HOLDFAST_MODULES with modules that are plain DBOS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.dbos_adapter import registrations
from holdfast.durable import names, plain_modules, registry
from holdfast.errors import ModuleWrong
from tests.support.own import forgotten

Write = Callable[[str], str]

PLAIN = "from dbos import DBOS\n@DBOS.workflow(name='t.plain')\ndef plain(n): return n\n"
TYPED = (
    "from holdfast import Queue, register, workflow\n"
    "@workflow('t.typed')\ndef typed(n: int) -> int: return n\n"
    "register(Queue('t-typed', [typed]))\n"
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module under a name that no other test has."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written: list[str] = []

    def write(text: str) -> str:
        name = f"{tmp_path.name}_{len(written)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
        written.append(name)
        return name

    with forgotten():
        yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_plain_module_is_loaded_beside_a_typed_one(write: Write) -> None:
    plain, typed = write(PLAIN), write(TYPED)
    registry.load([plain, typed])
    registry.load([plain, typed])
    assert {"t.plain"} == names.PLAIN
    assert [module.__name__ for module in plain_modules._modules] == [plain]
    assert set(registry.startable()) == {"t.typed"}, "a plain one takes args and kwargs"
    assert {"t.plain", "t.typed"} <= set(registrations.registered_workflows())
    assert "t.plain" not in registrations.registered_workflows(without=names.PLAIN)


@pytest.mark.parametrize(
    "line",
    [
        "DBOS(config={'name': 'x', 'system_database_url': 'postgresql://nowhere/x'})",
        "DBOS.launch()",
    ],
)
def test_a_module_that_is_an_application_is_refused(write: Write, line: str) -> None:
    module = write(f"from dbos import DBOS\n{line}\n")
    with pytest.raises(ModuleWrong, match=rf"holdfast run -- python -m {module}"):
        registry.load([module])


def test_an_application_behind_the_main_guard_is_none(write: Write) -> None:
    guarded = "if __name__ == '__main__':\n    DBOS(config={})\n    DBOS.launch()\n"
    module = write(PLAIN.replace("t.plain", "t.guarded") + guarded)
    registry.load([module])
    assert {"t.guarded"} == names.PLAIN


def test_classes_and_instances_are_reported(write: Write) -> None:
    module = write(
        "from dbos import DBOS, DBOSConfiguredInstance\n"
        "@DBOS.dbos_class('T-Till')\n"
        "class Till(DBOSConfiguredInstance):\n"
        "    @DBOS.workflow(name='t.close')\n    def close(self): pass\n"
        "    @staticmethod\n    @DBOS.workflow(name='t.total')\n    def total(): pass\n"
        "Till(config_name='t-north')\n"
    )
    registry.load([module])
    found = registrations.registered_workflows()
    assert found["t.close"] == {"class": "T-Till", "instances": ["t-north"], "takes": {}}
    assert found["t.total"] == {"class": "T-Till", "takes": {}}
