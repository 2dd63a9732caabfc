"""The workflows of this process by their durable names, as other processes need them to start one.

`publish` stores them in ``ops.registrations``.
"""

from __future__ import annotations

import base64
import json
import logging
import pickle
import threading
from collections.abc import Callable, Collection
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


def publish(run: Callable[..., Any], executor_id: str, without: Collection[str] = ()) -> None:
    """Stores the workflows of this process, except ``without``. ``run`` runs a named ops statement.

    Call after the launch of DBOS and the registration of the executor. Raises ``psycopg2.Error``.
    """
    run(
        "publish_registrations",
        executor_id=executor_id,
        serializer=_get_dbos_instance()._serializer.name(),
        workflows=json.dumps(registered_workflows(without)),
    )


def publish_soon(ops: OpsPool, executor_id: str) -> None:
    """As `publish`. In an outage it goes on in a thread until PostgreSQL is back. Other errors are logged."""

    def publish_with(run: Callable[..., Any]) -> None:
        try:
            publish(run, executor_id)
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
