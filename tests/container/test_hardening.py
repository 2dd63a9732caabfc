"""What the running containers may do and how much they may use, and that they tell no secret."""

from __future__ import annotations

import base64
import json
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import faults
from tests.support.compose_stack import ComposeStack
from tests.support.reporting import record
from tests.support.stack import running_stack, wait_for

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]

PLANTED = "planted-1c9e07a5"
RUNNING = {"postgres", "api", "worker"}
NETWORKS = {
    "secrets": {"none"},
    "postgres": {"database"},
    "migrate": {"database"},
    "api": {"database", "metrics", "front"},
    "worker": {"database", "metrics", "objects"},
}
MOUNTS = {
    "secrets": {
        f"/secrets/{name}"
        for name in ("postgres", "migrate", "api", "worker", "grafana", "s3", "seed", "apps", "objects")
    },
    "postgres": {
        "/var/lib/postgresql/data",
        "/run/secrets/holdfast",
        "/etc/holdfast",
        "/docker-entrypoint-initdb.d/roles.sh",
    },
    "migrate": {"/run/holdfast"},
    "api": {"/run/holdfast"},
    "worker": {"/run/holdfast"},
}
WRITABLE = {"postgres": {"/var/lib/postgresql/data"}, "secrets": MOUNTS["secrets"]}

# Without a shell in the way: everything that a process of this container was given.
_ENVIRONMENTS = """
import glob
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try:
        print(open(path, errors='replace').read().replace(chr(0), chr(10)))
    except OSError:
        pass
"""

_HELD = """
import os
old = '/sys/fs/cgroup/memory/memory.stat'
for line in open(old if os.path.exists(old) else '/sys/fs/cgroup/memory.stat'):
    name, value = line.split()
    if name in ('total_rss', 'anon'):
        print(value)
"""


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[ComposeStack]:
    """One project for the module."""
    with running_stack(ComposeStack(image)) as started:
        yield started


@pytest.fixture(scope="module")
def states(stack: ComposeStack) -> list[tuple[str, Any]]:
    """Service and ``docker inspect`` of every container, of the one-shots too."""
    found = [(container["Service"], stack.inspect(container["ID"])) for container in stack.containers()]
    assert sorted(service for service, _ in found) == sorted([*NETWORKS, "worker"])
    return found


# --- what they may do -----------------------------------------------------------------------------------


def test_every_container_is_locked_down(states: list[tuple[str, Any]]) -> None:
    for service, state in states:
        host = state["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert not host["Privileged"] and not host["Devices"], service
        for namespace in ("PidMode", "UTSMode", "UsernsMode"):
            assert host[namespace] == "", (service, namespace)
        assert host["IpcMode"] in ("", "private"), service
        assert host["CgroupnsMode"] in ("", "private", "host"), service  # the engine's default
        assert host["NetworkMode"] != "host", service
        assert state["AppArmorProfile"] != "unconfined", service


def test_every_container_is_bounded(states: list[tuple[str, Any]]) -> None:
    for service, state in states:
        host = state["HostConfig"]
        assert host["PidsLimit"] == 512, service
        assert host["Memory"] >= 128 * 2**20, service
        assert host["NanoCpus"] or (host["CpuQuota"], host["CpuPeriod"]) == (200_000, 100_000), service
        assert host["LogConfig"]["Config"]["max-size"], service
        assert host["Tmpfs"], service
        assert all("size=" in options for options in host["Tmpfs"].values()), service


def test_nobody_is_root_or_can_become_so(stack: ComposeStack, states: list[tuple[str, Any]]) -> None:
    for service, state in states:
        assert state["Config"]["User"] == ("postgres" if service == "postgres" else "10001:10001"), service
        if not state["State"]["Running"]:
            continue
        status = stack.docker("exec", state["Id"], "cat", "/proc/1/status")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        uid = {"postgres": "999"}.get(service, "10001")
        assert set(fields["Uid"].split()) == {uid}, service
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[capabilities], 16) == 0, (service, capabilities)
        assert fields["NoNewPrivs"].strip() == "1", service
        assert fields["Seccomp"].strip() == "2", service


