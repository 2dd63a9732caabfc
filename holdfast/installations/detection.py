"""Which installation runs here: this container's own, the native stack's, or the Compose project's."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from holdfast.installations import compose_installation, native_installation
from holdfast.installations.compose_installation import ComposeInstallation, published_url
from holdfast.installations.installation import (
    Installation,
    Member,
    NothingRunsError,
    settings_of_environment,
)
from holdfast.installations.native_installation import NativeInstallation, native_home
from holdfast.installations.postgres_tools import PostgresTools
from holdfast.origin import is_loopback
from holdfast.settings import Settings


class InsideContainer(Installation):
    """Seen from inside a container: its environment names the database; other processes are out of reach."""

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
    """What runs here, for the life of this process. Raises `NothingRunsError`."""
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
    """The native stack, if it runs."""
    state = native_installation.native_state()
    return NativeInstallation(state) if state else None


def url() -> str:
    """The API's address: ``HOLDFAST_URL``, else the native stack's, else where Compose publishes it."""
    if "HOLDFAST_URL" in os.environ:
        return os.environ["HOLDFAST_URL"]
    native = running_native()
    return native.url if native else published_url()


def admin_token(address: str | None = None) -> str | None:
    """The token that orders need: of ``HOLDFAST_ADMIN_TOKEN_FILE``, else of what runs here; None if unknown.

    What runs here is asked only for an ``address`` on this machine, or its own: nobody else is to get
    its token.
    Raises ``OSError`` when the named file cannot be read.
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
    """PostgreSQL's programs, also where PostgreSQL alone runs. Raises `NothingRunsError`."""
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
