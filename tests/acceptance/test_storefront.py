"""examples/storefront: an application that knows nothing of Holdfast."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.installations.secrets import scram_verifier
from tests.support.database import Database
from tests.support.stack import ROOT
from tests.support.storefront import FOLDER, Shop


@pytest.fixture
def plain(database: Database, tmp_path: Path) -> Iterator[Shop]:
    """The shop as its authors run it: DBOS alone, one process."""
    shop = Shop(database.admin_url, tmp_path)
    yield shop
    shop.close()


def test_no_line_of_the_application_mentions_holdfast() -> None:
    files = {file.name for file in FOLDER.iterdir() if file.is_file()} - {"compose.yaml", ".env"}
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


@pytest.fixture
def protected(database: Database, tmp_path: Path) -> Iterator[Shop]:
    """The same shop, unchanged, under ``holdfast run``."""
    under = (sys.executable, "-m", "holdfast.command", "run", "--require", "--")
    shop = Shop(database.admin_url, tmp_path, under)
    yield shop
    shop.close()


def test_a_checkout_that_waits_for_its_payment_outlives_its_process(
    protected: Shop, database: Database
) -> None:
    first, second = protected.start(), protected.start()
    order = first.place_order("pen", 2)
    assert order["status"] == "waits for payment"
    first.kill()
    second.pay(order["order_id"])
    done = second.wait_order(order["order_id"], "shipped")
    assert len(done["tracking"]) == 12
    moves = database.rows("SELECT kind FROM ops.handovers WHERE workflow_id = %(id)s", id=order["order_id"])
    assert [move["kind"] for move in moves] == ["takeover"]
    left = database.one("SELECT pieces FROM public.stock WHERE article = 'pen'")
    assert left == 998, "the goods were reserved once"


def test_with_its_own_role_and_a_password_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its compose.yaml runs it: the URL has no password, and the role runs no DDL outside its schema."""
    name, role = "storefront", "holdfast_app_storefront"
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:{role}:secret\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    script = (ROOT / "postgres" / "application.sql").read_text("utf-8")
    verifier = scram_verifier("secret", b"salt" * 4)
    database.server.psql(database.name, f"\\set name {name}\n\\set verifier '{verifier}'\n{script}")
    url = f"postgresql://{role}@127.0.0.1:{database.server.cluster.port}/{database.name}"
    shop = Shop(url, tmp_path, (sys.executable, "-m", "holdfast.command", "run", "--require", "--"))
    try:
        first, second = shop.start(), shop.start()
        order = first.place_order("pen", 2)
        first.kill()
        second.pay(order["order_id"])
        second.wait_order(order["order_id"], "shipped")
        assert database.one("SELECT pieces FROM storefront.stock WHERE article = 'pen'") == 998
    finally:
        shop.close()
        database.server.psql(database.name, f"DROP OWNED BY {role} CASCADE")
        database.server.run(f"DROP ROLE {role}")
