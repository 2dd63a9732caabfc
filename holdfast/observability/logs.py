"""Logging: one JSON object per line on standard output, for our code, DBOS and uvicorn."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from dbos import DBOS
from pythonjsonlogger.json import JsonFormatter

from holdfast.observability import tracing
from holdfast.observability.captured_output import wait_until_written
from holdfast.observability.redaction import without_values
from holdfast.probe_paths import PROBE_PATHS
from holdfast.settings import Settings

# DBOS's own filter adds these attributes to its records. They are logged under our names.
_RENAMED = {"operationUUID": "workflow_id", "executorID": "executor_id"}


class _Context(logging.Filter):
    """Adds the role, the executor, the workflow and the trace to a log record, as far as they are known."""

    def __init__(self, role: str, executor_id: str) -> None:
        super().__init__()
        self._role = role
        self._executor_id = executor_id

    def filter(self, record: logging.LogRecord) -> bool:
        record.role = self._role
        record.executor_id = self._executor_id
        for theirs, ours in _RENAMED.items():
            if theirs in record.__dict__:
                record.__dict__.setdefault(ours, record.__dict__.pop(theirs))
        for noise in ("applicationID", "applicationVersion", "color_message", "traceId"):
            record.__dict__.pop(noise, None)
        record.__dict__.update(tracing.ids())
        if "workflow_id" not in record.__dict__:
            try:
                workflow_id = DBOS.workflow_id
            except Exception:  # no DBOS yet, or none any more
                workflow_id = None
            if workflow_id:
                record.workflow_id = workflow_id
        return True


class _Formatter(JsonFormatter):
    """Removes the row data and statements that PostgreSQL quotes in errors, from any logger's lines."""

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        for name in ("message", "exc_info", "stack_info"):
            if isinstance(text := log_data.get(name), str):
                log_data[name] = without_values(text)
        return log_data


class _Access(logging.Filter):
    """Drops health checks and scrapes from the access log, and removes query strings from its lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.partition("?")[0] if isinstance(arg, str) and arg.startswith("/") else arg
                for arg in record.args
            )
        return not any(f" {probe}" in record.getMessage() for probe in PROBE_PATHS)


class _FailedStart(logging.Filter):
    """Drops the tracebacks of uvicorn and DBOS for a failed start: the process logs its cause itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        begin = {"uvicorn.error": "Traceback (most recent call last)", "dbos": "DBOS failed to launch"}
        return not (record.name in begin and str(record.msg).startswith(begin[record.name]))


def configure(
    settings: Settings | None, *, role: str, executor_id: str, stream: TextIO | None = None
) -> None:
    """Routes every logger of the process through one JSON formatter, each line once. Idempotent.

    ``stream`` receives the lines, standard output if None. Without settings the level is INFO.
    """
    level = settings.log_level if settings is not None else "INFO"
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        _Formatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            defaults={"action": "log"},
            json_ensure_ascii=False,
        )
    )
    handler.addFilter(_Context(role, executor_id))
    handler.addFilter(_FailedStart())
    formatter = handler.formatter
    if formatter is not None:
        formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
        formatter.default_msec_format = "%s.%03dZ"
        formatter.converter = time.gmtime
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # DBOS adds its own console handler if it finds none.
    dbos_logger = logging.getLogger("dbos")
    dbos_logger.handlers[:] = [handler]
    dbos_logger.propagate = False
    dbos_logger.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    access = logging.getLogger("uvicorn.access")
    access.filters[:] = [_Access()]


def flush() -> None:
    """Flushes all buffers, as far as possible. Needed before an exit without Python's own shutdown."""
    for buffered in (*logging.getLogger().handlers, sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a broken pipe or a closed file must not prevent the exit
            buffered.flush()
    wait_until_written()
