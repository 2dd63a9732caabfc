"""The native runner with real processes: ready, restarts, drains, and clear words for what is wrong."""

from __future__ import annotations

import http.client
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from holdfast.installations.hold import hold
from holdfast.installations.ports import free_port
from holdfast.installations.state_file import read_state
from holdfast.installations.supervised import is_alive

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "holdfast.installations.native"]


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s for: {what}"
        time.sleep(0.05)


class Native:
    """One data directory and the commands on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()

    def run(self, command: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, command, "--data", str(self.home), *options],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def up(self) -> subprocess.CompletedProcess[str]:
        return self.run("up", "--detach", "--port", str(self.port))

    @property
    def state(self) -> dict[str, Any]:
        return read_state(self.home)

    def pids(self) -> list[int]:
        state = self.state
        told = [state["api"], *state["workers"], state["postgres"]]
        return [state["pid"], *(one["pid"] for one in told)]

    def request(self, path: str, method: str = "GET", port: int | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        try:
            token = (self.home / "secrets" / "api" / "admin_token") if method != "GET" else None
            headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token else {}
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def is_ready(self) -> bool:
        return self.request("/readyz")[0] == 200


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    # As root this directory is one that PostgreSQL's user may not enter: data go elsewhere.
    native = Native(tmp_path_factory.mktemp("native") / "a folder's 100%41 +c&d=e#f" / "home")
    done = native.up()
    try:
        assert done.returncode == 0, done.stderr + done.stdout
        assert f"http://127.0.0.1:{native.port}" in done.stdout
        yield native
    finally:
        native.run("clean")


@pytest.fixture
def ready(native: Native) -> Native:
    """Whatever the test before did: all processes run and answer."""
    if not native.state:
        done = native.up()
        assert done.returncode == 0, done.stderr
    wait_until(
        lambda: (
            native.is_ready()
            and all(
                worker["pid"] and native.request("/readyz", port=worker["port"])[0] == 200
                for worker in native.state["workers"]
            )
        ),
        "all ready",
    )
    return native


def test_it_returns_when_all_is_ready_and_says_what_runs(ready: Native) -> None:
    state = ready.state
    assert state["ready"] is True
    assert state["api_url"] == f"http://127.0.0.1:{ready.port}"
    assert len(state["workers"]) == 2
    assert all(is_alive(pid) for pid in ready.pids())
    for role, passfile in state["passfiles"].items():
        assert Path(passfile).stat().st_mode & 0o777 == 0o600, role
    assert ready.home.joinpath("secrets").stat().st_mode & 0o077 == 0


def test_a_second_start_says_what_runs(ready: Native) -> None:
    for options in (["--detach"], []):
        done = ready.run("up", "--port", str(free_port()), *options)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert f"pid {ready.state['pid']}" in done.stderr and "make down" in done.stderr
    assert ready.is_ready()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for options in (["--detach"], []):
            done = Native(tmp_path / "home").run("up", "--port", str(port), *options)
            assert done.returncode == 1
            assert len(done.stderr.splitlines()) == 1
            assert f"port {port}" in done.stderr and "taken" in done.stderr


def test_a_killed_worker_and_a_drained_api_start_again(ready: Native) -> None:
    api, worker = ready.state["api"]["pid"], ready.state["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)
    ready.request("/shutdown", "POST")
    wait_until(lambda: ready.state["workers"][0]["pid"] not in (None, worker), "a new worker")
    wait_until(lambda: ready.state["api"]["pid"] not in (None, api), "a new API")
    wait_until(ready.is_ready, "ready again")


def test_killed_postgres_starts_again(ready: Native) -> None:
    server = ready.state["postgres"]["pid"]
    os.kill(server, signal.SIGKILL)
    wait_until(
        lambda: ready.state["postgres"]["pid"] != server and ready.is_ready(), "PostgreSQL and ready again"
    )


def test_nothing_outlives_a_killed_runner_and_the_next_start_goes_on(ready: Native) -> None:
    pids = ready.pids()
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the children to follow")
    done = ready.up()
    assert done.returncode == 0, done.stderr
    assert not set(pids) & set(ready.pids())


def test_a_paused_worker_left_behind_is_ended_by_the_next_start(ready: Native) -> None:
    pids = ready.pids()
    paused = ready.state["workers"][1]["pid"]
    os.kill(paused, signal.SIGSTOP)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: not is_alive(pids[0]), "the runner's end")
    done = ready.up()
    assert done.returncode == 0, done.stderr
    assert not is_alive(paused)
    assert "an earlier run was killed" in (ready.home / "logs" / "native.log").read_text("utf-8")


def test_down_ends_everything_and_may_be_repeated(ready: Native) -> None:
    pids = ready.pids()
    done = ready.run("down")
    assert (done.returncode, done.stdout) == (0, "Holdfast has ended\n"), done.stderr
    assert not any(is_alive(pid) for pid in pids)
    assert (ready.home / "secrets").is_dir()
    again = ready.run("down")
    assert again.returncode == 0 and "no plain processes" in again.stdout
    assert not (ready.home / "native.json").exists()


def test_a_held_stack_goes_on_whatever_had_crashed_before(ready: Native) -> None:
    for _ in range(3):
        worker = ready.state["workers"][0]["pid"]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda worker=worker: ready.state["workers"][0]["pid"] not in (None, worker), "again")
    with hold(ready.home):
        wait_until(lambda: ready.state["held"], "held")
    wait_until(lambda: ready.state["ready"], "ready again after the hold")


def test_passwords_that_were_deleted_are_made_anew(ready: Native) -> None:
    ready.run("down")
    shutil.rmtree(ready.home / "secrets")
    done = ready.up()
    assert done.returncode == 0, done.stderr
    wait_until(ready.is_ready, "ready with the data and new passwords")


def test_a_deleted_directory_starts_afresh(ready: Native) -> None:
    """As root its data lie elsewhere, and their passwords are gone."""
    data = Path(ready.state["postgres"]["data"])
    ready.run("down")
    left = None if data.is_relative_to(ready.home) else data.parent.parent
    shutil.rmtree(ready.home)
    try:
        done = ready.up()
        assert done.returncode == 0, done.stderr
        wait_until(ready.is_ready, "ready")
        assert Path(ready.state["postgres"]["data"]) != data or left is None
        if left is not None:
            assert str(left) in (ready.home / "logs" / "native.log").read_text("utf-8")
    finally:
        if left is not None:
            shutil.rmtree(left)


def test_a_terminal_gets_readable_lines_and_the_address_last(ready: Native) -> None:
    ready.run("down")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(COMMAND[0], [*COMMAND, "up", "--data", str(ready.home), "--port", str(ready.port)])
    shown = b""
    try:
        while b"ready at http" not in shown:
            shown += os.read(terminal, 65536)
        lines = shown.decode().splitlines()
        assert lines[-1].endswith(f"ready at http://127.0.0.1:{ready.port}")
        assert len(lines) < 10 and not any("{" in line for line in lines), lines
        assert sum("ready with 2 slots" in line or "ready with" in line for line in lines) >= 2
    finally:
        os.kill(pid, signal.SIGINT)
        with suppress(OSError):
            while os.read(terminal, 65536):
                pass
        os.waitpid(pid, 0)
        os.close(terminal)


def test_ctrl_c_drains_the_foreground_and_clean_removes_the_data(native: Native) -> None:
    native.run("down")
    runner = subprocess.Popen(
        [*COMMAND, "up", "--data", str(native.home), "--port", str(native.port), "--workers", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert runner.stdout is not None
        lines = []
        for line in runner.stdout:
            lines.append(line)
            if "ready at http" in line:
                break
        pids = native.pids()
        data = Path(native.state["postgres"]["data"])
        assert data.is_dir()
        runner.send_signal(signal.SIGINT)
        lines += list(runner.stdout)
        assert runner.wait(60) == 0
    finally:
        runner.kill()
    assert not any(is_alive(pid) for pid in pids)
    logged = [line.partition(" | ")[2] for line in lines if not line.startswith("native")]
    assert logged and all(isinstance(json.loads(line), dict) for line in logged)
    assert any(line.startswith("worker-1 ") for line in lines)
    assert sum('"action": "executor.drained"' in line for line in logged) == 2
    assert lines[-1].endswith("ended\n")
    # Wherever they are: below the home, or elsewhere and noted there.
    assert native.run("clean").returncode == 0
    assert not data.exists() and not native.home.exists()
    noted = data.parent.parent if data.parent.parent != native.home else native.home
    assert not noted.exists()


def test_a_setting_that_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "up", "--data", str(tmp_path / "home"), "--port", str(free_port())],
        cwd=ROOT,
        env={**os.environ, "HOLDFAST_DRAIN_SECONDS": "60"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "HOLDFAST_STOP_GRACE_SECONDS (30) must exceed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_module_is_named_at_once(tmp_path: Path) -> None:
    native = Native(tmp_path / "home")
    done = native.run("up", "--port", str(native.port), "--workers", "1", HOLDFAST_MODULES="no_such_module")
    try:
        assert done.returncode == 1
        (said,) = done.stderr.splitlines()
        assert "does not start: " in said and "no_such_module" in said and said.count("{") == 0
        assert " started again " not in done.stdout, "no attempt can succeed"
    finally:
        native.run("clean")
