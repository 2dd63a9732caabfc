"""The request that starts a workflow by its name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, ConfigDict, Field

from holdfast.api.models import KEY, ApplicationName, StrictRequest

_Name = Annotated[str, Field(min_length=1, max_length=255, pattern=KEY)]


class StartRequest(StrictRequest):  # type: ignore[no-redef]  # an alias is called kwargs
    """A workflow that a live executor has registered, with its arguments.

    Workflows of Holdfast's own API take `arguments` by the names of their parameters, which are checked.
    Plain DBOS workflows take `args` and `kwargs`, as a Python call does.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"workflow": "checkout", "application": "storefront", "args": ["cart-7"]}],
        }
    )

    workflow: _Name = Field(
        validation_alias=AliasChoices("workflow", "name"), description="durable name; `name` is accepted too"
    )
    application: ApplicationName | None = Field(
        default=None, description="needed only where several applications have a workflow of this name"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("arguments", "input"),
        description="by the names of its parameters; `input` is accepted too",
    )
    positional: list[Any] = Field(
        default_factory=list, validation_alias="args", max_length=100, description="positional arguments"
    )
    named: dict[str, Any] = Field(
        default_factory=dict, validation_alias="kwargs", description="keyword arguments"
    )
    instance: _Name | None = Field(
        default=None, description="the configured instance, of an instance's method"
    )
    queue: _Name | None = Field(
        default=None,
        description="a queue of the application; left out, it starts immediately, without a limit",
    )
    priority: int | None = Field(default=None, ge=0, le=2**31 - 1, description="0 first; needs a queue")
    deduplication_id: _Name | None = Field(
        default=None, description="one unfinished workflow of it in the queue"
    )
    partition_key: _Name | None = Field(
        default=None, description="a partitioned queue needs one; not with deduplication_id"
    )
    delay_seconds: float | None = Field(default=None, ge=0, le=366 * 86_400, allow_inf_nan=False)
    timeout_seconds: float | None = Field(default=None, gt=0, le=366 * 86_400, allow_inf_nan=False)
    portable: bool = Field(
        default=False,
        description="store input and result as JSON, which can be shown here; a result that JSON cannot "
        "represent then ends the workflow with an error. Left out, they have the application's own format",
    )
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")
