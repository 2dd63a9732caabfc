"""Files of the product and of the showcase, for tests of what stands in them."""

from __future__ import annotations

from pathlib import Path

from holdfast.installations.embedded import ROOT

PACKAGES = (ROOT / "holdfast", ROOT / "services")


def source_files(pattern: str = "*.py") -> list[Path]:
    """Files of both packages whose names match."""
    return [file for package in PACKAGES for file in sorted(package.rglob(pattern))]
