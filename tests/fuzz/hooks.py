"""Loaded by schemathesis: puts ids that exist, also odd ones, into half of the paths."""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis
from schemathesis.transport.serialization import EncodedPath

from holdfast.path_segment import encode_segment

_KNOWN: dict[str, list[str]] = json.loads(os.environ["HOLDFAST_FUZZ_KNOWN"])


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """By the value's own hash, so that a seed repeats the choice."""
    for name, value in (path_parameters or {}).items():
        known = _KNOWN.get(name)
        mark = sum(str(value).encode("utf-8", "replace"))
        if known and mark % 2 == 0:
            # Encoded as the API says. schemathesis itself would take an id such as `%2F` for an encoded one.
            segment = EncodedPath(encode_segment(known[mark // 2 % len(known)]))
            path_parameters = {**(path_parameters or {}), name: segment}
    return path_parameters


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """3.0 is an integer to JSON Schema; the API takes it for none, on purpose: integers are strict."""
    return _strict(body)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _strict(item) for name, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list) else value
