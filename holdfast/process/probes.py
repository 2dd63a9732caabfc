"""The probes and the metrics of every process."""

from __future__ import annotations

import time

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from holdfast import probe_paths
from holdfast.observability import metrics
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

    @routes.get(probe_paths.METRICS, summary="Prometheus metrics", response_class=Response)
    def metrics_() -> Response:
        _set_gauges(process)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

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
