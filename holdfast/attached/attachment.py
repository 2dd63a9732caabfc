"""Attaches Holdfast to the DBOS application of this process, at the moment when it launches.

The protection ends by one of four events:

- SIGTERM or SIGINT (`_signalled`) begins the drain in a thread, then the application's own handler runs.
  Without one, the process ends by the signal after the drain (`_end_by_signal`).
- ``DBOS.destroy()`` (`_destroy`) returns after the drain. The process may launch an application again.
- The main thread ends (`_main_ended`): when the application's other threads have ended, too, the drain runs,
  and Python ends with its own exit code.
- A fork (`_forked`) leaves the parent protected. The child disconnects its copies of the sessions and runs no
  workflows.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import psycopg2

from holdfast.attached.attach import refuse
from holdfast.attached.forks import FORKED
from holdfast.attached.identity import obstacle
from holdfast.attached.main_end import abandon, before_threads_are_joined, join_serving_threads
from holdfast.attached.process import AttachedProcess
from holdfast.attached.settings import AttachedSettings
from holdfast.attached.stop_signals import StopSignals, blocks_its_own_loop
from holdfast.dbos_adapter import launching, outcomes, patching
from holdfast.dbos_adapter.launching import Configured
from holdfast.postgres.statements import use_schema

log = logging.getLogger("holdfast.attached")


class Attachment:
    """What Holdfast does in this process. There is at most one launched application at a time."""

    def __init__(self) -> None:
        self.process: AttachedProcess | None = None
        self._left: AttachedProcess | None = None
        """Destroyed, with threads whose work could not be handed over."""
        self._is_hooked = False
        self._required: bool | None = None
        self._signals = StopSignals(self._signalled, self._end_by_signal)

    def attach(self, *, required: bool | None) -> None:
        """Protects each DBOS application that this process launches from now on. Idempotent."""
        if required is not None:
            self._required = required
        self._signals.install()
        if self._is_hooked:
            return
        self._is_hooked = True
        launching.hook(self._launch, self._destroy)
        os.register_at_fork(after_in_child=self._forked)
        instance = launching.current_instance()
        if instance is not None and launching.configured(instance).is_launched:
            self._refuse("attach() was called after DBOS.launch(): call it before")

    # --- the application's calls -----------------------------------------------------------

    def _launch(self, application: Any, original: Callable[[], None]) -> None:
        configured = launching.configured(application)
        _log_like_dbos()
        if configured.is_launched and self.process is not None:
            log.warning(
                "DBOS.launch() was called again: DBOS ignores it, and Holdfast goes on as before",
                extra={"action": "attach.launched_twice"},
            )
        if configured.is_ours or configured.is_launched:
            original()
            return
        reason = self._protect(configured, application)
        if reason is not None:
            self._refuse(reason)
            original()
            return
        process = self.process
        assert process is not None
        try:
            original()
        except BaseException:
            self.process = None
            process.launch_failed()
            raise
        process.after_launch()

    def _protect(self, configured: Configured, application: Any) -> str | None:
        """Prepares the launch. Returns the reason if the application cannot be protected."""
        try:
            use_schema(configured.schema)
            settings = AttachedSettings(configured)
        except ValueError as error:
            return str(error)
        if reason := _unsupported(configured) or obstacle(settings, configured):
            return reason
        patching.install_attached()
        process = AttachedProcess(settings, configured)
        try:
            process.before_launch(application)
        except psycopg2.Error as error:
            process.launch_refused()
            return f"its database cannot be used: {str(error).strip()}"
        except OSError as error:
            process.launch_refused()
            return f"its watchdog cannot be started: {error}"
        self._signals.install()
        before_threads_are_joined(self._main_ended)
        self.process = process
        return None

    def _refuse(self, reason: str) -> None:
        refuse(reason, required=self._required)

    def _destroy(self, original: Callable[[], None]) -> None:
        process, self.process = self.process, None
        if process is None:
            original()
            return
        instance = launching.current_instance()
        # This call blocks the loop on which these workflows run, so waiting for them would be in vain.
        hurry = blocks_its_own_loop(launching.tasks(instance))
        process.end("DBOS.destroy() was called", hurry=hurry)
        process.engine.detach()
        original()
        outcomes.STOPPING.is_requested = False
        if not process.release_threads() and not process.has_handed_over:
            self._left = process
        process.close()

    # --- the end of the process --------------------------------------------------------------

    def _signalled(self, name: str, again: bool) -> bool:
        if self.process is None:
            return False
        outcomes.STOPPING.is_requested = True
        self.process.stop_soon(f"{name} received", again=again)
        return True

    def _end_by_signal(self) -> None:
        if self.process is not None:
            self.process.end("the process ends by a signal")

    def _main_ended(self) -> None:
        """Hands over when the main thread and the application's other threads have ended.

        Runs before Python waits for the threads of running workflows.
        """
        try:
            if self.process is not None:
                join_serving_threads()
        finally:  # a signal may interrupt the wait, as it interrupts Python's own
            self._signals.main_has_ended()
            process, self.process = self.process or self._left, None
            if process is not None:
                self._end_with_python(process)

    def _end_with_python(self, process: AttachedProcess) -> None:
        process.end("the main thread has ended")
        # Python would wait for the threads of steps whose work goes on elsewhere.
        if not process.release_threads() and not abandon():
            logging.shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1 if getattr(sys, "last_value", None) is not None else 0)

    def _forked(self) -> None:
        self._signals.forked()
        process, self.process = self.process, None
        if process is None:
            return
        process.forget_in_fork()
        log.warning(FORKED, extra={"action": "attach.forked"})


def _unsupported(configured: Configured) -> str | None:
    if not configured.database_url:
        return "its system database is not PostgreSQL"
    if configured.uses_conductor:
        return "it is connected to DBOS Conductor, which recovers its workflows itself"
    return None


def _log_like_dbos() -> None:
    """Sends Holdfast's log to where DBOS's goes, if the application configured no logging of its own."""
    holdfast = logging.getLogger("holdfast")
    if not logging.getLogger().handlers and not holdfast.handlers:
        holdfast.parent = logging.getLogger("dbos")


ATTACHMENT = Attachment()
"""What Holdfast does in this process."""
