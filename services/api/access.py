"""Who may give orders: control calls need the admin token, reading and starting work need none.

The token lies in a file and is read at every use, so that replacing the file rotates it. It is never logged,
and no answer holds it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from services.api.context import process_of
from services.api.problems import documented, request_id_of
from services.domain.errors import AdminTokenUnset, AdminTokenUnusable, WrongAdminToken

log = logging.getLogger("holdfast.api")

REFUSALS: dict[int | str, dict[str, Any]] = documented(401, 403)
"""What a control call can answer besides its own."""

_ASK = "This call needs the admin token: send `Authorization: Bearer <token>`. `holdfast token` prints it."
_scheme = HTTPBearer(auto_error=False, description="the admin token, printed by `holdfast token`")


async def controlled(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_scheme)]
) -> None:
    """A dependency of control calls.

    Answers 401 without a token. Raises ``WrongAdminToken``, ``AdminTokenUnset`` when no file is configured,
    ``AdminTokenUnusable`` when the configured one holds none.
    """
    file = process_of(request).settings.admin_token_file
    if file is None:
        raise AdminTokenUnset
    if credentials is None:
        raise HTTPException(401, _ASK, {"WWW-Authenticate": "Bearer"})
    wanted = read_token(file)
    if not wanted:
        raise AdminTokenUnusable
    if not hmac.compare_digest(_digest(credentials.credentials), _digest(wanted)):
        log.warning(
            "refused: wrong admin token",
            extra={"action": "control.refused", "request_id": request_id_of(request.scope)},
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


CONTROL = [Depends(controlled)]
