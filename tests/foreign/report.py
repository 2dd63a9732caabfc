"""The pages docs/reports/dbos-versions.md and third-parties.md."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence

from tests.foreign.cases import Result

HEADS = {
    "dbos": """# DBOS 3.0 to 3.4

`make dbos-versions` writes this page. One plain application (`tests/foreign/programs/orders.py`: steps, a
queued child workflow, an event and a message; values as pickles) runs on each minor of DBOS that the index
has, in an environment of its own with Holdfast's wheel, under `holdfast run --require`, on a database that
`holdfast migrate` prepared there. One of its two processes is killed with SIGKILL in the middle of a step, or
while its workflow waits for a message. Every workflow must succeed, and no recorded step may run again. On
those that Holdfast protects, both processes also run queues that the code declares with limits (3 at once, 2
in one process; 2 started in 1.5 s): no limit may be exceeded.
""",
    "packages": """# Third parties' packages on DBOS

`make third-parties` writes this page. Each package is installed from the index into an environment of its own
beside Holdfast's wheel. Its application (`tests/foreign/programs/`) does not know Holdfast and runs under
`holdfast run --require`, on a database that `holdfast migrate` prepared. One of its two processes is killed
with SIGKILL in the middle of a step (a tool of an agent, an activity), or while its workflow waits for a
message. Every workflow must succeed, and no recorded step may run again.

Pydantic AI uses its test model. The OpenAI Agents SDK asks a model server of this project
(`tests/foreign/model_server.py`). `dbosify` has the Temporal Python SDK's interface; its newest
release cannot be imported with DBOS 3.3 and 3.4 (it imports a private module of DBOS that those lack), so it
runs on 3.2, in its own schema. `dbos-argus` reads the database of the first application, in a container,
because it needs Python 3.12.
""",
}


def page(what: str, results: Sequence[Result]) -> str:
    """Returns the text of a report."""
    rows = [
        "| case | versions | kills in a step | goes on after | kills in a wait | goes on after | result |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        said = result.lost or result.remark or "nothing lost"
        rows.append(
            f"| {result.name} | {versions} | {_times(result.seconds_in_step)}"
            f" | {_times(result.seconds_in_wait)} | {said} |"
        )
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    tail = (
        "Times are the median and the longest, from the kill to the first line that the peer's step wrote "
        f"({python}, two CPUs, other tests beside it: load average {os.getloadavg()[1]:.0f} at the end).\n"
    )
    return "\n".join([HEADS[what], *rows, "", tail])


def line(result: Result) -> str:
    """Returns one result as a line of text."""
    return (
        f"{result.name}: {'LOST: ' + result.lost if result.lost else result.remark or 'nothing lost'}; "
        f"step {_times(result.seconds_in_step)}, wait {_times(result.seconds_in_wait)}"
    )


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "0 | –"  # noqa: RUF001
    return f"{len(seconds)} | {statistics.median(seconds):.2f} s, {max(seconds):.2f} s"
