"""Runs a process behind uvicorn. A signal requests a stop: first the drain, then the end of the server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from typing import Any, NoReturn, TextIO

import uvicorn
from pydantic import ValidationError

from holdfast.errors import ModuleFailed, ModuleWrong
from holdfast.observability import logs, tracing
from holdfast.observability.captured_output import capture_output
from holdfast.process.application import Application
from holdfast.process.http_protocol import HttpProtocol, allow_open_files
from holdfast.process.process import Process
from holdfast.recovery.watchdog import mark_process
from holdfast.settings import Settings

log = logging.getLogger("holdfast.serve")

# Time for open requests after the drain. uvicorn's graceful timeout < drain < stop grace.
_GRACEFUL_SECONDS = 2
# Time limit for the export of spans at a stop, if the collector does not answer.
_FLUSH_SECONDS = 1.0


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: a stop starts with the drain, not with the sockets."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Objects that exist now stay alive. Freeze them: a full collection over them stopped all threads for
        # 80 ms.
        gc.collect()
        gc.freeze()


def http_config(app: Any) -> uvicorn.Config:
    """Returns uvicorn's configuration for `app`: every wait for a client is bounded, WebSockets are off."""
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
        timeout_keep_alive=15,
        server_header=False,
        # Otherwise uvicorn trusts an X-Forwarded-For header from any client on this machine.
        proxy_headers=False,
    )


def serve(application: Application, create_app: Callable[[Process], Any]) -> None:
    """Runs until a stop is requested, then exits the Python process. Never returns.

    The exit code is 0 after an orderly stop, 1 if the start failed (wrong settings or module, port in use, no
    database), and 75 if a peer declared this executor dead.
    """
    stream = capture_output()
    try:
        settings = application.settings_class()
    except ValidationError as error:
        logs.configure(None, role=application.role, executor_id="-", stream=stream)
        _refuse("; ".join(map(_setting_and_problem, error.errors())))
    logs.configure(settings, role=application.role, executor_id="-", stream=stream)
    if application.role == "api" and settings.refusal is not None:
        _refuse(settings.refusal)
    allow_open_files()
    mark_process()
    code = 1
    try:
        code = asyncio.run(_serve(settings, application, create_app, stream))
    except ModuleWrong as error:
        _refuse(error.message, error.__cause__)
    except ModuleFailed as error:
        log.error(error.message, extra={"action": "executor.failed"}, exc_info=error.__cause__)  # noqa: TRY400
    except SystemExit:  # uvicorn's own code for a failed start is 3
        code = 1
    except Exception:
        log.exception("failed", extra={"action": "executor.failed"})
    logs.flush()
    os._exit(code)


def _refuse(sentence: str, cause: BaseException | None = None) -> NoReturn:
    """Exits with code 1 after a sentence that says why no later attempt can succeed either."""
    log.critical("does not start: %s", sentence, extra={"action": "executor.refused"}, exc_info=cause)
    logs.flush()
    os._exit(1)


def _setting_and_problem(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "settings"
    return f"{where}: {error['msg']}"


async def _serve(
    settings: Settings, application: Application, create_app: Callable[[Process], Any], stream: TextIO
) -> int:
    port = settings.api_port if application.role == "api" else settings.worker_port
    listener = uvicorn.Config("", host=settings.bind_host, port=port, log_config=None).bind_socket()
    # Accepted connections inherit TCP_NODELAY. asyncio sets it only on sockets with an explicit protocol,
    # which uvicorn's socket lacks. Without it an answer's body waited 40 ms for the client's delayed ACK of
    # its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    process = Process(settings, application, port=listener.getsockname()[1])
    logs.configure(settings, role=application.role, executor_id=process.executor_id, stream=stream)
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
    # During the drain the server still answers requests: liveness, readiness 503, progress.
    while not (server.started or serving.done()):  # noqa: ASYNC110  uvicorn has no event for it
        # uvicorn skips the end of the lifespan if it is asked to exit before it has started.
        await asyncio.sleep(0.02)
    await process.drain()
    server.should_exit = True
    await serving
    await asyncio.to_thread(tracing.stop, _FLUSH_SECONDS)
    return 0 if process.stopping and process.state == "stopped" else 1
