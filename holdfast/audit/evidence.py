"""Invariants 8 and 9: evidence of metrics and logs. The other invariants: holdfast/audit/checks.py."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from holdfast import probe_paths
from holdfast.audit.audit import Audit
from holdfast.audit.findings import Finding, list_counts, list_examples, make_finding
from holdfast.audit.journal import Journal
from holdfast.audit.scraping import scrape

_TRIES = 5
ANSWER_SECONDS = 2.0
"""The longest time of a 503 answer during an outage of the database."""
_SHORTEST_SECRET = 8
_COUNT_LIMIT = 2**63


def samples(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Returns the values of one metric by the values of its labels, in the labels' alphabetical order.

    Values that are not finite, or too large for a count, are left out: they are of no process of ours.
    """
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and abs(sample.value) < _COUNT_LIMIT
    }


def no_server_error(audit: Audit, journal: Journal | None) -> Finding:
    """Invariant 8: no 500. In a database outage, 503 with Retry-After in time, and liveness 200."""
    errors: dict[str, int] = {}
    requests, reached = 0.0, 0
    for row in audit.rows("audit_live"):
        if row["role"] != "api" or (text := scrape(row)) is None:
            continue
        reached += 1
        for labels, value in samples(text, "holdfast_http_requests_total").items():
            _, route, status = labels if len(labels) == 3 else ("", "", "")
            requests += value
            if status.startswith("5") and status != "503" and value:
                errors[f"{route} {status}"] = errors.get(f"{route} {status}", 0) + int(value)
    details = list_examples(
        list(errors.items()), "routes answered with a server error", lambda e: f"{e[0]}, {e[1]} times"
    )
    figures: dict[str, Any] = {"requests": int(requests), "apis_reached": reached}
    if journal is not None:
        details += list_counts({"requests of the journal got a 500": journal.server_errors})
        bad = [probe for probe in journal.probes if not _right_while_down(probe)]
        details += list_examples(
            bad,
            "wrong answers while the database was down",
            lambda p: f"{p['path']} {p['status']} in {p['seconds']:.2f} s",
        )
        figures["probes_while_down"] = len(journal.probes)
    return make_finding(8, "no request is answered with a 500", details, **figures)


def _right_while_down(probe: dict[str, Any]) -> bool:
    if probe["path"] == "/livez":
        return bool(probe["status"] == 200)
    in_time = probe["seconds"] <= ANSWER_SECONDS
    return bool(
        probe["status"] == 503 and in_time and (probe["retry_after"] or probe["path"] == probe_paths.READY)
    )


def counters_agree(audit: Audit) -> Finding:
    """Invariant 9, first half: the counters of processes equal the database's rows.

    Work taken over from others is compared for all live processes. Finished and executed work is compared
    only for processes that never lost work themselves. Rows are missing for processes older than the last
    purge's limit.
    """
    different: list[str] = []
    compared = reached = 0
    for _ in range(_TRIES):
        different, compared, reached = [], 0, 0
        for row in audit.rows("audit_live"):
            if row["state"] != "live" or row["purged"] or (text := scrape(row)) is None:
                continue
            reached += 1
            for what, counted, known in _counted(audit, row, text):
                compared += 1
                if counted != known:
                    different.append(f"{row['executor_id']} {what}: {counted:g} counted, {known} stored")
        if not different:
            break
        time.sleep(1.0)  # a workflow is counted just before it is stored
    details = list_examples(different, "counters differ from the database")
    return make_finding(
        9, "counters equal the database", details, compared=compared, executors_reached=reached
    )


