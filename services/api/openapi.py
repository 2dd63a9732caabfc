"""The OpenAPI document: FastAPI's, with problem documents in place of its own error shape."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.api.problems import MEDIA_TYPE, FieldError, Problem, documented
from services.api.rate import EXEMPT
from services.api.routes_own import describe
from services.settings import Settings


def install(app: FastAPI) -> None:
    """Make `app.openapi()` (and /docs) describe problems as they are sent."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
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
    _bound(schemas["BatchRequest"], settings)
    _kind(schemas["ListingRequest"], "max_pages")["maximum"] = settings.s3_max_pages
    if "StartRequest" in schemas:
        describe(schemas)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in documented(*_refusals(path, settings)).items():
                operation["responses"].setdefault(str(status), response)
            if settings.require_token and path not in EXEMPT:
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
    if settings.rate_limit and path not in EXEMPT:
        statuses.append(429)
    if settings.require_token and path not in EXEMPT:
        statuses.append(401)
    return statuses


def _bound(batch: dict[str, Any], settings: Settings) -> None:
    """What this installation's settings allow, so that a client can know before it asks."""
    count, numbers = (_kind(batch, name) for name in ("count", "numbers"))
    count["maximum"] = numbers["maxItems"] = settings.fibonacci_max_count
    # Also true where method is left out: recursive is the default.
    batch["if"] = {"properties": {"method": {"const": "recursive"}}}
    batch["then"] = {"properties": {"numbers": {"items": {"maximum": settings.fibonacci_max_n}}}}


def _kind(shape: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of a member that may also be null."""
    kinds: list[dict[str, Any]] = shape["properties"][name]["anyOf"]
    return next(kind for kind in kinds if kind["type"] != "null")


def _is_fastapis(response: dict[str, Any]) -> bool:
    schema = response["content"].get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith("HTTPValidationError")
