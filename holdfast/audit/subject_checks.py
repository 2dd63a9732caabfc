"""Checks about the workflows that an application has registered as subjects of the audit (`Subjects`)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.audit.audit import Audit, Subjects
from holdfast.audit.findings import Finding, list_counts, list_examples, make_finding
from holdfast.audit.ticks import unexcused
from holdfast.integers import decimal_string
from holdfast.postgres.database import Row

_RESULT_DIGITS = 4000


def _subjects(audit: Audit) -> Subjects:
    assert audit.subjects is not None
    return audit.subjects


def subjects_recorded(audit: Audit, subjects: Subjects) -> tuple[list[str], Row]:
    """The part of invariant 2 about the subjects. Returns the violations, and the counts of effects."""
    effects = audit.row("audit_effects", number=subjects.number, sequence=subjects.sequence)
    scopes = audit.rows("audit_scope_steps", names=subjects.scopes)
    listings = audit.rows("audit_listings", listing=subjects.listing, page=subjects.page)
    details = list_counts(
        {
            "numbers with more than one effect": effects["doubled"],
            "numbers without their effect": effects["missing"],
            "numbers without exactly one recorded computation": effects["steps_wrong"],
            "effects of unknown workflows": effects["without_workflow"],
            "effects that differ from the recorded result": audit.row("audit_effect_contents")["different"],
        }
    )
    details += list_examples(
        scopes,
        "scope workflows with other than one output a step",
        lambda row: f"{row['workflow_id']} ({row['recorded']} of {row['wanted']})",
    )
    details += list_examples(
        listings,
        "bucket listings that their pages do not add up to",
        lambda row: (
            f"{row['workflow_id']} ({row['pages']} of {row['wanted']} pages, "
            f"{row['keys']} of {row['reported']} keys)"
        ),
    )
    return details, effects


def _fibonacci(n: int) -> int:
    """Computes F(n) by the audit's own fast doubling, so that the code under audit does not judge itself."""
    a, b = 0, 1
    for bit in f"{n:b}":
        even, odd = a * (2 * b - a), a * a + b * b
        a, b = (odd, even + odd) if bit == "1" else (even, odd)
    return a


def results_are_right(audit: Audit) -> Finding:
    """Invariant 3: every result equals fast doubling."""
    subjects = _subjects(audit)
    rows = audit.rows(
        "audit_results", number=subjects.number, sequence=subjects.sequence, digits=_RESULT_DIGITS + 1
    )
    right: dict[int, tuple[Any, ...]] = {}
    for n in {row["wanted"] for row in rows} - {None}:  # None: the input is not readable
        text = decimal_string(_fibonacci(n))
        whole = text if len(text) <= _RESULT_DIGITS else None
        right[n] = (n, hashlib.sha256(text.encode("ascii")).hexdigest(), whole, len(text))
    columns = ("n", "sha256", "result", "digits")
    wrong = [row for row in rows if tuple(row[c] for c in columns) != right.get(row["wanted"])]
    details = list_examples(wrong, "wrong results", lambda row: f"F({row['wanted']}) in {row['example']}")
    results = sum(row["results"] for row in rows)
    return make_finding(
        3, "every Fibonacci result equals fast doubling", details, results=results, n=len(right)
    )


def ticks_cover_the_grid(audit: Audit) -> Finding:
    """Invariant 4: a tick every 5 seconds. Gaps are allowed without a worker or in declared downtime."""
    figures: dict[str, Any] = {}
    # Two workers may record two ticks in reverse order, and a start backfills a moment later.
    details = audit.until(lambda: _ticks(audit, figures))
    text = "ticks cover the 5-second grid without gap or double outside downtime"
    return make_finding(4, text, details, **figures)


def _ticks(audit: Audit, figures: dict[str, Any]) -> list[str]:
    subjects = _subjects(audit)
    seconds = subjects.tick_seconds
    tick = timedelta(seconds=seconds)
    pulses = audit.row("audit_pulses", tick_seconds=seconds)
    doubles = audit.row("audit_pulse_doubles", tick=subjects.tick)
    gaps = audit.rows("audit_pulse_gaps", tick_seconds=seconds)
    missing = [gap["first"] + tick * i for gap in gaps for i in range(gap["missed"])]
    due = unexcused(
        missing,
        workers=[(row["begun"], row["ended"]) for row in audit.rows("audit_presence", role="worker")],
        downtimes=audit.journal.downtimes if audit.journal else [],
        tick=tick,
        window=timedelta(seconds=subjects.tick_catch_up_seconds()),
    )
    details = list_counts(
        {
            "ticks off the grid": pulses["off_grid"],
            "ticks doubled": doubles["doubled"],
            "ticks that ended without a row": doubles["without_row"],
        }
    )
    details += list_examples(due, "ticks missing though a worker was there or started in time", _clock)
    health = audit.row("pulse_health", late_seconds=subjects.late_tick_seconds())
    settled = audit.row(
        "audit_settled_ticks", tick_seconds=seconds, first=health["first_tick"], until=health["settled_until"]
    )
    missed, not_run = health["missed"], settled["not_run"]
    if settled["whole"] and missed != not_run:
        details.append(f"/metrics counts {missed} missed ticks, the grid shows {not_run}")
    figures |= {"ticks": pulses["ticks"], "skipped": pulses["skipped"], "missing": len(missing)}
    figures |= {"unexcused": len(due), "max_lateness_seconds": round(pulses["max_lateness_seconds"], 3)}
    return details


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