def test_only_what_is_meant_to_be_mounted_is(states: list[tuple[str, Any]]) -> None:
    for service, state in states:
        mounts = {mount["Destination"]: mount for mount in state["Mounts"] if mount["Type"] != "tmpfs"}
        assert set(mounts) == MOUNTS[service], service
        assert {place for place, mount in mounts.items() if mount["RW"]} == WRITABLE.get(service, set())
        assert not [m["Source"] for m in mounts.values() if "docker.sock" in m["Source"]], service


def test_networks(stack: ComposeStack, states: list[tuple[str, Any]]) -> None:
    for service, state in states:
        names = {name.removeprefix(f"{stack.project}_") for name in state["NetworkSettings"]["Networks"]}
        assert names == NETWORKS[service], service
        bound = state["HostConfig"]["PortBindings"] or {}
        assert list(bound) == (["8000/tcp"] if service == "api" else []), service
        assert {entry["HostIp"] for entries in bound.values() for entry in entries} <= {"127.0.0.1"}
    for name in ("database", "metrics", "objects"):
        (network,) = json.loads(stack.docker("network", "inspect", f"{stack.project}_{name}"))
        assert network["Internal"], name


def test_a_container_writes_nowhere_but_to_its_tmpfs(stack: ComposeStack) -> None:
    code = """
import os
found = []
for place in ('/', '/app', '/app/services', '/opt/holdfast', '/etc', '/run/holdfast', '/usr/local/bin'):
    try:
        open(os.path.join(place, 'planted'), 'w').close()
        found.append(place)
    except OSError:
        pass
open('/tmp/planted', 'w').close()
os.remove('/tmp/planted')
print(found)
"""
    for member in (stack.api(), stack.workers()[0]):
        assert stack.python(member, code).strip() == "[]"


def test_the_superuser_is_refused_over_the_network(stack: ComposeStack) -> None:
    """With its right password, too; and so is everyone without one."""
    password = stack.compose("exec", "-T", "postgres", "cat", "/run/secrets/holdfast/superuser").strip()
    code = f"""
import sys
sys.path[:0] = __import__('glob').glob('/opt/holdfast/lib/python3*/site-packages')
import psycopg2
for user, password in (('postgres', '{password}'), ('holdfast_worker', ''), ('holdfast_owner', 'x')):
    try:
        psycopg2.connect(host='postgres', user=user, password=password, dbname='holdfast', connect_timeout=5)
        print('IN', user)
    except psycopg2.OperationalError as error:
        print('refused', user, 'reject' in str(error))
"""
    told = stack.docker("exec", stack.api().container, "python", "-c", code).splitlines()
    assert told == ["refused postgres True", "refused holdfast_worker False", "refused holdfast_owner False"]


# --- how much they may use --------------------------------------------------------------------------------


def test_slots_follow_the_cpus(stack: ComposeStack) -> None:
    rows = stack.executors()
    cpus = min(2, len(os.sched_getaffinity(0)))
    assert {rows[member.executor_id]["slots"] for member in stack.workers()} == {cpus}


def test_a_worker_that_runs_out_of_memory_is_taken_over(stack: ComposeStack) -> None:
    """The kernel ends the largest process there is, with SIGKILL: the worker. Its tmpfs counts as memory."""
    batch_id, victim, _ = faults.start_and_find(stack, [33] * 4)
    # What its processes hold and less than its tmpfs more; the rest is cache, which the kernel takes back.
    held = int(stack.python(victim, _HELD))
    limit = held + 45 * 2**20
    record("worker with its children, MiB", held / 2**20)
    stack.docker("update", f"--memory={limit}", f"--memory-swap={limit}", victim.container)
    fill = "f = open('/tmp/fill', 'wb'); [f.write(bytes(2**20)) for _ in range(62)]"
    stack.python(victim, fill)
    ended = stack.exited(victim, 20)
    assert abs(ended.code) in (9, 137), ended
    default = f"--memory={768 * 2**20}", f"--memory-swap={2 * 768 * 2**20}"
    # Refused in the moment between its process's end and the engine's hearing of it, or its next start.
    wait_for(lambda: stack.docker("update", *default, victim.container, check=False), 20, "its own limit")
    faults.check_batch(batch := stack.finished_batch(batch_id, 120), [33] * 4)
    faults.check_effects(stack, batch)
    row = stack.executors()[victim.executor_id]
    assert row["state"] == "dead" and row["taken_over_by"]
    wait_for(lambda: len(stack.workers()) == 2, 60, "the worker is back, with an empty tmpfs")
    assert stack.query("SELECT 1 FROM dbos.workflow_status WHERE status LIKE 'MAX%'") == []


