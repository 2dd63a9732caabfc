"""What each of them promises, beside how fast it is. A cell about a peer names where its maker says so."""

from __future__ import annotations

COLUMNS = (
    "recorded steps inside a job",
    "takeover by another worker",
    "fencing of one that wakes up",
    "a result recorded exactly once",
    "schedule",
)

ROWS: dict[str, tuple[str, str, str, str, str]] = {
    "Holdfast": (
        "yes: a step's output is stored, a replay reads it (`docs/design/recovery.md`)",
        "yes, by itself: within two checks after a death, after the lease of 5 s when silent",
        "yes: its writes are refused and it stops at its first heartbeat",
        "yes, and the effect ledger for effects in the same database",
        "yes: one row per tick across all workers, missed ones counted",
    ),
    "DBOS": (
        "yes (Docs, *Learn DBOS Python: Workflows and Steps*)",
        "not in the open-source library: a worker recovers its own id's work at its start; "
        "Conductor, a service, does it across workers (Docs, *DBOS Conductor*: distributed recovery)",
        "yes: an execution's owner is checked at its writes (source, `owner_xid`)",
        "yes, as Holdfast, which builds on it",
        "yes (Docs, *Scheduled workflows*)",
    ),
    "Temporal": (
        "yes: activities, in an event history (Docs, *Event History*)",
        "yes, after a timeout that the author sets for each activity "
        "(Docs, *Detecting Activity failures: Start-To-Close, Heartbeat*)",
        "yes: the server refuses what a timed out attempt reports (its answer: NotFound; not tried here)",
        "yes for the history; activities run at least once (Docs, *Activity Definition: Idempotency*)",
        "yes (Docs, *Schedule*)",
    ),
    "procrastinate": (
        "no: a job is one function",
        "only with a periodic task of one's own (Docs, *How-to: Retry stalled jobs*)",
        "no: both runs may end (Docs, *Retry stalled jobs*, which asks for idempotent tasks)",
        "no results are kept; the job's state is one row",
        "yes (Docs, *How-to: Launch a task periodically*)",
    ),
    "celery": (
        "no: canvases chain whole tasks (Docs, *Canvas: Designing Work-flows*)",
        "not by default; with `acks_late`, after the visibility timeout, which is an hour by default "
        "(Docs, *Using Redis: Visibility timeout*, *Caveats*)",
        "no: a job longer than the timeout is delivered again while it runs (Docs, *Using Redis: Caveats*)",
        "no: at most once, or at least once with `acks_late` (Docs, *Tasks*: idempotent)",
        "with celery beat, of which exactly one may run at a time (Docs, *Periodic Tasks*)",
    ),
}


def markdown() -> list[str]:
    """The table's lines."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    return [*lines, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in ROWS.items())]
