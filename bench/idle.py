"""Executors that only send heartbeats and sweep: what the lease and the sweep cost by themselves."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from functools import partial

from holdfast.identity import Identity
from holdfast.recovery.lease import Lease
from holdfast.recovery.sweep import Sweep
from holdfast.settings import get_settings
from tests.support import names


def hold(count: int) -> None:
    """Runs so many until standard input ends or a signal comes; says so on standard output."""
    settings = get_settings()
    for _ in range(count):
        identity = Identity(
            executor_id=f"bench-{secrets.token_hex(4)}",
            application="bench-idle",
            version="bench",
            role="bench",
            hostname=socket.gethostname(),
            pid=os.getpid(),
            port=0,
            slots=0,
            suspects_queue=names.WORKER_SUSPECTS_QUEUE,
            trials_queue=names.WORKER_TRIALS_QUEUE,
            leaf_queues=names.LEAF_QUEUES,
        )
        lease = Lease(
            settings, identity, on_fenced=lambda: None, on_desired=lambda _: None, in_flight=lambda: 0
        )
        lease.start()
        Sweep(settings, identity, settled_seconds=partial(getattr, lease, "settled_seconds")).start()
    print("beating", flush=True)
    while sys.stdin.readline():
        time.sleep(1)
