"""What the machine can do without any of them, measured beside each figure: plain processes of the same
interpreter that compute the same function."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from bench.compare.processes import NotMeasured
from holdfast.installations.embedded import ROOT

_CODE = """
import sys, time
from services.worker.fibonacci.rule import recursive
n, count = int(sys.argv[1]), int(sys.argv[2])
recursive(12)
sys.stdin.readline()
begun = time.perf_counter()
for _ in range(count):
    recursive(n)
print((time.perf_counter() - begun) / count)
"""


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _each(processes: int, n: int, count: int, bound_seconds: float) -> list[float]:
    """Seconds for one F(n) in each of ``processes`` processes that compute ``count`` of them concurrently."""
    command = [sys.executable, "-c", _CODE, str(n), str(count)]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return [float(process.communicate(timeout=bound_seconds)[0]) for process in running]
    except subprocess.TimeoutExpired as error:
        raise NotMeasured(f"plain F({n}) took more than {bound_seconds:g} s") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()


def pure(n: int, count: int) -> float:
    """Seconds for ``count`` plain calls of F(n), one after the other in one process."""
    return count * _each(1, n, count, 300)[0]


def bound(n: int, count: int) -> float:
    """Seconds below which ``count`` F(n) cannot be done here: one with all cores loaded, over the cores."""
    calls = max(2, 8 >> max(0, (n - 30) // 2))
    return count * statistics.mean(_each(cores(), n, calls, 300)) / cores()
