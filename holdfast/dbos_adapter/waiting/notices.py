"""Receives DBOS's notifications of messages, events and stream values on Holdfast's listener session too.

After an outage DBOS's own listener needs a second until it listens again, and then does not check what
arrived meanwhile. DBOS announces events and stream values in a separate transaction, 10 ms after their
commit: a process that is killed in between never announces them. A waiting workflow would continue at its own
next poll, up to 60 s later. So Holdfast's listener, which is back within 0.1 s, also wakes these workflows:
by the notifications, and by one query for all of them, at its start and every few seconds.

Private to DBOS 3.4.0 and used here: the channels, and ``PostgresSystemDatabase``'s ``notifications_map``,
``workflow_events_map`` and ``streams_map``. tests/integration/dbos_adapter/test_contracts.py tests them.
"""

from __future__ import annotations

import time
from typing import Any

from dbos._sys_db import (
    _dbos_notifications_channel,
    _dbos_streams_channel,
    _dbos_workflow_events_channel,
)

from holdfast.dbos_adapter.waiting.ending import Endings
from holdfast.postgres.database import Connection, query

CHANNELS = (_dbos_notifications_channel, _dbos_workflow_events_channel, _dbos_streams_channel)

FALLBACK_SECONDS = 5.0
"""Fallback poll interval for a missed notification."""
_IN_ONE_QUERY = 1000


class Notices:
    """Tracks workflows here that wait for a message, an event or a stream, and readers of streams."""

    def __init__(self) -> None:
        self.streams = Endings()
        """Readers of streams outside of workflows, by `stream_name`."""
        self._db: Any = None
        self._checked_at = float("-inf")

    def attach(self, sys_db: Any) -> None:
        """Sets the system database of the launched application."""
        self._db = sys_db

    def heard(self, channel: str, payload: str) -> None:
        """Handles one notification: wakes the workflows that wait for it."""
        if channel == _dbos_streams_channel:
            self.streams.ended(payload)
        if self._db is not None and (signal := self._waiting(channel).get(payload)) is not None:
            signal.set()

    def check(self, connection: Connection, *, now: bool = False) -> None:
        """Wakes the workflows for which something is stored, at most every few seconds unless ``now``."""
        if self._db is None or not (now or time.monotonic() - self._checked_at >= FALLBACK_SECONDS):
            return
        self._checked_at = time.monotonic()
        for channel, statement in (
            (_dbos_notifications_channel, "messages_arrived"),
            (_dbos_workflow_events_channel, "events_arrived"),
        ):
            waiting = self._waiting(channel).snapshot()
            for first in range(0, len(waiting), _IN_ONE_QUERY):
                some = waiting[first : first + _IN_ONE_QUERY]
                ids, keys = [where[0] for _, where, _ in some], [where[1] for _, where, _ in some]
                for row in query(connection, statement, workflow_ids=ids, keys=keys):
                    some[row["position"] - 1][2].set()
        if now:
            # A stream's reader reads again at its position, and waits again if nothing is there.
            for _, _, signal in self._waiting(_dbos_streams_channel).snapshot():
                signal.set()

    def _waiting(self, channel: str) -> Any:
        return {
            _dbos_notifications_channel: self._db.notifications_map,
            _dbos_workflow_events_channel: self._db.workflow_events_map,
            _dbos_streams_channel: self._db.streams_map,
        }[channel]


def stream_name(workflow_id: str, key: str) -> str:
    """Returns the name of a stream in notifications."""
    return f"{workflow_id}::{key}"
