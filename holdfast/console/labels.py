"""Short names of workflows for the page: ``fib(34)`` instead of ``fibonacci.number``.

Modules declare them with their workflows. A label uses the beginning of the stored input, and only numbers
that are known to be harmless.
"""

from __future__ import annotations

import re

from holdfast.durable.registry import declared_by_name

_ARGUMENTS = re.compile(r'"positionalArgs"\s*:\s*\[(.*)', re.DOTALL)
_NUMBER = re.compile(r"\s*(-?\d{1,12}(?:\.\d{1,6})?)\s*(?=[,\]])")
LENGTH = 60


def needs_input(name: str) -> bool:
    """Whether the label of such a workflow contains numbers of its input."""
    declared = declared_by_name(name)
    return declared is not None and declared.label_with_input is not None


def label(name: str, instance_name: str | None = None, inputs: str | None = None) -> str:
    """Returns a label of at most 60 characters. `inputs` is the beginning of the stored JSON, or None."""
    declared = declared_by_name(name)
    if declared is None:
        return name[:LENGTH]
    text = declared.label or name
    if declared.label_with_instance and instance_name:
        text = f"{text} {instance_name}"
    if declared.label_with_input and inputs:
        wanted = declared.label_with_input.count("{")
        numbers = _numbers(inputs, wanted)
        if len(numbers) == wanted:
            text = declared.label_with_input.format(*numbers)
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
