"""Runs a process behind uvicorn: signals ask for a stop, the drain comes first, then the server ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from pydantic import ValidationError

from holdfast.errors import ModuleWrong
from holdfast.observability import logs, tracing
from holdfast.process.application import Application
from holdfast.process.http_protocol import HttpProtocol, allow_open_files
from holdfast.process.process import Process
from holdfast.recovery.watchdog import mark_process
from holdfast.settings import Settings, get_settings

log = logging.getLogger("holdfast.serve")

# Open requests get this long after the drain; uvicorn's graceful timeout < drain < stop grace.
_GRACEFUL_SECONDS = 2
# What spans may cost a stop whose collector does not answer.
_FLUSH_SECONDS = 1.0


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: a stop starts with the drain, not with the sockets."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there now stays: a full collection that looked through it stopped every thread for 80 ms.
        gc.collect()
        gc.freeze()


def http_config(app: Any) -> uvicorn.Config:
    """How `app` is served: every wait for a client is bounded, and no WebSocket is spoken."""
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
        timeout_keep_alive=15,
        server_header=False,
        # Else uvicorn believes whatever X-Forwarded-For a client on this machine makes up.
        proxy_headers=False,
    )


def serve(application: Application, create_app: Callable[[Process], Any]) -> None:
    """Runs until a stop is asked for, then ends the Python process; never returns.

    Exit code 0 after an orderly stop, 1 when the start failed (wrong settings or module, port taken, no
    database), 75 when a peer declared this executor dead.
    """
    try:
        settings = get_settings()
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"]) or "settings"
            print(f"{where}: {problem['msg']}", file=sys.stderr)  # noqa: T201
        os._exit(1)
    if application.role == "api" and settings.refusal is not None:
        print(settings.refusal, file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)
    allow_open_files()
    mark_process()
    code = 1
    try:
        code = asyncio.run(_serve(settings, application, create_app))
    except ModuleWrong as error:
        print(error.message, file=sys.stderr, flush=True)  # noqa: T201
    except SystemExit:  # uvicorn's own code for a failed start is 3
        code = 1
    except Exception:
        log.exception("failed", extra={"action": "executor.failed"})
    logs.flush()
    os._exit(code)


async def _serve(settings: Settings, application: Application, create_app: Callable[[Process], Any]) -> int:
    port = settings.api_port if application.role == "api" else settings.worker_port
    logs.configure(settings, role=application.role, executor_id="-")
    listener = uvicorn.Config("", host=settings.bind_host, port=port, log_config=None).bind_socket()
    # Accepted connections inherit it. asyncio sets it only where a socket names its protocol, which uvicorn's
    # does not: an answer's body then waited 40 ms for the client's delayed ACK of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    process = Process(settings, application, port=listener.getsockname()[1])
    logs.configure(settings, role=application.role, executor_id=process.executor_id)
    tracing.start(
        settings,
        application=process.identity.application,
        version=process.identity.version,
        executor_id=process.executor_id,
    )
    server = _Server(http_config(create_app(process)))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.request_stop, signal.Signals(number).name)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(process.wait_stopping())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    # The drain waits while requests are still answered: liveness, readiness 503, progress.
    while not (server.started or serving.done()):  # noqa: ASYNC110  uvicorn has no event for it
        # uvicorn skips the lifespan's end when it is told to exit before it has started.
        await asyncio.sleep(0.02)
    await process.drain()
    server.should_exit = True
    await serving
    await asyncio.to_thread(tracing.stop, _FLUSH_SECONDS)
    return 0 if process.stopping and process.state == "stopped" else 1
