"""The journal of a fault run: the answers that clients received, and the periods without ticks."""

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
    """Lines of JSON, each an object with a ``kind``. Unknown kinds are ignored.

    ``request``: ``key``, ``outcome`` (``ok``, ``refused``, ``unknown``), ``status``, ``workflow_id``. A
    repeated request has a later line with the same key. ``downtime``: ``from``, ``to`` (ISO 8601). ``exit``:
    ``who``, ``code``, ``seconds`` of a stop. ``probe``: ``path``, ``status``, ``seconds``, ``retry_after`` of
    a request during an outage of the database. ``throughput``: ``alone`` and ``beside`` poison (healthy jobs
    per second), ``crashes`` of the poison and ``seconds`` of the measurement beside it. ``children``: ``who``
    ended, ``children`` (how many it had), ``left`` (pids that still run), and the ``seconds`` between its end
    and that check.
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
        """Parses a journal. Raises ``ValueError`` or ``KeyError`` for an invalid line."""
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
