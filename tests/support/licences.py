"""Writes docs/reports/licences.md, the licences in the image: ``python -m tests.support.licences``.

The source is the metadata of the packages installed from the lock. A licence that is not in the list below
exits with 1: a person must read it first.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reports" / "licences.md"

ALLOWED = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MPL-2.0",
    "PSF-2.0",
}
# The licence names of packages that do not use SPDX.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache License 2.0": "Apache-2.0",
    "Dual License": "Apache-2.0 OR BSD-3-Clause",  # python-dateutil; its LICENSE says which
    "ISC License": "ISC",
    "LGPL with exceptions": "LGPL-3.0-or-later",
    "MIT License": "MIT",
}
# The image's platform, independent of this machine's.
IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.0",
    "python_version": "3.12",
    "sys_platform": "linux",
}
HEAD = """# Licences

Holdfast is under the MIT licence (`LICENSE`). Its image contains the packages below, on top of the base image
(`python:3.12-slim`: Debian, and CPython under PSF-2.0). PostgreSQL's image is used as published.
`make licences` writes this page from the packages' metadata; `make sbom` lists versions and hashes. psycopg
and psycopg2 are under the LGPL: they are used unchanged, as separate libraries that every user can replace.

| package | licence |
|---|---|
"""


@dataclass(frozen=True)
class Locked:
    """A package of a lock file."""

    name: str
    version: str
    hashes: frozenset[str]
    in_image: bool


def locked(file: Path) -> list[Locked]:
    """Returns the packages of a lock file, in its order."""
    found = []
    for entry in re.split(r"\n(?=[a-z0-9])", file.read_text("utf-8")):
        if entry.startswith("#"):
            continue
        wanted = Requirement(entry.partition("\\")[0].strip())
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        here = wanted.marker is None or wanted.marker.evaluate(dict(IMAGE))
        found.append(Locked(wanted.name, str(wanted.specifier).removeprefix("=="), hashes, here))
    return found


def licence(package: str) -> str:
    """Returns the SPDX licence of an installed package. Raises ``LookupError`` if it names none."""
    told = metadata.metadata(package)
    classifiers = [
        c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or [] if c.startswith("License")
    ]
    for words in (told.get("License-Expression"), told.get("License"), *classifiers):
        if words:
            return SPDX.get(words, words)
    raise LookupError(f"{package} names no licence")


def unread(expression: str) -> set[str]:
    """Returns the licences of an expression that are not allowed yet."""
    return set(re.split(r" (?:AND|OR) ", expression.replace("(", "").replace(")", ""))) - ALLOWED


def licences() -> dict[str, str]:
    """Returns the licence of each package in the image."""
    packages = [package.name for package in locked(ROOT / "requirements.lock") if package.in_image]
    return {name: licence(name) for name in packages}


def page(found: dict[str, str]) -> str:
    """Returns the text of docs/reports/licences.md."""
    return HEAD + "".join(f"| {name} | {expression} |\n" for name, expression in found.items())


def main() -> int:
    found = licences()
    PAGE.write_text(page(found), "utf-8")
    bad = {name: expression for name, expression in found.items() if unread(expression)}
    for name, expression in bad.items():
        sys.stderr.write(f"licences: {name} is under {expression}, which is not in ALLOWED\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
