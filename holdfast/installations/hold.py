"""Pauses a native stack: a restore needs PostgreSQL alone while it runs.

The request is a lock on a file, so that the kernel withdraws it when the requesting process dies.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast.installations.native_error import NativeError


@contextmanager
def hold(home: Path) -> Iterator[None]:
    """Requests that the supervisor of this directory runs only PostgreSQL for the life of this context.

    Returns without waiting for that. Raises ``NativeError`` if another process holds the request.
    """
    with (home / "hold").open("ab") as file:
        for _ in range(50):  # the supervisor holds the lock briefly at each check
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.02)
        else:
            raise NativeError("another restore is under way")
        yield


def is_held(home: Path) -> bool:
    """Whether a process requests that only PostgreSQL runs."""
    try:
        with (home / "hold").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
