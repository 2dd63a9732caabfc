"""What a fault run measured beside the database, held against its promise: parts of invariants 6 and 7.

Entries are those of a journal, see :class:`holdfast.audit.journal.Journal`.
"""

from __future__ import annotations

from typing import Any

from holdfast.audit.findings import some

Entry = dict[str, Any]
Judged = tuple[list[str], dict[str, Any]]
"""What is wrong, in sentences, and the figures."""

LEAST_THROUGHPUT = 0.8
"""Of the healthy throughput without poison, while one poison goes through all its crashes."""


def throughput_beside_poison(entries: list[Entry], *, crash_limit: int) -> Judged:
    """6: the same healthy work was done at 80 % of its speed or more while poison ran beside it.

    A measurement that ended before the poison's last crash is none: it left out what it should contain.
    """
    slow = [entry for entry in entries if ratio(entry) < LEAST_THROUGHPUT]
    short = [entry for entry in entries if entry["crashes"] < crash_limit]
    details = some(
        slow,
        f"times healthy throughput beside poison was below {LEAST_THROUGHPUT:.0%}",
        lambda e: f"{ratio(e):.0%} ({e['beside']:.2f} of {e['alone']:.2f} jobs a second)",
    )
    details += some(
        short,
        f"measurements beside poison ended before its {crash_limit} crashes",
        lambda e: f"{e['crashes']} in {e['seconds']:.0f} s",
    )
    least = round(min(map(ratio, entries)), 3) if entries else "not measured"
    return details, {"throughput_beside_poison": least, "throughputs_measured": len(entries)}


def ratio(entry: Entry) -> float:
    """Throughput beside poison as a part of that alone; 0 when nothing was done alone."""
    return float(entry["beside"] / entry["alone"]) if entry["alone"] > 0 else 0.0


def children_of_the_ended(entries: list[Entry]) -> Judged:
    """7: of every process whose end was watched, no child process lived on."""
    left = [entry for entry in entries if entry["left"]]
    details = some(
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
