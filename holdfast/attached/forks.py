"""Disconnects a forked child from its parent's sessions: open, they would make a dead parent look alive."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

from holdfast.postgres.session_thread import SessionThread

FORKED = (
    "this process was forked after DBOS.launch(), so neither DBOS nor Holdfast runs in it: it must not run"
    " workflows. Launch DBOS in each worker instead (gunicorn: without --preload)"
)


class HasDescriptors(Protocol):
    """A pool of sessions, or a server."""

    def descriptors(self) -> list[int]:
        """Returns its sockets."""


def let_go(threads: Iterable[SessionThread], pools: Iterable[HasDescriptors]) -> None:
    """Points the sockets of these sessions at ``/dev/null`` in this process.

    Closing a session instead would send its end to PostgreSQL, and so end it for the parent as well.
    """
    descriptors = [found for pool in pools for found in pool.descriptors()]
    for thread in threads:
        if thread.connection is not None and not thread.connection.closed:
            descriptors.append(thread.connection.fileno())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
