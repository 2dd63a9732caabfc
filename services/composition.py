"""The composition root: the showcase's folders, and the parts that each of the two roles runs.

A folder has its durable names, queues and schedules in ``declaration``, its workflows in ``workflows``, and,
if it serves HTTP, a ``FEATURE`` in ``routes`` that `features` lists. All processes know the declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from holdfast.process.registered_work import RegisteredWork
from holdfast.settings import Role

API_FOLDERS = ("services.api.scope", "services.api.users", "services.api.nesting")
WORKER_FOLDERS = (
    "services.worker.fibonacci",
    "services.worker.buckets",
    "services.worker.pulse",
    "services.worker.poison",
)

for _folder in (*API_FOLDERS, *WORKER_FOLDERS):
    import_module(f"{_folder}.declaration")


def _workflows(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{folder}.workflows" for folder in folders)


@dataclass(frozen=True)
class Api(RegisteredWork):
    """The API's application. Object scope and process caches need a process that answers requests."""

    role: Role = "api"
    workflow_modules: tuple[str, ...] = _workflows(API_FOLDERS)


@dataclass(frozen=True)
class Worker(RegisteredWork):
    """The worker's application: Fibonacci queue, schedules, bucket listings, and user-defined modules."""

    role: Role = "worker"
    workflow_modules: tuple[str, ...] = _workflows(WORKER_FOLDERS)
    uses_cpu_pool: bool = True
    preload: tuple[str, ...] = ("services.worker.fibonacci.rule",)
