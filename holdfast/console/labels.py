"""Short names of workflows for the page: ``fib(34)`` rather than ``fibonacci.number``.

Made from the beginning of the stored input, and only from numbers that are known to be harmless there.
"""

from __future__ import annotations

import re

from holdfast.durable import names

_ARGUMENTS = re.compile(r'"positionalArgs"\s*:\s*\[(.*)', re.DOTALL)
_NUMBER = re.compile(r"\s*(-?\d{1,12}(?:\.\d{1,6})?)\s*(?=[,\]])")

# What stands for a name; {0} and {1} are its first two numbers.
_SHAPES: dict[str, tuple[str, int]] = {
    names.FIBONACCI_NUMBER: ("fib({0})", 1),
    names.CLASS_SCOPE: ("scope: class, {0} steps", 1),
    names.FUNCTION_SCOPE: ("scope: function, {0} steps", 1),
    names.USERS_PROCESS: ("users: {0} pages of {1}", 2),
    names.USERS_PAGE: ("users: page {0}", 1),
    names.BUCKET_PAGE: ("listing: page {0}", 1),
}
_PLAIN: dict[str, str] = {
    names.FIBONACCI_BATCH: "batch",
    names.FIBONACCI_SEQUENCE: "batch, in turn",
    names.CLASS_SCOPE: "scope: class",
    names.INSTANCE_SCOPE: "scope: instance",
    names.FUNCTION_SCOPE: "scope: function",
    names.USERS_PROCESS: "users",
    names.USERS_PAGE: "users: page",
    names.NESTED_ROOT: "nested: root",
    names.NESTED_CHILD: "nested: child",
    names.NESTED_GRANDCHILD: "nested: grandchild",
    names.PULSE_TICK: "pulse",
    names.PURGE: "purge",
    names.PURGE_TICK: "purge",
    names.BUCKET_LISTING: "listing",
    names.BUCKET_PAGE: "listing: page",
    names.POISON: "poison",
}
LENGTH = 60


def needs_input(name: str) -> bool:
    """Whether the label of such a workflow says something about its input."""
    return name in _SHAPES


def label(name: str, instance_name: str | None = None, inputs: str | None = None) -> str:
    """A label of at most 60 characters. `inputs` is the beginning of the stored JSON, or None."""
    text = _PLAIN.get(name, name)
    if name == names.INSTANCE_SCOPE and instance_name:
        text = f"{text} {instance_name}"
    if name in _SHAPES and inputs:
        shape, wanted = _SHAPES[name]
        numbers = _numbers(inputs, wanted)
        if len(numbers) == wanted:
            text = shape.format(*numbers)
    return text[:LENGTH]


def _numbers(inputs: str, wanted: int) -> list[str]:
    """The first arguments, as long as they are plain numbers; the text may be cut anywhere."""
    found: list[str] = []
    match = _ARGUMENTS.search(inputs)
    rest = match[1] if match else ""
    while len(found) < wanted and (number := _NUMBER.match(rest)):
        found.append(number[1])
        rest = rest[number.end() :].removeprefix(",")
    return found
