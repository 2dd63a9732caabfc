"""What a check of the audit found, and how it is put into sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

_SHOWN = 10


class Finding(TypedDict):
    """What one check found. ``details``: sentences, none when all is well; ``figures``: what was counted."""

    invariant: int
    text: str
    ok: bool
    details: list[str]
    figures: dict[str, Any]


def found(invariant: int, text: str, details: list[str], **figures: Any) -> Finding:
    """A finding, which holds when there is nothing to tell."""
    return Finding(invariant=invariant, text=text, ok=not details, details=details, figures=figures)


def some(rows: list[Any], what: str, describe: Callable[[Any], str] = str) -> list[str]:
    """One sentence for many rows with the first few of them; none for no rows."""
    if not rows:
        return []
    more = "" if len(rows) <= _SHOWN else f" and {len(rows) - _SHOWN} more"
    return [f"{len(rows)} {what}: {', '.join(map(describe, rows[:_SHOWN]))}{more}"]


def counted(wrong: dict[str, int]) -> list[str]:
    """One sentence for each count that should be zero and is not."""
    return [f"{count} {what}" for what, count in wrong.items() if count]
