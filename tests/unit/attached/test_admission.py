"""A claim starts only while the lease is up: a process may be declared dead before it knows that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from holdfast.attached.process import AttachedProcess
from holdfast.attached.settings import AttachedSettings
from holdfast.dbos_adapter.launching import Configured

_CONFIGURED = Configured("shop", "1", "local", "host=127.0.0.1 port=1", "dbos", True, False, False, False)
_CLAIM = {"queue_name": "packing", "workflow_uuid": "w", "queue_partition_key": None}


def _process() -> AttachedProcess:
    return AttachedProcess(AttachedSettings(_CONFIGURED, {}), _CONFIGURED)


def _beats(process: AttachedProcess) -> None:
    process.lease.last_heartbeat = process.lease._session_since = time.monotonic()


def _declared_dead(process: AttachedProcess) -> None:
    process.is_declared_dead = True


def _signed_off(process: AttachedProcess) -> None:
    process.drained.set()


def test_a_claim_starts_under_a_lease() -> None:
    process = _process()
    _beats(process)
    assert process.waker.slots.admit(None, _CLAIM, None)


@pytest.mark.parametrize(("then", "starts"), [(_beats, True), (_declared_dead, False), (_signed_off, False)])
def test_a_claim_waits_for_the_next_heartbeat(then: Callable[[AttachedProcess], None], starts: bool) -> None:
    """As after a pause: the thread of a queue may go on before that of the lease."""
    process = _process()
    _beats(process)
    process.lease.last_heartbeat -= 60
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(process.waker.slots.admit(None, _CLAIM, None)))
    thread.start()
    assert not answers
    then(process)
    thread.join(20)
    assert answers == [starts]


def test_a_dead_process_starts_nothing_although_its_session_is_up() -> None:
    process = _process()
    _beats(process)
    _declared_dead(process)
    assert not process.waker.slots.admit(None, _CLAIM, None)
