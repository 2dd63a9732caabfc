"""Every scene over HTTP, on the native stack with its default settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import scenes
from tests.support.native_stack import NativeStack
from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the module."""
    with running_stack(NativeStack(tmp_path_factory.mktemp("scenes"))) as started:
        yield started


def test_class_scope(stack: Stack) -> None:
    scenes.check_class_scope(stack)


def test_function_scope(stack: Stack) -> None:
    scenes.check_function_scope(stack)


def test_configured_instances_share_memory_by_name(stack: Stack) -> None:
    scenes.check_instances(stack)


@pytest.mark.parametrize("queued", [False, True], ids=["direct", "queued"])
def test_nested_workflows_know_their_parents(stack: Stack, queued: bool) -> None:
    scenes.check_nested(stack, queued=queued)


def test_user_pages(stack: Stack) -> None:
    report = scenes.check_users(stack)
    assert report["cache"]["fetches"] >= 1
    assert stack.get("/cache")["fingerprint"] == report["fingerprints"][0]


def test_default_batch_is_spread_over_both_workers(stack: Stack) -> None:
    scenes.check_default_batch(stack, seconds=120)


def test_sequential_batch(stack: Stack) -> None:
    scenes.check_sequential(stack)


def test_doubling(stack: Stack) -> None:
    scenes.check_doubling(stack)


def test_events(stack: Stack) -> None:
    scenes.check_events(stack)


def test_pulses_come_once_a_tick(stack: Stack) -> None:
    scenes.check_pulses(stack, ticks=3)


def test_log_lines_are_json_and_stand_once(stack: Stack) -> None:
    scenes.check_logs(stack)
