"""The OpenAPI document: FastAPI's, with problem documents in place of its own error shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from holdfast.api.feature import Feature
from holdfast.api.problems import MEDIA_TYPE, FieldError, Problem, documented
from holdfast.api.routes.user_workflows import describe
from holdfast.probe_paths import PROBE_PATHS
from holdfast.settings import Settings


def install(app: FastAPI, features: Sequence[Feature]) -> None:
    """Make `app.openapi()` (and /docs) describe problems as they are sent."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, features)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def take_titles(router: APIRouter) -> None:
    """Makes the first sentence of each docstring the title of its call, instead of the function's name."""
    for route in router.routes:
        if isinstance(route, APIRoute) and route.summary is None and route.description:
            title, _, rest = route.description.partition("\n\n")
            first, stop, more = " ".join(title.split()).partition(". ")
            route.summary = first.rstrip(".")
            route.description = "\n\n".join(filter(None, [more if stop else "", rest]))


def _document(app: FastAPI, features: Sequence[Feature]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for own in ("HTTPValidationError", "ValidationError"):
        schemas.pop(own, None)
    reference = "#/components/schemas/{model}"
    schemas["FieldError"] = FieldError.model_json_schema(ref_template=reference)
    schemas["Problem"] = Problem.model_json_schema(ref_template=reference)
    schemas["Problem"].pop("$defs", None)
    settings: Settings = app.state.process.settings
    for feature in features:
        feature.describe(schemas, settings)
    if "StartRequest" in schemas:
        describe(schemas)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in documented(*_refusals(path, settings)).items():
                operation["responses"].setdefault(str(status), response)
            if settings.require_token and path not in PROBE_PATHS:
                operation["security"] = [{"HTTPBearer": []}]
            for status, response in operation["responses"].items():
                if status >= "400":
                    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
                    # /readyz answers 503 with its checks; what a route documents itself stays.
                    if not response.get("content") or _is_fastapis(response):
                        response["content"] = {MEDIA_TYPE: problem}
    return document


def _refusals(path: str, settings: Settings) -> list[int]:
    """What any call may be answered before its route is found."""
    statuses = [403, 421]
    if settings.rate_limit and path not in PROBE_PATHS:
        statuses.append(429)
    if settings.require_token and path not in PROBE_PATHS:
        statuses.append(401)
    return statuses


def kind_of(shape: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of a member that may also be null."""
    kinds: list[dict[str, Any]] = shape["properties"][name]["anyOf"]
    return next(kind for kind in kinds if kind["type"] != "null")


def _is_fastapis(response: dict[str, Any]) -> bool:
    schema = response["content"].get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith("HTTPValidationError")
