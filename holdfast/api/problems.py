"""Errors as RFC 9457 problem documents. The table `STATUS_OF` maps each error class to its HTTP status."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import psycopg
import psycopg2
import sqlalchemy as sa
from dbos import error as dbos_error
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from holdfast import errors
from holdfast.api.paths import restored
from holdfast.postgres.outage import is_outage, unavailable

logger = logging.getLogger("holdfast.api")

MEDIA_TYPE = "application/problem+json"
ERRORS_SHOWN = 20
TEXT_SHOWN = 200

# A subclass that is not listed has the status of its nearest listed ancestor.
STATUS_OF: dict[type[errors.HoldfastError], int] = {
    errors.InvalidRequest: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NotAllowed: 403,
    errors.Unavailable: 503,
    errors.HoldfastError: 500,
}

DETAIL_OF: dict[int, str] = {
    400: "The request could not be read. Send a JSON object in UTF-8.",
    404: "There is nothing at this address. GET /docs lists what exists.",
    405: "This address does not take this method. The Allow header lists those it takes.",
    408: "The request body came too slowly. Send it again.",
    500: "Holdfast failed to answer. Its log has the cause under this request_id.",
}


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(description="path of the wrong field, empty for the request as a whole")
    message: str = Field(description="what is wrong with it")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="a name for this kind of problem; it does not resolve")
    title: str = Field(description="short summary of the kind")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what happened and what to do")
    instance: str = Field(description="the path that was asked for")
    request_id: str | None = Field(default=None, description="finds this request in the logs")
    field: str | None = Field(default=None, description="the first wrong field, when the input is at fault")
    errors: list[FieldError] | None = Field(
        default=None, description=f"the first {ERRORS_SHOWN} things wrong"
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns OpenAPI's ``responses`` for the problems that a route can return."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def problem(
    scope: Scope,
    status: int,
    *,
    detail: str | None = None,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """Builds a problem document as a response. `kind` (kebab-case) defaults to the status's phrase."""
    title = HTTPStatus(status).phrase
    body = {
        "type": f"urn:holdfast:problem:{kind or title.lower().replace(' ', '-')}",
        "title": title,
        "status": status,
        "detail": detail or DETAIL_OF.get(status) or f"{title}.",
        "instance": short_text(restored(scope.get("path", ""))),
        "request_id": request_id_of(scope),
        **members,
    }
    content = json.dumps({name: value for name, value in body.items() if value is not None})
    return Response(content, status, headers=headers, media_type=MEDIA_TYPE)


def request_id_of(scope: Scope) -> str | None:
    """Returns the id that the middleware gave this request."""
    request_id = scope.get("state", {}).get("request_id")
    return None if request_id is None else str(request_id)


def short_text(text: str) -> str:
    """Shortens a client's text and escapes lone surrogates, which UTF-8 cannot encode."""
    return text[:TEXT_SHOWN].encode("utf-8", "backslashreplace").decode("utf-8")


def status_of(kind: type[errors.HoldfastError]) -> int:
    """Returns the HTTP status of an error class: its own in the table, or its nearest ancestor's."""
    return next(STATUS_OF[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS_OF)


def install(app: FastAPI) -> None:
    """Registers handlers that turn every error, also Starlette's own, into a problem document."""
    app.add_exception_handler(errors.HoldfastError, _holdfast_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(dbos_error.DBOSNonExistentWorkflowError, _unknown_workflow)
    app.add_exception_handler(dbos_error.DBOSQueryTimeoutError, _query_timeout)
    for kind in (psycopg2.Error, psycopg.Error, sa.exc.SQLAlchemyError):
        app.add_exception_handler(kind, _database_error)


def failure(scope: Scope, error: BaseException) -> Response:
    """Logs an unexpected error in full and answers 500 with one sentence."""
    logger.error(
        "request failed: %s",
        type(error).__name__,
        exc_info=error,
        extra={"action": "request.failed", "request_id": request_id_of(scope)},
    )
    return problem(scope, 500)


def _holdfast_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.HoldfastError)
    return refused(request.scope, error)


def refused(scope: Scope, error: errors.HoldfastError) -> Response:
    """Turns a `HoldfastError` into its problem document."""
    status = status_of(type(error))
    if status == 500:
        return failure(scope, error)
    retry = error.retry_after_seconds
    field = getattr(error, "field", None)
    return problem(
        scope,
        status,
        kind=_kebab(type(error).__name__),
        detail=error.message,
        headers=None if retry is None else {"Retry-After": str(retry)},
        field=field,
        errors=None if field is None else [{"field": field, "message": error.message}],
    )


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(item["type"] == "json_invalid" for item in details):
        return problem(request.scope, 400, kind="malformed-json", detail="The body is not valid JSON.")
    listed = [{"field": _path(item["loc"]), "message": short_text(str(item["msg"]))} for item in details]
    first = listed[0]
    return problem(
        request.scope,
        422,
        kind="invalid-request",
        detail=f"{first['field'] or 'The request'}: {first['message']}. Correct it and send it again.",
        field=first["field"],
        errors=listed[:ERRORS_SHOWN],
    )


def _path(location: tuple[int | str, ...] | list[int | str]) -> str:
    # The first part is body, query, path or header. It is dropped: the sender knows the name alone.
    return ".".join(short_text(str(part)) for part in location[1:])


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request) or headers.get("Allow", "")
    if error.status_code < 400:
        return Response(status_code=error.status_code, headers=headers)
    plain = str(error.detail)
    has_own_text = plain != HTTPStatus(error.status_code).phrase and error.status_code != 400
    return problem(
        request.scope, error.status_code, detail=short_text(plain) if has_own_text else None, headers=headers
    )


def _allowed(request: Request) -> str:
    """Returns every method of the path. Starlette lists only those of the first route that matches."""
    template = getattr(request.scope.get("route"), "path", None)
    methods = request.app.openapi()["paths"].get(template, {})
    return ", ".join(sorted(method.upper() for method in methods))


def _unknown_workflow(request: Request, _: Exception) -> Response:
    return _holdfast_error(request, errors.UnknownWorkflow())


def _database_error(request: Request, error: Exception) -> Response:
    """Handles driver errors of calls outside `Gateway.call`: an outage answers 503, other errors 500."""
    if isinstance(error, sa.exc.TimeoutError):
        return _holdfast_error(request, errors.DatabaseBusy())
    if is_outage(error):
        return _holdfast_error(request, unavailable(error))
    return failure(request.scope, error)


def _query_timeout(request: Request, _: Exception) -> Response:
    return _holdfast_error(request, errors.StatementTimeout())
