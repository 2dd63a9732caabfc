"""The probes and the metrics of every process."""

from __future__ import annotations

import asyncio
import math
import time

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from holdfast import probe_paths
from holdfast.observability import metrics
from holdfast.observability.exposition import Exposition
from holdfast.process.process import Process


def router(process: Process) -> APIRouter:
    """Returns the routes ``/livez``, ``/readyz`` and ``/metrics`` of a process."""
    routes = APIRouter(tags=["operations"])

    @routes.get(probe_paths.LIVE, summary="The process runs and its event loop turns")
    async def livez() -> dict[str, str]:
        return {"status": "ok", "executor_id": process.executor_id}

    @routes.get(
        probe_paths.READY,
        summary="The process should get work",
        responses={503: {"description": "Not ready"}},
    )
    async def readyz() -> JSONResponse:
        ready, checks = process.ready()
        body = {"status": "ok" if ready else "unready", "executor_id": process.executor_id, "checks": checks}
        return JSONResponse(body, 200 if ready else 503, None if ready else {"Retry-After": "1"})

    exposition = Exposition(lambda: _set_gauges(process))
    rendering = asyncio.Lock()

    @routes.get(
        probe_paths.METRICS,
        summary="Prometheus metrics",
        response_class=Response,
        responses={429: {"description": "Too many scrapes"}},
    )
    async def metrics_(request: Request) -> Response:
        if wait := exposition.admit(request.client.host if request.client else "unknown"):
            detail = "This client asks too often. Send it again after the time in Retry-After."
            raise HTTPException(429, detail, {"Retry-After": str(math.ceil(wait))})
        async with rendering:  # so that scrapes which wait for a slow database occupy one thread
            text = exposition.fresh() or await asyncio.to_thread(exposition.text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return routes


def _set_gauges(process: Process) -> None:
    """Sets the gauges whose values are read at each scrape."""
    metrics.READY.set(process.ready()[0])
    metrics.RUNNING.set(len(process.active()))
    metrics.ABANDONED_THREADS.set(len(process.waker.slots.abandoned))
    metrics.CLOCK_DIFFERENCE.set(process.lease.clock_difference_seconds)
    metrics.HEARTBEAT_AGE.set(time.monotonic() - process.lease.last_heartbeat)
    metrics.DRAINING_SECONDS.set(process.draining_seconds)
    if process.pool is None:
        return
    states = process.pool.states()
    for state, number in states.items():
        metrics.CPU_POOL.labels(state=state).set(number)
    metrics.WORKER_SLOTS.labels(state="busy").set(states["busy"])
    metrics.WORKER_SLOTS.labels(state="free").set(process.identity.slots - states["busy"])
