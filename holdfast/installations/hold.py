"""Holding a native stack still: a restore wants PostgreSQL alone, for as long as it lives.

A lock on a file carries the wish, so that the kernel takes it back when the one who asked dies.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast.installations.embedded import NativeError


@contextmanager
def hold(home: Path) -> Iterator[None]:
    """Asks the supervisor of this directory to run PostgreSQL alone, for the life of this context.

    Returns without waiting for that. Raises ``NativeError`` while somebody else holds.
    """
    with (home / "hold").open("ab") as file:
        for _ in range(50):  # the supervisor itself has the lock for the moment of a look
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.02)
        else:
            raise NativeError("another restore is under way")
        yield


def is_held(home: Path) -> bool:
    """Whether somebody has asked for that."""
    try:
        with (home / "hold").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
