"""The API's HTTP application: routes, rules for every request, errors as problem documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Scope

from holdfast import __version__
from holdfast.api import openapi, problems
from holdfast.api.access import TokenForAll
from holdfast.api.admission import Admission
from holdfast.api.context import Permits
from holdfast.api.feature import Feature
from holdfast.api.middleware import RequestBody, RequestContext
from holdfast.api.paths import EncodedPath
from holdfast.api.rate import RateLimit
from holdfast.api.routes import (
    console,
    deleting,
    executors,
    messages,
    operations,
    reopening,
    retention,
    schedule,
    stranded,
    user_workflows,
    workflows,
)
from holdfast.console.reader import Reader
from holdfast.observability import metrics, tracing
from holdfast.process import probes
from holdfast.process.http_guard import Guard
from holdfast.rate import Buckets
from holdfast.settings import Settings

if TYPE_CHECKING:
    from holdfast.process.process import Process

WAITER_LIMIT = 100
PAGE_LIMIT = 100


def create_app(process: Process, features: Sequence[Feature] = ()) -> FastAPI:
    """The application for `process`, whose life is its lifespan, with the routes of `features`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with process.life():
            yield

    app = FastAPI(
        title="Holdfast",
        version=__version__,
        description="Durable workflows with takeover between peers. Errors are RFC 9457 problem documents.",
        lifespan=lifespan,
        telemetry=tracing.fastapi_options(),
        redirect_slashes=False,
        # FastAPI's own pages run scripts from a CDN, which could read this tab's token.
        docs_url=None,
        redoc_url=None,
    )
    app.state.process = process
    app.state.waiters = Permits(WAITER_LIMIT)
    app.state.console_permits = Permits(PAGE_LIMIT)
    app.state.admission = Admission(process.gateway.ops, process.settings.queue_limit)
    app.state.reader = Reader(
        process.gateway.ops,
        _fixed(process),
        lease_seconds=process.settings.lease_seconds,
        pulse=next((feature.pulse for feature in features if feature.pulse is not None), None),
    )
    problems.install(app)
    openapi.install(app, features)
    _protect(app, process.settings)
    for feature in features:
        feature.prepare(app, process)
    ours = [
        each.router
        for each in (
            *(workflows, user_workflows, reopening, deleting, stranded, operations, messages),
            *(executors, schedule, retention, console),
        )
    ]
    for router in (*(feature.router for feature in features), *ours, probes.router(process)):
        openapi.take_titles(router)
        app.include_router(router)
        _announce(router)
    return app


def _protect(app: FastAPI, settings: Settings) -> None:
    """What stands between a request and its route; the last one added is the outermost."""
    app.add_middleware(RequestBody, max_body_bytes=settings.max_body_bytes)
    if settings.require_token:
        app.add_middleware(TokenForAll, settings=settings)
    if settings.rate_limit:
        app.add_middleware(RateLimit, buckets=Buckets(settings.rate_limit, settings.rate_burst))
    # Before the rate: what a hostile page sends through a browser must not use up that person's share.
    app.add_middleware(Guard, names=settings.host_names, refuse=_refuse)
    app.add_middleware(RequestContext, observe=_observe)
    # All of the above decide by the path.
    app.add_middleware(EncodedPath)


def _refuse(scope: Scope, status: int, kind: str, detail: str) -> Response:
    return problems.problem(scope, status, kind=kind, detail=detail)


def _announce(router: APIRouter) -> None:
    """Zero for what each route answers when all is well, and for the errors that alerts use."""
    for route in router.routes:
        if not isinstance(route, APIRoute):
            continue
        for method in route.methods or ():
            metrics.HTTP_SECONDS.labels(method=method, route=route.path)
            for status in (route.status_code or 200, 500, 503):
                metrics.HTTP_REQUESTS.labels(method=method, route=route.path, status=str(status))


def _fixed(process: Process) -> dict[str, Any]:
    """The console's data that no poll changes."""
    return {"chaos": process.settings.chaos, "token_required": True, "release": __version__}


def _observe(method: str, route: str, status: int, seconds: float) -> None:
    metrics.HTTP_REQUESTS.labels(method=method, route=route, status=str(status)).inc()
    metrics.HTTP_SECONDS.labels(method=method, route=route).observe(seconds)
