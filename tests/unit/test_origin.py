"""Where a request comes from: published addresses, Host headers, pages of other origins, clients."""

from __future__ import annotations

import pytest

from holdfast.origin import client_key, host_name, is_foreign, is_known_host, is_loopback


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.0.0.2",
        "127.255.255.254",
        "localhost",
        "LOCALHOST",
        "::1",
        "[::1]",
        " 127.0.0.1 ",
        "::ffff:127.0.0.1",
        "0:0:0:0:0:0:0:1",
    ],
)
def test_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        *("", " ", "0.0.0.0", "::", "[::]", "*", "192.168.1.5", "10.0.0.1", "128.0.0.1"),
        *("fe80::1", "::ffff:10.0.0.1"),
        # A name resolves to what its owner says, and short forms are read in more than one way.
        *("myhost", "localhost.example.com", "127.0.0.1.example.com"),
        *("127.1", "0", "0x7f000001", "[127.0.0.1"),
    ],
)
def test_beyond_loopback(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("localhost.", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:8000", "::1"),
        ("a-b.example.com:", "a-b.example.com"),
        *[(wrong, None) for wrong in ("", " ", ":8000", "a b", "a/b", "a@b", "[::1", "::1", "[evil]", "[]")],
        *[(wrong, None) for wrong in ("a:b", "a:80:80", "a:800000", "[::1]x", "[::1]:x", "é.example", "-a")],
    ],
)
def test_host_name(header: str, name: str | None) -> None:
    assert host_name(header) == name


def test_known_hosts() -> None:
    names = frozenset({"holdfast.example"})
    for known in ("localhost:1", "127.0.0.1:8000", "192.168.1.5", "[fe80::1]:80", "Holdfast.Example:443"):
        assert is_known_host(known, names), known
    for foreign in (
        "",
        "evil.example",
        "holdfast.example.evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
    ):
        assert not is_known_host(foreign, names), foreign


OURS = "127.0.0.1:8000"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    ("origin", "site", "foreign"),
    [
        (None, None, False),  # no browser
        (None, "none", False),  # typed by the user
        ("http://127.0.0.1:8000", "same-origin", False),
        ("http://127.0.0.1:8000", None, False),  # a browser that sends no Sec-Fetch-*
        ("HTTP://127.0.0.1:8000", None, False),
        ("https://127.0.0.1:8000", None, False),  # behind a proxy that speaks TLS
        ("http://127.0.0.1:9000", None, True),  # another port is another origin
        ("http://127.0.0.1:9000", "same-site", True),
        ("http://127.0.0.1:8000", "cross-site", True),  # the browser knows better
        ("http://evil.example", "cross-site", True),
        ("http://evil.example", None, True),
        ("null", None, True),  # a sandboxed frame, a file
        ("", None, True),
        ("http://127.0.0.1:8000.evil.example", None, True),
        ("http://127.0.0.1", None, True),
        ("file://127.0.0.1:8000", None, True),
        (None, "cross-site", True),
        (None, "made-up", True),
    ],
)
def test_pages_of_other_origins(method: str, origin: str | None, site: str | None, foreign: bool) -> None:
    assert is_foreign(method, OURS, origin, site, "cors", "empty") is foreign


@pytest.mark.parametrize(
    ("method", "mode", "destination", "foreign"),
    [
        ("GET", "navigate", "document", False),  # a link
        ("GET", "navigate", "iframe", True),
        ("GET", "navigate", "object", True),
        ("GET", "no-cors", "image", True),
        ("GET", "no-cors", "script", True),
        ("GET", "cors", "empty", True),
        ("GET", None, None, True),
        ("POST", "navigate", "document", True),  # a form
    ],
)
def test_links_may_be_followed(method: str, mode: str | None, destination: str | None, foreign: bool) -> None:
    assert is_foreign(method, OURS, None, "cross-site", mode, destination) is foreign


def test_who_counts_as_one_client() -> None:
    assert client_key("10.1.2.3") == "10.1.2.3"
    assert client_key("2001:db8:1:2:3:4:5:6") == client_key("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert client_key("2001:db8:1:3::1") != client_key("2001:db8:1:2::1")
    assert client_key("::ffff:10.1.2.3") == "10.1.2.3"
    assert client_key("unknown") == "unknown"
