"""What runs here, and how the CLI reaches it: the API over HTTP, the database where that is needed.

The database is reached from inside a container by its environment, and on the host of a native stack by
what ``native.json`` tells. On the host of a Compose project nothing outside reaches it; there the same
command runs inside the ``api`` container on the user's behalf.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values

from holdfast.installations.embedded import ROOT
from holdfast.installations.state_file import read_state
from holdfast.installations.supervised import is_alive
from holdfast.origin import is_loopback
from holdfast.settings import Settings

Kind = Literal["here", "native", "compose"]


class NothingRunsError(Exception):
    """Neither the environment, nor a native stack, nor a Compose project says where the database is."""


def native_home() -> Path:
    """Directory of the native stack: ``HOLDFAST_HOME``, else ``.holdfast`` of the checkout."""
    return Path(os.environ.get("HOLDFAST_HOME") or ROOT / ".holdfast")


def native_state() -> dict[str, Any]:
    """``native.json`` of the stack that runs; empty when none does."""
    state = read_state(native_home())
    return state if state and is_alive(int(state["pid"]), state.get("started")) else {}


def compose(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs ``docker compose`` for the checkout's project; the caller looks at the exit code."""
    options = {"capture_output": True, "text": True, **options}
    return subprocess.run(["docker", "compose", *arguments], cwd=ROOT, check=False, **options)


@cache
def kind() -> Kind:
    """Which of the three this is. Raises `NothingRunsError`."""
    if os.environ.get("HOLDFAST_DATABASE_PASSFILE"):
        return "here"
    if native_state():
        return "native"
    try:
        if compose("ps", "--quiet", "--status", "running", "api", timeout=20).stdout.strip():
            return "compose"
    except (OSError, subprocess.TimeoutExpired):
        pass
    raise NothingRunsError(
        f"Holdfast does not run here: no native stack in {native_home()}, no Compose project with a running "
        "api, no HOLDFAST_DATABASE_PASSFILE. `holdfast up` starts it."
    )


def url() -> str:
    """The API's address: ``HOLDFAST_URL``, else the native stack's, else where Compose publishes it."""
    if "HOLDFAST_URL" in os.environ:
        return os.environ["HOLDFAST_URL"]
    if state := native_state():
        return str(state["api_url"])
    return _published()


def _published() -> str:
    # As Compose does: .env fills in what the shell does not say.
    said = {**dotenv_values(ROOT / ".env"), **os.environ}
    address, port = said.get("HOLDFAST_PUBLISH_ADDRESS"), said.get("HOLDFAST_API_PORT")
    here = "HOLDFAST_DATABASE_PASSFILE" in os.environ  # beside it: what is published is outside
    if here or not address or address.strip("[]") in ("0.0.0.0", "::"):  # noqa: S104
        address = "127.0.0.1"
    return f"http://{address}:{port or 8000}"


def admin_token(address: str | None = None) -> str | None:
    """The token that orders need: of ``HOLDFAST_ADMIN_TOKEN_FILE``, else of what runs here; None if unknown.

    What runs here is asked only for an ``address`` on this machine, or its own: nobody else is to get
    its token.
    Raises ``OSError`` when the named file cannot be read.
    """
    if named := os.environ.get("HOLDFAST_ADMIN_TOKEN_FILE"):
        return Path(named).read_text("ascii").strip()
    state = native_state()
    if address not in (None, state.get("api_url"), _published()) and not is_loopback(
        urlsplit(address).hostname or ""
    ):
        return None
    if state:
        return Path(state["admin_token_file"]).read_text("ascii").strip()
    try:
        done = inside("token") if kind() == "compose" else None
    except NothingRunsError:
        return None
    return done.stdout.strip() if done is not None and done.returncode == 0 else None


def settings() -> Settings:
    """Settings that reach the database: of this environment, or of the native stack."""
    if kind() == "native":
        os.environ.update(native_environment(native_state()))
    config = Path(os.environ.get("HOLDFAST_CONFIG_FILE", "dbos-config.yaml"))
    return Settings(config_file=config if config.exists() else ROOT / "dbos-config.yaml")


def native_environment(state: dict[str, Any]) -> dict[str, str]:
    """The variables by which a process reaches the database of a native stack, as its API does."""
    return {
        "HOLDFAST_DATABASE_HOST": "127.0.0.1",
        "HOLDFAST_DATABASE_PORT": str(state["postgres"]["port"]),
        "HOLDFAST_DATABASE_NAME": str(state["postgres"]["database"]),
        "HOLDFAST_DATABASE_USER": "holdfast_api",
        "HOLDFAST_DATABASE_PASSFILE": str(state["passfiles"]["api"]),
    }


def inside(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs ``holdfast …`` inside the project's ``api`` container."""
    given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return compose("exec", "-T", "api", "holdfast", *arguments, **given)


def inside_json(*arguments: str, stdin: str | None = None) -> Any:
    """The JSON that ``holdfast … --json`` prints inside the ``api`` container.

    Raises `NothingRunsError` when it printed none.
    """
    done = inside(*arguments, "--json", stdin=stdin)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise NothingRunsError(done.stderr.strip() or done.stdout.strip() or "no answer") from None


def pass_on(done: subprocess.CompletedProcess[str]) -> int:
    """Shows what a command inside a container printed; its exit code."""
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode
