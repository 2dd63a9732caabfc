"""Names that live in the database: workflows, queues, schedules.

They are contracts. Renaming one strands the work that is stored under the old name, so they stand
here alone, where a reviewer can watch them. ``own.load`` adds those of modules of your own at start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from holdfast.errors import ModuleWrong
from holdfast.settings import Role

# Queues of the API's application.
SCOPE_QUEUE: Final = "scope"
USERS_QUEUE: Final = "users"
USER_PAGES_QUEUE: Final = "user-pages"
NESTED_ROOT_QUEUE: Final = "nested-roots"
NESTED_CHILD_QUEUE: Final = "nested-children"
NESTED_GRANDCHILD_QUEUE: Final = "nested-grandchildren"
API_SUSPECTS_QUEUE: Final = "api-suspects"
API_TRIALS_QUEUE: Final = "api-trials"

# Queues of the worker's application.
FIBONACCI_BATCH_QUEUE: Final = "fibonacci-batches"
FIBONACCI_QUEUE: Final = "fibonacci"
FIBONACCI_SEQUENCE_QUEUE: Final = "fibonacci-sequences"
PULSE_QUEUE: Final = "pulses"
PURGE_QUEUE: Final = "purges"
BUCKET_LISTINGS_QUEUE: Final = "bucket-listings"
BUCKET_PAGES_QUEUE: Final = "bucket-pages"
WORKER_SUSPECTS_QUEUE: Final = "worker-suspects"
WORKER_TRIALS_QUEUE: Final = "worker-trials"

CLASS_SCOPE: Final = "ClassScope.run"
INSTANCE_SCOPE: Final = "InstanceScope.run"
FUNCTION_SCOPE: Final = "scope.function"
USERS_PROCESS: Final = "users.process"
USERS_PAGE: Final = "users.page"
NESTED_ROOT: Final = "nesting.root"
NESTED_CHILD: Final = "nesting.child"
NESTED_GRANDCHILD: Final = "nesting.grandchild"
FIBONACCI_BATCH: Final = "fibonacci.batch"
FIBONACCI_SEQUENCE: Final = "fibonacci.sequence"
FIBONACCI_NUMBER: Final = "fibonacci.number"
PULSE_TICK: Final = "pulse.tick"
PURGE: Final = "retention.purge"
PURGE_TICK: Final = "retention.tick"
BUCKET_LISTING: Final = "buckets.listing"
BUCKET_PAGE: Final = "buckets.page"
POISON: Final = "chaos.poison"

# Steps of our own, by the application that runs them: /metrics shows each from the start.
STEPS: Final[dict[Role, tuple[str, ...]]] = {
    "api": (
        "scope.class.step",
        "scope.instance.step",
        "scope.function.step",
        "users.process_one",
        "nesting.touch",
    ),
    "worker": (
        "fibonacci.enqueue",
        "fibonacci.compute",
        "fibonacci.collect",
        "pulse.record",
        "retention.begin",
        "retention.workflows",
        "retention.tidy",
        "retention.end",
        "buckets.cut",
        "buckets.enqueue",
        "buckets.read",
        "buckets.collect",
        "chaos.kill_process",
    ),
}

INSTANCE_NAMES: Final = ("alpha", "beta")
PULSE_SCHEDULE: Final = "pulse"
PULSE_CRON: Final = "*/5 * * * * *"
PULSE_SECONDS: Final = 5
PURGE_SCHEDULE: Final = "purge"
# Once an hour, and not at its full hour, when everybody's jobs begin.
PURGE_CRON: Final = "0 17 * * * *"
SCHEDULES: Final = (PULSE_SCHEDULE, PURGE_SCHEDULE)

# The queue that a workflow starts on, and goes back to when an operator resumes it.
QUEUE_OF: Final[dict[str, str]] = {
    CLASS_SCOPE: SCOPE_QUEUE,
    INSTANCE_SCOPE: SCOPE_QUEUE,
    FUNCTION_SCOPE: SCOPE_QUEUE,
    USERS_PROCESS: USERS_QUEUE,
    USERS_PAGE: USER_PAGES_QUEUE,
    NESTED_ROOT: NESTED_ROOT_QUEUE,
    NESTED_CHILD: NESTED_CHILD_QUEUE,
    NESTED_GRANDCHILD: NESTED_GRANDCHILD_QUEUE,
    FIBONACCI_BATCH: FIBONACCI_BATCH_QUEUE,
    FIBONACCI_SEQUENCE: FIBONACCI_SEQUENCE_QUEUE,
    FIBONACCI_NUMBER: FIBONACCI_QUEUE,
    PULSE_TICK: PULSE_QUEUE,
    PURGE: PURGE_QUEUE,
    PURGE_TICK: PURGE_QUEUE,
    BUCKET_LISTING: BUCKET_LISTINGS_QUEUE,
    BUCKET_PAGE: BUCKET_PAGES_QUEUE,
    POISON: FIBONACCI_QUEUE,
}

_WORKER_QUEUES: Final = frozenset(
    {
        FIBONACCI_BATCH_QUEUE,
        FIBONACCI_SEQUENCE_QUEUE,
        FIBONACCI_QUEUE,
        PULSE_QUEUE,
        PURGE_QUEUE,
        BUCKET_LISTINGS_QUEUE,
        BUCKET_PAGES_QUEUE,
    }
)
ROLE_OF: Final[dict[str, Role]] = {
    name: "worker" if queue in _WORKER_QUEUES else "api" for name, queue in QUEUE_OF.items()
}

# Each role's queue for suspects of poison, its queue for their last run before they are parked, and the
# queues whose workflows may be moved there: only those without children, since a parent that holds the
# one place would wait for ever for a child that is a suspect too.
SUSPECTS_QUEUE: Final[dict[Role, str]] = {"api": API_SUSPECTS_QUEUE, "worker": WORKER_SUSPECTS_QUEUE}
TRIALS_QUEUE: Final[dict[Role, str]] = {"api": API_TRIALS_QUEUE, "worker": WORKER_TRIALS_QUEUE}
LEAF_QUEUES: Final = frozenset(
    {
        SCOPE_QUEUE,
        USER_PAGES_QUEUE,
        NESTED_GRANDCHILD_QUEUE,
        FIBONACCI_QUEUE,
        FIBONACCI_SEQUENCE_QUEUE,
        PULSE_QUEUE,
        PURGE_QUEUE,
        BUCKET_PAGES_QUEUE,
    }
)

# Queues that no workflow starts on.
OTHER_QUEUES: Final = (*SUSPECTS_QUEUE.values(), *TRIALS_QUEUE.values())


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
