"""Holdfast on a Docker Swarm of this one machine: a stack with its own name, port and secrets."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.stack import ROOT, clean_environment, free_ports, wait_for

STACK_FILE = "deploy/swarm/stack.yaml"
_LABEL = "holdfast.postgres"
_BRIDGE = "docker_gwbridge"


@dataclass(frozen=True)
class Task:
    """One task of a service, with its exit code if it has ended."""

    task_id: str
    container: str
    state: str
    """Swarm's state: ``running``, ``shutdown``, ``complete``, ``failed``, ..."""
    exit_code: int
    image: str


def docker(*arguments: str, check: bool = True, timeout: float = 120, **options: Any) -> str:
    """Runs ``docker ARGUMENTS`` and returns the output. Raises ``AssertionError`` with its error message."""
    options = {"input": None, "env": None, **options}
    if options["input"] is None:
        options["stdin"] = subprocess.DEVNULL
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, **options
    )
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def swarm_of_one() -> Iterator[None]:
    """Makes this engine a manager with the label of PostgreSQL's node, and undoes its changes at the end."""
    made = docker("info", "--format", "{{.Swarm.LocalNodeState}}").strip() == "inactive"
    bridged = _BRIDGE in docker("network", "ls", "--format", "{{.Name}}").split()
    if made:
        # It listens on loopback only: no other node joins.
        docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
    node = docker("info", "--format", "{{.Swarm.NodeID}}").strip()
    labelled = _LABEL in docker("node", "inspect", node, "--format", "{{json .Spec.Labels}}")
    try:
        if not labelled:
            docker("node", "update", "--label-add", f"{_LABEL}=true", node)
        yield
    finally:
        if made:
            docker("swarm", "leave", "--force", check=False)
            if not bridged:  # a Swarm leaves its bridge behind
                docker("network", "rm", _BRIDGE, check=False)
        elif not labelled:
            docker("node", "update", "--label-rm", _LABEL, node, check=False)


