"""Builds one valid request for every operation of an OpenAPI document."""

from __future__ import annotations

from typing import Any


def every_request(document: dict[str, Any], values: dict[str, str]) -> list[tuple[str, str, Any]]:
    """Returns method, path and body of each. ``values`` are path parameters by name, "x" is the default."""
    found = []
    for template, operations in document["paths"].items():
        for method, operation in operations.items():
            path = template
            for parameter in operation.get("parameters", []):
                name = parameter["name"]
                if parameter["in"] == "path":
                    path = path.replace("{" + name + "}", values.get(name, "x"))
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            found.append((method.upper(), path, content and _example(content["schema"], document)))
    return found


def _example(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for choices in ("anyOf", "oneOf", "allOf"):
        if choices in schema:
            return _example(schema[choices][0], document)
    if "default" in schema or "const" in schema or "enum" in schema:
        return schema.get("default", schema.get("const", schema.get("enum", [None])[0]))
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        return {name: _example(properties[name], document) for name in schema.get("required", [])}
    if schema.get("type") == "array":
        return [_example(schema["items"], document)] * max(1, schema.get("minItems", 0))
    text = "x" * max(1, schema.get("minLength", 0))
    plain = {"integer": schema.get("minimum", 1), "number": schema.get("minimum", 1), "boolean": False}
    return plain.get(schema.get("type", "string"), text)
