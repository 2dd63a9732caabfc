"""An installation of Holdfast, as commands see it: native processes or a Compose project.

Commands reach the API over HTTP, and the database where possible. On the host of a Compose project the
database is not reachable from outside. There a command runs itself inside the ``api`` container.
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
    """Neither the environment, nor a native stack, nor a Compose project names a database."""


@dataclass(frozen=True)
class Member:
    """The process of one executor."""

    executor_id: str
    role: str
    name: str
    """The pid, or the container's name."""


@dataclass(frozen=True)
class Logged:
    """Log lines of processes, and the secrets that must not occur in them."""

    lines: Iterable[str]
    secrets: set[str]
    plain: Iterable[str] = ()
    """Lines of programs that do not log JSON."""


class Installation(ABC):
    """The running installation, and the operations that commands need."""

    backend: ClassVar[str]

    reaches_database = True
    """Whether this process can connect to the database. If not, commands that need it use `run`."""

    # --- API and database ------------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str:
        """The API's address."""

    @abstractmethod
    def token(self) -> str | None:
        """Returns the admin token, None if it is unknown. Raises ``OSError``."""

    @abstractmethod
    def settings(self) -> Settings:
        """Returns settings that reach the database, where that is possible."""

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs ``holdfast …`` where the database is. Only for a database that is not reachable from here."""
        raise NotImplementedError

    def answer(self, *words: str, stdin: str | None = None) -> Any:
        """Returns the JSON that `run` prints with ``--json``. Raises `NothingRunsError` if there is none."""
        done = self.run(*words, "--json", stdin=stdin)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise NothingRunsError(done.stderr.strip() or done.stdout.strip() or "no answer") from None

    @abstractmethod
    def postgres_tools(self) -> PostgresTools:
        """Returns PostgreSQL's own programs, which run on the server's machine."""

    def logged(self, logs: list[Path] | None, secrets: list[Path] | None) -> Logged | None:
        """Returns the contents of the files, or else the installation's own logs; None if there are none."""
        return Logged(lines_of(logs), secrets_of(secrets or [])) if logs else None

    # --- processes -------------------------------------------------------------------------

    def members(self, role: str, executors: list[dict[str, Any]]) -> list[Member]:
        """Returns the live members of a role among the API's ``executors``."""
        live = [row for row in executors if row["state"] == "live" and row["role"] == role]
        names = self._names(live)
        return [
            Member(r["executor_id"], role, names[r["executor_id"]]) for r in live if r["executor_id"] in names
        ]

    @abstractmethod
    def _names(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Returns the names of the local processes by executor id."""

    @abstractmethod
    def kill(self, member: Member) -> None:
        """Kills the process with SIGKILL."""

    @abstractmethod
    def pause(self, member: Member) -> None:
        """Suspends the process."""

    @abstractmethod
    def resume(self, member: Member) -> None:
        """Resumes a suspended process."""

    @abstractmethod
    def revive(self, member: Member) -> None:
        """Restarts the process after `kill`, if nothing else does."""


def settings_of_environment() -> Settings:
    """Returns the settings of this process's environment and ``dbos-config.yaml``."""
    config = Path(os.environ.get("HOLDFAST_CONFIG_FILE", "dbos-config.yaml"))
    return Settings(config_file=config if config.exists() else ROOT / "dbos-config.yaml")
