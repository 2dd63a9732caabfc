"""A Compose project, seen from its host. The database is reachable only from inside the containers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from holdfast.audit.evidence import secrets_in
from holdfast.installations.embedded import ROOT
from holdfast.installations.installation import (
    Installation,
    Logged,
    Member,
    NothingRunsError,
)
from holdfast.installations.native_error import NativeError
from holdfast.installations.postgres_tools import WATCHED, PostgresTools
from holdfast.settings import Settings

# Prefixes of the services that log in Holdfast's format. PostgreSQL's log has its own format and is only
# searched for secrets.
OUR_SERVICES = ("api", "worker", "secrets")


def compose(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs ``docker compose`` for the checkout's project. The caller checks the exit code."""
    options = {"capture_output": True, "text": True, **options}
    return subprocess.run([*_command(), *arguments], cwd=ROOT, check=False, **options)


def _command() -> list[str]:
    """Returns the start of a ``docker compose`` command line; the script also works below a percent sign."""
    return [str(ROOT / "deploy" / "compose.sh")] if "%" in str(ROOT) else ["docker", "compose"]


def runs(service: str) -> bool:
    """Whether the project has a running container of that service."""
    try:
        return bool(compose("ps", "--quiet", "--status", "running", service, timeout=20).stdout.strip())
    except (OSError, subprocess.TimeoutExpired):
        return False


def published_url() -> str:
    """Returns the address at which Compose publishes the API."""
    # As in Compose, .env provides the variables that the shell does not set.
    said = {**dotenv_values(ROOT / ".env"), **os.environ}
    address, port = said.get("HOLDFAST_PUBLISH_ADDRESS"), said.get("HOLDFAST_API_PORT")
    here = "HOLDFAST_DATABASE_PASSFILE" in os.environ  # inside a container: published addresses are outside
    if here or not address or address.strip("[]") in ("0.0.0.0", "::"):  # noqa: S104
        address = "127.0.0.1"
    return f"http://{address}:{port or 8000}"


class ComposeInstallation(Installation):
    """The checkout's project. No restart policy acts after ``docker kill``, which counts as a manual stop."""

    backend = "compose"
    reaches_database = False

    @property
    def url(self) -> str:
        return published_url()

    def token(self) -> str | None:
        done = self.run("token")
        return done.stdout.strip() if done.returncode == 0 else None

    def settings(self) -> Settings:
        raise NothingRunsError("the database is reached from inside the containers only")

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return compose("exec", "-T", "api", "holdfast", *words, **given)

    def postgres_tools(self) -> PostgresTools:
        return ComposeTools()

    def logged(self, logs: list[Path] | None, secrets: list[Path] | None) -> Logged:  # noqa: ARG002
        """Returns the containers' logs. Ignores the named files, which are on the host."""
        hidden: set[str] = set()
        for service in ("api", "worker"):
            done = compose("exec", "-T", service, "sh", "-c", "cat /run/holdfast/*")
            hidden |= secrets_in(done.stdout)
        log = ("logs", "--no-color", "--no-log-prefix")
        # An override may have added workers with other names.
        services = compose("ps", "--all", "--services").stdout.split()
        ours_only = [name for name in services if name.startswith(OUR_SERVICES)]
        ours = compose(*log, *ours_only).stdout.splitlines()
        return Logged(ours, hidden, compose(*log, "postgres", "migrate").stdout.splitlines())

    def _names(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        lines = compose("ps", "--format", "json", "api", "worker").stdout.splitlines()
        # A container's hostname is the first twelve digits of its id.
        containers = {entry["ID"][:12]: entry["Name"] for entry in map(json.loads, lines)}
        return {
            row["executor_id"]: containers[row["hostname"]] for row in rows if row["hostname"] in containers
        }

    def kill(self, member: Member) -> None:
        _docker("kill", member.name)

    def pause(self, member: Member) -> None:
        _docker("pause", member.name)

    def resume(self, member: Member) -> None:
        _docker("unpause", member.name)

    def revive(self, member: Member) -> None:
        _docker("start", member.name)


def _docker(command: str, name: str) -> None:
    done = subprocess.run(["docker", command, name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NothingRunsError(f"docker {command} {name}: {done.stderr.strip()}")


class ComposeTools(PostgresTools):
    """PostgreSQL's programs in the database's container."""

    def command(self, program: str, *arguments: str) -> list[str]:
        variables = {
            "LC_ALL": "C",
            "TZ": "UTC",
            "PGAPPNAME": "holdfast/backup",
            "PGDATABASE": "holdfast",
            "PGUSER": "holdfast_migrator",  # pg_ident.conf lets it in without a password
        }
        given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        # psql and pg_restore end with their input. pg_dump does not: without its client it would continue to
        # run.
        watched = ["bash", "-c", WATCHED] if program == "pg_dump" else []
        return [*_command(), "exec", "-T", *given, "postgres", *watched, program, *arguments]

    def superuser(self) -> tuple[list[str], dict[str, str]]:
        return [*_command(), "exec", "-T", "postgres", "psql"], {}

    @contextmanager
    def executors_stopped(self) -> Iterator[None]:
        workers = len(compose("ps", "--all", "--quiet", "worker").stdout.split())
        self._must("stop", "api", "worker")
        # `up`, not `start`: only `up` runs `migrate` again, which a backup of an older version needs.
        scale = ["--scale", f"worker={workers}"] if workers else []
        start = ("up", "--detach", "--wait", "--no-build", "--no-recreate", *scale, "api", "worker")
        try:
            yield
        except NativeError as error:
            try:
                self._must(*start)
            except NothingRunsError as second:
                raise NothingRunsError(f"{error}; and then {second}") from None
            raise
        except BaseException:
            self._must(*start)
            raise
        self._must(*start)

    def _must(self, *arguments: str) -> None:
        done = compose(*arguments)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise NothingRunsError(f"docker compose {arguments[0]}: {' '.join(last)}")
