"""The audit: checks of the recovery invariants in the database. ``holdfast verify`` shows them.

Each check is a function from an :class:`Audit` to a :class:`Finding`. The database records neither the
answers that clients received nor the periods in which ticks could be missing. The journal of a fault run adds
both. Invariants 8 and 9 concern metrics and logs: ``holdfast/audit/evidence.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from holdfast.audit import promises, subject_checks
from holdfast.audit.audit import Audit
from holdfast.audit.findings import Finding, list_counts, list_examples, make_finding
from holdfast.audit.journal import Journal
from holdfast.postgres.database import Row
from holdfast.recovery.stranded import describe
from holdfast.settings import STANDSTILL_SECONDS
from holdfast.statuses import PARKED, UNFINISHED

_CHUNK = 5000
_PURGES = ("retention.purge", "retention.tick")


def run(audit: Audit) -> list[Finding]:
    """Checks invariants 1 to 7 and returns the findings in that order. Raises ``psycopg2.Error``.

    Invariants 3 and 4 are promises about the registered subjects, and are left out without any.
    """
    # This check waits until faults have healed, so the others see only what lasts.
    homeless = nothing_is_homeless(audit)
    checks = [*CHECKS, *(SUBJECT_CHECKS if audit.subjects is not None else ())]
    findings = [homeless if check is nothing_is_homeless else check(audit) for check in checks]
    return sorted(findings, key=lambda finding: finding["invariant"])


def accepted_is_terminal(audit: Audit) -> Finding:
    """Invariant 1: each accepted request exists once and ends."""
    keys = audit.row("audit_requests")
    batches = audit.rows("audit_batches", batch=audit.subjects.batch) if audit.subjects else []
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
            if row["status"] in ("ERROR", PARKED) and row["workflow_name"] != audit.poison
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
    """Invariant 2: each step has one output; of the registered subjects, each number has one effect."""
    steps = audit.row("audit_steps")
    details = list_counts({"steps recorded twice": steps["doubled"]})
    figures = {"steps": steps["steps"], "doubled": steps["doubled"]}
    text = "each step is recorded once"
    if audit.subjects is not None:
        more, effects = subject_checks.subjects_recorded(audit, audit.subjects)
        details += more
        figures |= {"numbers": effects["numbers"], "effects": effects["effects"]}
        figures["doubled"] += effects["doubled"]
        text += ", each number has one effect"
    return make_finding(2, text, details, **figures)


def nothing_is_homeless(audit: Audit) -> Finding:
    """Invariant 5: no running work of executors that are not live, no silent executor, no stranded work."""

    def violations() -> list[str]:
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

    details = audit.until(violations)
    for row in audit.rows("stranded", lease_seconds=audit.settings.lease_seconds):
        what = f"{row['workflows']} {row['status']} workflows"
        details.append(f"{what} are stranded in {describe(row)}: `holdfast stranded`")
    moves = {
        row["kind"]: {k: v for k, v in row.items() if k != "kind"} for row in audit.rows("audit_handovers")
    }
    backlog = sum(row["workflows"] for row in audit.rows("audit_unfinished"))
    return make_finding(
        5, "no work stays with an executor that is gone", details, backlog=backlog, moves=moves
    )


def _backlog(audit: Audit) -> list[str]:
    # A tick is due every 5 s, so one or two may be unfinished at any time. A purge may last.
    scheduled = (*_PURGES, *([audit.subjects.tick] if audit.subjects else ()))
    rows = [row for row in audit.rows("audit_unfinished") if row["workflow_name"] not in scheduled]
    return [
        f"{row['workflows']} {row['workflow_name']} {row['status']}, {row['oldest_age_seconds']:.0f} s old"
        for row in rows
    ]


def only_poison_is_parked(audit: Audit) -> Finding:
    """Invariant 6: exactly the workflows that crashed their process up to the limit are parked."""
    limit = audit.settings.crash_limit
    parked = audit.rows("audit_parked")
    own = audit.settings.application_names
    # Of other applications it is unknown what is healthy, and DBOS parks their work by its own limit, too.
    healthy = [
        row
        for row in parked
        if audit.subjects and row["application"] in own and row["workflow_name"] != audit.poison
    ]
    other = [
        row for row in parked if row["crashes"] != limit and (row["application"] in own or row["crashes"])
    ]
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
    nothing_is_homeless,
    only_poison_is_parked,
    stops_leave_nothing,
]
SUBJECT_CHECKS = [subject_checks.results_are_right, subject_checks.ticks_cover_the_grid]


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
