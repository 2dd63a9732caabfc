"""Captures the log of a process: the real configuration, with a buffer instead of standard output."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.observability import logs
from holdfast.settings import Settings

_OWN = ("dbos", "uvicorn", "uvicorn.error", "uvicorn.access")
_OF_THE_TEST = ("httpx", "httpcore")


@contextmanager
def logged(level: str = "INFO") -> Iterator[io.StringIO]:
    """Configures logging as a process does, and restores the previous configuration at the end."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, _OWN + _OF_THE_TEST)]
    before = [(one, one.handlers[:], one.filters[:], one.level, one.propagate) for one in loggers]
    buffer = io.StringIO()
    logs.configure(Settings.model_validate({"log_level": level}), role="test", executor_id="e")
    for handler in root.handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(buffer)
    for name in _OF_THE_TEST:
        logging.getLogger(name).setLevel("WARNING")
    try:
        yield buffer
    finally:
        for one, handlers, filters, set_level, propagate in before:
            one.handlers[:], one.filters[:], one.propagate = handlers, filters, propagate
            one.setLevel(set_level)
