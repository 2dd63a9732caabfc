"""Loads user-defined modules in the test's process, and restores at the end what they changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dbos._dbos import _get_or_create_dbos_registry

from holdfast.durable import names, plain_modules, registry, steps


@contextmanager
def forgotten() -> Iterator[None]:
    """Starts with empty registries, and forgets at the end what was declared, registered and loaded."""
    kept = _collections()
    before = [each.copy() for each in kept]
    registered = _get_or_create_dbos_registry().workflow_info_map
    outside = {name: registered.pop(name) for name in _user_defined() if name in registered}
    for name in _user_defined():
        names.QUEUE_OF.pop(name, None)
        names.ROLE_OF.pop(name, None)
    _forget()
    try:
        yield
    finally:
        # The step process has imported modules that are forgotten from here on.
        steps.processes.close()
        # Built-in workflows stay: they are imported for good.
        for name in (*_user_defined(), *names.PLAIN):
            registered.pop(name, None)
        registered.update(outside)
        for each, was in zip(kept, before, strict=True):
            each.clear()
            if isinstance(each, list):
                each.extend(was)
            else:
                each.update(was)


def _user_defined() -> list[str]:
    return [name for name, each in registry._declared.items() if not registry.is_builtin(each)]


def _forget() -> None:
    """Forgets what user-defined modules have declared, and keeps what is built in."""
    registry._loaded.clear()
    plain_modules._modules.clear()
    names.PLAIN.clear()
    registry._queues[:], registry._schedules[:] = registry.queues(), registry.schedules()
    for name in _user_defined():
        del registry._declared[name]
    for name, signature in list(steps.declared_steps.items()):
        if signature.module not in registry._builtin:
            del steps.declared_steps[name]
            steps._timed.pop(name, None)


def _collections() -> list[Any]:
    own_ones = [
        steps.declared_steps,
        steps._timed,
        registry._declared,
        registry._queues,
        registry._schedules,
        registry._loaded,
        plain_modules._modules,
        names.PLAIN,
    ]
    # Names of workflows that DBOS's own decorators declare are always known.
    named = [registry._labels, *registry._named_queues.values(), *registry._named_schedules.values()]
    tables = [names.QUEUE_OF, names.ROLE_OF, names.LEAF_QUEUES, *names.STEPS.values()]
    return [*own_ones, *named, *tables]
