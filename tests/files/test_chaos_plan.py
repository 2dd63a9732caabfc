"""The fault campaign's plan, and the netlink messages by which it delays packets."""

from __future__ import annotations

import errno
import inspect
import random
import struct
from itertools import combinations

import pytest
import yaml

from tests.chaos import delay, hosts
from tests.chaos.faults import FAULTS
from tests.chaos.ground import Ground
from tests.chaos.plan import CONTAINERS, KINDS, plan
from tests.chaos.report import GOALS, GOALS_OF
from tests.support.stack import ROOT


def test_every_kind_has_a_fault_that_takes_what_is_drawn_for_it() -> None:
    assert KINDS.keys() == FAULTS.keys()
    for name, kind in KINDS.items():
        drawn = kind.draw(random.Random(name))
        inspect.signature(FAULTS[name]).bind(Ground.__new__(Ground), **drawn)
        assert kind.row in GOALS or name in GOALS_OF


def test_the_same_seed_gives_the_same_faults_and_another_gives_others() -> None:
    assert plan(5, 20, "compose") == plan(5, 20, "compose") != plan(6, 20, "compose")


def test_a_long_campaign_has_every_kind_of_its_backend() -> None:
    for backend in ("native", *CONTAINERS):
        known = {name for name, kind in KINDS.items() if backend in kind.backends}
        assert {fault.kind for fault in plan(1, 60, backend)} == known


def test_across_hosts_no_executor_reaches_another() -> None:
    """Only PostgreSQL is on every network, so all they know of each other is in the database."""
    override = (ROOT / hosts.OVERRIDE).read_text("utf-8").replace("!override", "")
    services = yaml.safe_load(override)["services"]
    on = {name: set(service["networks"]) for name, service in services.items()}
    assert on.pop("postgres") == {*hosts.HOSTS, hosts.API_HOST}
    executors = [on["api"], on["worker"], on["worker-east"]]
    assert not set.union(*(a & b for a, b in combinations(executors, 2)))
    assert [on["worker"], on["worker-east"]] == [{host} for host in hosts.HOSTS]
    assert hosts.API_HOST in on["api"]


def _from_kernel(*numbers: int) -> bytes:
    told = b""
    for number in numbers:
        header = delay.attribute(1, struct.pack("!IHB", number, 0x0800, 3))
        told += delay.message(3 << 8, 7, delay.attribute(4, b"12345") + header)
    return told


def test_the_numbers_of_packets_are_read_wherever_their_attribute_stands() -> None:
    assert delay.packets(_from_kernel(7, 4_000_000_000)) == [7, 4_000_000_000]


@pytest.mark.parametrize("code", [0, errno.EPERM])
def test_an_error_of_the_kernel_is_raised_and_an_acknowledgement_is_not(code: int) -> None:
    answer = delay.message(2, 0, b"")[:16] + struct.pack("=i", -code) + bytes(16)
    answer = struct.pack("=I", len(answer)) + answer[4:]
    if code == 0:
        assert delay.packets(answer) == []
    else:
        with pytest.raises(PermissionError):
            delay.packets(answer)


def test_a_verdict_lets_just_that_packet_of_that_queue_go() -> None:
    # Length, kind and flags in the machine's order, all that netfilter reads in the network's.
    wanted = struct.pack("=IHHII", 32, 0x301, 1, 0, 0) + bytes.fromhex("00001538 0c000200 00000001 0000002a")
    assert delay.verdict(0x1538, 42) == wanted
