"""The console: its page, the figures behind it, and a workflow's family."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from holdfast.api.console_stream import events
from holdfast.api.context import RETRY_SECONDS, Permits, accepting, process_of
from holdfast.api.models import WorkflowId
from holdfast.api.problems import documented
from holdfast.api.sse import BoundedStream
from holdfast.console.reader import Reader
from holdfast.console.tree import read_tree

router = APIRouter(tags=["console"])

SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
}
# Swagger UI sets styles in its markup, and its style sheet has pictures in it.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Asked again each time, answered with 304: a new release is seen at the next load.
    "Cache-Control": "no-cache",
}


@router.get("/console/snapshot", responses=documented(500))
async def show_snapshot(request: Request) -> Response:
    """Everything that the console shows, as of now; with PostgreSQL away, the last known figures."""
    reader: Reader = request.app.state.reader
    await reader.refresh()
    return Response(
        reader.snapshot()[1], media_type="application/json", headers={"Cache-Control": "no-store"}
    )


@router.get(
    "/console/events",
    dependencies=[Depends(accepting)],
    response_class=Response,
    responses={
        200: {"description": "server-sent events", "content": {"text/event-stream": {}}},
        **documented(422, 500, 503),
    },
)
async def follow_console(
    request: Request, last_event_id: Annotated[str | None, Header(max_length=100)] = None
) -> Response:
    """The same as server-sent events: `snapshot`, then `change`s, until this process drains.

    Reconnecting with `Last-Event-ID` goes on without a snapshot where the changes since are still known.
    """
    permits: Permits = request.app.state.console_permits
    if not permits.acquire():
        raise HTTPException(
            503,
            f"{permits.limit} pages are open, and more are not served. Close one or try again.",
            {"Retry-After": str(RETRY_SECONDS)},
        )
    reader: Reader = request.app.state.reader
    try:
        await reader.join()
    except BaseException:
        permits.release()
        raise

    def leave() -> None:
        reader.leave()
        permits.release()

    process = process_of(request)
    return BoundedStream(process, events(process, reader, last_event_id), leave)


@router.get("/console/workflows/{workflow_id}/tree", responses=documented(404, 422, 500, 503))
async def show_tree(request: Request, workflow_id: WorkflowId) -> dict[str, Any]:
    """A workflow's family from its root down (at most 500), its attempts, and what may be done with it."""
    process = process_of(request)
    return await read_tree(process.gateway.ops, workflow_id, process.settings.application_names)


@router.get("/", include_in_schema=False)
@router.get("/console/workflows/{workflow_id}", include_in_schema=False)
async def show_page(request: Request) -> Response:
    """The page; which workflow it shows, it finds in its own address."""
    return _file(request, "index.html")


@router.get("/docs", include_in_schema=False)
async def show_docs(request: Request) -> Response:
    """Every call, from the schema, with Swagger UI."""
    answer = _file(request, "docs.html")
    answer.headers["Content-Security-Policy"] = DOCS_POLICY
    return answer


@router.get("/static/{file}", include_in_schema=False)
async def show_file(request: Request, file: str) -> Response:
    """One of the page's own files."""
    return _file(request, file)


def _file(request: Request, name: str) -> Response:
    if name not in _files():
        raise HTTPException(404)
    content, tag = _files()[name]
    headers = {**PAGE_HEADERS, "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers={**headers, "Content-Type": CONTENT_TYPES[name.rpartition(".")[2]]})


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Content and tag of each file of the page, read once: no path from outside reaches the file system."""
    found = {}
    ours = resources.files("holdfast.console").joinpath("static")
    swagger = resources.files("fastapi_offline").joinpath("static")
    for file in (*ours.iterdir(), *(swagger.joinpath(name) for name in SWAGGER_FILES)):
        if file.name.rpartition(".")[2] in CONTENT_TYPES:
            content = file.read_bytes()
            found[file.name] = content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return found
