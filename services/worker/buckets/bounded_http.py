"""Bounds the answers that a boto3 client reads: their bytes, their XML tags, and the time until their end.

botocore reads a whole answer into memory, and its timeout is one between two bytes. A server that lists
without end, or sends a byte now and then, would hold a thread and all memory of its worker.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any


class AnswerTooLongError(Exception):
    """An answer is over its limits. No ``OSError``: the connection is not at fault."""


@dataclass(frozen=True)
class AnswerLimits:
    """Limits of one answer. Tags have their own: a parsed element takes much more memory than its text."""

    bytes: int
    tags: int
    seconds: float


def bound_answers(client: Any, limits: AnswerLimits) -> None:
    """Makes a client raise `AnswerTooLongError` (inside its own error), and its timeout error, at the limits.

    botocore's clients have no setting for it, so the classes of this client's connections are replaced.
    """
    pools = client._endpoint.http_session._pool_classes_by_scheme
    for scheme, pool in pools.items():
        connection = _bounded(pool.ConnectionCls, limits)
        pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})


def _bounded(base: type[Any], limits: AnswerLimits) -> type[Any]:
    """Returns the class of connections with limits for each answer."""

    class Bounded(base):  # type: ignore[misc]
        def getresponse(self) -> Any:
            build: Callable[..., Any] = self.response_class  # type: ignore[has-type]
            deadline = monotonic() + limits.seconds

            def build_bounded(sock: Any, **options: Any) -> Any:
                return build(_Source(sock, limits, deadline), **options)

            self.response_class = build_bounded
            try:
                answer = super().getresponse()
            finally:
                self.response_class = build
            declared = str(answer.headers.get("Content-Length") or "")
            if declared.isdecimal() and (len(declared) > 18 or int(declared) > limits.bytes):
                answer.close()
                raise AnswerTooLongError
            return answer

    return Bounded


class _Source:
    """What an HTTP answer needs of its socket."""

    def __init__(self, sock: Any, limits: AnswerLimits, deadline: float) -> None:
        self._sock, self._limits, self._deadline = sock, limits, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        file = self._sock.makefile(mode, buffering=0)
        return io.BufferedReader(_Bytes(file, self._sock, self._limits, self._deadline))


class _Bytes(io.RawIOBase):
    """The bytes of one answer, up to its limits."""

    def __init__(self, file: Any, sock: Any, limits: AnswerLimits, deadline: float) -> None:
        super().__init__()
        self._file, self._sock, self._deadline = file, sock, deadline
        self._bytes_left, self._tags_left = limits.bytes, limits.tags

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            raise TimeoutError("the answer did not end in time")
        self._sock.settimeout(seconds)
        count: int = self._file.readinto(buffer) or 0
        self._bytes_left -= count
        self._tags_left -= bytes(buffer[:count]).count(b"<")
        if self._bytes_left < 0 or self._tags_left < 0:
            raise AnswerTooLongError
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
