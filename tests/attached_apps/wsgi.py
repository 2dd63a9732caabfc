"""A WSGI application with DBOS, as gunicorn runs them. It does not know Holdfast."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import plain
from dbos import DBOS, SetWorkflowID

DBOS.launch()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """POST /workflows/NAME/ID with an array of arguments starts a workflow and answers with its process."""
    _, _, name, workflow_id = environ["PATH_INFO"].split("/")
    arguments = json.loads(environ["wsgi.input"].read())
    with SetWorkflowID(workflow_id):
        DBOS.start_workflow(plain.WORKFLOWS[name], *arguments)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(os.getpid()).encode()]
