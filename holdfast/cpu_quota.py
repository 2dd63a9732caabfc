"""The number of CPUs that this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the number of whole CPUs: the affinity, limited by the cgroup's quota (v2, v1), at least 1."""
    cpus = len(os.sched_getaffinity(0))
    for quota_files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((cgroup / file).read_text("ascii") for file in quota_files).split()
            if quota not in ("max", "-1"):
                return max(1, min(cpus, int(quota) // int(period)))
        except (OSError, ValueError):
            continue
    return cpus
