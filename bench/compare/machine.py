"""The machine of the results."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from bench.compare.baseline import cores


def describe() -> dict[str, Any]:
    """CPUs and their model, memory, kernel, Python, and the disk's time for one small durable write."""
    return {
        "cpus": cores(),
        "cpu_model": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "memory_gigabytes": round(int((_first("/proc/meminfo", "MemTotal") or "0").split()[0]) / 1e6, 1),
        "kernel": platform.release(),
        "system": _first("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "python": platform.python_version(),
    }


def load() -> float:
    """Of one minute, as the kernel reports it."""
    return round(os.getloadavg()[0], 2)


def flush_milliseconds(directory: Path, writes: int = 50) -> float:
    """Median time of a write of 8 kB that waits for the disk: what each commit here cannot go below."""
    file = directory / "flush"
    found = []
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(writes):
            begun = time.perf_counter()
            os.pwrite(descriptor, b"x" * 8192, 0)
            os.fdatasync(descriptor)
            found.append(1000 * (time.perf_counter() - begun))
    finally:
        os.close(descriptor)
        file.unlink()
    return round(sorted(found)[len(found) // 2], 3)


def _first(path: str, name: str, separator: str = ":") -> str:
    try:
        for line in Path(path).read_text("utf-8").splitlines():
            key, found, value = line.partition(separator)
            if found and key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return ""
