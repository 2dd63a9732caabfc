"""What Holdfast reads from an application that its user constructed, and what it sets before the launch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, DBOSConfig
from dbos._utils import GlobalParams
from psycopg2.extensions import parse_dsn

from holdfast.dbos_adapter import launching
from holdfast.postgres.database import server_options

_URL = "postgresql+psycopg://shop:p%40ss@db.example:6543/shop?sslmode=require"


@pytest.fixture
def application() -> Iterator[Any]:
    config: DBOSConfig = {
        "name": "launching-shop",
        "system_database_url": _URL,
        "application_version": "v7",
        "executor_id": "blue",
        "dbos_system_schema": "shop_dbos",
    }
    DBOS.destroy()
    yield DBOS(config=config)
    DBOS.destroy()


def test_what_an_application_is_configured_with(application: Any) -> None:
    assert launching.current_instance() is application
    assert launching.configured(application) == launching.Configured(
        application="launching-shop",
        version="v7",
        executor_id="blue",
        database_url="host=db.example dbname=shop user=shop password=p@ss port=6543 sslmode=require"
        " application_name=dbos_transact connect_timeout=10",
        schema="shop_dbos",
        listens_to_all=True,
        uses_conductor=False,
        is_launched=False,
        is_ours=False,
    )
    DBOS.listen_queues(["packing"])
    assert not launching.configured(application).listens_to_all
    assert list(launching.tasks(application)) == []
    launching.identify(application, executor_id="blue-1", version="v7", session_name="holdfast/blue-1/dbos")
    assert GlobalParams.executor_id == "blue-1"
    options = application._config["database"]["sys_db_engine_kwargs"]
    assert options["connect_args"]["application_name"] == "holdfast/blue-1/dbos"


def test_a_session_name_of_the_application_stays() -> None:
    DBOS.destroy()
    config: DBOSConfig = {
        "name": "launching-shop",
        "system_database_url": _URL,
        "db_engine_kwargs": {"connect_args": {"application_name": "mine"}},
    }
    application: Any = DBOS(config=config)
    try:
        launching.identify(application, executor_id="a-1", version="v", session_name="holdfast/a-1/dbos")
        options = application._config["database"]["sys_db_engine_kwargs"]
        assert options["connect_args"]["application_name"] == "mine"
    finally:
        DBOS.destroy()


def test_a_hidden_queue_is_one_of_dboss_internal_queues(application: Any) -> None:
    launching.add_hidden_queue(application, "_holdfast_suspects")
    names = [queue.name for queue in application._registry.internal_queues()]
    assert "_holdfast_suspects" in names
    del application._registry.internal_queue_map["_holdfast_suspects"]


@pytest.mark.parametrize(
    ("url", "arguments", "expected"),
    [
        ("postgresql+psycopg://u:p@h:1/d", {}, "user=u password=p host=h port=1 dbname=d"),
        ("postgresql://u@h/d", {"sslmode": "verify-full"}, "user=u host=h dbname=d sslmode=verify-full"),
        ("postgresql+psycopg://u@/d?host=/run/pg", {}, "user=u dbname=d host=/run/pg"),
        (
            "postgresql+psycopg://u:p@/d?host=a:1&host=b:2&connect_timeout=3",
            {},
            "user=u password=p dbname=d host=a,b port=1,2 connect_timeout=3",
        ),
        ("postgresql://u@/d?host=a,b&port=1,2", {}, "user=u dbname=d host=a,b port=1,2"),
        ("postgresql://u@h/d?passfile=/run/pg%20pass", {}, r"user=u host=h dbname=d passfile='/run/pg pass'"),
        ("postgresql://u:a%20b%2Bc%27@h/d", {}, r"user=u password='a b+c\'' host=h dbname=d"),
        ("postgresql://u:old@h/d", {"password": "a b"}, "user=u password='a b' host=h dbname=d"),
        (
            "postgresql:///d",
            {"host": "h", "port": 6, "user": "u", "service": "s", "options": "-c role=x", "sslpassword": "p"},
            "dbname=d host=h port=6 user=u service=s options='-c role=x' sslpassword=p",
        ),
        (
            "postgresql+psycopg://u@h/d",
            {"prepare_threshold": 0, "autocommit": True, "cursor_factory": object, "keepalives": 1},
            "user=u host=h dbname=d keepalives=1",
        ),
    ],
)
def test_connection_strings_for_libpq(url: str, arguments: dict[str, Any], expected: str) -> None:
    found = launching.libpq_dsn(sa.make_url(url), arguments)
    assert parse_dsn(found) == parse_dsn(expected)


def test_no_connection_string_of_another_database() -> None:
    assert launching.libpq_dsn(sa.make_url("sqlite:///d.sqlite"), {}) == ""


def test_server_options_of_a_connection_string_stay() -> None:
    dsn = "host=h options='-c role=x'"
    assert server_options(dsn, "-c lock_timeout=1") == "-c role=x -c lock_timeout=1"
    assert server_options("postgresql://h/d", "-c lock_timeout=1") == "-c lock_timeout=1"
