"""The end of the main thread: the application may go on in other threads, and Python keeps its exit code.

Before Python ends it joins all threads that are not daemons (``threading._shutdown``). Private to Python and
used here: ``threading._register_atexit``, the lists of the pools of ``concurrent.futures``, and, in
`abandon`, what makes a thread one that Python joins.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread
import sys
import threading
from collections.abc import Callable, Collection
from typing import Any


def before_threads_are_joined(call: Callable[[], None]) -> None:
    """Registers a call for the end of the main thread, before Python joins the threads of executors."""
    register = getattr(threading, "_register_atexit", atexit.register)
    register(call)


def join_serving_threads() -> None:
    """Waits for the application's own threads, as Python does: one of them may be its server.

    Threads of pools do not count: an idle one ends only when Python itself ends the pools, after this.
    """
    while serving := [thread for thread in _joined() if thread not in _pooled()]:
        serving[0].join()


def abandon() -> bool:
    """Makes Python end without its other threads, and with its own exit code. False if it cannot be done."""
    any_thread: Any
    pooled: Any = concurrent.futures.thread._threads_queues
    try:
        for any_thread in _joined():
            pooled.pop(any_thread, None)
            if sys.version_info >= (3, 13):
                any_thread._handle._set_done()
            else:
                threading._shutdown_locks.discard(any_thread._tstate_lock)  # type: ignore[attr-defined]
    except AttributeError:
        return False
    return True


def _joined() -> list[threading.Thread]:
    mine = (threading.main_thread(), threading.current_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in mine]


def _pooled() -> Collection[threading.Thread]:
    processes = sys.modules.get("concurrent.futures.process")
    managers = () if processes is None else processes._threads_wakeups
    return {*concurrent.futures.thread._threads_queues, *managers}
