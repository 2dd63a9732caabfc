"""Applications of users on this machine's stack. Each has a database role, whose password is in a file."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.installations.application_names import ApplicationError, check_name, role_of
from holdfast.installations.embedded import ROOT, native_home
from holdfast.installations.native_installation import NativeTools
from holdfast.installations.postgres_tools import PostgresTools
from holdfast.installations.secrets import read_passfile, scram_verifier, write_whole
from holdfast.postgres.statements import sql

_OLD = "This stack was started by an older Holdfast: start it again (`holdfast down`, `holdfast up`)."


@dataclass(frozen=True)
class Added:
    """An application's access to the stack's database."""

    application: str
    database_url: str
    """The URL with the password: on this machine beside a native stack, in containers beside Compose."""
    role: str
    schema: str
    """The schema of the application's own tables. DBOS's are in the schema ``dbos``."""
    passfile: str

    @property
    def env_file(self) -> Path:
        """The file with the URL for the service that ``app add --compose`` writes."""
        return Path(self.passfile).with_name("env")

    def write_env_file(self) -> None:
        """Writes the URL where the service's Compose file looks for it."""
        write_whole(self.env_file, f"DBOS_SYSTEM_DATABASE_URL={self.database_url}\n", 0o600)


def applications(tools: PostgresTools) -> list[dict[str, Any]]:
    """Returns all applications of the stack with their live executors and unfinished workflows.

    Raises `ApplicationError` for a stack without a table of them.
    """
    if tools.ask("SELECT to_regclass('ops.applications') IS NOT NULL") != "t":
        raise ApplicationError(_OLD)
    rows: list[dict[str, Any]] = json.loads(tools.ask(sql("applications_at_work")))
    return rows


def add_application(tools: PostgresTools, name: str, *, rotate: bool = False) -> Added:
    """Gives an application a role, a password and a schema. Repeatable: a second call has the same answer.

    ``rotate`` makes a new password. Raises `ApplicationError` and ``NativeError``.
    """
    check_name(name)
    role = role_of(name)
    known = {row["application"]: row for row in applications(tools)}
    if tools.ask("SELECT count(*) FROM pg_roles WHERE rolname = 'holdfast_apps'") != "1":
        raise ApplicationError(_OLD)
    passfile = home(tools) / name / "pgpass"
    password = read_passfile(passfile).get(role)
    there = bool(known.get(name, {}).get("database_role"))
    if there and not password and not rotate:
        raise ApplicationError(
            f"{name} was added already, and its password is not in {passfile}. --rotate makes a new one; "
            "processes that run with the old one keep their connections and get no new ones."
        )
    if rotate or not password:
        password = secrets.token_hex(24)
    script = (ROOT / "postgres" / "application.sql").read_text("utf-8")
    verifier = scram_verifier(password, secrets.token_bytes(16))
    # The file first: after an interruption, a second run sets the role's password to what the file says.
    passfile.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(passfile, f"*:*:*:{role}:{password}\n", 0o600)
    tools.administrate(f"\\set name {name}\n\\set verifier '{verifier}'\n{script}")
    added = Added(
        application=name,
        database_url=f"postgresql://{role}:{password}@{_address(tools)}/holdfast",
        role=role,
        schema=name,
        passfile=str(passfile),
    )
    if added.env_file.exists():  # from an earlier --compose: its service would start with the old password
        added.write_env_file()
    return added


def remove_application(tools: PostgresTools, name: str, *, force: bool = False) -> dict[str, Any]:
    """Ends an application's access and returns its last state. Its workflows and its tables stay.

    Raises `ApplicationError` while it has live executors or unfinished work, unless ``force``.
    """
    check_name(name)
    row = next((row for row in applications(tools) if row["application"] == name), None)
    if row is None:
        raise ApplicationError(f"There is no application {name} here. `holdfast app list` shows all.")
    has = [
        f"{count} {what}"
        for count, what in (
            (row["live_executors"], "live executors"),
            (row["unfinished_workflows"], "unfinished workflows"),
        )
        if count
    ]
    if has and not force:
        raise ApplicationError(
            f"{name} has {' and '.join(has)}. End its processes and let its work finish or cancel it, or "
            "pass --force: its processes then lose their connections, and its work waits until `app add`."
        )
    script = (ROOT / "postgres" / "remove_application.sql").read_text("utf-8")
    tools.administrate(f"\\set name {name}\n{script}")
    (home(tools) / name / "pgpass").unlink(missing_ok=True)
    return row


def home(tools: PostgresTools) -> Path:
    """Returns the directory of the applications' password files."""
    return native_home() / ("apps" if isinstance(tools, NativeTools) else "compose-apps")


def _address(tools: PostgresTools) -> str:
    return (
        f"127.0.0.1:{tools.state['postgres']['port']}" if isinstance(tools, NativeTools) else "postgres:5432"
    )
