"""README.md and docs/: links lead to a page and a heading, and named files of the code exist."""

from __future__ import annotations

import ast
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


def where_to_find_it() -> list[str]:
    """The places in the table of architecture.md, one string for each question."""
    text = (ROOT / "docs" / "design" / "architecture.md").read_text("utf-8")
    table = text.split("## Where to find it")[1].split("\n## ")[0]
    return re.findall(r"^\| (?!question)[^|]+\?[^|]* \| ([^|]+) \|$", table, re.MULTILINE)


def defines(path: Path, name: str) -> bool:
    """Whether a module has this function, class, method or variable, or an SQL file this statement."""
    text = path.read_text("utf-8")
    if path.suffix == ".sql":
        return f"-- name: {name}\n" in text
    body: list[ast.stmt] = ast.parse(text).body
    for part in name.split("."):
        found: list[ast.stmt] = []
        for node in body:
            if isinstance(node, ast.Assign):
                names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign):
                names = {node.target.id} if isinstance(node.target, ast.Name) else set()
            else:
                names = {getattr(node, "name", "")}
            found += [node] if part in names else []
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def test_each_place_in_where_to_find_it_exists() -> None:
    rows = where_to_find_it()
    assert len(rows) > 10
    for row in rows:
        files = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", row)
        assert files, row
        assert [file for file in files if not (ROOT / file).exists()] == []
        places = re.findall(r"`([\w.]+)` in `((?:[\w.-]+/)+[\w.-]+)`", row)
        assert [(name, file) for name, file in places if not defines(ROOT / file, name)] == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Sweep.adopt", "holdfast/recovery/sweep.py"),
        ("take_over", "holdfast/recovery/sweep.py"),
        ("EXIT", "holdfast/process/process.py"),
        ("mark_dead", "holdfast/recovery/sql/takeover.sql"),
    ],
)
def test_a_place_that_does_not_exist_is_noticed(name: str, file: str) -> None:
    assert not defines(ROOT / file, name)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
