"""README.md and docs/: links lead to a page and a heading, and named files of the code exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "bench" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = [ROOT, ROOT / "holdfast"]


def headings(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub writes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8")):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_modules_exist(page: Path) -> None:
    """A path with a folder in backticks, relative to the checkout or to `holdfast/`."""
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|sql|md|yaml|yml))\b", page.read_text("utf-8")))
    if page.parent.name == "bench":
        named -= {name for name in named if (page.parent / name).exists() or name.startswith("results/")}
    missing = [name for name in named if not any((folder / name).exists() for folder in PACKAGES)]
    assert sorted(missing) == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
