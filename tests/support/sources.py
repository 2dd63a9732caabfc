"""Source files of the product and of the showcase, for tests of their contents."""

from __future__ import annotations

from pathlib import Path

from holdfast.installations.embedded import ROOT

PACKAGES = (ROOT / "holdfast", ROOT / "services")


def source_files(pattern: str = "*.py") -> list[Path]:
    """Returns the files of both packages whose names match."""
    return [file for package in PACKAGES for file in sorted(package.rglob(pattern))]
