"""Free TCP ports on 127.0.0.1."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path


def free_port(wanted: int = 0) -> int:
    """Returns a free TCP port on 127.0.0.1: ``wanted``, or any if 0. Raises ``OSError`` if it is taken.

    Any port is below the range of outgoing connections, so that a restarted process finds its port free.
    """
    while not wanted:
        with suppress(OSError):
            return free_port(random.SystemRandom().randrange(20_000, 30_000))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        return int(probe.getsockname()[1])


def steady_port(noted: Path) -> int:
    """Returns the port that the file notes, if it is free; else another one, which the file then notes."""
    with suppress(OSError, ValueError):
        return free_port(int(noted.read_text("ascii")))
    port = free_port()
    noted.write_text(f"{port}\n", "ascii")
    return port