# --- what they tell -----------------------------------------------------------------------------------------


def _secrets(stack: ComposeStack) -> dict[str, str]:
    """Every secret of the project, by file; verifiers too, though nobody gets in with one."""
    code = """
import json, os, re
found = {}
for folder, _, files in os.walk('/secrets'):
    for name in files:
        text = open(os.path.join(folder, name)).read().strip()
        lines = re.findall('[A-Za-z0-9_-]{40}', text) if name.startswith('s3') else text.splitlines()
        for index, line in enumerate(lines):
            found[f'{folder}/{name}:{index}'] = line.rpartition(':')[2] if name == 'pgpass' else line
print(json.dumps(found))
"""
    whole = stack.compose("run", "--rm", "-T", "--no-deps", "secrets", "python", "-ISc", code)
    found: dict[str, str] = json.loads(whole)
    assert len(found) >= 12 and all(len(secret) >= 32 for secret in found.values())
    return found


def _sql(stack: ComposeStack, statement: str) -> None:
    psql = ["psql", "--no-psqlrc", "-q", "-U", "postgres", "-d", "holdfast", "-c", statement]
    stack.compose("exec", "-T", "postgres", *psql)


def _faults(stack: ComposeStack) -> None:
    """Everything that makes somebody raise, with something recognisable in its hands."""
    key = {"Idempotency-Key": f"{PLANTED}-key"}
    stack.write_credential(f"{PLANTED}-credential-0123456789")
    stack.request("POST", "/users/pages", json={"pages": 1, "wait": True}, headers=key)
    for headers in (
        {"Authorization": f"Bearer {PLANTED}"},
        {"Authorization": f"Basic {base64.b64encode(PLANTED.encode()).decode()}", "Cookie": f"t={PLANTED}"},
    ):
        assert stack.request("POST", "/shutdown", headers=headers).status_code in (401, 403)
    stack.request("GET", f"/workflows?name={PLANTED}&token={PLANTED}")
    stack.request(
        "POST", "/nested", content=f'{{"queued": "{PLANTED}"', headers={"Content-Type": "application/json"}
    )
    stack.request("POST", "/fibonacci/batches", json={"numbers": [PLANTED]})
    # A row that is refused, steps and requests that the database refuses.
    text = base64.b64encode(pickle.dumps(PLANTED)).decode("ascii")
    started = stack.post("/nested", {}, headers={"Idempotency-Key": f"{PLANTED}-nested"})["workflow_id"]
    _sql(
        stack,
        f"UPDATE dbos.workflow_input SET inputs = '{text}' WHERE workflow_uuid = '{started}';"
        f"UPDATE dbos.workflow_status SET serialization = 'py_pickle' WHERE workflow_uuid = '{started}'",
    )
    stack.request("GET", f"/workflows/{started}")
    for table in ("ops.requests", "dbos.workflow_input", "dbos.operation_outputs"):
        _sql(stack, f"ALTER TABLE {table} ADD CONSTRAINT refused CHECK (false) NOT VALID")
        try:
            answer = stack.request(
                "POST",
                "/scope/function",
                json={"steps": 2},
                headers={"Idempotency-Key": f"{PLANTED}-{table}"},
            )
            assert PLANTED not in answer.text
        finally:
            _sql(stack, f"ALTER TABLE {table} DROP CONSTRAINT refused")
    # Backends that end in the middle, and the server; a worker too.
    batch_id, victim, _ = faults.start_and_find(stack, [30] * 12)
    _sql(stack, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'holdfast%'")
    stack.crash(victim)
    with stack.postgres_down():
        stack.request("POST", "/nested", json={}, headers={"Idempotency-Key": f"{PLANTED}-away"})
    stack.finished_batch(batch_id, 120)


def test_nothing_reveals_a_secret_while_things_fail(stack: ComposeStack) -> None:
    before = _secrets(stack)
    _faults(stack)
    wait_for(lambda: len(stack.workers()) == 2, 60, "both workers are back")
    known = {**before, **_secrets(stack)}
    containers = stack.containers()
    assert {container["Service"] for container in containers if container["State"] == "running"} >= RUNNING
    logs = {name: "\n".join(lines) for name, lines in stack.logs().items()}
    assert any("violates check constraint" in text for text in logs.values()), "no fault shows in the logs"
    places = {f"the log of {name}": text for name, text in logs.items()}
    for container in containers:
        name = container["Name"]
        places[f"docker inspect {name}"] = stack.docker("inspect", container["ID"])
        if container["Service"] in ("api", "worker") and container["State"] == "running":
            places[f"the processes of {name}"] = stack.docker(
                "exec", container["ID"], "python", "-ISc", _ENVIRONMENTS
            )
    places["the image's history"] = stack.docker("history", "--no-trunc", stack.image)
    places["docker inspect of the image"] = stack.docker("inspect", stack.image)
    places["what was answered"] = "\n".join(stack.bodies)
    places["/metrics"] = stack.request("GET", "/metrics").text
    record("places searched for secrets", len(places))
    for place, text in places.items():
        assert text, place
        for name, secret in known.items():
            assert secret not in text, f"{name} is in {place}"
        if place.startswith(("the log", "docker", "the processes", "/metrics")):
            assert PLANTED not in text, f"what was planted is in {place}"


class _Touches:
    def __reduce__(self) -> Any:
        return open, ("/tmp/loaded", "w")


def test_the_dbos_command_loads_no_pickle(stack: ComposeStack) -> None:
    started = stack.post("/nested", {})["workflow_id"]
    wait_for(lambda: stack.get(f"/workflows/{started}")["status"] == "SUCCESS", 30, "it ends")
    text = base64.b64encode(pickle.dumps(_Touches())).decode("ascii")
    _sql(
        stack,
        f"UPDATE dbos.workflow_input SET inputs = '{text}' WHERE workflow_uuid = '{started}';"
        f"UPDATE dbos.workflow_output SET output = '{text}' WHERE workflow_uuid = '{started}';"
        f"UPDATE dbos.workflow_status SET serialization = 'py_pickle' WHERE workflow_uuid = '{started}'",
    )
    for command in (["get", started], ["list", "--limit", "5"], ["steps", started]):
        stack.compose("exec", "-T", "api", "dbos", "workflow", *command)
    stack.get(f"/workflows/{started}")
    assert stack.python(stack.api(), "import os; print(os.path.exists('/tmp/loaded'))").strip() == "False"


def test_the_image_holds_no_secret_and_no_checkout(stack: ComposeStack) -> None:
    code = """
import os
for folder, _, files in os.walk('/'):
    if folder.startswith(('/proc', '/sys', '/dev')):
        continue
    for name in files:
        secret = name in ('pgpass', '.env', 'admin_token', 'upstream_credential', 'superuser')
        ours = folder.startswith('/app') and (name in ('.gitignore', 'compose.yaml') or '/tests' in folder)
        if secret or ours or name.endswith('.scram'):
            print(os.path.join(folder, name))
"""
    listed = stack.docker("run", "--rm", "--network", "none", stack.image, "python", "-ISc", code)
    assert listed.split() == []


def test_a_process_compiles_nothing_at_its_start(stack: ComposeStack) -> None:
    """The file system is read-only: whatever is not compiled in the image, every start would compile anew."""
    code = """
import holdfast.api.app, services.composition, holdfast.process.serve
import os, sys
for module in list(sys.modules.values()):
    spec = getattr(module, '__spec__', None)
    if spec is not None and (spec.origin or '').endswith('.py') and not os.path.exists(spec.cached or ''):
        print(module.__name__)
"""
    assert stack.python(stack.api(), code).split() == []
