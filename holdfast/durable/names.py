"""Durable names: the names of the platform's queues, and tables of the names that modules register.

The database stores durable names. Renaming one strands the work that is stored under the old name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from holdfast.errors import Conflict, ModuleWrong
from holdfast.settings import Role

API_SUSPECTS_QUEUE: Final = "api-suspects"
API_TRIALS_QUEUE: Final = "api-trials"
WORKER_SUSPECTS_QUEUE: Final = "worker-suspects"
WORKER_TRIALS_QUEUE: Final = "worker-trials"

# Each role has a queue for suspected poison workflows, and one for their last run before they are parked.
SUSPECTS_QUEUE: Final[dict[Role, str]] = {"api": API_SUSPECTS_QUEUE, "worker": WORKER_SUSPECTS_QUEUE}
TRIALS_QUEUE: Final[dict[Role, str]] = {"api": API_TRIALS_QUEUE, "worker": WORKER_TRIALS_QUEUE}

# No workflow starts on these queues.
OTHER_QUEUES: Final = (*SUSPECTS_QUEUE.values(), *TRIALS_QUEUE.values())

# ``holdfast.durable.registry`` fills the tables below with the names that modules register.

QUEUE_OF: Final[dict[str, str]] = {}
"""The queue on which a workflow starts, and to which it returns when an operator resumes it."""

ROLE_OF: Final[dict[str, Role]] = {}
"""The role whose processes run a workflow."""

PLAIN: Final[set[str]] = set()
"""The workflows of plain DBOS modules, which a worker runs and nothing here declares."""

STEPS: Final[dict[Role, list[str]]] = {"api": [], "worker": []}
"""Steps that DBOS's own decorators declare, by role. /metrics shows each from the start."""

LEAF_QUEUES: Final[set[str]] = set()
"""Queues of workflows that DBOS's own decorators declare and that start no children. Only their workflows may
become suspects and be put on trial: a parent would hold the single slot and wait forever for a child that is
a suspect too."""


def is_declared(own_applications: Collection[str], application: str | None, name: str) -> bool:
    """Whether this release declares the workflow, with its queue."""
    return name in QUEUE_OF and (application is None or application in own_applications)


def why_unknown(own_applications: Collection[str], application: str | None, name: str) -> str | None:
    """Returns why nothing can continue such a workflow, or None.

    Another application knows its own workflows.
    """
    if is_declared(own_applications, application, name):
        return None
    if name in PLAIN or (application is not None and application not in own_applications):
        return None
    return f"This release does not know workflows named {name}; it could not run this one."


def home_queue(
    own_applications: Collection[str], application: str | None, name: str, stored: str | None
) -> str | None:
    """Returns the queue to which a workflow returns: that of its declaration, or the stored one.

    Raises `Conflict` if nothing can continue the workflow.
    """
    if reason := why_unknown(own_applications, application, name):
        raise Conflict(reason)
    return QUEUE_OF[name] if is_declared(own_applications, application, name) else stored


_DURABLE_NAME = re.compile(r"^[A-Za-z0-9._-]{1,100}$")


def fit(name: str, taken: Iterable[str]) -> str:
    """Returns `name`. Raises ``ModuleWrong`` if it is not a valid durable name, or is in `taken`."""
    if not _DURABLE_NAME.match(name):
        raise ModuleWrong(
            f"{name!r} is no durable name: letters, digits, dot, dash and underscore, at most 100."
        )
    if name in taken:
        raise ModuleWrong(f"The name {name} is taken; durable names are unique.")
    return name
