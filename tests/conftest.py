"""What all tests share: the seed, the database server, and what happens without a Docker engine."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import thread as thread_pool
from functools import cache

import hypothesis.core
import pytest

from tests.support import data_folder
from tests.support.database import Database, Server
from tests.support.object_server import ObjectServer

SEED = int(os.environ.get("HOLDFAST_TEST_SEED") or random.SystemRandom().randrange(2**32))
LEFT_SECONDS = 30.0
"""A thread may end so long after its test."""
_REQUIRE_DOCKER = "HOLDFAST_REQUIRE_DOCKER"
_without_docker: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    if hypothesis.core.global_force_seed is None:  # --hypothesis-seed wins
        hypothesis.core.global_force_seed = SEED
    data_folder.use_memory()
    # What a shell starts in the background ignores SIGINT, and processes under test would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    data_folder.leave_memory()


def pytest_report_header() -> str:
    return f"seed: {SEED} (HOLDFAST_TEST_SEED={SEED} repeats it)"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(SEED)


@cache
def _docker_problem() -> str | None:
    """Why ``docker info`` fails, None when an engine answers."""
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()


def pytest_itemcollected(item: pytest.Item) -> None:
    # What else a machine does may spoil a measured time, but hardly three times. What is slow stays slow.
    if item.get_closest_marker("timing") is not None:
        item.add_marker(pytest.mark.flaky(reruns=2))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("container") is None:
        return
    problem = _docker_problem()
    if problem is None:
        return
    if os.environ.get(_REQUIRE_DOCKER, "") not in ("", "0"):
        pytest.fail(f"{_REQUIRE_DOCKER} is set, but `docker info` fails: {problem}", pytrace=False)
    _without_docker.append(item.nodeid)
    pytest.skip(f"no Docker engine: {problem}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"RUN AGAIN: {report.nodeid}", sep="!", yellow=True)
        terminalreporter.line(report.longreprtext)
    if not _without_docker:
        return
    terminalreporter.section("NOT TESTED: no Docker engine", sep="!", yellow=True)
    for name in _without_docker:
        terminalreporter.line(f"not tested: {name}")
    terminalreporter.line(f"{_REQUIRE_DOCKER}=1 makes this a failure")


def pytest_sessionfinish(exitstatus: int) -> None:
    """Python waits at its end for a workflow's thread that a test left behind, whose database is gone."""

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.write("\nLEFT BEHIND: threads that have not ended 30 s after the last test\n")
        faulthandler.dump_traceback(all_threads=True)
        os._exit(int(exitstatus))

    timer = threading.Timer(30, end)
    timer.daemon = True
    timer.start()


def _at_work(thread: threading.Thread) -> bool:
    """Whether Python would wait for it at its end. A pool's thread without work ends with its pool."""
    if thread.daemon:
        return False
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is not thread_pool._worker.__code__


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    """No test leaves a thread at work behind, e.g. a workflow's whose database has gone."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + LEFT_SECONDS
    while left := [one for one in threading.enumerate() if one not in before and _at_work(one)]:
        if time.monotonic() > deadline:
            frames = sys._current_frames()
            where = {one.name: traceback.format_stack(frames.get(one.ident or 0))[-8:] for one in left}
            told = "\n".join(f"{name}:\n{''.join(lines)}" for name, lines in where.items())
            pytest.fail(f"the test leaves threads behind:\n{told}", pytrace=False)
        time.sleep(0.01)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The session's PostgreSQL, started by the first test that needs it."""
    made = Server()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """The session's S3 server, started by the first test that needs it."""
    made = ObjectServer()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """A fresh migrated database of this test's own."""
    with Database.lent(server) as made:
        yield made
