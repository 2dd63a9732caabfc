"""Fills PostgreSQL's disk under load, then frees it. The disk is a small one (``small-disk.yaml``)."""

from __future__ import annotations

import time

import httpx

from tests.chaos.ground import MIDDLE, Ground, Seen, complete
from tests.chaos.load import now
from tests.support.compose_stack import ComposeStack

OVERRIDE = "tests/chaos/small-disk.yaml"
ANSWER_SECONDS = 4.0
"""Twice the limit of invariant 8, which is checked on a dedicated machine."""

# The file fills the last block, too: PostgreSQL allocates 8 kB at a time.
_FILL = (
    "dd if=/dev/zero of=/disk/filler bs=1M; dd if=/dev/zero bs=4k oflag=append conv=notrunc of=/disk/filler;"
    " df --output=avail /disk | tail -1"
)
# The log is written into existing segments. The step to a new one makes PostgreSQL panic, restart, and panic
# again at the end of its recovery. Then its container ends.
_NEXT_SEGMENT = "SELECT pg_logical_emit_message(false, 'chaos', ''), pg_switch_wal()"
_SEGMENTS = 12


def disk_full(ground: Ground, *, seconds: float, panic: bool) -> Seen:
    stack = ground.stack
    assert isinstance(stack, ComposeStack)
    begun, before = now(), ground.ids()
    restarts = _restarts(stack)
    ground.batch(MIDDLE)
    statuses: dict[int, int] = {}
    try:
        left = _holder(stack, _FILL).split()[-1:]
        assert left == ["0"], f"the disk is not full: {left} kB are left"
        deadline = time.monotonic() + seconds
        if panic:
            _write_ahead(stack)
        while time.monotonic() < deadline:
            _probe(ground, statuses)
            time.sleep(0.5)
    finally:
        _holder(stack, "rm -f /disk/filler")
        ground.over()
    complete(ground)
    ground.journal.write("downtime", **{"from": begun, "to": now()}, reason="PostgreSQL's disk full")
    refused = _refused_writes(stack, begun)
    assert refused, "PostgreSQL never noticed that its disk was full"
    return {
        "refused_writes": refused,
        "postgres_restarts": _restarts(stack) - restarts,
        "answers": statuses,
        "executors_replaced": len(before - ground.ids()),
    }


def _holder(stack: ComposeStack, command: str) -> str:
    return stack.compose("exec", "-T", "holder", "sh", "-c", command, check=False)


def _write_ahead(stack: ComposeStack) -> None:
    psql = ["psql", "--no-psqlrc", "-At", "-U", "postgres", "-d", "holdfast", "-c", _NEXT_SEGMENT]
    for _ in range(_SEGMENTS):
        if not stack.compose("exec", "-T", "postgres", *psql, check=False):
            return
    raise AssertionError(f"{_SEGMENTS} segments of the log fit on a full disk")


def _restarts(stack: ComposeStack) -> int:
    return int(stack.inspect(stack.containers("postgres")[0]["ID"])["RestartCount"])


def _refused_writes(stack: ComposeStack, since: str) -> int:
    container = stack.containers("postgres")[0]["ID"]
    return stack.docker("logs", "--since", since, container).count("No space left on device")


def _probe(ground: Ground, statuses: dict[int, int]) -> None:
    """Probes the API. Reads may work and writes may find space: only our own errors are wrong answers."""
    for method, path in (("GET", "/livez"), ("GET", "/readyz"), ("GET", "/executors"), ("POST", "/nested")):
        begun = time.monotonic()
        answer = httpx.request(method, ground.stack.url + path, timeout=10, trust_env=False)
        seconds, status = time.monotonic() - begun, answer.status_code
        statuses[status] = statuses.get(status, 0) + 1
        told = f"{method} {path} on a full disk: {status} after {seconds:.1f} s"
        assert status < 500 or (status == 503 and "Retry-After" in answer.headers), told
        assert path != "/livez" or status == 200, told
        assert seconds < ANSWER_SECONDS, told
