"""The records as Markdown: speeds beside guarantees, the goals judged, and how it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.compare import guarantees
from bench.compare.goals import GOALS, GROWN, HOLDFAST, PEERS
from bench.compare.summaries import Record, Summary, percentile, records_of, samples, summary_of

Titles = dict[str, tuple[str, str]]
"""Contender: what the tables call it, and the sentence on what was set."""

_METHOD = """\
The function is plain recursion everywhere, on two worker processes. *Pure* are the same calls in one plain
process, before and after, in the same round. The *bound* is 50 × one call with all cores loaded ÷ cores,
measured before and after too: drivers and servers share the cores, so 1.0 is out of reach there. *Pickup* is
from the return of the client's call to the first line of the body (a body that began before counts as 0); all
clocks are this host's. Every result is read back from where it is stored and compared with fast doubling.

*In turn* means that each job starts after the result of the one before; *concurrently*, that all jobs are
accepted together. In turn, an engine with steps in a workflow (DBOS, Temporal) runs one workflow with a step
per job; Holdfast (`sequential: true`) runs a workflow with two steps per number, the computation and its
effect; for procrastinate and celery the driver waits for each result.

A worker is killed 0.1 to 0.4 s into a job of more than a second, and is not started again meanwhile. Where it
takes a minute or never comes, it is measured once per run. Tuned detectors declare
a worker dead after 5 s of silence, as the lease does: shorter ones detect a death sooner, but also declare a
paused worker dead."""

_MARKS = {True: "reached", False: "**missed**", None: "**not measured**"}


def shown(found: Any, form: str) -> str:
    """Formats a result with its range, or says that it is missing."""
    if not isinstance(found, Summary):
        return "-" if found.why == "did not run" else "not measured"
    middle, low, high = (form.format(number) for number in (found.median, found.low, found.high))
    return middle if low == high else f"{middle} ({low} … {high})"


def _pickup(records: Sequence[Record], contender: str) -> str:
    found = samples(records, contender, "pickup", "after_accepted_ms")
    if not found:
        return shown(summary_of(records, contender, "pickup", "p50_ms"), "{:.1f}")
    return f"{percentile(found, 0.5):.1f} / {percentile(found, 0.95):.1f}"


def _takeover(records: Sequence[Record], contender: str) -> str:
    never = [
        r["never_within_seconds"]
        for r in records_of(records, contender, "takeover")
        if "never_within_seconds" in r
    ]
    found = samples(records, contender, "takeover", "samples")
    if never and not found:
        return f"not within {max(never):g} s"
    if not found:
        return shown(summary_of(records, contender, "takeover", "seconds"), "{:.2f}")
    text = shown(_summarize(found), "{:.2f}")
    return f"{text}, {len(never)} not within {max(never):g} s" if never else text


def speeds(records: Sequence[Record], titles: Titles) -> list[str]:
    """Returns one row per contender."""
    lines = [
        "| | 10 × fib(33) in turn, s over pure | 40 × fib(10) in turn, s "
        "| 50 × fib(30) concurrently, of the bound | 50 × fib(33) concurrently, of the bound "
        "| pickup p50 / p95, ms "
        "| 1,000 tiny jobs, per second "
        "| body runs again after SIGKILL, s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    columns = (
        ("in_turn_long", "over_seconds", "{:+.2f}"),
        ("in_turn_short", "seconds", "{:.2f}"),
        ("at_once_30", "of_bound", "{:.2f}"),
        ("at_once_33", "of_bound", "{:.2f}"),
    )
    for name in (HOLDFAST, GROWN, *PEERS):
        if not any(record["contender"] == name for record in records):
            continue
        cells = [shown(summary_of(records, name, case, key), form) for case, key, form in columns]
        cells += [
            _pickup(records, name),
            shown(summary_of(records, name, "tiny", "jobs_a_second"), "{:.0f}"),
            _takeover(records, name),
        ]
        lines.append(f"| {titles.get(name, (name, ''))[0]} | {' | '.join(cells)} |")
    return lines


def goals(records: Sequence[Record]) -> list[str]:
    """Returns each goal with its result."""
    lines = ["| goal | | result |", "|---|---|---|"]
    for goal in GOALS:
        verdict = goal.judge(records)
        lines.append(f"| {goal.text} | {_MARKS[verdict.reached]} | {verdict.result} |")
    return lines


def missing_results(records: Sequence[Record], titles: Titles) -> list[str]:
    """Returns what has no result and why, one line per contender and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if "failed" in record:
            found.setdefault((record["contender"], record["failed"]), []).append(
                f"{record['case']} (round {record['round']})"
            )
    return [
        f"- **{titles.get(name, (name, ''))[0]}: not measured:** {', '.join(cases)}: {' '.join(why.split())}"
        for (name, why), cases in found.items()
    ]


