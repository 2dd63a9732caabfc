"""The Compose file that runs a user's application beside Holdfast's Compose project."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from holdfast.installations.application_names import ApplicationError
from holdfast.installations.applications import Added
from holdfast.installations.embedded import ROOT

_TEXT = """\
# Written by `holdfast app add {name} --compose`. It includes Holdfast's project, so one command starts all.
#   docker compose -f {file} up --build --wait
#   docker compose -f {file} up --detach --scale {name}=3
# The image needs Holdfast's wheel (`make wheel` in Holdfast's checkout).
name: holdfast

include:
  - {stack}

services:
  {name}:
    extends: {{file: {template}, service: application}}
    build: .
    command: {command}
    # DBOS_SYSTEM_DATABASE_URL, with the application's own role and password.
    env_file: [{env_file}]
"""


def write_compose_file(path: Path, application: Added, *, command: str) -> dict[str, str]:
    """Writes the Compose file and the file with its environment, and returns the names of both.

    Raises `ApplicationError` if the file exists with other contents.
    """
    path = path.absolute()
    text = _TEXT.format(
        name=application.application,
        file=path.name,
        stack=json.dumps(os.path.relpath(ROOT / "compose.yaml", path.parent)),
        template=json.dumps(os.path.relpath(ROOT / "deploy" / "application.yaml", path.parent)),
        command=json.dumps(["holdfast", "run", "--", *shlex.split(command)]),
        env_file=json.dumps(os.path.relpath(application.env_file, path.parent)),
    )
    application.write_env_file()
    if not path.exists():
        path.write_text(text, "utf-8")
    elif path.read_text("utf-8") != text:
        raise ApplicationError(
            f"{path} is there already and has other contents. It was not changed; --file writes another one."
        )
    return {"compose_file": str(path), "env_file": str(application.env_file)}
