"""The result of an audit check, and how it is phrased."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

_SHOWN = 10


class Finding(TypedDict):
    """The result of one check. ``details``: one sentence per violation; ``figures``: measured values."""

    invariant: int
    text: str
    ok: bool
    details: list[str]
    figures: dict[str, Any]


def make_finding(invariant: int, text: str, details: list[str], **figures: Any) -> Finding:
    """Creates a finding, which holds if there are no details."""
    return Finding(invariant=invariant, text=text, ok=not details, details=details, figures=figures)


def list_examples(rows: list[Any], what: str, describe: Callable[[Any], str] = str) -> list[str]:
    """Returns one sentence with the number of rows and the first few of them; no sentence for no rows."""
    if not rows:
        return []
    more = "" if len(rows) <= _SHOWN else f" and {len(rows) - _SHOWN} more"
    return [f"{len(rows)} {what}: {', '.join(map(describe, rows[:_SHOWN]))}{more}"]


def list_counts(wrong: dict[str, int]) -> list[str]:
    """Returns one sentence for each count that is not zero."""
    return [f"{count} {what}" for what, count in wrong.items() if count]
