"""The composition root: the showcase's folders, and the parts that each of the two roles runs.

This is the only list of them. A folder of a worker has its workflows with their queues and schedules in
``workflows``. A folder of the API uses DBOS's own decorators: its ``workflows`` run in the API alone, and all
processes know their names from its ``declaration``. What a folder serves over HTTP is ``FEATURE`` in its
``routes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from holdfast.application import RegisteredWork, load_builtin
from holdfast.settings import Role, Settings
from services.settings import ShowcaseSettings

if TYPE_CHECKING:
    from holdfast.web import Feature

API_FOLDERS = ("services.api.scope", "services.api.users", "services.api.nesting")
WORKER_FOLDERS = (
    "services.worker.fibonacci",
    "services.worker.buckets",
    "services.worker.pulse",
    "services.worker.poison",
)


def _modules(folders: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(f"{folder}.{name}" for folder in folders)


load_builtin((*_modules(API_FOLDERS, "declaration"), *_modules(WORKER_FOLDERS, "workflows")))


def features() -> list[Feature]:
    """Returns what the API serves over HTTP, of every folder that has routes."""
    modules = _modules((*API_FOLDERS, *WORKER_FOLDERS), "routes")
    return [import_module(module).FEATURE for module in modules if find_spec(module) is not None]


@dataclass(frozen=True)
class Api(RegisteredWork):
    """The API's application. Object scope and process caches need a process that answers requests."""

    role: Role = "api"
    workflow_modules: tuple[str, ...] = _modules(API_FOLDERS, "workflows")
    settings_class: type[Settings] = ShowcaseSettings


@dataclass(frozen=True)
class Worker(RegisteredWork):
    """The worker's application: Fibonacci queue, schedules, bucket listings, and user-defined modules."""

    role: Role = "worker"
    workflow_modules: tuple[str, ...] = _modules(WORKER_FOLDERS, "workflows")
    settings_class: type[Settings] = ShowcaseSettings
    uses_cpu_pool: bool = True
    preload: tuple[str, ...] = ("services.worker.fibonacci.rule",)
