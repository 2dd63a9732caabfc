"""Compares measurements of a fault run with the promises: parts of invariants 6 and 7 (`checks` lists them).

The entries are those of a journal, see :class:`holdfast.audit.journal.Journal`.
"""

from __future__ import annotations

from typing import Any

from holdfast.audit.findings import list_examples

Entry = dict[str, Any]
Judged = tuple[list[str], dict[str, Any]]
"""The violations as sentences, and the figures."""

LEAST_THROUGHPUT = 0.8
"""The least throughput beside one poison, until its last crash, relative to that without poison."""


def throughput_beside_poison(entries: list[Entry], *, crash_limit: int) -> Judged:
    """Invariant 6: healthy work beside poison reached at least 80 % of its throughput alone.

    A measurement that ended before the poison's last crash is invalid: it did not cover the whole effect.
    """
    slow = [entry for entry in entries if ratio(entry) < LEAST_THROUGHPUT]
    short = [entry for entry in entries if entry["crashes"] < crash_limit]
    details = list_examples(
        slow,
        f"times healthy throughput beside poison was below {LEAST_THROUGHPUT:.0%}",
        lambda e: f"{ratio(e):.0%} ({e['beside']:.2f} of {e['alone']:.2f} jobs per second)",
    )
    details += list_examples(
        short,
        f"measurements beside poison ended before its {crash_limit} crashes",
        lambda e: f"{e['crashes']} in {e['seconds']:.0f} s",
    )
    least = round(min(map(ratio, entries)), 3) if entries else "not measured"
    return details, {"throughput_beside_poison": least, "throughputs_measured": len(entries)}


def ratio(entry: Entry) -> float:
    """Returns the throughput beside poison relative to that alone; 0 if nothing was done alone."""
    return float(entry["beside"] / entry["alone"]) if entry["alone"] > 0 else 0.0


def children_of_the_ended(entries: list[Entry]) -> Judged:
    """Invariant 7: no child process outlived a process whose end was observed."""
    left = [entry for entry in entries if entry["left"]]
    details = list_examples(
        left,
        "ended processes left children behind",
        lambda e: f"{e['who']}: {len(e['left'])} alive {e['seconds']:.1f} s after its end",
    )
    figures = {
        "ends_watched": len(entries),
        "children_watched": sum(entry["children"] for entry in entries),
        "children_left": sum(len(entry["left"]) for entry in left),
    }
    return details, figures
