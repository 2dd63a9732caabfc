"""Commands that read the database: ``verify``, ``handovers``, ``stranded``, ``adopt``.

On the host of a Compose project they run inside its ``api`` container. There, ``verify`` also checks the
containers' logs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from holdfast.audit import checks as audit
from holdfast.audit import evidence
from holdfast.audit.audit import Audit
from holdfast.audit.findings import Finding
from holdfast.audit.journal import Journal
from holdfast.cli import extensions
from holdfast.cli.operations import carry_out
from holdfast.cli.shown import JsonOption, console, plain_errors, show, table
from holdfast.control.operations import Requested
from holdfast.installations.detection import here
from holdfast.installations.installation import NothingRunsError
from holdfast.postgres.database import Connection, connect, query
from holdfast.recovery.stranded import WAY_OUT, describe
from holdfast.settings import Settings
from holdfast.visible import visible, visible_lines

_STATEMENT_SECONDS = 120.0


@contextmanager
def database() -> Iterator[tuple[Settings, Connection]]:
    """Yields the settings and an open connection. Raises ``psycopg2.Error``, ``NothingRunsError``."""
    settings = here().settings()
    connection = connect(settings, purpose="holdfast/cli", statement_timeout_seconds=_STATEMENT_SECONDS)
    try:
        yield settings, connection
    finally:
        connection.close()


def verify(
    *,
    journal: Annotated[
        Path | None, typer.Option(help="journal of a fault run, JSON lines; - is standard input")
    ] = None,
    idle: Annotated[
        bool, typer.Option("--idle", metavar="", help="all work is expected to have ended")
    ] = False,
    settle: Annotated[float, typer.Option(help="seconds that a fault may take to heal")] = 20.0,
    logs: Annotated[
        list[Path] | None, typer.Option(help="log files or directories [default: those of the native stack]")
    ] = None,
    secrets: Annotated[
        list[Path] | None, typer.Option(help="files or directories with secrets that no log may hold")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the invariants of recovery; exit code 0 only if all hold."""
    with plain_errors():
        text = None
        if journal is not None:
            text = sys.stdin.read() if str(journal) == "-" else journal.read_text("utf-8")
        findings = findings_here(text, idle=idle, settle=settle, logs=logs, secrets=secrets)
        holds = all(finding["ok"] for finding in findings)
        show({"ok": holds, "findings": findings}, as_json=as_json, human=lambda: show_findings(findings))
        raise typer.Exit(0 if holds else 1)


def findings_here(
    journal: str | None = None,
    *,
    idle: bool = False,
    settle: float = 20.0,
    logs: list[Path] | None = None,
    secrets: list[Path] | None = None,
) -> list[Finding]:
    """Returns all findings about this installation, whether or not its database can be reached from here."""
    installation = here()
    if installation.reaches_database:
        read = Journal.read(journal.splitlines()) if journal is not None else None
        with database() as (settings, connection):
            it = Audit(connection, settings, extensions.subjects(), read, idle=idle, settle_seconds=settle)
            findings = [*audit.run(it), evidence.no_server_error(it, read), evidence.counters_agree(it)]
    else:
        options = ["--settle", str(settle), *(["--idle"] if idle else [])]
        given = ["--journal", "-"] if journal is not None else []
        findings = installation.answer("verify", *options, *given, stdin=journal)["findings"]
    if logged := installation.logged(logs, secrets):
        clean = evidence.logs_are_clean(logged.lines, logged.secrets, plain=logged.plain)
        findings = [evidence.joined(f, clean) if f["invariant"] == 9 else f for f in findings]
    return findings


def show_findings(findings: list[Finding]) -> None:
    """Prints one line per invariant with its figures, and the violations below it."""
    for finding in findings:
        mark = "[green]holds[/]" if finding["ok"] else "[red bold]BROKEN[/]"
        console.print(f"{finding['invariant']} {mark} {escape(visible(finding['text']))}")
        figures = {k: v for k, v in finding["figures"].items() if not isinstance(v, dict)}
        if figures:
            text = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in figures.items())
            console.print(f"    [dim]{escape(visible(text))}[/]")
        for detail in finding["details"]:
            console.print(f"    [red]{escape(visible(str(detail)))}[/]")
    broken = [str(finding["invariant"]) for finding in findings if not finding["ok"]]
    console.print("[red]broken: " + ", ".join(broken) + "[/]" if broken else "[green]all invariants hold[/]")


def handovers(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    from_executor: Annotated[str | None, typer.Option(help="only what left this executor")] = None,
    after: Annotated[int, typer.Option(hidden=True)] = 0,
    as_json: JsonOption = False,
) -> None:
    """List work that left an executor unfinished, newest first, and how long it had no owner.

    "After" is the time from the executor's last sign of life to the takeover, the same for all of its work;
    "slot wait" is how long a workflow then waited for a free slot.
    """
    with plain_errors():
        data = {"handovers": recent_handovers(limit, from_executor, after)}
        show(data, as_json=as_json, human=lambda: _handovers_table(data["handovers"]))


