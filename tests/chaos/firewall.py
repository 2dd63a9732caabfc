"""Disturbs one container's path to PostgreSQL from outside, by rules in its network namespace.

Needs root on the engine's own machine. A rule that cannot be applied raises ``AssertionError``: a fault
without harm must not count as survived.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.compose_stack import ComposeStack
from tests.support.stack import ROOT, Member

_OUT = ["OUTPUT", "-p", "tcp", "--dport", "5432"]
_IN = ["INPUT", "-p", "tcp", "--sport", "5432"]
# The same match, seen from PostgreSQL.
_IN_POSTGRES = ["-p", "tcp", "--dport", "5432"]
_OUT_POSTGRES = ["-p", "tcp", "--sport", "5432"]
# A rejected packet is answered with a reset, which must pass the rule itself.
_NO_RESET = ["!", "--tcp-flags", "RST", "RST"]
_QUEUE = "5432"

Rule = list[str]


@contextmanager
def half_open(stack: ComposeStack, member: Member) -> Iterator[None]:
    """Drops all packets from and to PostgreSQL: connections stay open without answers."""
    with _rules(stack, member, [[*_OUT, "-j", "DROP"], [*_IN, "-j", "DROP"]]):
        yield


@contextmanager
def host_cut(stack: ComposeStack, host: str) -> Iterator[None]:
    """Drops all packets between PostgreSQL and the network of a host."""
    subnet = stack.subnet(host)
    into, out_of = ["INPUT", "-s", subnet, *_IN_POSTGRES], ["OUTPUT", "-d", subnet, *_OUT_POSTGRES]
    with _rules(stack, stack.postgres(), [[*into, "-j", "DROP"], [*out_of, "-j", "DROP"]]):
        yield


@contextmanager
def reset(stack: ComposeStack, member: Member) -> Iterator[None]:
    """Answers packets of either side, and connection attempts, with a reset."""
    answer = ["-j", "REJECT", "--reject-with", "tcp-reset"]
    with _rules(stack, member, [[*_OUT, *_NO_RESET, *answer], [*_IN, *_NO_RESET, *answer]]):
        yield


@contextmanager
def slow(stack: ComposeStack, members: list[Member], seconds: float) -> Iterator[None]:
    """Delays all packets of these members to PostgreSQL, so that each round trip takes that much longer."""
    with ExitStack() as all_of_them:
        for member in members:
            # The delayer starts before its rule, and stops after it.
            all_of_them.enter_context(_delayer(stack, member, seconds))
            rule = [*_OUT, "-j", "NFQUEUE", "--queue-num", _QUEUE]
            all_of_them.enter_context(_rules(stack, member, [rule]))
        yield


@contextmanager
def _rules(stack: ComposeStack, member: Member, rules: list[Rule]) -> Iterator[None]:
    # The open file keeps the namespace alive after the container's process, so that the rules can be removed
    # even if the container ends meanwhile.
    with Path(f"/proc/{_pid(stack, member)}/ns/net").open("rb") as held:
        namespace = held.fileno()
        _restore(namespace, "-I", rules)
        try:
            yield
            met = re.findall(r"--[ds]port 5432 .*-c (\d+) ", _inside(namespace, "iptables", "-S", "-v"))
            assert sum(map(int, met)) > 0, f"no packet of {member.name} met {rules}"
        finally:
            _restore(namespace, "-D", rules)


def _restore(namespace: int, how: str, rules: list[Rule]) -> None:
    # All rules apply in one call: between two calls, a connection could break in only one direction.
    lines = ["*filter", *(" ".join([how, *rule]) for rule in rules), "COMMIT", ""]
    _inside(namespace, "iptables-restore", "--noflush", "--wait", "5", text="\n".join(lines))


def _inside(namespace: int, *command: str, text: str = "") -> str:
    done = subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", *command],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        pass_fds=(namespace,),
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode} {done.stderr[-500:]}"
    return done.stdout


@contextmanager
def _delayer(stack: ComposeStack, member: Member, seconds: float) -> Iterator[None]:
    process = subprocess.Popen(
        [
            *("nsenter", "--target", str(_pid(stack, member)), "--net"),
            *(sys.executable, "-m", "tests.chaos.delay", _QUEUE, f"{seconds:g}"),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready == "ready\n", f"no delay in {member.name}: {process.communicate(timeout=5)[1][-500:]}"
        yield
        told, errors = process.communicate(timeout=seconds + 5)
        assert process.returncode == 0, f"the delay of {member.name} ended early: {errors[-500:]}"
        assert int(told) > 0, f"no packet of {member.name} was delayed"
    finally:
        process.kill()
        process.wait(5)


def _pid(stack: ComposeStack, member: Member) -> int:
    pid = int(stack.inspect(member.container)["State"]["Pid"])
    assert pid > 0, f"{member.name} does not run"
    return pid
