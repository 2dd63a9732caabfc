"""Commands on one stored workflow: ``fork`` and ``reopen``."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from holdfast.cli.shown import Api, JsonOption, KeyOption, UrlOption, plain_errors, show
from holdfast.path_segment import workflow_path

WorkflowArgument = Annotated[str, typer.Argument(help="id of the workflow")]


def fork(
    workflow_id: WorkflowArgument,
    *,
    step: Annotated[int, typer.Option(min=1, help="the first step that is done again")] = 1,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a copy of a workflow from a step on, under an id of its own."""
    with plain_errors():
        body = {"start_step": step}
        answer = Api(url).post(workflow_path(workflow_id, "fork"), body, key=key or uuid.uuid4().hex)
        show(answer, as_json=as_json, human=lambda: f"accepted {answer['workflow_id']}")


def reopen(workflow_id: WorkflowArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Let a workflow that ended with ERROR go on at its failed step."""
    with plain_errors():
        answer = Api(url).post(workflow_path(workflow_id, "reopen"))
        show(answer, as_json=as_json, human=lambda: f"{answer['workflow_id']}: {answer['status']}")
