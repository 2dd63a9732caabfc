"""The durable names for tests: the platform's, and those of the showcase's folders."""

from __future__ import annotations

from holdfast.durable import names
from holdfast.durable.names import (
    API_SUSPECTS_QUEUE,
    API_TRIALS_QUEUE,
    OTHER_QUEUES,
    QUEUE_OF,
    ROLE_OF,
    STEPS,
    SUSPECTS_QUEUE,
    TRIALS_QUEUE,
    WORKER_SUSPECTS_QUEUE,
    WORKER_TRIALS_QUEUE,
)
from holdfast.retention import workflow as retention
from services import composition
from services.api.nesting import declaration as nesting
from services.api.scope import declaration as scope
from services.api.users import declaration as users
from services.worker.buckets import workflows as buckets
from services.worker.fibonacci import workflows as fibonacci
from services.worker.poison import workflows as poison
from services.worker.pulse import workflows as pulse
from services.worker.pulse.settings import PULSE_SECONDS

assert composition.WORKER_FOLDERS  # the import loads all declarations
LEAF_QUEUES = frozenset(names.LEAF_QUEUES)

SCOPE_QUEUE = scope.QUEUE.name
USERS_QUEUE = users.QUEUE.name
USER_PAGES_QUEUE = users.PAGE_QUEUE.name
NESTED_ROOT_QUEUE = nesting.ROOT_QUEUE.name
NESTED_CHILD_QUEUE = nesting.CHILD_QUEUE.name
NESTED_GRANDCHILD_QUEUE = nesting.GRANDCHILD_QUEUE.name
FIBONACCI_BATCH_QUEUE = fibonacci.BATCH_QUEUE.name
FIBONACCI_QUEUE = fibonacci.NUMBER_QUEUE.name
FIBONACCI_SEQUENCE_QUEUE = fibonacci.SEQUENCE_QUEUE.name
PULSE_QUEUE = pulse.QUEUE.name
PURGE_QUEUE = retention.PURGE_QUEUE.name
BUCKET_LISTINGS_QUEUE = buckets.LISTING_QUEUE.name
BUCKET_PAGES_QUEUE = buckets.PAGE_QUEUE.name

CLASS_SCOPE = scope.CLASS_SCOPE.name
INSTANCE_SCOPE = scope.INSTANCE_SCOPE.name
FUNCTION_SCOPE = scope.FUNCTION_SCOPE.name
USERS_PROCESS = users.PROCESS.name
USERS_PAGE = users.PAGE.name
NESTED_ROOT = nesting.ROOT.name
NESTED_CHILD = nesting.CHILD.name
NESTED_GRANDCHILD = nesting.GRANDCHILD.name
FIBONACCI_BATCH = fibonacci.batch.name
FIBONACCI_SEQUENCE = fibonacci.sequence.name
FIBONACCI_NUMBER = fibonacci.number.name
PULSE_TICK = pulse.tick.name
PURGE = retention.purge.name
PURGE_TICK = retention.tick.name
BUCKET_LISTING = buckets.listing.name
BUCKET_PAGE = buckets.page.name
POISON = poison.poison.name

PULSE_SCHEDULE = pulse.SCHEDULE.name
PURGE_SCHEDULE = retention.PURGE_SCHEDULE.name
PURGE_CRON = retention.PURGE_SCHEDULE.cron

__all__ = [
    "API_SUSPECTS_QUEUE",
    "API_TRIALS_QUEUE",
    "OTHER_QUEUES",
    "PULSE_SECONDS",
    "QUEUE_OF",
    "ROLE_OF",
    "STEPS",
    "SUSPECTS_QUEUE",
    "TRIALS_QUEUE",
    "WORKER_SUSPECTS_QUEUE",
    "WORKER_TRIALS_QUEUE",
]
