"""``python -m services.cli.native``: what someone at a terminal meets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from services.cli.children import is_alive
from services.cli.embedded import ROOT, die_with_parent, free_port
from services.cli.supervisor import read_state
from tests.support.stack import clean_environment, wait_for


def native(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli.native", *arguments],
        cwd=ROOT,
        env=clean_environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_background_start_twice_down_clean(tmp_path: Path) -> None:
    home = tmp_path / "data"
    port = free_port()
    data = ("--data", str(home))
    try:
        started = native("up", "--detach", "--port", str(port), *data)
        assert started.returncode == 0, started.stderr
        assert f"http://127.0.0.1:{port}" in started.stdout
        state = read_state(home)
        pids = [state["pid"], state["api"]["pid"], state["postgres"]["pid"]]
        pids += [worker["pid"] for worker in state["workers"]]
        assert httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
        for detach in ([], ["--detach"]):
            again = native("up", *detach, "--port", str(free_port()), *data)
            assert again.returncode == 1
            assert "runs already" in again.stderr
            assert len(again.stderr.strip().splitlines()) == 1, again.stderr
            assert str(state["pid"]) in again.stderr
        down = native("down", *data)
        assert (down.returncode, down.stdout.strip()) == (0, "Holdfast has ended")
        assert not [pid for pid in pids if is_alive(pid)]
        assert (home / "secrets").is_dir()
        idle = native("down", *data)
        assert idle.returncode == 0
        assert "nothing" in idle.stdout
    finally:
        cleaned = native("clean", *data)
    assert cleaned.returncode == 0
    assert not home.exists()


@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["foreground", "background"])
def test_port_taken(tmp_path: Path, detach: list[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = native("up", *detach, "--port", str(port), "--data", str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "taken" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_wrong_settings_are_told_in_words(tmp_path: Path) -> None:
    done = native(
        "up",
        "--port",
        str(free_port()),
        "--data",
        str(tmp_path / "data"),
        HOLDFAST_HEARTBEAT_SECONDS="4",
        HOLDFAST_LEASE_SECONDS="5",
    )
    assert done.returncode == 1
    assert "HOLDFAST_LEASE_SECONDS" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_ctrl_c_drains_and_ends_all(tmp_path: Path) -> None:
    home = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli.native", "up", "--port", str(free_port()), "--data", str(home)],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - threads only ask over HTTP
    )
    output = ""
    try:
        # The pipe must be read while we wait, or a full one would stop the supervisor.
        assert process.stdout is not None
        for line in process.stdout:
            output += line
            if "ready at" in line:
                break
        state = read_state(home)
        os.kill(process.pid, signal.SIGINT)
        output += process.communicate(timeout=30)[0]
        assert process.returncode == 0, output
        pids = [worker["pid"] for worker in state["workers"]]
        pids += [state["api"]["pid"], state["postgres"]["pid"]]
        wait_for(lambda: not [pid for pid in pids if is_alive(pid)], 5, "end of all")
        assert output.count('"action": "executor.drained"') == 3, output
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)
        native("clean", "--data", str(home))
