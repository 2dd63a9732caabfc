"""The worker's few HTTP routes: probes and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from holdfast.observability import tracing
from holdfast.process.http_guard import Guard
from holdfast.process.probes import router
from holdfast.process.process import Process


def create_app(process: Process) -> FastAPI:
    """Returns an application whose lifespan starts and ends the process."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with process.life():
            yield

    app = FastAPI(
        title="Holdfast worker",
        lifespan=lifespan,
        telemetry=tracing.fastapi_options(),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.include_router(router(process))
    app.add_middleware(Guard, names=process.settings.host_names)
    return app
