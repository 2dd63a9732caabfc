"""Notices SIGTERM and SIGINT in an application that has signal handlers of its own, or installs them later.

Servers install their handlers before or after the application launches DBOS, and restore the former ones at
their end. So ``signal.signal`` and ``signal.getsignal`` are replaced: the application sees its own handlers
only, and Python calls `_notice`, which reports the signal and then calls the application's handler. Where the
application has none, the process ends by the signal once `until_done` returns.

Python runs a handler only when its main thread runs Python code again. A signal that comes just before that
thread blocks (in a read, in a lock) does not interrupt it: it was seen to be lost 15 times in 300. So another
thread hears of each signal through Python's wakeup descriptor, and interrupts the main thread with SIGURG.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

log = logging.getLogger("holdfast.signals")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# After how many seconds, each, the main thread is interrupted. It may block later, or a second time.
_INTERRUPT_AFTER = (0.02, 0.1, 0.5, 2.0)
# How long the main thread may take to run the signal's default action, once the drain is over.
_DEFAULT_ACTION_SECONDS = 1.0

_real_signal, _real_getsignal = signal.signal, signal.getsignal
_real_set_wakeup_fd = signal.set_wakeup_fd


class StopSignals:
    """Reports stop signals of this process to ``on_signal``, before the application's own handlers run.

    ``on_signal`` gets the signal's name and whether someone repeats it, and returns whether the process is
    protected at all. ``until_done`` blocks, in a thread, until the process may end by the signal.
    """

    def __init__(self, on_signal: Callable[[str, bool], bool], until_done: Callable[[], object]) -> None:
        self._on_signal = on_signal
        self._until_done = until_done
        self._theirs: dict[int, Any] = {}
        self._last: tuple[int, Any] | None = None
        self._may_die = False
        self._main_has_ended = False
        self._wakeup: tuple[int, int] | None = None
        self._pipe: list[int] = []
        self._their_wakeup_fd = -1
        self._interrupter: threading.Thread | None = None

    def install(self) -> None:
        """Begins to notice the signals, again where C code or a fork has replaced the handlers.

        Only the main thread can; others change nothing.
        """
        if threading.current_thread() is threading.main_thread():
            self._replace_handlers()
            if not self._has_wakeup():
                self._open_wakeup()
        if self._wakeup is not None and self._interrupter is None:
            self._interrupter = threading.Thread(
                target=self._interrupt_main, args=self._wakeup[:1], name="holdfast-signals", daemon=True
            )
            self._interrupter.start()

    def forked(self) -> None:
        """Leaves the parent's descriptors, and gives default actions back: `install` may never follow."""
        for number, theirs in self._theirs.items():
            if theirs == signal.SIG_DFL:
                _real_signal(number, signal.SIG_DFL)
        if self._wakeup is not None:
            _real_set_wakeup_fd(self._their_wakeup_fd)
            if self._has_wakeup():
                for descriptor in self._wakeup:
                    os.close(descriptor)
        self._wakeup = self._interrupter = None

    def _replace_handlers(self) -> None:
        for number in SIGNALS:
            if number == signal.SIGINT and hasattr(sys, "ps1"):
                continue  # an interactive interpreter interrupts a command with it
            theirs = _real_getsignal(number)
            if theirs is None or theirs == self._notice:
                continue  # installed by C code, so that no Python code can call it; or ours
            self._theirs[number] = theirs
            _real_signal(number, self._notice)
        signal.signal, signal.getsignal = self._signal, self._getsignal  # type: ignore[assignment]
        if _real_getsignal(signal.SIGURG) == signal.SIG_DFL:
            _real_signal(signal.SIGURG, lambda *_: None)

    def _has_wakeup(self) -> bool:
        """Whether the descriptors are still ours: a daemon closes all that it does not know."""
        try:
            return self._wakeup is not None and self._pipe == [os.fstat(each).st_ino for each in self._wakeup]
        except OSError:
            return False

    def _open_wakeup(self) -> None:
        ours = self._wakeup or ()
        self._wakeup = os.pipe()
        self._pipe = [os.fstat(each).st_ino for each in self._wakeup]
        self._interrupter = None
        os.set_blocking(self._wakeup[1], False)
        theirs = _real_set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        self._their_wakeup_fd = -1 if theirs in ours else theirs
        if self._their_wakeup_fd != -1:
            _real_set_wakeup_fd(self._their_wakeup_fd)
        signal.set_wakeup_fd = self._set_wakeup_fd

    def main_has_ended(self) -> None:
        """Records that the main thread has returned: the interpreter ends the process by itself."""
        self._main_has_ended = True

    def _signal(self, number: int, handler: Any) -> Any:
        """As ``signal.signal``."""
        if number not in self._theirs:
            return _real_signal(number, handler)
        if not callable(handler) and handler not in (signal.SIG_DFL, signal.SIG_IGN):
            return _real_signal(number, handler)  # raises
        _real_signal(number, self._notice)  # raises outside of the main thread
        before, self._theirs[number] = self._theirs[number], handler
        return before

    def _getsignal(self, number: int) -> Any:
        """As ``signal.getsignal``."""
        return self._theirs[number] if number in self._theirs else _real_getsignal(number)

    def _set_wakeup_fd(self, fd: int, *, warn_on_full_buffer: bool = True) -> int:
        """As ``signal.set_wakeup_fd``. An event loop wakes its thread itself while it has one."""
        if fd == -1 and self._wakeup is not None:
            _real_set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        else:
            _real_set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)
        before, self._their_wakeup_fd = self._their_wakeup_fd, fd
        return before

    def _interrupt_main(self, reader: int) -> None:
        main = threading.main_thread()
        while heard := os.read(reader, 512):
            if not any(number in self._theirs for number in heard):
                continue
            for seconds in _INTERRUPT_AFTER:
                time.sleep(seconds)
                if self._main_has_ended or main.ident is None or not main.is_alive():
                    return
                signal.pthread_kill(main.ident, signal.SIGURG)

    def _notice(self, number: int, frame: FrameType | None) -> Any:
        theirs = self._theirs[number]
        if theirs == signal.SIG_IGN:
            return None
        # Servers raise the signal once more when their own shutdown is over, after they have restored the
        # handler from before. That is no second request, nor is another signal of a supervisor.
        again = self._last == (number, theirs)
        self._last = (number, theirs)
        is_protected = self._on_signal(signal.Signals(number).name, again)
        if callable(theirs):
            return theirs(number, frame)
        if not is_protected or self._may_die:
            _real_signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            # A `threading.Thread` would need a lock of its module, which the main thread may hold here.
            _thread.start_new_thread(self._die, (number,))
        return None

    def _die(self, number: int) -> None:
        """Ends the process by the signal's default action, which only the main thread can restore."""
        self._until_done()
        if self._main_has_ended:
            return
        self._may_die = True
        main = threading.main_thread()
        if main.ident is not None:
            signal.pthread_kill(main.ident, number)
        main.join(_DEFAULT_ACTION_SECONDS)
        if not self._main_has_ended:
            os._exit(128 + number)  # the default action does nothing in the first process of a container


def blocks_its_own_loop(tasks: Any) -> bool:
    """Whether the calling thread runs the event loop of an unfinished task of these."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return any(not task.done() and task.get_loop() is loop for task in list(tasks))
