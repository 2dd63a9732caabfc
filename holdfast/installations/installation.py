"""An installation of Holdfast, as commands see it: native processes or a Compose project.

The API is reached over HTTP, the database where that is possible. On the host of a Compose project nothing
outside reaches the database; there a command runs itself inside the ``api`` container.
"""

from __future__ import annotations

import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from holdfast.audit.evidence import lines_of, secrets_of
from holdfast.installations.embedded import ROOT
from holdfast.installations.postgres_tools import PostgresTools
from holdfast.settings import Settings


class NothingRunsError(Exception):
    """Neither the environment, nor a native stack, nor a Compose project says where the database is."""


@dataclass(frozen=True)
class Member:
    """One executor's process."""

    executor_id: str
    role: str
    name: str
    """Pid, or name of the container."""


@dataclass(frozen=True)
class Logged:
    """What processes logged, and the secrets that must not be in it."""

    lines: Iterable[str]
    secrets: set[str]
    plain: Iterable[str] = ()
    """Lines of programs that do not log JSON."""


class Installation(ABC):
    """What runs here, and what commands do with it."""

    backend: ClassVar[str]

    reaches_database = True
    """Whether this process can connect to the database. Where not, `run` does what needs it."""

    # --- API and database ------------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str:
        """The API's address."""

    @abstractmethod
    def token(self) -> str | None:
        """The admin token, None where it is not known. Raises ``OSError``."""

    @abstractmethod
    def settings(self) -> Settings:
        """Settings that reach the database, where that is possible."""

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs ``holdfast …`` where the database is; only for one that is not reached from here."""
        raise NotImplementedError

    def answer(self, *words: str, stdin: str | None = None) -> Any:
        """The JSON that ``holdfast … --json`` prints there. Raises `NothingRunsError` for none."""
        done = self.run(*words, "--json", stdin=stdin)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise NothingRunsError(done.stderr.strip() or done.stdout.strip() or "no answer") from None

    @abstractmethod
    def postgres_tools(self) -> PostgresTools:
        """PostgreSQL's own programs, beside its server."""

    def logged(self, logs: list[Path] | None, secrets: list[Path] | None) -> Logged | None:
        """What these files hold, or else what the installation keeps itself; None where there is nothing."""
        return Logged(lines_of(logs), secrets_of(secrets or [])) if logs else None

    # --- processes -------------------------------------------------------------------------

    def members(self, role: str, executors: list[dict[str, Any]]) -> list[Member]:
        """The live members of a role among the API's ``executors``."""
        live = [row for row in executors if row["state"] == "live" and row["role"] == role]
        names = self._names(live)
        return [
            Member(r["executor_id"], role, names[r["executor_id"]]) for r in live if r["executor_id"] in names
        ]

    @abstractmethod
    def _names(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Names of their processes by executor id, of those that run here."""

    @abstractmethod
    def kill(self, member: Member) -> None:
        """SIGKILL."""

    @abstractmethod
    def pause(self, member: Member) -> None:
        """Freeze it."""

    @abstractmethod
    def resume(self, member: Member) -> None:
        """Let it go on."""

    @abstractmethod
    def revive(self, member: Member) -> None:
        """Start again what `kill` ended, where nothing else does."""


def settings_of_environment() -> Settings:
    """Settings as this process's environment and ``dbos-config.yaml`` say."""
    config = Path(os.environ.get("HOLDFAST_CONFIG_FILE", "dbos-config.yaml"))
    return Settings(config_file=config if config.exists() else ROOT / "dbos-config.yaml")
