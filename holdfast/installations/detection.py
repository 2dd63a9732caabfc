"""Detects the installation that runs here: inside its container, a native stack, or a Compose project."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from holdfast.installations import compose_installation, native_installation
from holdfast.installations.compose_installation import ComposeInstallation, published_url
from holdfast.installations.embedded import native_home
from holdfast.installations.installation import (
    Installation,
    Member,
    NothingRunsError,
    settings_of_environment,
)
from holdfast.installations.native_installation import NativeInstallation
from holdfast.installations.postgres_tools import PostgresTools
from holdfast.origin import is_loopback
from holdfast.settings import Settings


class InsideContainer(Installation):
    """Inside a container: the environment names the database, and other processes are out of reach."""

    backend = "here"

    @property
    def url(self) -> str:
        return published_url()

    def token(self) -> str | None:
        return None

    def settings(self) -> Settings:
        return settings_of_environment()

    def postgres_tools(self) -> PostgresTools:
        raise NothingRunsError(
            "there are no PostgreSQL programs here: run it on the machine that Holdfast runs on, "
            "not inside a container"
        )

    def _names(self, rows: list[dict[str, Any]]) -> dict[str, str]:  # noqa: ARG002
        self._not_here()

    def kill(self, member: Member) -> None:  # noqa: ARG002
        self._not_here()

    pause = resume = revive = kill

    @staticmethod
    def _not_here() -> NoReturn:
        raise NothingRunsError("run this on the machine that Holdfast runs on, not inside a container")


@cache
def here() -> Installation:
    """Returns the installation that runs here. Cached for the process's life. Raises `NothingRunsError`."""
    if _inside_container():
        return InsideContainer()
    if native := running_native():
        return native
    if compose_installation.runs("api"):
        return ComposeInstallation()
    raise NothingRunsError(
        f"Holdfast does not run here: no native stack in {native_home()}, no Compose project with a running "
        "api, no HOLDFAST_DATABASE_PASSFILE. `holdfast up` starts it."
    )


def running_native() -> NativeInstallation | None:
    """Returns the native stack if it runs."""
    state = native_installation.native_state()
    return NativeInstallation(state) if state else None


def url() -> str:
    """Returns the API's address: ``HOLDFAST_URL``, else the native stack's, else Compose's published one."""
    if "HOLDFAST_URL" in os.environ:
        return os.environ["HOLDFAST_URL"]
    native = running_native()
    return native.url if native else published_url()


def admin_token(address: str | None = None) -> str | None:
    """Returns the admin token, which control operations need; None if unknown.

    ``HOLDFAST_ADMIN_TOKEN_FILE`` takes precedence over the local installation. The local installation's token
    is used only if ``address`` is its own or on this machine, so that no other server receives it. Raises
    ``OSError`` if the named file cannot be read.
    """
    if named := os.environ.get("HOLDFAST_ADMIN_TOKEN_FILE"):
        return Path(named).read_text("ascii").strip()
    native = running_native()
    own = (None, native.url if native else None, published_url())
    if address not in own and not is_loopback(urlsplit(address).hostname or ""):
        return None
    try:
        return (native or here()).token()
    except NothingRunsError:
        return None


def tools_here() -> PostgresTools:
    """Returns PostgreSQL's programs, even if only PostgreSQL runs. Raises `NothingRunsError`."""
    if native := running_native():
        return native.postgres_tools()
    if compose_installation.runs("postgres"):
        return ComposeInstallation().postgres_tools()
    if _inside_container():
        return InsideContainer().postgres_tools()
    raise NothingRunsError(
        f"PostgreSQL does not run here: no native stack in {native_home()}, no Compose project with a "
        "running postgres. `holdfast up` starts it."
    )


def _inside_container() -> bool:
    return bool(os.environ.get("HOLDFAST_DATABASE_PASSFILE"))
