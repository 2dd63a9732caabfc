"""``holdfast.attach()``: checks that the installed DBOS is one that Holdfast knows, then attaches.

This module imports nothing that a missing or foreign DBOS would break.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import metadata

from holdfast.errors import NotProtected

log = logging.getLogger("holdfast.attached")

_FALSE = ("0", "false", "no", "off", "n", "f")  # as pydantic reads them
_MAJOR = "3"
_FIRST_MINOR = 2
"""Older versions let a process write about a workflow that another one owns by now."""


def attach(*, required: bool | None = None) -> None:
    """Protects the DBOS application that this process launches afterwards. Call before ``DBOS.launch()``.

    Takes ``HOLDFAST_*`` from the environment, and the database, schema, name and version from the
    application's own DBOS configuration. Where the application cannot be protected, it launches without
    protection and one warning is logged. With ``required`` (default: ``HOLDFAST_REQUIRED``),
    `holdfast.errors.NotProtected` is raised instead. This call raises it if DBOS is missing, has an
    unsupported version or is launched already. The launch raises it if a setting is wrong, if the database is
    not prepared or cannot be reached, or if the application uses SQLite or DBOS Conductor. Idempotent.
    """
    if reason := _unsuitable_dbos():
        refuse(reason, required=required)
        return
    try:
        from holdfast.attached.attachment import ATTACHMENT
    except ImportError as error:
        refuse(f"its DBOS {metadata.version('dbos')} cannot be used: {error}", required=required)
        return
    ATTACHMENT.attach(required=required)


def refuse(reason: str, *, required: bool | None) -> None:
    """Warns that the application runs without protection. Raises `NotProtected` if protection is demanded."""
    if required or (required is None and is_required()):
        raise NotProtected(f"Holdfast does not protect this application: {reason}")
    log.warning(
        "Holdfast does not protect this application, which runs as without it: %s",
        reason,
        extra={"action": "attach.refused"},
    )


def is_required() -> bool:
    """Reads HOLDFAST_REQUIRED, also where another setting is wrong. A value of neither kind means yes."""
    return os.environ.get("HOLDFAST_REQUIRED", "").strip().lower() not in ("", *_FALSE)


def _unsuitable_dbos() -> str | None:
    try:
        version = metadata.version("dbos")
    except metadata.PackageNotFoundError:
        return f"DBOS is not installed in its Python ({sys.executable}): pip install dbos"
    major, minor = version.split(".")[:2]
    if major != _MAJOR:
        return f"its DBOS is {version}, and Holdfast supports DBOS 3 from 3.2 on (tested to 3.4)"
    if int(minor) < _FIRST_MINOR:
        return (
            f"its DBOS {version} accepts what a process writes after its work was taken over: "
            "upgrade to DBOS 3.2 or newer"
        )
    return None
