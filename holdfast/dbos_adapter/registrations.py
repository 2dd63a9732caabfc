"""The workflows of this process by their durable names, as other processes need them to start one.

`publish` stores them in ``ops.registrations``.
"""

from __future__ import annotations

import base64
import inspect
import json
import logging
import pickle
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

from dbos._dbos import _get_dbos_instance, _get_or_create_dbos_registry
from dbos._registrations import get_func_info
from dbos._serialization import WorkflowSerializationFormat

from holdfast.postgres.database import OpsPool
from holdfast.postgres.outage import is_outage

log = logging.getLogger("holdfast.registrations")

PICKLE = "py_pickle"


def workflow_names() -> set[str]:
    """Returns the names of all workflows that are registered in this process, without DBOS's own."""
    registered = _get_or_create_dbos_registry().workflow_info_map
    return {name for name in registered if not name.startswith(("<temp>.", "_dbos_"))}


def module_of(name: str) -> str:
    """Returns the name of the module that defines a registered workflow."""
    return str(getattr(_get_or_create_dbos_registry().workflow_info_map[name], "__module__", ""))


def registered_workflows(without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Returns how each workflow of this process is started: its class, instances and format, if any."""
    registry = _get_or_create_dbos_registry()
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(workflow_names() - set(without)):
        info = get_func_info(registry.workflow_info_map[name])
        found[name] = {}
        if (takes := arguments_of(name)) is not None:
            found[name]["takes"] = takes
        if info is None:
            continue
        if info.class_info is not None:
            owner = info.class_info.registered_name
            prefix = f"{owner}/"
            found[name]["class"] = owner
            if info.func_type.name == "Instance":
                instances = (key for key in registry.instance_info_map if key.startswith(prefix))
                found[name]["instances"] = sorted(key.removeprefix(prefix) for key in instances)
        if info.serialization_type == WorkflowSerializationFormat.PORTABLE:
            found[name]["portable"] = True
    return found


def arguments_of(name: str) -> dict[str, Any] | None:
    """Returns which arguments a workflow of this process takes, or None where only a call shows that.

    ``names`` are its parameters in their order, ``needs`` those without a default. ``any_position`` and
    ``any_name`` say that it takes more (``*args``, ``**kwargs``), ``only_named`` are parameters without a
    position, ``only_position`` those of ``names`` that cannot be named. ``tick`` says that it takes the time
    of a tick without the context that DBOS passes after it. Keys that do not apply are left out.
    ``ops.arguments_fit`` compares them with what is stored.
    """
    try:
        return _arguments_of(name)
    except Exception as error:
        # Of one workflow, whose decorators may do anything: the others are claimed and published.
        log.debug("the arguments of %s are not known: %s", name, error)
        return None


def _arguments_of(name: str) -> dict[str, Any] | None:
    function = _get_or_create_dbos_registry().workflow_info_map[name]
    if (declared := getattr(function, "takes", None)) is not None:
        return dict(declared())
    info = get_func_info(function)
    # A validator may turn any arguments into the function's. DBOS's own workflows change with DBOS only.
    if info is None or info.validate_args is not None or name.startswith(("<temp>.", "_dbos_")):
        return None
    # What DBOS calls. A decorator below DBOS's may take other arguments than the function that it wraps.
    called = inspect.signature(getattr(function, "__orig_func", function), follow_wrapped=False)
    parameters = list(called.parameters.values())
    # The object or class is no stored argument. A decorator's *args takes it with the others.
    has_owner = info.class_info is not None and info.func_type.name in ("Instance", "Class")
    if has_owner and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        del parameters[0]
    return takes_of(parameters)


def takes_of(parameters: Iterable[inspect.Parameter]) -> dict[str, Any]:
    """Returns the parameters in the form of `arguments_of`."""
    kinds = inspect.Parameter
    found: dict[str, list[str]] = {"names": [], "needs": [], "only_named": [], "only_position": []}
    takes: dict[str, Any] = {}
    for each in parameters:
        if each.kind is kinds.VAR_POSITIONAL:
            takes["any_position"] = True
        elif each.kind is kinds.VAR_KEYWORD:
            takes["any_name"] = True
        else:
            found["only_named" if each.kind is kinds.KEYWORD_ONLY else "names"].append(each.name)
            if each.kind is kinds.POSITIONAL_ONLY:
                found["only_position"].append(each.name)
            if each.default is kinds.empty:
                found["needs"].append(each.name)
    return {key: names for key, names in found.items() if names} | takes


def why_unfit(
    takes: dict[str, Any] | None, positional: Collection[Any], named: Collection[str]
) -> str | None:
    """Returns why a workflow that takes these arguments does not take the given ones, or None.

    The counterpart of ``ops.arguments_fit``, for a client that can still correct them.
    """
    if takes is None:
        return None
    names, only_named = takes.get("names", []), takes.get("only_named", [])
    by_position = names[: len(positional)]
    by_name = set(named) - set(takes.get("only_position", []))
    if len(positional) > len(names) and "any_position" not in takes:
        return f"it takes {len(names)} by position, {len(positional)} are given"
    if twice := sorted(by_name.intersection(by_position)):
        return f"{twice[0]} is given by position and by name"
    if "any_name" not in takes and (
        unknown := sorted(set(named) - by_name.intersection([*names, *only_named]))
    ):
        return f"it has no parameter {unknown[0]}"
    missing = [name for name in takes.get("needs", []) if name not in by_position and name not in by_name]
    return f"{missing[0]} is missing" if missing else None


def publish(
    run: Callable[..., Any],
    executor_id: str,
    without: Collection[str] = (),
    schedules: Collection[str] | None = None,
) -> None:
    """Stores what this process has registered. ``run`` runs a named ops statement.

    Stores its workflows except ``without``, the queues that it listens to unless it listens to all, and the
    schedules that its code declares. Call after the launch of DBOS and the registration of the executor.
    Raises ``psycopg2.Error``.
    """
    run(
        "publish_registrations",
        executor_id=executor_id,
        serializer=_get_dbos_instance()._serializer.name(),
        workflows=json.dumps(registered_workflows(without)),
        queues=_get_dbos_instance()._listening_queues,
        schedules=None if schedules is None else list(schedules),
    )


def publish_soon(
    ops: OpsPool,
    executor_id: str,
    without: Collection[str] = (),
    schedules: Collection[str] | None = None,
) -> None:
    """As `publish`. In an outage it goes on in a thread until PostgreSQL is back. Other errors are logged."""

    def publish_with(run: Callable[..., Any]) -> None:
        try:
            publish(run, executor_id, without, schedules)
        except Exception as error:
            if run == ops.run and is_outage(error):
                patiently = threading.Thread(
                    target=publish_with, args=[ops.run_patiently], name="holdfast-publish", daemon=True
                )
                patiently.start()
                return
            log.warning(
                "the names of the workflows are not published: %s", error, extra={"action": "publish.failed"}
            )

    publish_with(ops.run)


def listen_to(queue: str) -> None:
    """Makes the launched application poll one more queue. Its thread starts within a second."""
    listening = _get_dbos_instance()._listening_queues
    if listening is not None and queue not in listening:
        listening.append(queue)


def pickled_input(args: Collection[Any], kwargs: dict[str, Any]) -> str:
    """Returns arguments in the format of DBOS's default serializer. They are values of a client's JSON.

    An application with that serializer then runs the workflow as if it had started it itself: children,
    results and events may be any Python values. Nothing here loads a pickle.
    """
    pickled = pickle.dumps({"args": tuple(args), "kwargs": kwargs}, protocol=4)
    return base64.b64encode(pickled).decode("ascii")
