"""What a person reads of a process's JSON log: one short line per event, and the cause of a failed start."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from holdfast.visible import visible, visible_lines

REFUSED = "executor.refused"
"""The action of a log line that says why no later attempt to start can succeed either."""
_GRAVE = ("ERROR", "CRITICAL")


def readable(line: str) -> str | None:
    """Returns a log line for a terminal, or None for one that reports no event and no problem.

    Lines of libraries have no action of their own; only their problems are shown.
    """
    entry = _parsed(line)
    if entry is None:
        return visible_lines(line) or None
    level = str(entry.get("level", "INFO"))
    if entry.get("action", "log") == "log" and level in ("DEBUG", "INFO"):
        return None
    text = visible(_message(entry))
    return text if level in ("DEBUG", "INFO") else f"{level}: {text}"


@dataclass(frozen=True)
class FailedStart:
    """Why a process ended during its start."""

    cause: str
    is_final: bool
    """Whether another attempt would end in the same way."""


def failed_start(log: str) -> FailedStart:
    """Returns the cause of a failed start by that process's log: its first grave line, or else its last."""
    lines = [line for line in log.splitlines() if line.strip()]
    entries = [entry for line in lines if (entry := _parsed(line)) is not None]
    for entry in entries:
        if entry.get("action") == REFUSED:
            return FailedStart(_message(entry).removeprefix("does not start: "), is_final=True)
    for entry in entries:
        if entry.get("level") in _GRAVE:
            return FailedStart(_message(entry), is_final=False)
    return FailedStart(_last(lines), is_final=False)


def _last(lines: list[str]) -> str:
    if not lines:
        return "nothing logged"
    entry = _parsed(lines[-1])
    return lines[-1].strip() if entry is None else _message(entry)


def _message(entry: dict[str, Any]) -> str:
    """Returns the message, with the last line of a traceback (the error itself) unless it contains that."""
    message = str(entry.get("message", "")).strip()
    trace = str(entry.get("exc_info") or "").strip().splitlines()[-1:]
    return ": ".join([message, *(line for line in trace if line.partition(": ")[2] not in message)])


def _parsed(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
