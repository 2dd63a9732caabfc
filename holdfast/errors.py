# ruff: noqa: N818 - the names describe what happened; the suffix "Error" would add nothing
"""The tree of Holdfast's errors. A class's docstring is its default message and includes what to do next.

This module does not know HTTP statuses: ``holdfast/api/problems.py`` has one table of them. Every error
survives pickling with its attributes, because some are raised in a child process or stored by DBOS.
"""

from __future__ import annotations

import inspect
from typing import ClassVar


class HoldfastError(Exception):
    """Holdfast could not do this. The log line with the same request id says why."""

    retry_after_seconds: ClassVar[int | None] = None
    """Seconds after which repeating the same request makes sense; None where it does not."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else default_message(type(self)))

    @property
    def message(self) -> str:
        """The message for the client."""
        return str(self.args[0])


def default_message(kind: type[HoldfastError]) -> str:
    """Returns the docstring of `kind` as one line, or the class name if ``-OO`` removed docstrings."""
    return " ".join(inspect.cleandoc(kind.__doc__ or kind.__name__).split())


class NotProtected(HoldfastError):
    """Holdfast cannot protect this application, and HOLDFAST_REQUIRED=true does not let it run without.
    Correct what is named, then start it again.
    """


class InvalidRequest(HoldfastError):
    """The request is not valid. Correct the named field and send it again."""

    def __init__(self, message: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        """Path of the wrong field, for example ``n`` or ``numbers.3``; None for the request as a whole."""


class NotFound(HoldfastError):
    """There is nothing under this name. Check the address."""


class UnknownWorkflow(NotFound):
    """There is no workflow with this id. GET /workflows lists those that exist."""


class UnknownExecutor(NotFound):
    """There is no executor with this id. GET /executors lists those that are known."""


class UnknownOperation(NotFound):
    """There is no operation with this id. GET /operations lists those that exist."""


class Conflict(HoldfastError):
    """The present state does not allow this. Read the resource again, then decide."""


class IdempotencyConflict(Conflict):
    """This Idempotency-Key was already used with another body. Repeat the first body, or take a new key."""


class NotAllowed(HoldfastError):
    """This action is not allowed here. Ask the operator of this installation."""


class ChaosDisabled(NotAllowed):
    """Crashing executors is switched off. Start Holdfast with HOLDFAST_CHAOS=true to allow it."""


class WrongAdminToken(NotAllowed):
    """This is not the admin token of this installation. `holdfast token` prints the present one."""


class AdminTokenUnset(NotAllowed):
    """This needs an admin token, and none is set. Set HOLDFAST_ADMIN_TOKEN_FILE to a file that holds one."""


class Unavailable(HoldfastError):
    """Holdfast cannot do this at the moment. Send the same request again shortly."""

    retry_after_seconds = 1


class DatabaseUnavailable(Unavailable):
    """PostgreSQL does not answer. Nothing is lost; send the same request again shortly."""


class StatementTimeout(DatabaseUnavailable):
    """PostgreSQL answers, but this took longer than its limit. Send the same request again when there is less
    other work, or ask for less at a time.
    """


class LockTimeout(StatementTimeout):
    """PostgreSQL answers, but other work held a row that this needs for longer than the limit. Send the same
    request again shortly.
    """


class DatabaseBusy(DatabaseUnavailable):
    """PostgreSQL answers, but could not do this beside other work. Send the same request again shortly."""


class DatabaseReadOnly(DatabaseUnavailable):
    """PostgreSQL answers, but accepts no writes at present, as during a failover. Send the same request again
    shortly.
    """


class Draining(Unavailable):
    """This process is stopping and takes no new work. Send the same request again: its successor answers."""


class BacklogFull(Unavailable):
    """Too much work is unfinished (HOLDFAST_QUEUE_LIMIT). Send the same request again when some is done."""

    retry_after_seconds = 5


class AdminTokenUnusable(Unavailable):
    """The file of the admin token holds none. Check HOLDFAST_ADMIN_TOKEN_FILE, then try again."""


class ModuleWrong(HoldfastError):
    """A module in HOLDFAST_MODULES does not register its workflows as docs/start/your-own-workflow.md
    says.
    """


class ModuleFailed(HoldfastError):
    """A module in HOLDFAST_MODULES could not be imported this time. The next start tries again."""


class PoolerSharesSessions(HoldfastError):
    """A pooler (PgBouncer or one like it) stands before PostgreSQL and gives a session to another client
    after each transaction. Holdfast needs sessions of its own. Connect directly, or set pool_mode = session
    in the pooler.
    """


class PickleRefused(HoldfastError):
    """This stored value is marked as pickled Python, which could run any code and is never loaded here.
    Find out who wrote the row; start the work again under a new id.
    """


class UnstorableValue(HoldfastError, TypeError):
    """This value cannot be stored: it would not come back as what it was. Return plain values, or annotate
    its type.
    """


class StepTimeout(HoldfastError):
    """The step took longer than its `timeout_seconds`. Its process was killed; another attempt may do."""


class StepProcessDied(HoldfastError):
    """The process of a step with a timeout ended without a result. Another attempt gets a new one."""


class CpuError(HoldfastError):
    """A computation in a child process ended without a result. Run it again."""


class CpuChildDied(CpuError):
    """The child process died while computing. A new one takes its place; run the computation again."""


class CpuCancelled(CpuError):
    """The computation was cancelled, and its child process killed. Resume its workflow to run it again."""


class CpuPoolClosed(CpuError):
    """The pool of child processes is closed because this process stops. Run the computation elsewhere."""


class DatabaseNotPrepared(HoldfastError):
    """The database cannot be prepared for attached applications. Correct what is named, then try again."""
