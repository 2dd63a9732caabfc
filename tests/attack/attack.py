"""Runs the attackers beside probes and calls of the operator, and measures these."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles

from tests.attack.clients import HOST
from tests.support.compose_stack import ComposeStack
from tests.support.stack import ROOT

PROBE_SECONDS = 0.05
CALL_SECONDS = 0.5
MOST_P99_SECONDS = 0.25


@dataclass
class Figures:
    """What the operator saw."""

    connections: int = 0
    probe_seconds: list[float] = field(default_factory=list)
    call_seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    memory_peak_bytes: int = 0
    """The most memory that the API's container has used since its start."""

    @property
    def p99_seconds(self) -> float:
        return quantiles(self.probe_seconds, n=100)[98]

    def lines(self) -> list[str]:
        """Returns the figures as text."""
        probes, calls = sorted(self.probe_seconds), sorted(self.call_seconds)
        middle = probes[len(probes) // 2]
        return [
            f"attacking connections, at most: {self.connections}",
            f"/readyz: {len(probes)} probes, median {middle * 1000:.0f} ms,"
            f" p99 {self.p99_seconds * 1000:.0f} ms, longest {probes[-1] * 1000:.0f} ms",
            f"the operator's calls with the token: {len(calls)}, longest {calls[-1] * 1000:.0f} ms",
            f"failures: {len(self.failures)} {self.failures[:3] or ''}",
            f"the API's memory, peak: {self.memory_peak_bytes // 2**20} MiB",
        ]


def attack_stack(stack: ComposeStack, *, connections: int, seconds: float) -> Figures:
    """Attacks a stack. A process that has ended meanwhile is a failure."""
    before = set(stack.executors())
    figures = attack(stack.port, stack.read_admin_token(), connections=connections, seconds=seconds)
    figures.failures += [f"new: {name}" for name in set(stack.executors()) - before]
    files = "/sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
    told = stack.compose("exec", "-T", "api", "sh", "-c", f"cat {files} 2>/dev/null || true").split()
    figures.memory_peak_bytes = int(told[0]) if told else 0
    return figures


def attack(port: int, token: str, *, connections: int, seconds: float) -> Figures:
    """Attacks for some seconds, and meanwhile asks for /readyz and with the token."""
    figures = Figures()
    with _attackers(port, connections, figures):
        end = time.monotonic() + seconds
        caller = threading.Thread(target=_call, args=(port, token, end, figures))
        caller.start()
        while time.monotonic() < end:
            took = _ask(port, "GET /readyz", 200, figures)
            figures.probe_seconds.append(took)
            time.sleep(max(0.0, PROBE_SECONDS - took))
        caller.join()
    return figures


def _call(port: int, token: str, end: float, figures: Figures) -> None:
    """A control operation that needs the token and changes nothing."""
    while time.monotonic() < end:
        took = _ask(port, "POST /workflows/none-of-this-name/cancel", 404, figures, token=token)
        figures.call_seconds.append(took)
        time.sleep(CALL_SECONDS)


def _ask(port: int, request: str, expected: int, figures: Figures, *, token: str = "") -> float:
    """Sends one request over a connection of its own, and returns its time."""
    begun = time.monotonic()
    method, _, path = request.partition(" ")
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        status = connection.getresponse().status
        if status != expected:
            figures.failures.append(f"{request}: {status}")
    except (OSError, http.client.HTTPException) as error:
        figures.failures.append(f"{request}: {error!r}")
    finally:
        connection.close()
    return time.monotonic() - begun


@contextmanager
def _attackers(port: int, connections: int, figures: Figures) -> Iterator[None]:
    """The attackers in a process of their own, from the moment when most of them are connected."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.attack.clients", str(port), str(connections)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        lines = process.stdout
        wanted = connections * 0.8
        for line in lines:
            figures.connections = max(figures.connections, int(line))
            if figures.connections >= wanted:
                break

        def follow() -> None:
            for line in lines:
                figures.connections = max(figures.connections, int(line))

        follower = threading.Thread(target=follow)
        follower.start()
        try:
            yield
            assert process.poll() is None, "the attackers have ended early"
        finally:
            process.stdin.close()
            follower.join()
