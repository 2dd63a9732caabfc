"""Operations on a stack that only faults need: PostgreSQL's end, its superuser, code inside containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2

from holdfast.installations.embedded import ROOT
from holdfast.installations.supervised import is_alive, start_ticks
from tests.support.compose_stack import ComposeStack
from tests.support.native_stack import NativeStack
from tests.support.stack import Member, Stack, clean_environment, wait_for

_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}


@contextmanager
def postgres_gone(stack: Stack, how: str) -> Iterator[None]:
    """Stops PostgreSQL for the life of the context: ``fast``, ``immediate`` or by ``kill``."""
    if isinstance(stack, NativeStack):
        pid = stack.state["postgres"]["pid"]
        started = start_ticks(pid)
        stack.hold(True)  # its supervisor would restart it
        try:
            os.kill(pid, _SIGNALS[how])
            wait_for(lambda: not is_alive(pid, started), 20, "end of PostgreSQL")
            yield
        finally:
            stack.hold(False)
    elif isinstance(stack, ComposeStack):
        name = _SIGNALS[how].name.removeprefix("SIG")
        stack.compose("kill", "--signal", name, "postgres")
        wait_for(
            lambda: not stack.compose("ps", "--quiet", "--status", "running", "postgres").strip(),
            20,
            "its end",
        )
        try:
            yield
        finally:
            stack.compose("start", "postgres")
    wait_for(lambda: _accepts(stack), 60, "PostgreSQL accepts connections")


def _accepts(stack: Stack) -> bool:
    with suppress(psycopg2.Error, AssertionError, ValueError):
        return bool(stack.query("SELECT 1 AS one"))
    return False


def as_superuser(stack: Stack, statement: str) -> None:
    """Runs a statement as PostgreSQL's superuser. Ignores errors."""
    if isinstance(stack, ComposeStack):
        psql = ["psql", "--no-psqlrc", "-At", "-U", "postgres", "-d", "holdfast", "-c", statement]
        stack.compose("exec", "-T", "postgres", *psql, check=False)
        return
    assert isinstance(stack, NativeStack)
    with suppress(psycopg2.Error):
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=stack.state["postgres"]["port"],
            dbname="holdfast",
            user="postgres",
            password=(stack.home / "secrets" / "postgres" / "superuser").read_text("ascii").strip(),
        )
        connection.autocommit = True
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()


def run_inside(
    stack: Stack, role: str, code: str, *, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python code beside a process of that role, with its environment."""
    if isinstance(stack, ComposeStack):
        given = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        container = stack.containers(role)[0]["ID"]
        command = ["docker", "exec", *given, container, "python", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert isinstance(stack, NativeStack)
    state = stack.state
    database = {
        "HOLDFAST_DATABASE_HOST": "127.0.0.1",
        "HOLDFAST_DATABASE_PORT": str(state["postgres"]["port"]),
        "HOLDFAST_DATABASE_NAME": "holdfast",
        "HOLDFAST_DATABASE_USER": f"holdfast_{role}",
        "HOLDFAST_DATABASE_PASSFILE": state["passfiles"][role],
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean_environment(**{**stack.settings, **database, **environment}),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@contextmanager
def workers_gone(stack: Stack, members: list[Member]) -> Iterator[None]:
    """Kills all workers and prevents their restart until the end of the context."""
    if isinstance(stack, NativeStack):
        stack.hold(True)
    for member in members:
        stack.kill(member)
    try:
        yield
    finally:
        if isinstance(stack, NativeStack):
            stack.hold(False)
        elif isinstance(stack, ComposeStack):
            for member in members:
                stack.start_again(member)


@contextmanager
def off_the_network(stack: ComposeStack, member: Member) -> Iterator[None]:
    """Disconnects a container from its network: connections stay open without answers."""
    network = stack.database_network(member)
    stack.docker("network", "disconnect", network, member.container)
    try:
        yield
    finally:
        stack.docker("network", "connect", network, member.container)


def stop_seconds(stack: Stack, member: Member, seconds: float) -> tuple[int, float]:
    """Sends SIGTERM. Returns the exit code and the seconds until the end."""
    begun = time.time()
    stack.stop(member)
    ended = stack.exited(member, seconds)
    return ended.code, ended.at - begun


def newer_image(stack: ComposeStack) -> None:
    """Makes ``up`` use an image with the same code that Compose considers a new one."""
    base, _, _ = stack.image.partition(":")
    release = f"FROM {stack.image}\nLABEL org.holdfast.release={time.time_ns()}\n"
    stack.image = f"{base}:upgraded"
    command = ["docker", "build", "--quiet", "--tag", stack.image, "-"]
    subprocess.run(command, input=release, text=True, capture_output=True, check=True, timeout=60)


def unfinished_elsewhere(stack: Stack) -> list[dict[str, Any]]:
    """Returns running work of executors that are not live."""
    return stack.query(
        "SELECT w.workflow_uuid AS id FROM dbos.workflow_status w WHERE w.status = 'PENDING' AND NOT EXISTS"
        " (SELECT FROM ops.executors e"
        " WHERE e.executor_id = w.executor_id AND e.state IN ('live', 'draining'))"
    )
