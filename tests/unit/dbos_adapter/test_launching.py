"""What Holdfast reads from an application that its user constructed, and what it sets before the launch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, DBOSConfig
from dbos._utils import GlobalParams

from holdfast.dbos_adapter import launching

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
        database_url="postgresql://shop:p%40ss@db.example:6543/shop?sslmode=require",
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
    ("url", "arguments", "libpq"),
    [
        ("postgresql+psycopg://u:p@h:1/d", {}, "postgresql://u:p@h:1/d"),
        ("postgresql://u@h/d", {"sslmode": "verify-full"}, "postgresql://u@h/d?sslmode=verify-full"),
        ("postgresql+psycopg://u@/d?host=/run/pg", {}, "postgresql://u@/d?host=%2Frun%2Fpg"),
        (
            "postgresql+psycopg://u:p@/d?host=a:1&host=b:2&connect_timeout=3",
            {},
            "postgresql://u:p@a:1,b:2/d?connect_timeout=3",
        ),
        ("postgresql://u@h/d?passfile=/run/pgpass", {}, "postgresql://u@h/d?passfile=%2Frun%2Fpgpass"),
        ("sqlite:///d.sqlite", {}, ""),
    ],
)
def test_urls_for_libpq(url: str, arguments: dict[str, Any], libpq: str) -> None:
    assert launching.libpq_url(sa.make_url(url), arguments) == libpq
