"""Rules that derive a request's origin from its address and headers. Pure functions, no HTTP library.

Browsers send a page's requests to any address, including this machine's. A page of another origin must
neither start work here nor read data, even if its host name resolves to this machine (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
_PORT = re.compile(r":[0-9]{0,5}")


def is_loopback(address: str) -> bool:
    """Whether a server on that address is reachable from this machine only.

    True for ``localhost``, ``127.0.0.0/8`` and ``::1`` (with or without brackets). Any other name counts as
    reachable from outside, whatever it resolves to today. So does the empty address, which means every
    interface.
    """
    text = address.strip().lower()
    if text == "localhost":
        return True
    found = _ip(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found is not None and found.is_loopback


def host_name(header: str) -> str | None:
    """Returns the name or address in a Host header, lower case, without its port; None if it has none."""
    text = header.strip().lower()
    if text.startswith("["):
        inside, closed, rest = text[1:].partition("]")
        found = inside if closed and isinstance(_ip(inside), ipaddress.IPv6Address) else None
    else:
        name, colon, port = text.partition(":")
        found, rest = name.removesuffix("."), colon + port
        found = found if _NAME.fullmatch(found) else None
    return found if found and (not rest or _PORT.fullmatch(rest)) else None


def is_known_host(header: str, names: frozenset[str]) -> bool:
    """Whether a Host header names this server: ``localhost``, one of ``names``, or any IP address.

    An IP address cannot be rebound: a browser sends it only if the page's address contains it. An unknown
    name in the header means that a foreign DNS record points to this machine.
    """
    name = host_name(header)
    return name is not None and (name == "localhost" or name in names or _ip(name) is not None)


def is_foreign(  # noqa: PLR0917 - as a browser sends them
    method: str, host: str, origin: str | None, site: str | None, mode: str | None, destination: str | None
) -> bool:
    """Whether a browser sent this request for a page of another origin.

    ``site``, ``mode`` and ``destination`` are the ``Sec-Fetch-*`` headers, which pages cannot set. Browsers
    send them to loopback addresses and over HTTPS. In other cases ``origin`` decides: it comes with every
    request that changes data. Navigation from a foreign page is allowed, because the page that it opens is
    ours. Clients that are not browsers send none of these headers, and no page can control them.
    """
    if site is not None and site not in ("same-origin", "none"):
        return not (method == "GET" and mode == "navigate" and destination == "document")
    if site is None and origin is not None:
        scheme, _, authority = origin.lower().partition("://")
        return scheme not in ("http", "https") or authority != host.strip().lower()
    return False


def client_key(address: str) -> str:
    """Returns the key of a client: its IPv4 address, or its /64 network of IPv6.

    One IPv6 client can use any address of its /64.
    """
    found = _ip(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
    return address


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
