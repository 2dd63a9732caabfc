"""``holdfast app``: applications of users that this machine's stack protects."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.shown import JsonOption, plain_errors, show, table
from holdfast.installations import applications
from holdfast.installations.compose_application import write_compose_file
from holdfast.installations.compose_installation import ComposeInstallation, runs
from holdfast.installations.detection import tools_here
from holdfast.installations.installation import NothingRunsError
from holdfast.installations.postgres_tools import PostgresTools
from holdfast.visible import visible_lines

app = typer.Typer(no_args_is_help=True, help="User-defined applications that this stack protects.")

NameArgument = Annotated[
    str, typer.Argument(help="the `name` in the configuration of the application's DBOS")
]


@app.command()
def add(  # noqa: PLR0917 - typer's options
    name: NameArgument,
    compose: Annotated[
        bool, typer.Option("--compose", metavar="", help="write a Compose file that runs it beside the stack")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--file", help="name of that file [default: compose.NAME.yaml]")
    ] = None,
    command: Annotated[str, typer.Option(help="the application's command in that file")] = "python main.py",
    rotate: Annotated[bool, typer.Option("--rotate", metavar="", help="make a new password")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give an application a role and a place in the stack's database, and print its URL. Repeatable.

    The URL contains the password. It works on this machine beside a native stack, and in containers of the
    network `database` beside Compose.
    """
    with plain_errors():
        tools = _tools(compose=compose)
        done = applications.add_application(tools, name, rotate=rotate)
        data: dict[str, Any] = dataclasses.asdict(done)
        if compose:
            path = file or Path(f"compose.{name}.yaml")
            data |= write_compose_file(path, done, command=command)
        show(data, as_json=as_json, human=lambda: print(visible_lines(_added(data))))


@app.command()
def remove(
    name: NameArgument,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="also with live executors or unfinished work")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """End an application's access. Its workflows and its own tables stay; `add` lets it in again."""
    with plain_errors():
        row = applications.remove_application(tools_here(), name, force=force)
        human = (
            f"{name} has no access any more. Its workflows stay until retention deletes them, and so do the "
            f"tables in the schema {name}. `holdfast app add {name}` lets it in again."
        )
        show({**row, "removed": True}, as_json=as_json, human=lambda: human)


@app.command("list")
def list_all(as_json: JsonOption = False) -> None:
    """Show the stack's applications and those of users, with live executors and unfinished work."""
    with plain_errors():
        rows = applications.applications(tools_here())
        shown = [
            "application",
            "kind",
            "live_executors",
            "unfinished_workflows",
            "attached_at",
            "dbos_version",
        ]
        show(
            {"applications": rows},
            as_json=as_json,
            human=lambda: table(
                "applications",
                [column.replace("_", " ") for column in shown],
                [[row[column] for column in shown] for row in rows],
            ),
        )


def _tools(*, compose: bool) -> PostgresTools:
    if not compose:
        return tools_here()
    if not runs("postgres"):
        raise NothingRunsError("--compose needs the Compose project: `docker compose up --wait` starts it.")
    return ComposeInstallation().postgres_tools()


def _added(data: dict[str, Any]) -> str:
    lines = [data["database_url"]]
    if "compose_file" in data:
        lines.append(f"docker compose -f {data['compose_file']} up --build --wait {data['application']}")
    return "\n".join(lines)
