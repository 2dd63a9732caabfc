"""Where the PostgreSQL servers of a test session store their data: in memory, where there is room.

On a disk the files of a new database cost ten times as much, and no data outlives its test. A session that is
killed leaves its folder behind, which the next one deletes.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.installations.supervised import is_alive

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
        _remove_ended()
        folder = _MEMORY / f"holdfast-{os.getpid()}"
        folder.mkdir()
        folder.chmod(0o1777)  # the server's user is another one
        _chosen[:] = [str(folder)]


def leave_memory() -> None:
    """Deletes what the session's servers have left there."""
    while _chosen:
        shutil.rmtree(_chosen.pop(), ignore_errors=True)


def _remove_ended() -> None:
    """Deletes the folders of processes that have ended; one with this process's pid is of an earlier one."""
    for folder in _MEMORY.glob("holdfast-*"):
        pid = folder.name.removeprefix("holdfast-")
        if pid.isdecimal() and (int(pid) == os.getpid() or not is_alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


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
