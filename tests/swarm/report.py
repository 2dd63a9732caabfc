"""The report of a run on Docker Swarm as Markdown."""

from __future__ import annotations

from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """One document; what broke stands at its end."""
    sums, answers = report["totals"], report["answers"]
    lines = [
        "# Rolling updates on Docker Swarm",
        "",
        f"Written by `make swarm` (`python -m tests.swarm --seed {report['seed']}`): a Swarm of one node, "
        f"engine {report['engine']}, two workers, load from three clients all the time. Ready "
        f"{report['started_seconds']} s after the first command, secrets and migration included. Load of the "
        f"machine at the end: {report['load']:g}.",
        "",
        f"{sums['accepted']} accepted requests: **{sums['lost']} lost, {sums['doubled']} doubled, "
        f"{sums['stuck']} stuck, {sums['failed']} failed**. Answers: {answers['ok']} accepted, "
        f"{answers['refused']} refused, {answers['unknown']} without an answer; these and those refused with "
        "503 were repeated with their keys until accepted. Without an answer are those that found the API "
        "away: on a node's own port its successor begins only when it has ended (docs/operate/deploying.md).",
        "",
        "| change | seconds | seen | well |",
        "|---|--:|---|---|",
    ]
    for change in report["changes"]:
        seen = ", ".join(f"{name} {value}" for name, value in change["seen"].items())
        seconds = change.get("seconds", "not measured")
        lines.append(f"| {change['change']} | {seconds} | {seen} | {'yes' if change['ok'] else '**no**'} |")
    lines += ["", "`holdfast verify` after it:", ""]
    for finding in report["findings"]:
        verdict = "holds" if finding["ok"] else "**broken**"
        lines.append(f"{finding['invariant']}. {verdict}: {finding['text']}")
        lines += [f"   - {detail}" for detail in finding["details"]]
    if report["troubles"]:
        lines += ["", "## Problems", "", *(f"- {problem}" for problem in report["troubles"])]
    return "\n".join(lines) + "\n"
