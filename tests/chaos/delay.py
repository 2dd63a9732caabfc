"""Delays every packet of a netfilter queue: ``python -m tests.chaos.delay QUEUE SECONDS``.

Replaces ``tc qdisc add ... netem delay`` on kernels without netem. An iptables rule with ``-j NFQUEUE``
passes the packets' numbers, and each packet is released after its delay. Unlike a proxy, this also slows
established connections. The program runs as root in the network namespace of the rule, prints ``ready`` once
it is bound, and ends when its standard input does.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections import deque

_NETFILTER = 12
_QUEUE = 3 << 8  # NFNL_SUBSYS_QUEUE
_PACKET, _VERDICT, _CONFIG = _QUEUE, _QUEUE | 1, _QUEUE | 2
_CFG_COMMAND, _CFG_PARAMETERS, _CFG_LENGTH = 1, 2, 3
_PACKET_HEADER, _VERDICT_HEADER = 1, 2
_REQUEST, _ACK = 1, 4
_ERROR = 2
_BIND, _COPY_META, _ACCEPT = 1, 1, 1
_MOST_PACKETS = 65_536

# Header of a netlink message: length, kind, flags, sequence, sender. Then netfilter's header: family,
# version, number of the queue.
_HEADER = struct.Struct("=IHHII")
_NF_HEADER = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")


def attribute(kind: int, value: bytes) -> bytes:
    """Encodes one netlink attribute, padded to four bytes."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def message(kind: int, queue: int, attributes: bytes, *, ack: bool = False) -> bytes:
    """Encodes one netlink message about a netfilter queue."""
    body = _NF_HEADER.pack(socket.AF_UNSPEC, 0, queue) + attributes
    flags = _REQUEST | (_ACK if ack else 0)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def verdict(queue: int, packet: int) -> bytes:
    """Encodes the message that releases a packet."""
    return message(_VERDICT, queue, attribute(_VERDICT_HEADER, struct.pack("!II", _ACCEPT, packet)))


def packets(data: bytes) -> list[int]:
    """Returns the packet numbers in the kernel's messages. Raises ``OSError`` for an error message."""
    found = []
    while len(data) >= _HEADER.size:
        size, kind, *_ = _HEADER.unpack_from(data)
        body, data = data[_HEADER.size : size], data[size + (-size % 4) :]
        if kind == _ERROR:
            if code := -struct.unpack_from("=i", body)[0]:
                raise OSError(code, f"netfilter queue: {os.strerror(code)}")
        elif kind == _PACKET:
            found.append(_number(body[_NF_HEADER.size :]))
    return found


def _number(attributes: bytes) -> int:
    while attributes:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _PACKET_HEADER:
            return int(struct.unpack_from("!I", attributes, _ATTRIBUTE.size)[0])
        attributes = attributes[size + (-size % 4) :]
    raise OSError("a packet without its number")


def bind(queue: int) -> socket.socket:
    """Returns a socket with the queue's packets. Raises ``OSError`` without kernel support or privileges."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    netlink.bind((0, 0))
    netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    netlink.settimeout(5)
    wishes = [
        attribute(_CFG_COMMAND, struct.pack("!BBH", _BIND, 0, socket.AF_INET)),
        attribute(_CFG_PARAMETERS, struct.pack("!IB", 0, _COPY_META)),
        attribute(_CFG_LENGTH, struct.pack("!I", _MOST_PACKETS)),
    ]
    for wish in wishes:
        netlink.send(message(_CONFIG, queue, wish, ack=True))
        packets(netlink.recv(65_536))
    netlink.setblocking(False)
    return netlink


def hold_back(queue: int, seconds: float) -> int:
    """Delays packets until standard input ends. Returns the number of packets."""
    netlink = bind(queue)
    print("ready", flush=True)
    waiting: deque[tuple[float, int]] = deque()
    count, last = 0, False
    while waiting or not last:
        first = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        sources: list[socket.socket | int] = [netlink] if last else [netlink, sys.stdin.fileno()]
        readable = select.select(sources, [], [], first)[0]
        if sys.stdin.fileno() in readable:
            last = True  # held packets are still delayed in full
        if netlink in readable:
            due = time.monotonic() + seconds
            waiting.extend((due, packet) for packet in packets(netlink.recv(1 << 20)))
        while waiting and waiting[0][0] <= time.monotonic():
            netlink.send(verdict(queue, waiting.popleft()[1]))
            count += 1
    return count


def main() -> int:
    """The entry point of the delayer."""
    print(hold_back(int(sys.argv[1]), float(sys.argv[2])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
