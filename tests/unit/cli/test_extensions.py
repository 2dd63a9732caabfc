"""Commands that packages beside `holdfast` register."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.cli import extensions, main


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    extensions._modules.cache_clear()
    yield
    extensions._modules.cache_clear()


def test_the_showcase_registers_its_commands() -> None:
    known = {each.name or each.callback.__name__ for each in main.app.registered_commands if each.callback}
    assert {"submit", "bucket", "demo", "start", "verify"} <= known
    assert [each.name for each in extensions.watch_tables()] == ["batches"]
    assert [each.name for each in extensions.watch_lanes()] == ["pulse every 5 s"]


def test_where_no_application_is_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "ROOT", tmp_path)
    assert extensions.commands() == []
    assert extensions.watch_tables() == []
    assert extensions.watch_lanes() == []


def test_a_package_beside_registers_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shop_beside"
    package.mkdir()
    (package / "holdfast_commands.py").write_text("def refund() -> None: ...\nCOMMANDS = [refund]\n", "utf-8")
    monkeypatch.setattr(extensions, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [command.__name__ for command in extensions.commands()] == ["refund"]
    assert extensions.watch_tables() == []
