"""Modules of ``HOLDFAST_MODULES`` that are plain DBOS: they use ``@DBOS.workflow`` and DBOS's own calls.

All processes import them, and a worker runs their workflows. A module may have a function ``setup()``, which
the worker calls after the launch of DBOS. There, as in any DBOS application, it registers queues and applies
schedules.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

from dbos import DBOS

from holdfast.dbos_adapter import registrations
from holdfast.durable import names
from holdfast.errors import ModuleWrong

_modules: list[ModuleType] = []


@contextmanager
def refusing_an_application(module: str) -> Iterator[None]:
    """While a module is imported, it cannot build or launch DBOS. Raises ``ModuleWrong`` if it tries to."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ModuleWrong(
            f"HOLDFAST_MODULES: {module} builds its own DBOS(config), so it is an application of its own, "
            "and a worker cannot run it beside others. Start it by itself: "
            f"`holdfast run -- python -m {module}`. Or remove DBOS(...) and DBOS.launch() from what its "
            "import runs; the worker calls them."
        )

    kept = {name: DBOS.__dict__[name] for name in ("__new__", "launch")}
    for name in kept:
        setattr(DBOS, name, staticmethod(refuse))
    try:
        yield
    finally:
        for name, former in kept.items():
            setattr(DBOS, name, former)


def add(module: ModuleType) -> None:
    """Adds a module that registered nothing with `holdfast.durable.registry`."""
    _modules.append(module)


def note_workflows(declared: Any) -> None:
    """Adds the workflows that the plain modules and their submodules define to `names.PLAIN`."""
    prefixes = tuple(f"{module.__name__}." for module in _modules)
    for name in registrations.workflow_names():
        where = f"{registrations.module_of(name)}."
        if name not in declared and name not in names.QUEUE_OF and where.startswith(prefixes):
            names.PLAIN.add(name)


def set_up() -> None:
    """Calls ``setup()`` of each plain module, and listens to the queues that it registers."""
    for module in _modules:
        setup = getattr(module, "setup", None)
        if setup is None:
            continue
        with _listening():
            made = setup()
            if inspect.isawaitable(made):
                asyncio.run(_awaited(made))


async def _awaited(made: Any) -> None:
    await made


@contextmanager
def _listening() -> Iterator[None]:
    """Listens to each queue before it is registered."""
    kept = {name: DBOS.__dict__[name] for name in ("register_queue", "register_queue_async")}
    originals = {name: getattr(DBOS, name) for name in kept}

    def recording(original: Any) -> Any:
        def register(name: str, *args: Any, **options: Any) -> Any:
            if name in names.QUEUE_OF.values() or name in names.OTHER_QUEUES:
                raise ModuleWrong(f"The queue {name} is taken; names of queues are unique.")
            registrations.listen_to(name)
            return original(name, *args, **options)

        return staticmethod(register)

    for name, original in originals.items():
        setattr(DBOS, name, recording(original))
    try:
        yield
    finally:
        for name, former in kept.items():
            setattr(DBOS, name, former)
