"""examples/storefront: an application that knows nothing of Holdfast."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.storefront import FOLDER, Shop


@pytest.fixture
def plain(database: Database, tmp_path: Path) -> Iterator[Shop]:
    """The shop as its authors run it: DBOS alone, one process."""
    shop = Shop(database.admin_url, tmp_path)
    yield shop
    shop.close()


def test_no_line_of_the_application_mentions_holdfast() -> None:
    files = {file.name for file in FOLDER.iterdir() if file.is_file()} - {"compose.yaml"}
    assert files == {"main.py", "requirements.txt", "Dockerfile"}
    assert [name for name in files if "holdfast" in (FOLDER / name).read_text("utf-8").lower()] == []


def test_the_shop_runs_on_dbos_alone(plain: Shop) -> None:
    shop = plain.start()
    paid, refused = shop.place_order("pen", 3), shop.place_order("ink", 2)
    assert {paid["status"], refused["status"]} == {"waits for payment"}
    assert shop.place_order("pen", 5000)["status"] == "sold out"
    shop.pay(paid["order_id"])
    shop.pay(refused["order_id"], paid=False)
    shop.wait_order(refused["order_id"], "cancelled")
    assert len(shop.wait_order(paid["order_id"], "shipped")["tracking"]) == 12
    page = shop.http.get("/").text
    assert "997 left" in page and "1000 left" in page
    shop.process.send_signal(signal.SIGTERM)
    shop.process.wait(30)
