"""The native stack with the benchmark's worker in place of Holdfast's: ``python -m bench.compare.native``."""

from __future__ import annotations

import sys

from holdfast.installations import native
from holdfast.installations.supervised import Child
from holdfast.installations.supervisor import Supervisor


class BenchSupervisor(Supervisor):
    """Starts ``bench_worker`` where it would start ``services.worker``."""

    def _child(self, name: str, role: str, port: int) -> Child:
        child = super()._child(name, role, port)
        if role == "worker":
            child.module = "bench.compare.bench_worker"
        return child


if __name__ == "__main__":
    native.Supervisor = BenchSupervisor
    sys.exit(native.main())
