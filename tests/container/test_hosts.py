"""Workers on two hosts that share nothing but PostgreSQL: each is cut off once, the other one takes over.

Longer, and with the API's host too: ``make chaos ARGS='--backend networks'``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import hosts
from tests.chaos.__main__ import audit
from tests.chaos.ground import Ground
from tests.chaos.load import JournalFile, Load
from tests.support.compose_stack import ComposeStack
from tests.support.reporting import record
from tests.support.stack import running_stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]


@pytest.fixture
def stack(image: str) -> Iterator[ComposeStack]:
    """Two workers on a host each, and the API on a third."""
    if os.geteuid() != 0:
        pytest.skip("rules in a container's network namespace need root")
    made = hosts.stack(image, workers=2, HOLDFAST_DRAIN_SECONDS="2", HOLDFAST_STOP_GRACE_SECONDS="10")
    with running_stack(made):
        yield made


def test_hosts_are_cut_off_one_at_a_time(stack: ComposeStack, tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "journal.jsonl")
    ground = Ground(stack, Load(stack.url, journal, seed=1), journal)
    apart = [stack.networks(member) for member in [*stack.workers(), stack.api()]]
    assert not apart[0] & apart[1] and not (apart[0] | apart[1]) & apart[2]
    batch_id = ground.batch([26] * 12)
    for host in range(len(hosts.HOSTS)):
        seen = hosts.cut_host(ground, host=host, seconds=7)
        record("host cut off to its worker declared dead, seconds", seen["dead_after_seconds"])
    ground.succeeded(batch_id, 90)
    journal.close()
    broken = [finding for finding in audit(stack, journal.path) if not finding["ok"]]
    assert not broken
