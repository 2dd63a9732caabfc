"""The audit: checks of the recovery invariants in the database. ``holdfast verify`` shows them.

Each check is a function from an :class:`Audit` to a :class:`Finding`. The database records neither the
answers that clients received nor the periods in which ticks could be missing. The journal of a fault run adds
both. Invariants 8 and 9 concern metrics and logs: ``holdfast/audit/evidence.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.audit import promises
from holdfast.audit.audit import Audit
from holdfast.audit.findings import Finding, list_counts, list_examples, make_finding
from holdfast.audit.journal import Journal
from holdfast.audit.ticks import unexcused
from holdfast.integers import decimal_string
from holdfast.postgres.database import Row
from holdfast.settings import STANDSTILL_SECONDS
from holdfast.statuses import PARKED, UNFINISHED

_CHUNK = 5000
_RESULT_DIGITS = 4000


def run(audit: Audit) -> list[Finding]:
    """Checks invariants 1 to 7 and returns the findings in that order. Raises ``psycopg2.Error``."""
    # This check waits until faults have healed, so the others see only what lasts.
    homeless = nothing_is_homeless(audit)
    findings = [homeless if check is nothing_is_homeless else check(audit) for check in CHECKS]
    return sorted(findings, key=lambda finding: finding["invariant"])


def accepted_is_terminal(audit: Audit) -> Finding:
    """Invariant 1: each accepted request exists once and ends."""
    keys = audit.row("audit_requests")
    batches = audit.rows("audit_batches", batch=audit.subjects.batch)
    details = list_counts({"idempotency keys share a workflow with another": keys["shared"]})
    details += list_examples(
        batches, "incomplete batches", lambda b: f"{b['workflow_id']} ({b['succeeded']} of {b['wanted']})"
    )
    figures = {"idempotency_keys": keys["keys"], "claimed_never_enqueued": keys["without_workflow"]}
    if audit.journal is not None:
        others = _not_succeeded(audit, audit.journal)
        lost = [row for row in others if row["status"] is None]
        stuck = [row for row in others if row["status"] in UNFINISHED]
        failed = [
            row
            for row in others
            if row["status"] in ("ERROR", PARKED) and row["workflow_name"] != audit.subjects.poison
        ]
        for rows, what in (
            (lost, "accepted workflows do not exist"),
            (stuck, "accepted workflows have not ended"),
            (failed, "accepted workflows failed"),
        ):
            details += list_examples(
                rows, what, lambda row: f"{row['workflow_id']} {row['status'] or ''}".strip()
            )
        details += list_counts({"requests without an answer were never settled": audit.journal.unresolved})
        figures |= {"accepted": len(audit.journal.accepted), "lost": len(lost), "stuck": len(stuck)}
        figures |= {"failed": len(failed), **audit.journal.outcomes}
    return make_finding(1, "every accepted request exists exactly once and ends", details, **figures)


def _not_succeeded(audit: Audit, journal: Journal) -> list[Row]:
    """Returns accepted work that is not SUCCESS. If idle, waits for unfinished work first."""
    others: list[Row] = []

    def unfinished() -> list[str]:
        others[:] = [
            row
            for ids in _chunks(sorted(journal.accepted))
            for row in audit.rows("audit_accepted", workflow_ids=ids)
        ]
        return [row["workflow_id"] for row in others if row["status"] in UNFINISHED]

    audit.until(unfinished) if audit.idle else unfinished()
    return others


def recorded_once(audit: Audit) -> Finding:
    """Invariant 2: each step has one output, each number has one effect."""
    steps = audit.row("audit_steps")
    effects = audit.row("audit_effects", number=audit.subjects.number, sequence=audit.subjects.sequence)
    scopes = audit.rows("audit_scope_steps", names=audit.subjects.scopes)
    listings = audit.rows("audit_listings", listing=audit.subjects.listing, page=audit.subjects.page)
    details = list_counts(
        {
            "steps recorded twice": steps["doubled"],
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
            f"{row['keys']} of {row['told']} keys)"
        ),
    )
    return make_finding(
        2,
        "each step is recorded once, each number has one effect",
        details,
        steps=steps["steps"],
        numbers=effects["numbers"],
        effects=effects["effects"],
        doubled=steps["doubled"] + effects["doubled"],
    )


def _fibonacci(n: int) -> int:
    """Computes F(n) by the audit's own fast doubling, so that the code under audit does not judge itself."""
    a, b = 0, 1
    for bit in f"{n:b}":
        even, odd = a * (2 * b - a), a * a + b * b
        a, b = (odd, even + odd) if bit == "1" else (even, odd)
    return a


