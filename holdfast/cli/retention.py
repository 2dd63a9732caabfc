"""``holdfast purge``: deletes old finished data over HTTP and follows the purge to its end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.text import Text

from holdfast.cli.shown import Api, JsonOption, UrlOption, console, plain_errors, show, table
from holdfast.cli.waiting import poll_until
from holdfast.path_segment import workflow_path
from holdfast.retention import tally
from holdfast.statuses import TERMINAL
from holdfast.visible import visible

_STEPS_SHOWN = 1000
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)")
_TABLES = {
    "pulses": "pulses",
    "idempotency_keys": "idempotency keys",
    "handovers": "handovers",
    "executors": "executors",
    "operations": "control operations",
}


def seconds_of(text: str) -> float:
    """Converts an age such as ``7d``, ``12h``, ``90m``, ``3600`` to seconds. Raises `typer.BadParameter`."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter("--older-than: a number with s, m, h or d behind it, for example 7d")
    return float(match[1]) * _UNITS[match[2]]


def purge(
    *,
    older_than: Annotated[
        str | None, typer.Option(help="age of what goes: 7d, 12h; at least 3h [default: the setting]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="count what would go, delete nothing")
    ] = False,
    timeout: Annotated[float, typer.Option(help="longest wait, in seconds")] = 3600.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete workflows that ended long ago, old pulses, executors and keys; never anything unfinished.

    A worker does it, a little at a time. Interrupted, it goes on there. Exit code 0 only if it is done.
    """
    with plain_errors():
        body: dict[str, Any] = {"dry_run": dry_run}
        if older_than is not None:
            body["older_than_seconds"] = seconds_of(older_than)
        result = _run_to_end(Api(url), body, timeout=timeout, quiet=as_json)
        show(result, as_json=as_json, human=lambda: _summary(result))
        raise typer.Exit(0 if result["ok"] else 1)


def _run_to_end(api: Api, body: dict[str, Any], *, timeout: float, quiet: bool) -> dict[str, Any]:
    """Starts purges until one is complete. One is not if its worker drains, or if a workflow is in use."""
    deadline = time.monotonic() + timeout
    runs: list[dict[str, Any]] = []
    word = "would go" if body["dry_run"] else "deleted"
    status = nullcontext() if quiet else console.status("waiting for a worker")
    with status as line:
        while True:
            workflow_id = api.post("/purge", body)["workflow_id"]
            before = 0 if body["dry_run"] else sum(run["deleted"] for run in runs)

            def show_progress(
                workflows: int, note: str, start: str = f"{workflow_id}: ", before: int = before
            ) -> None:
                if line is not None:
                    progress = f"{start}{before + workflows:,} workflows {word}{note and f' ({note})'}"
                    line.update(Text(visible(progress)))

            found = _followed(api, workflow_id, deadline - time.monotonic(), show_progress)
            status_now = found.get("status")
            report = found.get("output") if status_now == "SUCCESS" else None
            if report is None:
                return {
                    "ok": False,
                    "workflow_id": workflow_id,
                    "status": status_now,
                    "error": found.get("error"),
                    **_sum(runs),
                }
            runs.append(report)
            if report["complete"] or time.monotonic() > deadline:
                whole = report if body["dry_run"] else {**report, **_sum(runs)}
                return {"ok": report["complete"], "workflow_id": workflow_id, "status": status_now, **whole}


def _followed(
    api: Api, workflow_id: str, seconds: float, show_progress: Callable[[int, str], None]
) -> dict[str, Any]:
    """Returns one purge at its end or at the timeout, empty during an outage. Calls ``show_progress``."""
    path = workflow_path(workflow_id)
    steps = workflows = 0

    def poll(_: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found = api.get(path)
        return found, api.get(f"{path}/steps", limit=_STEPS_SHOWN, offset=steps)["steps"]

    found: dict[str, Any] = {}
    for seen, note in poll_until(poll, seconds=seconds):
        found, new = seen or ({}, [])
        steps += len(new)
        workflows += sum(_workflows_in(step) for step in new)
        show_progress(workflows, note)
        if found.get("status") in TERMINAL and len(new) < _STEPS_SHOWN:
            break
    return found


def _workflows_in(step: dict[str, Any]) -> int:
    output = step["output"]
    return int(output["rows"]) if step["name"] == "retention.workflows" and isinstance(output, dict) else 0


def _sum(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the sum of the deletions of several runs."""
    workflows: tally.Tally = {}
    for run in runs:
        tally.add(workflows, run["workflows"])
    counts = {name: sum(run[name] for run in runs) for name in ("deleted", *_TABLES)}
    return {**counts, "workflows": workflows}


def _summary(result: dict[str, Any]) -> Any:
    if result["status"] != "SUCCESS":
        text = result["error"] or "the purge continues; check it again with `holdfast purge`"
        return f"{result['workflow_id']}: {result['status'] or 'unknown'}, {text}"
    rows = [
        [name, status, f"{number:,}"]
        for name, by_status in sorted(result["workflows"].items())
        for status, number in sorted(by_status.items())
    ]
    rows += [[text, None, f"{result[name]:,}"] for name, text in _TABLES.items() if result[name]]
    word = "would go" if result["dry_run"] else "deleted"
    end = "" if result["complete"] else ", and some were left: purge again"
    title = f"{result['deleted']:,} workflows {word} that ended before {result['cutoff']}{end}"
    return table(title, ["what", "status", "rows"], rows)
