"""The short form of `make attack`: 500 connections that ask, drip and never read, for ten seconds."""

from __future__ import annotations

import pytest

from tests.attack.attack import MOST_P99_SECONDS, attack_stack
from tests.support.compose_stack import ComposeStack
from tests.support.reporting import record
from tests.support.stack import running_stack

pytestmark = [pytest.mark.container, pytest.mark.timing, pytest.mark.timeout(300)]


def test_an_attack_locks_the_operator_out_of_nothing(image: str) -> None:
    """Figures of a longer one: docs/reports/attack.md."""
    stack = ComposeStack(image, workers=1)
    with running_stack(stack):
        figures = attack_stack(stack, connections=500, seconds=10)
    record("readyz_p99_seconds_under_attack", figures.p99_seconds)
    assert not figures.failures
    assert figures.probe_seconds and figures.call_seconds
    assert figures.connections >= 400, "the attackers were there"
    assert figures.p99_seconds < MOST_P99_SECONDS, figures.lines()
    assert 0 < figures.memory_peak_bytes < 400 * 2**20
