"""What control operations of many workflows take, and how the API answers beside them, on a native stack.

``python -m bench.control`` cancels a parent of 60,000 children, adopts 200,000 stranded workflows, and writes
``bench/results/control.md``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx

from tests.support.native_stack import NativeStack

RESULTS = Path(__file__).parent / "results" / "control.md"
_EVERY_SECONDS = 0.02

_NOW_MS = "(extract(epoch FROM now()) * 1000)::bigint"
_ROWS = f"""
INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_name,
    application_version, parent_workflow_id, executor_id, priority, recovery_attempts, created_at, updated_at,
    serialization)
SELECT {{id}}, 'ENQUEUED', 'bench.none', 'bench-none', 'holdfast-worker', '{{version}}', {{parent}}, '', 0, 0,
    {_NOW_MS}, {_NOW_MS}, 'portable_json'
FROM generate_series(1, {{count}}) AS i
"""


class Probe:
    """Asks ``/readyz`` 50 times a second, on a kept connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = threading.Event()
        self.seconds: list[float] = []
        self.refused = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as http:
            while not self._end.wait(_EVERY_SECONDS):
                begun = time.monotonic()
                answer = http.get("/readyz")
                self.seconds.append(time.monotonic() - begun)
                self.refused += answer.status_code != 200


def measure(stack: NativeStack, path: str, body: dict[str, str] | None) -> str:
    """Sends the request, waits for the operation's end, and returns the cells of a row."""
    with httpx.Client(base_url=stack.url, timeout=60, trust_env=False, headers=stack.admin()) as http:
        with Probe(stack.url) as probe:
            begun = time.monotonic()
            answer = http.post(path, json=body)
            answered = time.monotonic() - begun
            assert answer.status_code == 202, answer.text
            location = answer.headers["location"]
            while (row := http.get(location).json())["ended_at"] is None:
                time.sleep(0.2)
            seconds = time.monotonic() - begun
        assert row["status"] == "SUCCESS", row
        ordered = sorted(probe.seconds)
        p99 = ordered[int(len(ordered) * 0.99)]
        return (
            f"{row['completed']:,} | {answered:.1f} s | {seconds:.1f} s | {row['completed'] / seconds:,.0f} |"
            f" {1000 * statistics.median(ordered):.0f} ms | {1000 * p99:.0f} ms |"
            f" {1000 * ordered[-1]:.0f} ms | {probe.refused}"
        )


def fill(stack: NativeStack, children: int, stranded: int) -> None:
    """Stores a parent with its children, on a queue that no process runs, and stranded workflows."""
    running = "SELECT application_version AS version FROM ops.executors WHERE role = 'worker' LIMIT 1"
    version = stack.query(running)[0]["version"]
    with closing(stack.connect_superuser()) as connection, connection.cursor() as cursor:
        for given in (
            {"id": "'p'", "version": version, "parent": "NULL", "count": 1},
            {"id": "'p-' || i", "version": version, "parent": "'p'", "count": children},
            {"id": "'s-' || i", "version": "gone", "parent": "NULL", "count": stranded},
        ):
            cursor.execute(_ROWS.format(**given))
        connection.commit()
        cursor.execute("ANALYZE dbos.workflow_status")
        connection.commit()


def run(children: int, stranded: int) -> str:
    """The result as Markdown."""
    with tempfile.TemporaryDirectory() as home:
        stack = NativeStack(Path(home) / "stack")
        stack.start()
        try:
            fill(stack, children, stranded)
            cancel = measure(stack, "/workflows/p/cancel", None)
            body = {"application": "holdfast-worker", "from_version": "gone"}
            adopt = measure(stack, "/stranded/adopt", body)
        finally:
            stack.down()
    return f"""# Control operations of many workflows

A native stack of two workers, two cores, other load beside it. `/readyz` of the API: 50 times a second.
`python -m bench.control --children {children} --stranded {stranded}`

| operation | workflows | answer | end | per second | `/readyz` median | 99 % | longest | no 200 |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
| cancel of a parent | {cancel} |
| adoption of a version | {adopt} |
"""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--children", type=int, default=60_000)
    parser.add_argument("--stranded", type=int, default=200_000)
    given = parser.parse_args()
    text = run(given.children, given.stranded)
    RESULTS.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
