"""The journal of a fault run: what was promised, to whom, and when ticks were allowed to be missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Interval = tuple[datetime, datetime]


@dataclass
class Journal:
    """Lines of JSON, each an object with a ``kind``; unknown kinds are somebody else's.

    ``request``: ``key``, ``outcome`` (``ok``, ``refused``, ``unknown``), ``status``, ``workflow_id``; a
    repeated request has a later line with the same key. ``downtime``: ``from``, ``to`` (ISO 8601).
    ``exit``: ``who``, ``code``, ``seconds`` of a stop. ``probe``: ``path``, ``status``, ``seconds``,
    ``retry_after`` of a request while the database was down. ``throughput``: ``alone`` and ``beside``
    poison (healthy jobs a second), ``crashes`` of the poison and ``seconds`` that the second took.
    ``children``: ``who`` ended, ``children`` (how many it had), ``left`` (pids that live on), and the
    ``seconds`` between its end and that look.
    """

    accepted: set[str] = field(default_factory=set)
    unresolved: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    server_errors: int = 0
    downtimes: list[Interval] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    exits: list[dict[str, Any]] = field(default_factory=list)
    throughputs: list[dict[str, Any]] = field(default_factory=list)
    children: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[str]) -> Journal:
        """Raises ``ValueError`` or ``KeyError`` for a line that is no such object."""
        journal = cls()
        unknown: set[str] = set()
        for line in filter(str.strip, lines):
            entry = json.loads(line)
            match entry.get("kind"):
                case "request":
                    journal._request(entry, unknown)
                case "downtime":
                    ends = (datetime.fromisoformat(entry[end]) for end in ("from", "to"))
                    journal.downtimes.append((next(ends), next(ends)))
                case "probe":
                    journal.probes.append(entry)
                case "exit":
                    journal.exits.append(entry)
                case "throughput":
                    journal.throughputs.append(entry)
                case "children":
                    journal.children.append(entry)
        journal.unresolved = len(unknown)
        return journal

    def _request(self, entry: dict[str, Any], unknown: set[str]) -> None:
        outcome = entry["outcome"]
        key = entry.get("key") or entry.get("workflow_id") or ""
        self.outcomes[outcome] += 1
        self.server_errors += entry.get("status") == 500
        if outcome == "ok":
            self.accepted.add(entry["workflow_id"])
        if outcome == "unknown":
            unknown.add(key)
        else:
            unknown.discard(key)
