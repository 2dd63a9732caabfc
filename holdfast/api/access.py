"""Access control: control calls need the admin token; calls that read or start work do not.

With HOLDFAST_REQUIRE_TOKEN=true every call needs the token, except the probes, the metrics and the page's own
files, which contain no data of this installation. The token is stored in a file that is read at every use, so
a replaced file rotates the token. The token is never logged and never part of an answer.
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
"""Additional responses of every control call, for the OpenAPI document."""

_ASK = "This call needs the admin token: send `Authorization: Bearer <token>`. `holdfast token` prints it."
_CHALLENGE = {"WWW-Authenticate": "Bearer"}

# Only for the OpenAPI document: `_require` alone checks the request's token.
_scheme = HTTPBearer(auto_error=False, description="the admin token, printed by `holdfast token`")

# Prometheus reads /metrics without a token: there is only the admin token, which would permit everything.
# /metrics contains counts and names of workflows, but no id and no payload.
OPEN = re.compile("|".join(PROBE_PATHS) + r"|/|/static/[^/]+|/docs|/console/workflows/[^/]+")
"""Paths that never need the token: probes, metrics, and the page's own files under each of their names."""


class _NoTokenError(Exception):
    """The request carries no token."""


async def controlled(request: Request, _: Annotated[Any, Depends(_scheme)]) -> None:
    """FastAPI dependency of control calls.

    Answers 401 if the request has no token. Raises ``WrongAdminToken`` for a wrong one, ``AdminTokenUnset``
    if no file is configured, and ``AdminTokenUnusable`` if the configured file holds no token.
    """
    try:
        _require(process_of(request).settings, request.scope)
    except _NoTokenError:
        raise HTTPException(401, _ASK, _CHALLENGE) from None


CONTROL = [Depends(controlled)]


class TokenForAll:
    """Middleware for HOLDFAST_REQUIRE_TOKEN: rejects requests without the token, except to `OPEN` paths.

    It runs before routing, so that new routes are protected by default.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Passes everything except HTTP through."""
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
    expected = read_token(settings.admin_token_file)
    if not expected:
        raise AdminTokenUnusable
    if not hmac.compare_digest(_digest(sent.strip()), _digest(expected)):
        log.warning(
            "refused: wrong admin token",
            extra={"action": "control.refused", "request_id": request_id_of(scope)},
        )
        raise WrongAdminToken


def read_token(file: Path) -> str:
    """Reads the token from a file. Returns an empty text if the file has none or cannot be read."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _digest(token: str) -> bytes:
    # Digests have equal length, so the comparison takes the same time for every guess.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
