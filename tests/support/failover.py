"""A read-only PostgreSQL, and a primary that dies while its standby is promoted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from holdfast.installations.embedded import Cluster, _run
from tests.support.database import Server, wait_until

_MAY_REPLICATE = "host replication postgres 127.0.0.1/32 scram-sha-256\n"


@contextmanager
def read_only(run: Callable[[str], object]) -> Iterator[None]:
    """Makes the server refuse writes inside, as after a failover. ``run`` runs a superuser's statement."""
    run("ALTER SYSTEM SET default_transaction_read_only = on")
    run("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        run("ALTER SYSTEM RESET default_transaction_read_only")
        run("SELECT pg_reload_conf()")


@dataclass
class Standby(Cluster):
    """A hot standby that streams from a server on this machine."""

    source_port: int = 0

    def _initialize(self) -> None:
        source = ["-h", "127.0.0.1", "-p", str(self.source_port), "-U", "postgres"]
        password = (self.secrets / "postgres" / "superuser").read_text("ascii").strip()
        _run(
            [self._binaries / "bin" / "pg_basebackup", *source, "-D", self.data, "-R", "--checkpoint=fast"],
            "no standby was made",
            env={"PATH": os.environ["PATH"], "PGPASSWORD": password},
            **self._user,
        )


class Pair(Server):
    """A primary and its synchronous standby. Clients get both hosts."""

    def __init__(self) -> None:
        self.standby: Standby | None = None
        super().__init__()
        with (self.cluster._place / "pg_hba.conf").open("r+") as file:
            rules = file.read()
            file.seek(0)
            file.write(_MAY_REPLICATE + rules)
        self.run("SELECT pg_reload_conf()")
        home = self.home / "standby"
        (home / "logs").mkdir(parents=True)
        standby = Standby(home, self.secrets, source_port=self.cluster.port)
        standby.prepare()
        standby.start()
        # Set last, so that the standby does not wait for a standby of its own after its promotion.
        self.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.run("SELECT pg_reload_conf()")
        wait_until(self._streams, "the standby is synchronous", seconds=20)
        self.standby = standby
        self._clusters = [self.cluster, standby]

    def _streams(self) -> bool:
        connection = self.admin()
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
            return cursor.fetchone() is not None
        finally:
            connection.close()

    def environment(self, name: str, role: str = "worker") -> dict[str, str]:
        found = super().environment(name, role)
        if self.standby is not None:
            ports = [cluster.port for cluster in self._clusters]
            found["HOLDFAST_DATABASE_HOST"] = f"127.0.0.1:{ports[0]},127.0.0.1"
            found["HOLDFAST_DATABASE_PORT"] = str(ports[1])
        return found

    def kill_primary(self) -> None:
        """Kills all processes of the primary with SIGKILL, as if its host died."""
        process = self.cluster.process
        assert process is not None
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)

    def promote(self) -> None:
        """Promotes the standby. It becomes the server of this object."""
        assert self.standby is not None
        self.cluster = self.standby
        self.run("SELECT pg_promote(true, 60)")

    def close(self) -> None:
        for cluster in reversed(self._clusters):
            self.cluster = cluster
            if cluster.process is not None and cluster.process.poll() is None:
                cluster.process.send_signal(signal.SIGQUIT)
                cluster.process.wait(10)
            cluster.remove()
        super().close()
