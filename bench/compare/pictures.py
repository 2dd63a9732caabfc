"""Which pictures the report has; they are drawn in the peers' environment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare.goals import HOLDFAST, PEERS
from bench.compare.processes import NotMeasured, peer_command
from bench.compare.summaries import Record, Summary, summary_of
from holdfast.installations.embedded import ROOT

DRAWN = (
    (
        "compare-at-once.svg",
        "50 × fib(30) concurrently: share of what the CPUs can do",
        "at_once_30",
        "of_bound",
        "{:.2f}",
    ),
    (
        "compare-in-turn.svg",
        "40 × fib(10), each after the result of the one before",
        "in_turn_short",
        "seconds",
        "{:.2f} s",
    ),
    (
        "compare-tiny.svg",
        "1,000 tiny jobs through the full path",
        "tiny",
        "jobs_a_second",
        "{:.0f} per second",
    ),
    ("compare-pickup.svg", "pickup at idle, median", "pickup", "p50_ms", "{:.1f} ms"),
    (
        "compare-takeover.svg",
        "body runs again after SIGKILL of its worker",
        "takeover",
        "seconds",
        "{:.1f} s",
    ),
)


def drawings(records: Sequence[Record], titles: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """What to draw: only what has results."""
    found = []
    for file, title, case, key, form in DRAWN:
        bars = []
        for name in (HOLDFAST, *PEERS):
            each = summary_of(records, name, case, key)
            if isinstance(each, Summary):  # a takeover that never came has none
                bars.append((titles.get(name, (name, ""))[0], each.median))
        if bars:
            found.append({"file": file, "title": title, "unit": "", "form": form, "bars": bars})
    return found


def draw(records: Sequence[Record], titles: dict[str, tuple[str, str]], directory: Path) -> list[str]:
    """Draws them; the files' names. Without the peers' environment it says so and draws none."""
    wanted = drawings(records, titles)
    try:
        done = subprocess.run(
            [*peer_command("pictures", str(directory))],
            cwd=ROOT,
            input=json.dumps(wanted),
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (NotMeasured, subprocess.TimeoutExpired) as error:
        print(f"no pictures: {error}", file=sys.stderr)
        return []
    if done.returncode != 0:
        print(f"no pictures: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return []
    return [drawing["file"] for drawing in wanted]