def alone(records: Sequence[Record]) -> list[str]:
    """What was measured of Holdfast alone."""
    lines: list[str] = []
    scaled = records_of(records, HOLDFAST, "workers")
    if any("jobs_a_second" in record for record in scaled):
        lines += ["| workers | 1,000 tiny jobs, per second | idle transactions per second, the whole stack |"]
        lines += ["|--:|--:|--:|"]
        for workers in sorted({int(w) for r in scaled for w in r.get("jobs_a_second", {})}):
            jobs = [
                r["jobs_a_second"][str(workers)] for r in scaled if str(workers) in r.get("jobs_a_second", {})
            ]
            idle = [
                r["idle_transactions"][str(workers)] for r in scaled if str(workers) in r["jobs_a_second"]
            ]
            lines.append(
                f"| {workers} | {shown(_summarize(jobs), '{:.0f}')} | {shown(_summarize(idle), '{:.1f}')} |"
            )
        lines.append("")
    rows = []
    for case, key, what, form in ALONE:
        found = summary_of(records, HOLDFAST, case, key)
        if isinstance(found, Summary):
            rows.append(f"| {what} | {shown(found, form)} |")
    if rows:
        lines += ["| of Holdfast alone | |", "|---|--:|", *rows, ""]
    return lines


ALONE = (
    (
        "stepless",
        "workflows_a_second",
        "5,000 workflows without a step, 100 concurrently, two workers: per second",
        "{:.0f}",
    ),
    ("stepless", "enqueued_a_second", "… of them enqueued per second, by one client", "{:.0f}"),
    ("enqueue", "round_trips_50", "statements to PostgreSQL for a batch of 50, enqueued only", "{:.0f}"),
    ("enqueue", "round_trips_1000", "… of 1,000", "{:.0f}"),
    ("api", "answered_a_second", "requests answered per second while the CPUs are saturated", "{:.0f}"),
    ("api", "readyz_p99_ms", "`/readyz` p99, ms", "{:.0f}"),
    ("api", "submit_p99_ms", "submit p99, ms", "{:.0f}"),
    ("api", "failures", "requests that failed", "{:.0f}"),
    ("memory", "worker_megabytes", "worker without its children, MB resident after the cases", "{:.0f}"),
    ("memory", "child_megabytes", "one CPU child, MB resident", "{:.0f}"),
    ("memory", "api_megabytes", "API, MB resident after the cases", "{:.0f}"),
    ("containers", "image_megabytes", "the image, MB", "{:.0f}"),
    ("containers", "image_over_base_megabytes", "… over its base", "{:.0f}"),
    ("containers", "ready_seconds", "everything healthy after a warm `docker compose up`, s", "{:.1f}"),
)


def _summarize(values: list[float]) -> Summary:
    ordered = sorted(values)
    return Summary(percentile(ordered, 0.5), ordered[0], ordered[-1], len(ordered))


def markdown(report: dict[str, Any], titles: Titles, pictures: Sequence[str]) -> str:
    """The whole report."""
    records: list[Record] = report["records"]
    rounds = max((record["round"] for record in records), default=0)
    lines = [
        "# Holdfast beside its peers",
        "",
        "Written by `make bench`. Each result is a median over rounds with its range; the contenders take "
        f"turns within a round, in another order each time ({rounds} rounds). Ratios are within one round. "
        "Machines and runs are described at the end.",
        "",
        "## Speed",
        "",
        *speeds(records, titles),
        "",
        *[f"![{name}]({name})" for name in pictures],
        "",
        _METHOD,
        "",
        *[f"- **{title}**: {note}." for title, note in titles.values() if note],
        "",
        "## Guarantees",
        "",
        "Speed alone misleads: what is promised differs.",
        "",
        *guarantees.markdown(),
        "",
        "## Goals",
        "",
        *goals(records),
        "",
        "## Holdfast alone",
        "",
        *alone(records),
    ]
    missing = missing_results(records, titles)
    if missing:
        lines += ["## Not measured", "", *missing, ""]
    lines += ["## Machine and versions", ""]
    for run, described in report["runs"].items():
        cases = sorted({(r["contender"], r["case"]) for r in records if r["run"] == run})
        machine = ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in described["machine"].items())
        loads = [record["load"] for record in records if record["run"] == run]
        load = f"; load of one minute {min(loads):g} to {max(loads):g}" if loads else ""
        lines.append(f"- {run}: {len(cases)} results; {machine}{load}")
    lines += ["", *[f"- {name}: {_versions(parts)}" for name, parts in report["versions"].items()]]
    return "\n".join(lines) + "\n"


def _versions(parts: dict[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in parts.items())
