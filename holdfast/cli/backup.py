"""``holdfast backup`` and ``holdfast restore``: one file with all workflows, finished and unfinished.

A backup is one snapshot and needs no downtime. A restore is one transaction, so the old data stays until the
backup has replaced it. API and workers are stopped for a restore and started again afterwards.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from subprocess import PIPE
from typing import Annotated, Any

import typer

from holdfast.cli.archive import ArchiveError, Contents, examine, written
from holdfast.cli.shown import JsonOption, console, plain_errors, show
from holdfast.installations.detection import tools_here
from holdfast.installations.postgres_tools import SCHEMAS, PostgresTools, ToolError

_CHUNK_BYTES = 1 << 20
# The lock that restore_begin.sql acquires. Checking it first avoids a count that blocks until the other
# restore ends.
_UNDER_WAY = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7031 AND objid = 0"
    " AND objsubid = 2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_LOST_CONNECTION = 2
"""psql's exit code after a lost connection to the server."""

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False)]


def backup(
    file: FileArgument,
    force: Annotated[bool, typer.Option("--force", metavar="", help="replace FILE when it exists")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write all workflows, their results and Holdfast's records into FILE, while everything runs.

    One moment's state. Passwords, tokens and settings are not in it; inputs and results are.
    """
    with plain_errors(), _ends_orderly():
        begun = time.monotonic()
        contents = take(tools_here(), file, force=force)
        result = {
            **_summary(file, contents),
            "bytes": file.stat().st_size,
            "seconds": round(time.monotonic() - begun, 2),
        }
        show(result, as_json=as_json, human=lambda: f"{_sentence(result)}; {result['bytes']:,} bytes")


def restore(
    file: FileArgument,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", metavar="", help="delete the workflows that are there, instead of refusing"
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="do not ask before that")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put what FILE holds into a running Holdfast without work of its own; its unfinished work goes on.

    API and workers are stopped meanwhile. All of it takes effect or nothing.
    """
    with plain_errors(), _ends_orderly():
        begun = time.monotonic()
        tools = tools_here()
        contents = examine(tools, file)
        contents.check(int(tools.ask("SHOW server_version_num")))
        if there := workflows_there(tools):
            _confirm(there, replace=replace, yes=yes, as_json=as_json)
        if not as_json:
            console.print("stopping the API and the workers; they start again afterwards")
        with tools.executors_stopped():
            load(tools, file, replace=replace)
        result = {
            **_summary(file, contents),
            "replaced_workflows": there,
            "seconds": round(time.monotonic() - begun, 2),
        }
        human = f"restored: {_sentence(result)}; what is unfinished goes on"
        show(result, as_json=as_json, human=lambda: human)


def take(tools: PostgresTools, file: Path, *, force: bool = False) -> Contents:
    """Writes a backup, reads it back and returns its contents.

    Raises ``ArchiveError`` and ``ToolError``. In that case ``file`` is unchanged.
    """
    schemas = [f"--schema={name}" for name in SCHEMAS]
    # `migrate` sets owner and privileges in the target database. The dump waits at most 30 s for concurrent
    # DDL.
    options = ["--format=custom", "--no-owner", "--no-privileges", "--lock-wait-timeout=30s"]
    with written(file, force=force) as partial:
        with partial.open("wb") as stream, tools.run("pg_dump", *options, *schemas) as dump:
            assert dump.stdout is not None
            shutil.copyfileobj(dump.stdout, stream, _CHUNK_BYTES)
        return examine(tools, partial)


def workflows_there(tools: PostgresTools) -> int:
    """Returns the number of workflows in the database, except those of the schedules.

    Raises ``ToolError``, also during another restore or a migration.
    """
    if tools.ask(_UNDER_WAY) != "0":
        raise ToolError("another restore, or a migration, is under way")
    if not tools.ask("SELECT to_regclass('dbos.workflow_status')"):
        return 0
    return int(tools.ask("SELECT count(*) FROM dbos.workflow_status WHERE schedule_name IS NULL"))


def load(tools: PostgresTools, file: Path, *, replace: bool) -> None:
    """Replaces the database's contents with an archive, in one transaction.

    API and workers must be stopped. Raises ``ToolError``. The database is then unchanged, unless the message
    says that the outcome is unknown.
    """
    scripts = resources.files("holdfast.cli") / "sql"
    options = ["--no-psqlrc", "--quiet", "--output=/dev/null", "-v", "ON_ERROR_STOP=1"]
    options += ["-v", f"replace={'on' if replace else 'off'}"]
    ending = False
    try:
        with tools.run("psql", *options, stdin=PIPE) as psql:
            assert psql.stdin is not None
            assert psql.stdout is not None
            try:
                psql.stdin.write((scripts / "restore_begin.sql").read_bytes())
                psql.stdin.flush()
                with (
                    file.open("rb") as archive,
                    tools.run(
                        "pg_restore", "--no-owner", "--no-privileges", "--file=-", stdin=archive
                    ) as reader,
                ):
                    assert reader.stdout is not None
                    shutil.copyfileobj(reader.stdout, psql.stdin, _CHUNK_BYTES)
                psql.stdin.write((scripts / "restore_end.sql").read_bytes())
                psql.stdin.flush()
                # If psql ends before the COMMIT, nothing has changed.
                if ending := psql.stdout.readline().strip() == b"loaded":
                    psql.stdin.write(b"COMMIT;\n")
                    psql.stdin.flush()
            except BrokenPipeError:
                pass  # psql has ended: its exit code and its error message follow
    except ToolError as error:
        if ending and error.code == _LOST_CONNECTION:
            raise ToolError(
                f"{error}; whether the restore took effect is not known, `holdfast watch --once` shows it"
            ) from None
        raise ToolError(f"{error}; nothing was changed") from None
    if not ending:
        raise ToolError("psql ended early; nothing was changed")


def _confirm(there: int, *, replace: bool, yes: bool, as_json: bool) -> None:
    if not replace:
        raise ArchiveError(
            f"this Holdfast has {there:,} workflows of its own, which a restore would delete; --replace does"
        )
    if yes:
        return
    if as_json or not at_a_terminal():
        raise ArchiveError(f"--replace deletes {there:,} workflows: say --yes as well")
    word = typer.prompt(f"This deletes {there:,} workflows with their results. Type `replace` to go on")
    if word != "replace":
        raise ArchiveError("nothing was changed")


def at_a_terminal() -> bool:
    """Whether the command can ask the user: standard input is a terminal."""
    return sys.stdin.isatty()


def _summary(file: Path, contents: Contents) -> dict[str, Any]:
    return {
        "file": str(file),
        "begun_at": contents.begun_at,
        "postgres": contents.server_version,
        "workflows": sum(contents.workflows.values()),
        "unfinished": contents.unfinished,
        "by_status": contents.workflows,
    }


def _sentence(result: dict[str, Any]) -> str:
    return (
        f"{result['workflows']:,} workflows, {result['unfinished']:,} of them unfinished, "
        f"as of {result['begun_at']}, in {result['seconds']:g} s"
    )


@contextmanager
def _ends_orderly() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the command like Ctrl-C, so that it cleans up after itself."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(signum, signal.default_int_handler) for signum in signals]
    try:
        yield
    finally:
        for signum, handler in zip(signals, before, strict=True):
            signal.signal(signum, handler)
