"""Short names of workflows for the page: ``fib(34)`` instead of ``fibonacci.number``.

A label uses the beginning of the stored input, and only numbers that are known to be harmless.
"""

from __future__ import annotations

import re

from holdfast.durable import names

_ARGUMENTS = re.compile(r'"positionalArgs"\s*:\s*\[(.*)', re.DOTALL)
_NUMBER = re.compile(r"\s*(-?\d{1,12}(?:\.\d{1,6})?)\s*(?=[,\]])")

# The label's format by name, and the count of numbers in it; {0} and {1} are the input's first two numbers.
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
    """Whether the label of such a workflow contains numbers of its input."""
    return name in _SHAPES


def label(name: str, instance_name: str | None = None, inputs: str | None = None) -> str:
    """Returns a label of at most 60 characters. `inputs` is the beginning of the stored JSON, or None."""
    text = _PLAIN.get(name, name)
    if name == names.INSTANCE_SCOPE and instance_name:
        text = f"{text} {instance_name}"
    if name in _SHAPES and inputs:
        shape, count = _SHAPES[name]
        numbers = _numbers(inputs, count)
        if len(numbers) == count:
            text = shape.format(*numbers)
    return text[:LENGTH]


def _numbers(inputs: str, count: int) -> list[str]:
    """Returns the first arguments as long as they are plain numbers. The text may be cut anywhere."""
    numbers: list[str] = []
    match = _ARGUMENTS.search(inputs)
    rest = match[1] if match else ""
    while len(numbers) < count and (number := _NUMBER.match(rest)):
        numbers.append(number[1])
        rest = rest[number.end() :].removeprefix(",")
    return numbers
