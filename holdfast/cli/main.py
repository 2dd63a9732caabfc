"""``holdfast``: the command line. Every command has ``--json`` and exits with 0 only on success."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.attached import run as attached_run
from holdfast.cli import (
    applications,
    backup,
    checks,
    extensions,
    messages,
    migrate,
    operations,
    retention,
    watch,
    work,
    workflows,
)
from holdfast.cli.shown import JsonOption, plain_errors, show
from holdfast.installations.detection import admin_token, here, url
from holdfast.installations.embedded import ROOT
from holdfast.installations.installation import NothingRunsError
from holdfast.visible import visible

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Durable work that survives its processes. Talks to the API over HTTP (--url or HOLDFAST_URL), "
        "for which it needs the packages of its extra `stack`. "
        "verify, handovers, stranded and adopt need the database: inside a container they find it by the "
        "environment, beside a native stack by .holdfast/native.json (another directory: HOLDFAST_HOME), and "
        "beside a Compose project they run in its api container. backup and restore run PostgreSQL's own "
        "programs beside its server."
    ),
)

COMMANDS: list[Callable[..., None]] = [
    *(work.start, watch.watch, work.executors, work.drain, work.crash),
    *(workflows.fork, workflows.reopen),
    *(operations.cancel, operations.resume, operations.delete, operations.operations),
    *(messages.send, messages.events, messages.stream),
    *(checks.verify, checks.handovers, checks.stranded, checks.adopt, retention.purge),
    *(backup.backup, backup.restore, migrate.migrate),
]
for command in COMMANDS:
    app.command()(command)
app.add_typer(applications.app, name="app")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", is_eager=True, callback=_print_version, help="print the version and end"
        ),
    ] = False,
) -> None:
    """Only options; each command has its own help."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """Run a command with Holdfast attached to its DBOS application: [--require] -- COMMAND [ARGUMENT…]."""
    raise typer.Exit(attached_run.main(context.args))


@app.command()
def up(as_json: JsonOption = False) -> None:
    """Start everything, as `make up`: in containers, or else as plain processes."""
    with plain_errors():
        _make("up", quiet=as_json)
        data = {"backend": here().backend, "url": url()}
        show(data, as_json=as_json, human=lambda: None)


@app.command()
def down(as_json: JsonOption = False) -> None:
    """End what `up` started; the data stays."""
    with plain_errors():
        _make("down", quiet=as_json)
        show({"status": "down"}, as_json=as_json, human=lambda: None)


@app.command()
def token(as_json: JsonOption = False) -> None:
    """Print the admin token, which control operations need as `Authorization: Bearer ...`."""
    with plain_errors():
        found = admin_token()
        if not found:
            raise NothingRunsError(
                "no admin token is known here: `holdfast up`, or HOLDFAST_ADMIN_TOKEN_FILE"
            )
        show({"token": found}, as_json=as_json, human=lambda: print(visible(found)))


for command in extensions.commands():
    app.command()(command)


def _make(target: str, *, quiet: bool) -> None:
    if not (ROOT / "Makefile").exists():
        raise NothingRunsError("there is no Makefile here: start and end Holdfast from its checkout")
    output = subprocess.DEVNULL if quiet else None
    done = subprocess.run(["make", "--no-print-directory", target], cwd=ROOT, stdout=output, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def main() -> None:
    """The entry point of ``python -m holdfast.cli.main``."""
    app(prog_name="holdfast")


if __name__ == "__main__":
    main()
