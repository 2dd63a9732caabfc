"""Reports of campaigns. Merge several: ``python -m tests.chaos.report A.json B.json > report.md``."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from tests.chaos.plan import KINDS

# The goals of the fault matrix in recovery.md, by row, or by kind if a row has several.
GOALS = {1: 300, 2: 200, 3: 50, 5: 30, 6: 30, 7: 20, 8: 30, 9: 10, 10: 10, 11: 10}
GOALS |= {12: 3, 13: 10, 14: 20, 15: 100, 16: 10, 17: 20, 18: 20, 19: 20}
GOALS_OF = {"postgres_stop": 60, "postgres_away": 10, "postgres_away_long": 3}


def by_kind(faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns counts and recovery times of each kind, in the order of the matrix."""
    rows = []
    for name in sorted({fault["kind"] for fault in faults}, key=lambda name: (KINDS[name].row, name)):
        mine = [fault for fault in faults if fault["kind"] == name]
        times = [fault["recovery_seconds"] for fault in mine if fault["recovery_seconds"] is not None]
        moved = [fault["seen"]["workflows"] for fault in mine if "workflows" in fault["seen"]]
        rows.append(
            {
                "row": KINDS[name].row,
                "kind": name,
                "text": KINDS[name].text,
                "runs": len(mine),
                "failed": sum(not fault["ok"] for fault in mine),
                # For faults that took a process: the sum of its workflows, and how often it had any.
                "moved": sum(moved) if moved else None,
                "hit": sum(number > 0 for number in moved),
                "recovery_median_seconds": round(statistics.median(times), 2) if times else None,
                "recovery_max_seconds": round(max(times), 2) if times else None,
            }
        )
    return rows


def _comparable(fault: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Returns the fault, without its recovery time if an older campaign counted that from a later moment."""
    return fault if report.get("recovery_from") == "harm" else {**fault, "recovery_seconds": None}


def totals(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the sum of the audits' findings."""
    found: dict[str, Any] = {"faults": 0, "accepted": 0, "lost": 0, "doubled": 0, "stuck": 0, "failed": 0}
    found |= {"ok": 0, "refused": 0, "unknown": 0}
    for report in reports:
        found["faults"] += len(report["faults"])
        for finding in report["findings"]:
            for name in found.keys() & finding["figures"].keys():
                found[name] += finding["figures"][name]
    return found


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f} s"


def _moved(row: dict[str, Any]) -> str:
    return "-" if row["moved"] is None else f"{row['moved']}, in {row['hit']} runs"


def _load(report: dict[str, Any]) -> str:
    loads = [fault["load"] for fault in report["faults"] if "load" in fault]
    return f"{statistics.median(loads):.0f}" if loads else "not noted"


_ACROSS = (
    "Each host is a network of its own (`tests/chaos/hosts.yaml`): one worker on each of two, the API on a "
    "third; none reaches another, all reach PostgreSQL. It is one machine with one kernel and one clock."
)


def markdown(reports: list[dict[str, Any]]) -> str:
    """Returns one Markdown document for all reports."""
    faults = [_comparable(fault, report) for report in reports for fault in report["faults"]]
    sums = totals(reports)
    across = all(report["backend"] == "networks" for report in reports)
    lines = [
        "# Recovery across hosts" if across else "# Recovery report",
        "",
        *([_ACROSS, ""] if across else []),
        "Written by `python -m tests.chaos` (the same seed gives the same faults) and merged by "
        "`python -m tests.chaos.report`.",
        "",
        f"{sums['faults']} faults under load in {len(reports)} campaigns; {sums['accepted']} accepted "
        f"requests: **{sums['lost']} lost, {sums['doubled']} doubled, {sums['stuck']} stuck, "
        f"{sums['failed']} failed**. Answers: {sums['ok']} accepted, {sums['refused']} refused, "
        f"{sums['unknown']} without an answer; these and those refused with 503 were repeated with "
        "their keys until accepted.",
        "",
        "| backend | seed | minutes | load | faults done (planned) | accepted | invariants |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for report in reports:
        broken = [str(f["invariant"]) for f in report["findings"] if not f["ok"]]
        verdict = (
            "**not audited**"
            if not report["findings"]
            else "all hold"
            if not broken
            else f"**broken: {', '.join(broken)}**"
        )
        if report["troubles"]:
            verdict += f"; {len(report['troubles'])} problems, see below"
        accepted = totals([report])["accepted"]
        lines.append(
            f"| {report['backend']} | {report['seed']} | {report['minutes']:g} | {_load(report)} "
            f"| {len(report['faults'])} ({report['planned']}) "
            f"| {accepted} | {verdict} |"
        )
    lines += [
        "",
        "Recovery: from the end of the harm (the signal, the order to start PostgreSQL, the last cut) until "
        "all processes are ready, no work is under a process that is gone, and a new batch has succeeded.",
        "",
        "| row | fault | runs (goal) | failed | workflows taken over | recovery median | max |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in by_kind(faults):
        goal = GOALS_OF.get(row["kind"]) or GOALS[row["row"]]
        lines.append(
            f"| {row['row']} | {row['text']} | {row['runs']} ({goal}) | {row['failed']} | {_moved(row)} "
            f"| {_seconds(row['recovery_median_seconds'])} | {_seconds(row['recovery_max_seconds'])} |"
        )
    failed = sum(not fault["ok"] for fault in faults)
    if failed:
        lines += ["", f"{failed} of {len(faults)} faults failed a check of their own; see below."]
    elif faults:
        most = max(row["runs"] for row in by_kind(faults))
        bounds = [f"{min(100, 300 / n):.1f} % at n = {n}" for n in (most, len(faults))]
        lines += ["", f"Zero failures in n runs bound their rate at 3/n (95 %): {', '.join(bounds)} (all)."]
    problems = [f"- {r['backend']}, seed {r['seed']}: {t}" for r in reports for t in r["troubles"]]
    problems += [
        f"- {r['backend']}, seed {r['seed']}, invariant {f['invariant']}: {d}"
        for r in reports
        for f in r["findings"]
        for d in f["details"]
    ]
    if problems:
        lines += ["", "## Problems", "", *problems]
    return "\n".join(lines) + "\n"


def main() -> int:
    """The entry point. Known problems of the campaigns are in ``met.md`` beside this file."""
    reports = [json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:]]
    print(markdown(reports))
    print(Path(__file__).with_name("met.md").read_text("utf-8"), end="")
    return 0 if all(report["ok"] for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
