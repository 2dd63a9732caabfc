"""What commands know of an installation: which one runs here, its settings, its members."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.installations import compose_installation, detection, embedded, native, native_installation
from holdfast.installations.compose_installation import ComposeInstallation
from holdfast.installations.detection import InsideContainer, here, tools_here
from holdfast.installations.installation import Installation, Member, NothingRunsError
from holdfast.installations.native_error import NativeError
from holdfast.installations.native_installation import NativeInstallation, NativeTools

STATE = {
    "postgres": {"port": 5999, "database": "some_name"},
    "passfiles": {"api": "/home/api/pgpass", "migrate": "/home/migrate/pgpass"},
    "api": {"pid": 10},
    "workers": [{"pid": 11}],
}


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HOLDFAST_DATABASE_PASSFILE", raising=False)
    runs(monkeypatch)
    here.cache_clear()
    yield
    here.cache_clear()


def runs(monkeypatch: pytest.MonkeyPatch, *services: str, native: bool = False) -> None:
    monkeypatch.setattr(native_installation, "native_state", lambda: STATE if native else {})
    monkeypatch.setattr(compose_installation, "runs", lambda service: service in services)


def test_a_container_comes_before_a_native_stack_before_a_project(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NothingRunsError, match="holdfast up"):
        here()
    runs(monkeypatch, "api")
    assert isinstance(here(), ComposeInstallation)
    runs(monkeypatch, "api", native=True)
    assert isinstance(here(), ComposeInstallation), "it is found out once"
    here.cache_clear()
    assert isinstance(here(), NativeInstallation)
    here.cache_clear()
    monkeypatch.setenv("HOLDFAST_DATABASE_PASSFILE", "/run/holdfast/pgpass")
    assert isinstance(here(), InsideContainer)


def test_postgres_alone_is_enough_for_its_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NothingRunsError, match="PostgreSQL does not run here"):
        tools_here()
    monkeypatch.setenv("HOLDFAST_DATABASE_PASSFILE", "/run/holdfast/pgpass")
    with pytest.raises(NothingRunsError, match="not inside a container"):
        tools_here()
    runs(monkeypatch, "postgres")
    assert tools_here().command("psql")[:2] == ["docker", "compose"]
    runs(monkeypatch, "postgres", native=True)
    assert isinstance(tools_here(), NativeTools)


def test_a_native_stacks_settings_reach_its_database_and_leave_the_environment_alone() -> None:
    before = dict(os.environ)
    url = NativeInstallation(STATE).settings().database_url
    assert dict(os.environ) == before
    assert "holdfast_api@127.0.0.1:5999/some_name" in url
    assert "/home/api/pgpass" in url


def row(state: str, role: str, pid: int) -> dict[str, Any]:
    return {"executor_id": f"{role}-{pid}", "state": state, "role": role, "pid": pid, "hostname": f"h{pid}"}


def test_members_are_live_executors_whose_process_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    runs(monkeypatch, native=True)
    rows = [
        row("live", "worker", 11),
        row("dead", "worker", 11),
        row("live", "api", 10),
        row("live", "worker", 99),
    ]
    assert NativeInstallation(STATE).members("worker", rows) == [Member("worker-11", "worker", "11")]


@pytest.mark.parametrize("order", ["kill", "pause", "resume", "revive"])
def test_nothing_is_controlled_from_inside_a_container(order: str) -> None:
    inside: Installation = InsideContainer()
    with pytest.raises(NothingRunsError, match="not inside a container"):
        getattr(inside, order)(Member("worker-11", "worker", "11"))
    with pytest.raises(NothingRunsError, match="not inside a container"):
        inside.members("worker", [row("live", "worker", 11)])
    assert inside.token() is None and detection.admin_token("https://elsewhere.example") is None


def test_runner_and_command_find_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ROOT", tmp_path)
    monkeypatch.delenv("HOLDFAST_HOME", raising=False)
    assert embedded.native_home() == tmp_path / ".holdfast"
    (tmp_path / ".env").write_text("HOLDFAST_HOME=elsewhere\n")
    monkeypatch.chdir("/")
    assert embedded.native_home() == tmp_path / "elsewhere"
    monkeypatch.setenv("HOLDFAST_HOME", "/from/the/shell")
    assert embedded.native_home() == Path("/from/the/shell")


def test_clean_deletes_what_a_stack_has_made_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    (home / "thesis.txt").touch()
    assert native.down(home) is False
    with pytest.raises(NativeError, match="Holdfast never ran from"):
        native.clean(home)
    assert {path.name for path in home.iterdir()} == {"logs", "thesis.txt"}, "also after `down`"

    os.close(native.take_lock(home))  # a stack ran here
    for kept in ("HOME", "ROOT"):
        with monkeypatch.context() as patch:
            patch.setenv("HOME", str(home)) if kept == "HOME" else patch.setattr(native, "ROOT", home / "x")
            for directory in (home, tmp_path):
                with pytest.raises(NativeError, match="nothing in it was deleted"):
                    native.clean(directory)
    assert (home / "logs").is_dir()

    native.clean(home)
    assert [path.name for path in home.iterdir()] == ["thesis.txt"]
    (home / "thesis.txt").unlink()
    os.close(native.take_lock(home))
    native.clean(home)
    assert not home.exists()
