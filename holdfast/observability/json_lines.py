"""The program that makes log lines of plain text: each line of two pipes becomes a JSON object.

`captured_output` starts it as a file with a bare interpreter: libpq, faulthandler, the interpreter itself and
programs of a step write plain text, often when no Python code of their process can run any more. It ends when
all processes that hold one of the pipes have ended, so it also writes the last words of a process that dies,
unless it is ended too: a container ends with its main process.
"""

from __future__ import annotations

import json  # not at the first line: in a container, a process that dies leaves no time for it
import os
import select
import sys
import time

_LONGEST_BYTES = 3000
"""A longer line is written in parts: the kernel keeps at most 4,096 bytes of a pipe's writers together."""
_LONGEST_OBJECT_BYTES = 1 << 20
"""A line from this size on is plain text, also if it begins as a JSON object: it must fit into memory."""
_QUOTES_VALUES = ("DETAIL:", "CONTEXT:", "QUERY:", "STATEMENT:", "LINE ")
"""Beginnings of the lines in which PostgreSQL quotes rows and statements (`redaction`)."""


def as_json_line(text: str, *, logger: str, level: str = "INFO") -> str:
    """Returns the line itself if it is a JSON object, or else a log line with the text as its message."""
    if text.startswith("{") and _is_object(text):
        return text
    if _quotes_values(text):
        text = text.partition(":")[0] + ": …"
    now = time.time()
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z",
        "level": level,
        "logger": logger,
        "message": text,
        "action": "log",
    }
    return json.dumps(line, ensure_ascii=False)


def _quotes_values(text: str) -> bool:
    return text.lstrip().startswith(_QUOTES_VALUES)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except Exception:  # no JSON, or nested too deeply: no line may end this program
        return False


class _Source:
    """One pipe, and the pieces of its unfinished line."""

    def __init__(self, logger: str, level: str) -> None:
        self._logger = logger
        self._level = level
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_quoting = False
        """Whether the unfinished line has begun as one that quotes values. Its rest is not written."""

    def lines(self, data: bytes) -> list[str]:
        """Returns the log lines that `data` completes. Empty data is the end of the pipe."""
        first, *others = data.split(b"\n")
        self._add(first)
        found = []
        for piece in others:
            found += self._take(ends=True)
            self._add(piece)
        if not data or self._is_too_long():
            found += self._take(ends=not data)
        return found

    def _add(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)

    def _take(self, *, ends: bool) -> list[str]:
        text = b"".join(self._pieces).decode("utf-8", "backslashreplace").rstrip()
        size, is_rest = self._size, self._is_quoting
        self._pieces, self._size = [], 0
        self._is_quoting = not ends and (is_rest or _quotes_values(text))
        return [] if is_rest or not text else self._written(text, size)

    def _is_too_long(self) -> bool:
        may_be_object = self._size < _LONGEST_OBJECT_BYTES and self._pieces and self._pieces[0][:1] == b"{"
        return self._size > _LONGEST_BYTES and not may_be_object

    def _written(self, text: str, size: int) -> list[str]:
        if text.startswith("{") and size < _LONGEST_OBJECT_BYTES and _is_object(text):
            return [text]
        step = len(text)
        if size > _LONGEST_BYTES and not _quotes_values(text):
            step = _LONGEST_BYTES // 4  # a character has four bytes at most
        parts = [text[at : at + step] for at in range(0, len(text), step)]
        return [as_json_line(part, logger=self._logger, level=self._level) for part in parts]


def main() -> None:
    """Reads two pipes until both end: standard output on descriptor 0, standard error on the named one."""
    sources = {0: _Source("stdout", "INFO"), int(sys.argv[1]): _Source("stderr", "WARNING")}
    waiting = select.poll()
    for descriptor in sources:
        waiting.register(descriptor, select.POLLIN)
    while sources:
        for descriptor, _ in waiting.poll():
            data = os.read(descriptor, 65536)
            for line in sources[descriptor].lines(data):
                try:  # noqa: SIM105 - no contextlib: this is a bare interpreter
                    os.write(1, line.encode("utf-8", "backslashreplace") + b"\n")
                except OSError:
                    pass
            if not data:
                waiting.unregister(descriptor)
                del sources[descriptor]


if __name__ == "__main__":
    main()
    os._exit(0)
