"""Installs Holdfast's replacements in DBOS: all of them for its own applications, most for attached ones.

An attached application has another serializer and may have another version of DBOS, so a replacement is one
unit with the names that it needs. `holdfast.dbos_adapter.patches` lists all private names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

log = logging.getLogger("holdfast.patches")


class Patch(NamedTuple):
    """One independent replacement in DBOS. Attached applications do without one whose names DBOS lacks."""

    module: str
    """The module whose ``install`` (or ``function``) makes the replacement. It is imported only then."""
    needs: tuple[str, ...]
    """Private names without which it cannot be installed."""
    function: str = "install"
    stack_only: bool = False
    """Whether only Holdfast's own applications get it. Nothing depends on it for correctness."""

    @property
    def name(self) -> str:
        """The name for logs."""
        return self.module.rpartition(".")[2]

    def lacking(self) -> list[str]:
        """Returns the needed names that the installed DBOS lacks."""
        return [name for name in self.needs if not _exists(name)]

    def install(self) -> None:
        """Makes the replacement, for all DBOS applications of this process. Idempotent."""
        getattr(import_module(self.module), self.function)()


_SYS_DB = "dbos._sys_db_postgres.PostgresSystemDatabase"

PATCHES = (
    Patch(
        "holdfast.dbos_adapter.serializer",
        ("dbos._serialization.DefaultSerializer", "dbos._serialization.exception_to_workflow_error_data"),
        function="refuse_pickles",
        stack_only=True,
    ),
    # round_trips calls this one for queues with limits that all executors share
    Patch(
        "holdfast.dbos_adapter.claims",
        (f"{_SYS_DB}.start_queued_workflows", f"{_SYS_DB}.start_queued_partitioned_workflows"),
        stack_only=True,
    ),
    Patch(
        "holdfast.dbos_adapter.round_trips",
        (f"{_SYS_DB}.start_queued_workflows", f"{_SYS_DB}.record_operation_result"),
        stack_only=True,
    ),
    Patch("holdfast.dbos_adapter.replay", (f"{_SYS_DB}.check_operation_execution",), stack_only=True),
    Patch(
        "holdfast.dbos_adapter.waiting.blocking_calls",
        (
            "dbos._context.current_owner_xid",
            "dbos._core.invoke_step",
            "dbos._core.WorkflowHandleFuture._get_result",
            "dbos._core.WorkflowHandleAsyncTask._get_result",
            "dbos._utils.LoopAwareEvent",
            "dbos._outcome.NoResult",
            f"{_SYS_DB}.recv_setup",
            f"{_SYS_DB}.get_event_setup",
            f"{_SYS_DB}.register_stream_listener",
        ),
    ),
    # after blocking_calls: the outer wrapper of a step
    Patch(
        "holdfast.dbos_adapter.outcomes",
        ("dbos._core.invoke_step", "dbos._core._dropping_datasource_checkpoints"),
    ),
    # after all replacements in the system database
    Patch(
        "holdfast.dbos_adapter.retries",
        ("dbos._sys_db.db_retry", "dbos._sys_db.retriable_postgres_exception"),
    ),
    Patch("holdfast.dbos_adapter.wake_ups", ("dbos._queue.queue_worker_thread",)),
    Patch(
        "holdfast.dbos_adapter.slots",
        ("dbos._core._execute_workflow_wthread", "dbos._core._execute_workflow_async"),
    ),
    Patch("holdfast.dbos_adapter.dispatch", ("dbos._queue.execute_dequeued_workflow",)),
    # after round_trips, whose method it wraps
    Patch(
        "holdfast.dbos_adapter.ends",
        ("dbos._core._get_wf_invoke_func", f"{_SYS_DB}.update_workflow_outcome"),
    ),
)
"""All patches. The order counts: a patch that wraps a method keeps the method it finds."""


def install(guard_schedules: Callable[[], object] = lambda: None) -> None:
    """Installs every patch, for all DBOS applications of this process. Idempotent.

    Call before DBOS is constructed. A patch changes nothing for an application that lacks what
    `holdfast.dbos_adapter.application` attaches. ``guard_schedules`` installs `schedules.guard_schedule` with
    the clock and the limits of this process.
    """
    for patch in PATCHES:
        patch.install()
    guard_schedules()


def install_attached() -> list[str]:
    """Installs what an attached application needs, as far as its DBOS has the names. Idempotent.

    Returns the names of the patches that were left out, and logs them in one line.
    """
    left_out = {}
    for patch in PATCHES:
        if patch.stack_only:
            continue
        if lacking := patch.lacking():
            left_out[patch.name] = lacking
        else:
            patch.install()
    if left_out:
        log.warning(
            "this version of DBOS lacks names, so these parts are off: %s",
            "; ".join(f"{name} ({', '.join(lacking)})" for name, lacking in left_out.items()),
            extra={"action": "patches.left_out"},
        )
    return list(left_out)


def _exists(name: str) -> bool:
    """Whether a dotted name below the package ``dbos`` exists: module, then attributes."""
    package, module, *attributes = name.split(".")
    try:
        found = import_module(f"{package}.{module}")
        for attribute in attributes:
            found = getattr(found, attribute)
    except (ImportError, AttributeError):
        return False
    return True
