"""Durable names: those of the platform's queues, and tables of everything that modules register.

Durable names live in the database. Renaming one strands the work that is stored under the old name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from holdfast.errors import ModuleWrong
from holdfast.settings import Role

API_SUSPECTS_QUEUE: Final = "api-suspects"
API_TRIALS_QUEUE: Final = "api-trials"
WORKER_SUSPECTS_QUEUE: Final = "worker-suspects"
WORKER_TRIALS_QUEUE: Final = "worker-trials"

# Each role's queue for suspects of poison, and its queue for their last run before they are parked.
SUSPECTS_QUEUE: Final[dict[Role, str]] = {"api": API_SUSPECTS_QUEUE, "worker": WORKER_SUSPECTS_QUEUE}
TRIALS_QUEUE: Final[dict[Role, str]] = {"api": API_TRIALS_QUEUE, "worker": WORKER_TRIALS_QUEUE}

# Queues that no workflow starts on.
OTHER_QUEUES: Final = (*SUSPECTS_QUEUE.values(), *TRIALS_QUEUE.values())

# ``holdfast.durable.registry`` fills the tables below with what modules register.

QUEUE_OF: Final[dict[str, str]] = {}
"""The queue that a workflow starts on, and goes back to when an operator resumes it."""

ROLE_OF: Final[dict[str, Role]] = {}
"""Which processes run a workflow."""

STEPS: Final[dict[Role, list[str]]] = {"api": [], "worker": []}
"""Steps of DBOS's own decorators, by the application that runs them: /metrics shows each from the start."""

LEAF_QUEUES: Final[set[str]] = set()
"""Queues of workflows that DBOS's own decorators declare and that start no children. Their workflows may be
moved to the suspects and on trial: a parent there would hold the one slot and wait for ever for a child that
is a suspect too."""

_DURABLE_NAME = re.compile(r"^[A-Za-z0-9._-]{1,100}$")


def fit(name: str, taken: Iterable[str]) -> str:
    """The name itself. Raises ``ModuleWrong`` where it is no durable name, or one of those `taken`."""
    if not _DURABLE_NAME.match(name):
        raise ModuleWrong(
            f"{name!r} is no durable name: letters, digits, dot, dash and underscore, at most 100."
        )
    if name in taken:
        raise ModuleWrong(f"The name {name} is taken; durable names are unique.")
    return name