def _handovers_table(rows: list[dict[str, Any]]) -> Any:
    columns = ["workflow", "kind", "reason", "from", "to", "after", "slot wait"]
    keys = ["workflow_id", "kind", "reason", "from_executor", "to_executor"]
    cells = [
        [
            *(row[key] for key in keys),
            f"{row['takeover_seconds']:.2f} s" if row["kind"] == "takeover" else None,
            None if row["slot_wait_seconds"] is None else f"{row['slot_wait_seconds']:.2f} s",
        ]
        for row in rows
    ]
    return table(f"{len(cells)} moves", columns, cells, droppable=["kind", "reason"])


def recent_handovers(limit: int, from_executor: str | None = None, after: int = 0) -> list[dict[str, Any]]:
    """Returns rows of the handover ledger, newest first."""
    if not here().reaches_database:
        options = ["--limit", str(limit), "--after", str(after)]
        if from_executor:
            options += ["--from-executor", from_executor]
        rows: list[dict[str, Any]] = here().answer("handovers", *options)["handovers"]
        return rows
    with database() as (_, connection):
        return query(connection, "recent_handovers", limit=limit, from_executor=from_executor, after=after)


def stranded(as_json: JsonOption = False) -> None:
    """List unfinished work that no live executor can run, with the reason; exit code 1 if there is any."""
    with plain_errors():
        _elsewhere("stranded", as_json=as_json)
        with database() as (settings, connection):
            rows = query(connection, "stranded", lease_seconds=settings.lease_seconds)
            rows = [{**row, "way_out": WAY_OUT[row["reason"]]} for row in rows]
        show({"stranded": rows}, as_json=as_json, human=lambda: _stranded_table(rows))
        raise typer.Exit(1 if rows else 0)


def adopt(
    application: Annotated[str, typer.Option(help="for example holdfast-worker")],
    from_version: Annotated[str, typer.Option(help="the version that no live executor runs any more")],
    to_version: Annotated[str, typer.Option(help="the version that is to continue its work")],
    yes: Annotated[
        bool, typer.Option("--yes", metavar="", help="do it; without it, only show what would move")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give stranded work to another version, under its own ids.

    You say with this that the code of the new version can continue it: same steps in the same order.
    Only work that no live executor could run moves, and only to a version that one runs. The exit code is 1
    where nothing moved, and without --yes.
    """
    with plain_errors():
        words = ["--application", application, "--from-version", from_version, "--to-version", to_version]
        _elsewhere("adopt", *words, *(["--yes"] if yes else []), as_json=as_json)
        with database() as (settings, connection):
            if not yes:
                rows = [
                    row
                    for row in query(connection, "stranded", lease_seconds=settings.lease_seconds)
                    if (row["application"], row["application_version"], row["reason"])
                    == (application, from_version, "version")
                ]
                show({"stranded": rows}, as_json=as_json, human=lambda: _stranded_table(rows))
                print("nothing was moved; --yes moves it", file=sys.stderr)
                raise typer.Exit(1)
            living = [
                row
                for row in query(connection, "list_executors", application=None)
                if row["ended_at"] is None
            ]
            run = {(row["application"], row["application_version"]) for row in living}
            if (application, to_version) not in run:
                raise NothingRunsError(f"no executor of {application} runs {to_version}: nothing was moved")
            given = {"application": application, "from_version": from_version, "to_version": to_version}
            requested = Requested("adopt", f"version {from_version} of {application}", given, "cli")
            done = carry_out(connection, settings, requested, quiet=as_json)
        data = {"operation_id": done["operation_id"], "adopted": done["completed"], "to_version": to_version}
        show(data, as_json=as_json, human=lambda: f"{done['completed']} workflows go on in {to_version}")
        raise typer.Exit(0 if done["completed"] and done["status"] == "SUCCESS" else 1)


def _stranded_table(rows: list[dict[str, Any]]) -> Any:
    columns = ["workflows", "status", "where and why", "way out"]
    cells = [[r["workflows"], r["status"], describe(r), WAY_OUT[r["reason"]]] for r in rows]
    return table("stranded work" if rows else "nothing is stranded", columns, cells)


def _elsewhere(*words: str, as_json: bool) -> None:
    """Runs the command in the api container and exits with its code, if only that reaches the database."""
    if not here().reaches_database:
        done = here().run(*words, *(["--json"] if as_json else []))
        sys.stdout.write(visible_lines(done.stdout))
        sys.stderr.write(visible_lines(done.stderr))
        raise typer.Exit(done.returncode)