def results_are_right(audit: Audit) -> Finding:
    """Invariant 3: every result equals fast doubling."""
    rows = audit.rows("audit_results", number=audit.subjects.number, sequence=audit.subjects.sequence)
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
    seconds = audit.subjects.tick_seconds
    tick = timedelta(seconds=seconds)
    pulses = audit.row("audit_pulses", tick_seconds=seconds)
    doubles = audit.row("audit_pulse_doubles", tick=audit.subjects.tick)
    gaps = audit.rows("audit_pulse_gaps", tick_seconds=seconds)
    missing = [gap["first"] + tick * i for gap in gaps for i in range(gap["missed"])]
    due = unexcused(
        missing,
        workers=[(row["begun"], row["ended"]) for row in audit.rows("audit_presence", role="worker")],
        downtimes=audit.journal.downtimes if audit.journal else [],
        tick=tick,
        window=timedelta(seconds=audit.settings.pulse_catch_up_seconds),
    )
    details = list_counts(
        {
            "ticks off the grid": pulses["off_grid"],
            "ticks doubled": doubles["doubled"],
            "ticks that ended without a row": doubles["without_row"],
        }
    )
    details += list_examples(due, "ticks missing though a worker was there or started in time", _clock)
    health = audit.row("pulse_health", late_seconds=audit.settings.pulse_late_seconds)
    settled = audit.row(
        "audit_settled_ticks", tick_seconds=seconds, first=health["first_tick"], until=health["settled_until"]
    )
    missed, not_run = health["missed"], settled["not_run"]
    if settled["whole"] and missed != not_run:
        details.append(f"/metrics counts {missed} missed ticks, the grid shows {not_run}")
    figures |= {"ticks": pulses["ticks"], "skipped": pulses["skipped"], "missing": len(missing)}
    figures |= {"unexcused": len(due), "max_lateness_seconds": round(pulses["max_lateness_seconds"], 3)}
    return details


def nothing_is_homeless(audit: Audit) -> Finding:
    """Invariant 5: no running work of executors that are not live, no silent executor, no stranded work."""

    def troubles() -> list[str]:
        homeless = audit.rows("audit_homeless")
        silent = audit.rows("audit_silent", lease_seconds=audit.settings.lease_seconds)
        who = list_examples(
            silent, "executors silent beyond their lease, not declared dead", lambda r: r["executor_id"]
        )
        what = "running workflows of executors that are not live"
        where = list_examples(homeless, what, lambda row: f"{row['workflow_id']} of {row['executor_id']}")
        trials = audit.rows("audit_standstill", seconds=STANDSTILL_SECONDS)
        still = list_examples(
            trials,
            f"executors that a trial has kept from other work for {STANDSTILL_SECONDS:.0f} s",
            lambda row: f"{row['executor_id']} by {row['workflow_id']}",
        )
        return where + who + still + (_backlog(audit) if audit.idle else [])

    details = audit.until(troubles)
    for row in audit.rows("stranded", lease_seconds=audit.settings.lease_seconds):
        where = f"version {row['application_version']} of {row['application']}"
        details.append(
            f"{row['workflows']} {row['status']} workflows are stranded in {where}: `holdfast stranded`"
        )
    moves = {
        row["kind"]: {k: v for k, v in row.items() if k != "kind"} for row in audit.rows("audit_handovers")
    }
    backlog = sum(row["workflows"] for row in audit.rows("audit_unfinished"))
    return make_finding(
        5, "no work stays with an executor that is gone", details, backlog=backlog, moves=moves
    )


def _backlog(audit: Audit) -> list[str]:
    # A tick is due every 5 s, so one or two may be unfinished at any time. A purge may last.
    scheduled = (audit.subjects.tick, *audit.subjects.purges)
    rows = [row for row in audit.rows("audit_unfinished") if row["workflow_name"] not in scheduled]
    return [
        f"{row['workflows']} {row['workflow_name']} {row['status']}, {row['oldest_age_seconds']:.0f} s old"
        for row in rows
    ]


def only_poison_is_parked(audit: Audit) -> Finding:
    """Invariant 6: exactly the workflows that crashed their process up to the limit are parked."""
    limit = audit.settings.crash_limit
    parked = audit.rows("audit_parked")
    healthy = [row for row in parked if row["workflow_name"] != audit.subjects.poison]
    other = [row for row in parked if row["crashes"] != limit]
    over = audit.rows("audit_over_limit", crash_limit=limit)

    def describe(row: Row) -> str:
        return f"{row['workflow_id']} after {row['crashes']}"

    details = list_examples(healthy, "healthy workflows are parked", describe)
    details += list_examples(other, f"workflows parked after other than {limit} crashes", describe)
    details += list_examples(over, f"workflows not parked after {limit} crashes", describe)
    measured = audit.journal.throughputs if audit.journal else []
    slow, figures = promises.throughput_beside_poison(measured, crash_limit=limit)
    text = f"poison is parked after {limit} crashes, nothing else is, and healthy work goes on beside it"
    return make_finding(6, text, details + slow, parked=len(parked), **figures)


def stops_leave_nothing(audit: Audit) -> Finding:
    """Invariant 7: drained executors left no work, stops exited with 0 in time, no child outlived its parent.

    Stops and children are those of the journal.
    """
    row = audit.row("audit_drained")
    grace = audit.settings.stop_grace_seconds
    exits = audit.journal.exits if audit.journal else []
    bad = [entry for entry in exits if entry["code"] != 0 or entry["seconds"] > grace]
    details = list_counts({"drained executors left running work": row["with_work"]})
    details += list_examples(
        bad, "stops were not orderly", lambda e: f"{e['who']}: {e['code']} after {e['seconds']:.1f} s"
    )
    left, figures = promises.children_of_the_ended(audit.journal.children if audit.journal else [])
    text = "a stop leaves nothing behind, and no child outlives its parent"
    return make_finding(7, text, details + left, drained=row["drained"], observed=len(exits), **figures)


CHECKS: list[Callable[[Audit], Finding]] = [
    accepted_is_terminal,
    recorded_once,
    results_are_right,
    ticks_cover_the_grid,
    nothing_is_homeless,
    only_poison_is_parked,
    stops_leave_nothing,
]


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
