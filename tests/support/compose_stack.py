"""Holdfast in containers: one Compose project with its own name, port and volumes."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.support.stack import ROOT, CpuChild, Exit, Member, Stack, clean_environment, free_ports, wait_for

_TOP = """
import json, os
for d in filter(str.isdigit, os.listdir('/proc')):
    try:
        command = open(f'/proc/{d}/cmdline').read().split(chr(0))
        fields = open(f'/proc/{d}/stat').read().rpartition(')')[2].split()
    except OSError:
        continue
    if any(part.endswith('/cpu_child.py') for part in command) and fields[0] not in 'ZX':
        used = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
        print(json.dumps([int(d), used, fields[0] == 'R']))
"""


class ComposeStack(Stack):
    """``docker compose up`` without ``.env``. ``image`` must exist.

    ``override`` is an additional Compose file, relative to the checkout. ``profile`` is one of compose.yaml,
    and ``services`` names those to start (none: all). ``worker_services`` are those whose containers are
    workers, with the same number of each.
    """

    def __init__(
        self,
        image: str,
        *,
        workers: int = 2,
        override: str = "",
        profile: str = "",
        services: Sequence[str] = (),
        worker_services: Sequence[str] = ("worker",),
        **settings: str,
    ) -> None:
        super().__init__(workers=workers, **settings)
        self.image = image
        self.override = override
        self.profile = profile
        self.services = list(services)
        self.worker_services = list(worker_services)
        self.project = f"holdfast-test-{secrets.token_hex(4)}"
        self.port = free_ports(1)
        self._since = ""
        self._started = False

    # --- the command line ------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """Returns Compose's environment, without settings of the shell or a ``.env``."""
        files = {"COMPOSE_FILE": f"compose.yaml:{self.override}"} if self.override else {}
        if self.profile:
            files["COMPOSE_PROFILES"] = self.profile
        return clean_environment(
            **self.settings,
            **files,
            HOLDFAST_IMAGE=self.image,
            HOLDFAST_API_PORT=str(self.port),
            HOLDFAST_WORKERS=str(self.worker_count // len(self.worker_services)),
        )

    def compose(self, *arguments: str, check: bool = True, timeout: float = 180) -> str:
        """Runs ``docker compose ARGUMENTS`` on this project and returns the output."""
        return self._run(
            "docker",
            "compose",
            "--project-name",
            self.project,
            "--env-file",
            "/dev/null",
            *arguments,
            check=check,
            timeout=timeout,
        )

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Runs ``docker ARGUMENTS`` and returns the output."""
        return self._run("docker", *arguments, check=check, timeout=120)

    def _run(self, *command: str, check: bool, timeout: float) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        self._since = f"{time.time():.6f}"
        self._started = True
        self.compose("up", "--detach", "--wait", "--no-build", *self.services)
        self.url = f"http://{self.compose('port', 'api', '8000').strip()}"

    def down(self) -> None:
        if not self._started:
            return
        paused = self.docker("ps", "-q", "--filter", "status=paused", "--filter", self._label).split()
        if paused:
            self.docker("unpause", *paused, check=False)
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "0")
        self._started = False

    @property
    def _label(self) -> str:
        return f"label=com.docker.compose.project={self.project}"

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """Returns ``docker compose ps --all`` for one service, or for all."""
        services = self.worker_services if service == "worker" else [service] if service else []
        lines = self.compose("ps", "--all", "--format", "json", *services).splitlines()
        return [json.loads(line) for line in lines]

    def postgres(self) -> Member:
        """Returns PostgreSQL's container, for faults of its network."""
        container = self.containers("postgres")[0]
        return Member("", "postgres", container["Name"], 0, container["ID"])

    def networks(self, member: Member) -> set[str]:
        """Returns the names of a container's networks."""
        return set(self.inspect(member.container)["NetworkSettings"]["Networks"])

    def database_network(self, member: Member) -> str:
        """Returns the network on which the member reaches PostgreSQL."""
        return (self.networks(member) & self.networks(self.postgres())).pop()

    def subnet(self, network: str) -> str:
        """Returns the addresses of one of the project's networks."""
        told = json.loads(self.docker("network", "inspect", f"{self.project}_{network}"))
        return str(told[0]["IPAM"]["Config"][0]["Subnet"])

    def inspect(self, container: str) -> Any:
        """Returns the result of ``docker inspect`` for a container."""
        return json.loads(self.docker("inspect", container))[0]

    # --- processes -------------------------------------------------------------------------

    def ready_members(self, role: str) -> list[Member]:
        healthy = {c["ID"]: c["Name"] for c in self.containers(role) if c.get("Health") == "healthy"}
        found = []
        for row in self.executors().values():
            if row["role"] == role and row["state"] == "live" and row["hostname"] in healthy:
                name = healthy[row["hostname"]]
                found.append(Member(row["executor_id"], role, name, row["pid"], row["hostname"]))
        return found

    def kill(self, member: Member, signal_name: str = "KILL") -> None:
        self.docker("kill", "--signal", signal_name, member.container)

    def crash(self, member: Member) -> float:
        return self._signal_inside(member, 9)

    def _signal_inside(self, member: Member, number: int) -> float:
        # `docker kill` counts as a manual stop, even with SIGTERM: the restart policy would not restart the
        # container.
        code = f"import os, time; print(time.time(), flush=True); os.kill({member.pid}, {number})"
        return float(self.python(member, code))

    def python(self, member: Member, code: str) -> str:
        """Runs Python code inside a container and returns the output."""
        return self.docker("exec", member.container, "python", "-ISc", code, check=False)

    def stop(self, member: Member) -> float:
        return self._signal_inside(member, 15)

    def start_again(self, member: Member) -> None:
        """Starts a container after a manual stop."""
        self.docker("start", member.container)

    def pause(self, member: Member) -> None:
        self.docker("pause", member.container)

    def unpause(self, member: Member) -> None:
        self.docker("unpause", member.container)

    def find_exit(self, member: Member) -> Exit | None:
        """Returns the container's first end since that executor's start, from the engine's events."""
        started = self.query(
            "SELECT extract(epoch FROM started_at)::float8 AS at FROM ops.executors"
            f" WHERE executor_id = '{member.executor_id}'"
        )[0]["at"]
        filters = ["--filter", f"container={member.container}", "--filter", "event=die"]
        until = ["--since", self._since, "--until", f"{time.time():.6f}"]
        events = self.docker("events", *until, *filters, "--format", "json")
        for line in events.splitlines():
            event = json.loads(line)
            if event["timeNano"] / 1e9 > started:
                return Exit(int(event["Actor"]["Attributes"]["exitCode"]), event["timeNano"] / 1e9)
        return None

    def children(self, member: Member) -> list[CpuChild]:
        return [CpuChild(*json.loads(line)) for line in self.python(member, _TOP).splitlines()]

    def all_children(self) -> list[CpuChild]:
        # A new container has a new pid namespace: no child of an ended process is left.
        return []

    def outliving(self, member: Member) -> list[int]:
        # The host's pids distinguish them from processes of the container's next run, which are younger.
        ended = self.find_exit(member)
        if ended is None:
            raise AssertionError(f"{member.name} has not ended")
        top = self.docker("top", member.container, "-eo", "pid,etimes,args", check=False).splitlines()
        age = time.time() - ended.at
        lines = (line.split(maxsplit=2) for line in top[1:])
        return [
            int(pid) for pid, seconds, words in lines if "cpu_child.py" in words and int(seconds) > age + 1
        ]

    def kill_child(self, member: Member, pid: int) -> None:
        self.python(member, f"import os; os.kill({pid}, 9)")

    # --- the database ----------------------------------------------------------------------

    @contextmanager
    def postgres_down(self) -> Iterator[None]:
        self.compose("stop", "postgres")
        try:
            yield
        finally:
            self.compose("start", "postgres")
        wait_for(lambda: self.compose("exec", "-T", "postgres", "pg_isready", check=False), 30, "PostgreSQL")

    @contextmanager
    def postgres_frozen(self) -> Iterator[None]:
        self.compose("pause", "postgres")
        try:
            yield
        finally:
            self.compose("unpause", "postgres")

    def query(self, statement: str) -> list[dict[str, Any]]:
        whole = f"SELECT coalesce(json_agg(t), '[]') FROM ({statement}) AS t"
        psql = ["psql", "--no-psqlrc", "-At", "-U", "postgres", "-d", "holdfast", "-c", whole]
        rows: list[dict[str, Any]] = json.loads(self.compose("exec", "-T", "postgres", *psql))
        return rows

    def dump(self) -> str:
        return self.compose("exec", "-T", "postgres", "pg_dump", "-U", "postgres", "holdfast")

    # --- files -----------------------------------------------------------------------------

    def logs(self) -> dict[str, list[str]]:
        found = {}
        for container in self.containers():
            done = subprocess.run(
                ["docker", "logs", container["ID"]], capture_output=True, text=True, timeout=60
            )
            found[f"{container['Service']} ({container['Name']})"] = (done.stdout + done.stderr).splitlines()
        return found

    def log_tail(self, lines: int = 25) -> str:
        states = [f"{c['Name']} {c['State']} {c['ExitCode']} {c['Health']}" for c in self.containers()]
        return super().log_tail(lines) + "\n" + "\n".join(states)

    def read_credential(self) -> str:
        return self.python(
            self.api(), "print(open('/run/holdfast/upstream_credential').read().strip())"
        ).strip()

    def read_admin_token(self) -> str:
        return self.compose("exec", "-T", "api", "cat", "/run/holdfast/admin_token").strip()

    def write_credential(self, secret: str) -> None:
        code = f"open('/secrets/api/upstream_credential', 'w').write('{secret}\\n')"
        self.compose("run", "--rm", "-T", "--no-deps", "secrets", "python", "-c", code)
