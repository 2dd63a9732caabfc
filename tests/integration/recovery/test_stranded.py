"""Work that no live executor can run is counted with its reason, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.api.models_stranded import Stranded
from holdfast.recovery.stranded import WAY_OUT, describe
from tests.support.database import Database
from tests.support.executors import Peer, insert

LEASE = 5.0
TAKES = {"names": ["a", "b"], "needs": ["a"]}


def publishes(database: Database, peer: Peer, queues: list[str] | None = None, **workflows: Any) -> None:
    """What an executor publishes after its launch."""
    database.run(
        "publish_registrations",
        executor_id=peer.id,
        serializer="portable_json",
        workflows=json.dumps(workflows),
        queues=queues,
        schedules=[],
    )


def stranded(database: Database) -> list[tuple[str, str | None, str | None, int]]:
    rows = database.run("stranded", lease_seconds=LEASE)
    for row in rows:
        Stranded.model_validate(row | {"way_out": WAY_OUT[row["reason"]]})
        assert row["application_version"] in describe(row)
    return [(row["reason"], row["queue_name"], row["workflow_name"], row["workflows"]) for row in rows]


def stored(database: Database, workflow_id: str, *args: Any, **columns: Any) -> None:
    insert(database, [workflow_id], **{"name": "t.send", "queue_name": "t", **columns})
    database.rows(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs) VALUES (%(id)s, %(inputs)s)",
        id=workflow_id,
        inputs=json.dumps({"positionalArgs": args, "namedArgs": {}}),
    )


def test_each_reason_is_counted_until_an_executor_can_run_the_work(database: Database) -> None:
    old = Peer.start(database, "worker-old")
    stored(database, "fits", 1)
    stored(database, "more", 1, 2, 3)
    stored(database, "elsewhere", 1, queue_name="u")
    stored(database, "unknown", 1, name="t.newer")
    stored(database, "south", class_name="Till", config_name="south", name="t.close")
    stored(database, "north", class_name="Till", config_name="north", name="t.close")
    stored(database, "internal", name="_dbos_debouncer", queue_name="_dbos_internal_queue")
    stored(database, "internal-2", name="_dbos_debouncer", queue_name="_dbos_other_queue")
    stored(database, "suspect", 1, queue_name=old.identity.suspects_queue)
    stored(database, "runs", 1, 2, 3, name="t.gone", status="PENDING", executor_id=old.id)
    assert stranded(database) == [], "an executor that has published nothing may know everything"

    till = {"class": "Till", "instances": ["north"]}
    publishes(database, old, ["t"], **{"t.send": {"takes": TAKES}, "t.close": till})
    expected = [
        ("arguments", "t", "t.send", 1),
        ("queue", "u", "t.send", 1),
        ("workflow", "t", "t.close", 1),
        ("workflow", "t", "t.newer", 1),
    ]
    assert stranded(database) == expected

    other = Peer.start(database, "worker-other-version", version="worker-2")
    publishes(database, other, ["t", "u"], **{"t.send": {}, "t.newer": {}, "t.close": {"class": "Till"}})
    assert stranded(database) == expected, "it does not run this version"
    new = Peer.start(database, "worker-new")
    till["instances"] = ["south"]
    publishes(database, new, ["t", "u"], **{"t.send": {}, "t.newer": {}, "t.close": till})
    assert stranded(database) == []
    new.silent(11)
    assert stranded(database) == expected, "silent for two leases"
    database.rows("UPDATE ops.executors SET state = 'drained' WHERE application_version = 'worker-1'")
    assert stranded(database) == [("version", None, None, 9), ("version", None, None, 1)]


@pytest.mark.parametrize(("owner", "reasons"), [("shop", []), (None, []), ("other", ["queue"])])
def test_an_attached_executor_listens_to_every_queue_of_its_application(
    database: Database, owner: str | None, reasons: list[str]
) -> None:
    shop = Peer.start(database, "shop-1", application="shop", version="1")
    publishes(database, shop, None, **{"t.send": {}})
    stored(database, "w", application_name="shop", application_version="1")
    assert [reason for reason, *_ in stranded(database)] == ["queue"]
    database.rows(
        "INSERT INTO dbos.queues (name, polling_interval_sec, application_name) VALUES ('t', 1, %(owner)s)",
        owner=owner,
    )
    assert [reason for reason, *_ in stranded(database)] == reasons