def _counted(audit: Audit, row: dict[str, Any], text: str) -> Iterator[tuple[str, float, int]]:
    """Yields a description, a process's count, and the database's count, for each pair to compare."""
    executor: dict[str, Any] = {"executor_id": row["executor_id"]}

    def pairs(counted: dict[str, float], rows: list[dict[str, Any]]) -> Iterator[tuple[str, float, int]]:
        known = {str(r["what"]): int(r["number"]) for r in rows}
        for what in sorted(counted.keys() | known):
            yield what, counted.get(what, 0), known.get(what, 0)

    def by_label(name: str, *, success: bool = False) -> dict[str, float]:
        # Labels are in alphabetical order: status comes before workflow_name, and after step_name.
        labelled = samples(text, name).items()
        return {
            next((label for label in labels if label != "SUCCESS"), ""): value
            for labels, value in labelled
            if not success or "SUCCESS" in labels
        }

    for name, statement in (
        ("holdfast_takeovers_total", "audit_taken_over_by"),
        ("holdfast_takeover_workflows_total", "audit_released_by"),
    ):
        for what, counted, known in pairs(by_label(name), audit.rows(statement, **executor)):
            # A commit without an answer, in an outage, is stored but not counted. The reverse is impossible.
            yield what, max(counted, known), known
    if row["lost_work"]:
        return
    executor["since_ms"] = int(row["started_at"].timestamp() * 1000) - 86_400_000
    completed = by_label("holdfast_workflows_completed_total", success=True)
    # A plain DBOS workflow has no counter. Every other workflow's counter starts at 0.
    ended = [r for r in audit.rows("audit_completed_by", **executor) if r["what"] in completed]
    yield from pairs(completed, ended)
    steps = by_label("holdfast_step_duration_seconds_count", success=True)
    tolerance_ms = int(audit.settings.clock_tolerance_seconds * 1000)
    stored = audit.rows("audit_steps_by", **executor, tolerance_ms=tolerance_ms)
    rows = [r for r in stored if r["what"] in steps]
    for what, counted, known in pairs(steps, rows):
        # A body may run without being recorded (after a concurrent cancel). The reverse cannot happen.
        yield what, min(counted, known), known


def logs_are_clean(lines: Iterable[str], secrets: Iterable[str], *, plain: Iterable[str] = ()) -> Finding:
    """Invariant 9, second half: each line is a JSON object without secrets. ``plain`` need not be JSON."""
    hidden = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]
    total, broken, leaking = 0, [], 0
    for line in lines:
        if not line.strip():
            continue
        total += 1
        leaking += any(secret in line for secret in hidden)
        try:
            whole = isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole:
            broken.append(repr(line[:80]))
    for line in plain:
        total += 1
        leaking += any(secret in line for secret in hidden)
    details = list_examples(broken, "log lines are not JSON") + list_counts(
        {"log lines hold a secret": leaking}
    )
    return make_finding(
        9, "logs are JSON without secrets", details, lines=total, secrets_looked_for=len(hidden)
    )


def joined(first: Finding, second: Finding) -> Finding:
    """Merges two findings about one invariant."""
    text = f"{first['text']}; {second['text']}"
    figures = {**first["figures"], **second["figures"]}
    return make_finding(first["invariant"], text, first["details"] + second["details"], **figures)


def lines_of(paths: Iterable[Path]) -> Iterator[str]:
    """Yields the lines of the files, and of the ``.jsonl`` files in the directories."""
    for path in paths:
        for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            with file.open(encoding="utf-8", errors="replace") as stream:
                yield from stream


def secrets_of(paths: Iterable[Path]) -> set[str]:
    """Returns the secret values of the files, and of all files below the directories, without verifiers."""
    values: set[str] = set()
    for path in paths:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        for file in files:
            if file.suffix != ".scram":
                values |= secrets_in(file.read_text("utf-8"))
    return values


def secrets_in(text: str) -> set[str]:
    """Returns the passwords of a password file, the secret of a credentials file, or another file's lines."""
    lines = {
        line.split(":")[4] if line.count(":") == 4 else line for line in text.splitlines() if line.strip()
    }
    keys = {line.rpartition(" = ")[2] for line in lines if line.startswith("aws_secret_access_key = ")}
    return keys | {line for line in lines if not line.startswith(("[", "aws_"))}
