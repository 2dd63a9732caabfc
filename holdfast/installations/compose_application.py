"""The Compose file that runs a user's application beside Holdfast's Compose project."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from holdfast.installations.applications import Added, ApplicationError
from holdfast.installations.embedded import ROOT

PORT = 9464
"""The port of an attached application's metrics and probes. Prometheus finds it by the network's alias."""

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
    build: .
    command: {command}
    # DBOS_SYSTEM_DATABASE_URL, with the application's own role and password.
    env_file: [{env_file}]
    environment:
      HOLDFAST_PORT: {port}
      # As the stack's own processes: set in the shell or in the .env beside Holdfast's compose.yaml.
      HOLDFAST_HEARTBEAT_SECONDS:
      HOLDFAST_LEASE_SECONDS:
      HOLDFAST_SWEEP_SECONDS:
      HOLDFAST_SECOND_LOOK_SECONDS:
      HOLDFAST_CRASH_LIMIT:
      HOLDFAST_CLOCK_TOLERANCE_SECONDS:
      HOLDFAST_DRAIN_SECONDS:
      HOLDFAST_STOP_GRACE_SECONDS:
    init: true
    restart: unless-stopped
    stop_grace_period: ${{HOLDFAST_STOP_GRACE_SECONDS:-30}}s
    networks:
      # PostgreSQL. Nothing leads out of it.
      database:
      # Prometheus reads the metrics of every service with this alias.
      metrics: {{aliases: [holdfast-applications]}}
      # A way out, and for published ports.
      front:
    depends_on:
      postgres: {{condition: service_healthy}}
      migrate: {{condition: service_completed_successfully}}
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
        command=json.dumps(["holdfast", "run", "--", *shlex.split(command)]),
        env_file=json.dumps(os.path.relpath(application.env_file, path.parent)),
        port=PORT,
    )
    application.write_env_file()
    if not path.exists():
        path.write_text(text, "utf-8")
    elif path.read_text("utf-8") != text:
        raise ApplicationError(
            f"{path} is there already and has other contents. It was not changed; --file writes another one."
        )
    return {"compose_file": str(path), "env_file": str(application.env_file)}
