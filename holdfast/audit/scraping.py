"""Reads ``/metrics`` of a registered executor.

The row of an executor is data that every role may write. So only host names and plain addresses are asked,
without the environment's proxies and without following redirects, and an answer is bounded in bytes and time.
"""

from __future__ import annotations

import io
import ipaddress
import re
import socket
from http.client import HTTPException, HTTPResponse
from time import monotonic
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from holdfast import probe_paths

ANSWER_SECONDS = 3.0
"""Time limit for connecting, and for the whole answer."""
ANSWER_BYTES = 4 << 20
"""An API's metrics have 75 to 150 KB."""
_PART_BYTES = 1 << 16
_NAME_LENGTH = 253
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE | re.ASCII)


def scrape(row: dict[str, Any]) -> str | None:
    """Returns the metrics of an executor; None if this host does not get them."""
    host, port = row["hostname"], row["port"]
    if host == socket.gethostname():
        host = "127.0.0.1"
    if not (_is_host(host) and port in range(1, 1 << 16)):
        return None
    try:
        text = _body(_received(host, port))
    except (OSError, HTTPException, ValueError):
        return None
    return text if _is_readable(text) else None


def _is_readable(text: str) -> bool:
    """Whether the text can be parsed. The parser raises exceptions of any class for one that cannot."""
    try:
        for _ in text_string_to_metric_families(text):
            pass
    except Exception:
        return False
    return True


def _is_host(text: Any) -> bool:
    """Whether that is a host name or an address, without port, path, credentials and brackets."""
    if not isinstance(text, str) or len(text) > _NAME_LENGTH:
        return False
    # A scoped IPv6 address may end in anything.
    return _NAME.fullmatch(text) is not None or ("%" not in text and _ip(text) is not None)


def _connect(host: str, port: int) -> socket.socket:
    """Connects to an address that an executor can have. Raises ``OSError`` if none of the host's is one."""
    failure = OSError(f"{host} has no address of an executor")
    for *_, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        ip = _ip(str(found[0]))
        # Link-local addresses lead to the metadata service of a cloud, and with it to its credentials.
        if ip is None or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
            continue
        try:
            return socket.create_connection((str(ip), port), timeout=ANSWER_SECONDS)
        except OSError as error:
            failure = error
    raise failure


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _received(host: str, port: int) -> bytes:
    """Returns all that the host sends until it closes the connection. Raises ``OSError``, also at a limit."""
    # Every executor accepts this name. A container's own host name is none of those.
    request = f"GET {probe_paths.METRICS} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
    received = bytearray()
    with _connect(host, port) as connection:
        connection.sendall(request.encode("ascii"))
        deadline = monotonic() + ANSWER_SECONDS
        while part := connection.recv(_PART_BYTES):
            received += part
            left = deadline - monotonic()
            if len(received) > ANSWER_BYTES or left <= 0:
                raise OSError("the answer is over its limit")
            connection.settimeout(left)
    return bytes(received)


class _Connection:
    """What `HTTPResponse` needs of a connection, over bytes that were received."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, mode: str) -> io.BytesIO:  # noqa: ARG002 - as a socket's
        return io.BytesIO(self._received)


def _body(received: bytes) -> str:
    """Returns the text of a successful answer. Raises ``HTTPException``, ``ValueError``."""
    answer = HTTPResponse(_Connection(received))  # type: ignore[arg-type]
    answer.begin()
    if answer.status != 200:
        raise HTTPException(f"HTTP {answer.status}")
    return answer.read().decode()
