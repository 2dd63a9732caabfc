"""What a request's address and headers tell about where it comes from. Pure rules, no HTTP library.

Browsers send a page's requests to any address, this machine's included. A page of another origin must
neither start anything here nor read anything, also when its name has been pointed at this machine
(DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
_PORT = re.compile(r":[0-9]{0,5}")


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches what listens there.

    ``localhost``, ``127.0.0.0/8`` and ``::1`` (with or without brackets). Any other name counts as
    reachable, whatever it resolves to today, and so does the empty address: it means every interface.
    """
    text = address.strip().lower()
    if text == "localhost":
        return True
    found = _ip(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found is not None and found.is_loopback


def host_name(header: str) -> str | None:
    """The name or address in a Host header, lower case, without its port; None when there is none."""
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

    An address cannot be rebound: a browser that sends one was told to go there. A foreign name in the
    header says that somebody pointed it at this machine.
    """
    name = host_name(header)
    return name is not None and (name == "localhost" or name in names or _ip(name) is not None)


def is_foreign(  # noqa: PLR0917 - as a browser sends them
    method: str, host: str, origin: str | None, site: str | None, mode: str | None, destination: str | None
) -> bool:
    """Whether a browser sent this for a page of another origin.

    ``site``, ``mode`` and ``destination`` are the ``Sec-Fetch-*`` headers, which pages cannot set; browsers
    send them to this machine and over HTTPS. Elsewhere ``origin`` tells, which comes with every request that
    changes something. Links from elsewhere may be followed: the page that opens is ours. A client that is no
    browser sends none of them, and no page can make it.
    """
    if site is not None and site not in ("same-origin", "none"):
        return not (method == "GET" and mode == "navigate" and destination == "document")
    if site is None and origin is not None:
        scheme, _, authority = origin.lower().partition("://")
        return scheme not in ("http", "https") or authority != host.strip().lower()
    return False


def client_key(address: str) -> str:
    """Who counts as one client: an IPv4 address, or a /64 of IPv6, of which anyone has plenty."""
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