class SwarmStack:
    """``docker stack deploy`` of deploy/swarm/stack.yaml. Call ``deploy``, and ``down`` at the end."""

    def __init__(self, image: str, *, workers: int = 2, **settings: str) -> None:
        self.image = image
        self.name = f"holdfast-test-{secrets.token_hex(4)}"
        self.port = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.workers = workers
        self.settings = settings

    def environment(self, image: str) -> dict[str, str]:
        """Returns the stack file's variables. No routing mesh: it needs IPVS, which some kernels lack."""
        return clean_environment(
            **self.settings,
            HOLDFAST_IMAGE=image,
            HOLDFAST_SECRETS=self.name,
            HOLDFAST_API_PORT=str(self.port),
            HOLDFAST_WORKERS=str(self.workers),
            HOLDFAST_PUBLISH_MODE="host",
            HOLDFAST_API_UPDATE_ORDER="stop-first",
        )

    # --- life ------------------------------------------------------------------------------

    def make_secrets(self) -> None:
        """Creates the secrets with the script beside the stack file, like a user."""
        script = ["deploy/swarm/secrets.sh"]
        done = subprocess.run(
            script, cwd=ROOT, env=self.environment(self.image), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"

    def deploy(self, image: str = "") -> None:
        """Deploys the stack file. Returns before anything is ready."""
        words = ["stack", "deploy", "--detach=true", "--resolve-image", "never", "--compose-file", STACK_FILE]
        docker(*words, self.name, env=self.environment(image or self.image))

    def down(self) -> None:
        """Stops and removes the stack, including data and secrets. Idempotent."""
        docker("stack", "rm", self.name, check=False)
        label = f"label=com.docker.stack.namespace={self.name}"
        with suppress(AssertionError):
            wait_for(
                lambda: not docker("ps", "--all", "--quiet", "--filter", label).strip(),
                90,
                "end of containers",
            )
        for what in ("config", "secret"):
            names = docker(what, "ls", "--format", "{{.Name}}", check=False).split()
            if ours := [name for name in names if name.startswith(f"{self.name}-")]:
                docker(what, "rm", *ours, check=False)
        with suppress(AssertionError):
            wait_for(lambda: self._volumes_gone(label), 30, "end of volumes", pause_seconds=0.5)
            wait_for(
                lambda: not docker("network", "ls", "--quiet", "--filter", label).strip(),
                30,
                "end of networks",
            )

    def _volumes_gone(self, label: str) -> bool:
        volumes = docker("volume", "ls", "--quiet", "--filter", label).split()
        if volumes:
            docker("volume", "rm", *volumes, check=False)
        return not volumes

    # --- tasks -----------------------------------------------------------------------------

    def service(self, service: str) -> str:
        """Returns a service's name in the Swarm."""
        return f"{self.name}_{service}"

    def tasks(self, service: str) -> list[Task]:
        """Returns all tasks that Swarm still lists, including ended ones."""
        ids = docker("service", "ps", "--quiet", "--no-trunc", self.service(service)).split()
        found = []
        for one in json.loads(docker("inspect", *ids, check=False)) if ids else []:
            status = one["Status"]
            container = status.get("ContainerStatus") or {}
            found.append(
                Task(
                    one["ID"],
                    container.get("ContainerID", ""),
                    status["State"],
                    container.get("ExitCode", 0),
                    one["Spec"]["ContainerSpec"]["Image"],
                )
            )
        return found

    def running(self, service: str) -> list[Task]:
        """Returns the running tasks of a service. Swarm lists only healthy ones as running."""
        return [task for task in self.tasks(service) if task.state == "running"]

    def settled(self, service: str, count: int, image: str, seconds: float = 120) -> None:
        """Waits until ``count`` tasks run, all with that image, and the update has ended with success."""

        def done() -> bool:
            running = self.running(service)
            status = self.update_state(service)
            assert status not in ("paused", "rollback_completed", "rollback_paused"), f"{service}: {status}"
            same = all(task.image == image for task in running)
            return status in ("", "completed") and len(running) == count and same

        try:
            wait_for(done, seconds, f"{count} tasks of {service} with {image}", pause_seconds=0.3)
        except AssertionError as error:
            told = docker("service", "ps", "--no-trunc", self.service(service))
            raise AssertionError(f"{error}; {self.update_state(service)}\n{told}") from None

    def update_state(self, service: str) -> str:
        """Returns Swarm's state of the newest update, empty before the first."""
        told = docker("service", "inspect", self.service(service), "--format", "{{json .UpdateStatus}}")
        status = json.loads(told)
        return str(status.get("State", "")) if status else ""

    def update(self, service: str, *arguments: str) -> None:
        """Runs ``docker service update`` without waiting for its end."""
        words = ["service", "update", "--detach=true", "--no-resolve-image", *arguments]
        docker(*words, self.service(service))

    # --- what is inside --------------------------------------------------------------------

    def api_container(self) -> str:
        """Returns the container of the running API."""
        return wait_for(lambda: self.running("api"), 60, "a running API")[0].container

    def admin_token(self) -> str:
        """Returns the token that every request needs."""
        return docker("exec", self.api_container(), "cat", "/run/holdfast/admin_token").strip()

    def ready(self) -> bool:
        """Whether the API reports that it is ready."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=3, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def holdfast(self, *arguments: str, text: str = "") -> str:
        """Runs ``holdfast ARGUMENTS`` in the API's container and returns the output."""
        words = ["exec", "--interactive", self.api_container(), "holdfast", *arguments]
        return docker(*words, check=False, timeout=300, input=text)

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Returns the rows of a SELECT, as JSON represents them."""
        whole = f"SELECT coalesce(json_agg(t), '[]') FROM ({statement}) AS t"
        psql = ["psql", "--no-psqlrc", "-At", "-U", "postgres", "-d", "holdfast", "-c", whole]
        rows: list[dict[str, Any]] = json.loads(docker("exec", self.running("postgres")[0].container, *psql))
        return rows

    def logs(self, service: str) -> list[str]:
        """Returns the log of all tasks of a service, including ended ones whose containers Swarm still keeps.

        ``docker service logs`` is not used, because it waits for ever for a task without a container.
        """
        label = f"label=com.docker.swarm.service.name={self.service(service)}"
        lines: list[str] = []
        for container in docker("ps", "--all", "--quiet", "--filter", label).split():
            done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=60)
            lines += (done.stdout + done.stderr).splitlines()
        return lines
