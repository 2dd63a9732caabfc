"""Where the PostgreSQL servers of a test session store their data: in memory, where there is room.

On a disk the files of a new database cost ten times as much, and no data outlives its test.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")
_NEEDED_BYTES = 6 * 1024**3
_chosen: list[str] = []


def use_memory() -> None:
    """Stores the data of all later servers in memory. Campaigns and benchmarks do not call it."""
    try:
        found = os.statvfs(_MEMORY)
        available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
    except OSError:
        return
    room = min(found.f_bavail * found.f_frsize, int(available[1]) * 1024 if available else 0)
    # Where the server's user cannot read the checkout, its programs are copied next to its data.
    if room >= _NEEDED_BYTES and os.access(_MEMORY, os.W_OK) and not found.f_flag & os.ST_NOEXEC:
        _chosen[:] = [str(_MEMORY)]


def environment() -> dict[str, str]:
    """What a native stack is started with, so that its server's data is there."""
    return {"TMPDIR": _chosen[0]} if _chosen else {}


@contextmanager
def as_temporary() -> Iterator[None]:
    """With this folder as this process's temporary one."""
    before = tempfile.tempdir
    if _chosen:
        tempfile.tempdir = _chosen[0]
    try:
        yield
    finally:
        tempfile.tempdir = before
