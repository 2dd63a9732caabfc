"""Names of users' applications, and of their database roles."""

from __future__ import annotations

import re

from holdfast.installations.native_error import NativeError

_NAME = re.compile(r"[a-z][a-z0-9_-]{2,49}")
_TAKEN = re.compile(r"(dbos|ops|public|information_schema|pg_.*|holdfast.*)$")


class ApplicationError(NativeError):
    """An application cannot be added or removed. The message is one sentence."""


def role_of(name: str) -> str:
    """Returns the login role of an application. The policies read the application from it."""
    return f"holdfast_app_{name}"


def check_name(name: str) -> None:
    """Raises `ApplicationError` for a name that DBOS or PostgreSQL would refuse, or that is taken."""
    if not _NAME.fullmatch(name):
        raise ApplicationError(
            f"{name!r} cannot be an application's name: 3 to 50 lower-case letters, digits, - and _, and a "
            "letter first. It is the `name` in the configuration of the application's DBOS."
        )
    if _TAKEN.match(name):
        raise ApplicationError(f"The name {name} is reserved. Choose another one.")


def names_in(text: str) -> list[str]:
    """Returns the names in a list with commas. Raises `ApplicationError` for one that cannot be a name."""
    names = [name for part in text.split(",") if (name := part.strip())]
    for name in names:
        check_name(name)
    return names
