"""Who may do what: control calls need the admin token; reading and starting work need none.

With HOLDFAST_REQUIRE_TOKEN=true every call needs it, but for the probes, the figures for Prometheus and the
page's own files, which hold nothing of this installation. The token lies in a file and is read at every use,
so that replacing the file rotates it. It is never logged, and no answer holds it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.api.context import process_of
from holdfast.api.problems import documented, problem, refused, request_id_of
from holdfast.errors import AdminTokenUnset, AdminTokenUnusable, HoldfastError, WrongAdminToken
from holdfast.probe_paths import PROBE_PATHS
from holdfast.settings import Settings

log = logging.getLogger("holdfast.api")

REFUSALS: dict[int | str, dict[str, Any]] = documented(401, 403)
"""What a control call can answer besides its own."""

_ASK = "This call needs the admin token: send `Authorization: Bearer <token>`. `holdfast token` prints it."
_CHALLENGE = {"WWW-Authenticate": "Bearer"}

# Only for the OpenAPI document: what a request carries is looked at by `_require` alone.
_scheme = HTTPBearer(auto_error=False, description="the admin token, printed by `holdfast token`")

# Prometheus reads /metrics without a token: its own would have to be this one, with which it could do
# anything. There are counts and names of workflows in it, no id, no payload.
OPEN = re.compile("|".join(PROBE_PATHS) + r"|/|/static/[^/]+|/docs|/console/workflows/[^/]+")
"""Addresses that never need the token: probes, figures, and the page's own files under each of its names."""


class _NoTokenError(Exception):
    """The request carries none."""


async def controlled(request: Request, _: Annotated[Any, Depends(_scheme)]) -> None:
    """A dependency of control calls.

    Answers 401 without a token. Raises ``WrongAdminToken``, ``AdminTokenUnset`` when no file is configured,
    ``AdminTokenUnusable`` when the configured one holds none.
    """
    try:
        _require(process_of(request).settings, request.scope)
    except _NoTokenError:
        raise HTTPException(401, _ASK, _CHALLENGE) from None


CONTROL = [Depends(controlled)]


class TokenForAll:
    """Lets nothing through without the admin token but what is `OPEN`; for HOLDFAST_REQUIRE_TOKEN.

    Stands before routing: a route that somebody adds is closed before anyone thinks of it.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP passes through."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["method"] == "GET" and OPEN.fullmatch(scope["path"]):
            return None
        try:
            _require(self.settings, scope)
        except _NoTokenError:
            return problem(scope, 401, detail=_ASK, headers=_CHALLENGE)
        except HoldfastError as error:
            return refused(scope, error)
        return None


def _require(settings: Settings, scope: Scope) -> None:
    if settings.admin_token_file is None:
        raise AdminTokenUnset
    kind, _, sent = Headers(scope=scope).get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not sent.strip():
        raise _NoTokenError
    wanted = read_token(settings.admin_token_file)
    if not wanted:
        raise AdminTokenUnusable
    if not hmac.compare_digest(_digest(sent.strip()), _digest(wanted)):
        log.warning(
            "refused: wrong admin token",
            extra={"action": "control.refused", "request_id": request_id_of(scope)},
        )
        raise WrongAdminToken


def read_token(file: Path) -> str:
    """The token in a file; empty when there is none, or when the file cannot be read."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _digest(token: str) -> bytes:
    # Of equal length whatever was sent: comparing takes as long for every guess.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
