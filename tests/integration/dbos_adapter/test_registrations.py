"""The workflows that an executor publishes, by which the API starts them."""

from __future__ import annotations

from typing import Any

import pytest
from dbos import DBOS, DBOSConfiguredInstance, WorkflowSerializationFormat

from holdfast.dbos_adapter import registrations
from tests.support.database import Database
from tests.support.engines import launched


@DBOS.dbos_class("RegistrationsTill")
class _Till(DBOSConfiguredInstance):
    @DBOS.workflow(name="registrations.close")
    def close(self) -> None:
        """A method of an instance."""

    @staticmethod
    @DBOS.workflow(name="registrations.total")
    def total() -> None:
        """A static method."""


@DBOS.workflow(name="registrations.portable", serialization_type=WorkflowSerializationFormat.PORTABLE)
def _portable() -> None:
    """A workflow whose values are JSON wherever it runs."""


def test_an_executor_publishes_what_it_can_run(database: Database) -> None:
    with launched(database) as it:
        _Till(config_name="registrations-north")
        for _ in range(2):
            registrations.publish(database.run, it.identity.executor_id, without=["registrations.total"])
        [row] = database.rows("SELECT * FROM ops.registrations")
        assert row["executor_id"] == it.identity.executor_id
        assert row["serializer"] == "portable_json"
        found: dict[str, Any] = row["workflows"]
        assert found["registrations.close"] == {
            "class": "RegistrationsTill",
            "instances": ["registrations-north"],
            "takes": {},
        }
        assert found["registrations.portable"] == {"portable": True, "takes": {}}
        assert "registrations.total" not in found
        assert not [name for name in found if name.startswith(("<temp>.", "_dbos"))]

        def registered(name: str, application: str | None = None) -> list[Any]:
            rows = database.run("find_registered", name=name, application=application, lease_seconds=5.0)
            return [(each["application"], each["version"], each["workflow"]) for each in rows]

        version = it.identity.version
        assert registered("registrations.portable") == [
            ("holdfast-worker", version, found["registrations.portable"])
        ]
        assert registered("registrations.portable", "shop") == registered("nothing") == []
        names = [each["name"] for each in database.run("registered_names", application=None)]
        assert names, "of many workflows, the first ones"
        assert set(names) <= set(found)
        database.rows("UPDATE ops.executors SET state = 'drained'")
        assert registered("registrations.portable") == []


@pytest.mark.parametrize("name", ["holdfast_api", "holdfast_worker"])
def test_a_deleted_executor_takes_its_row_along(database: Database, name: str) -> None:
    assert database.one(
        "SELECT has_table_privilege(%(name)s, 'ops.registrations', 'INSERT, UPDATE')", name=name
    )
    database.rows(
        "INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid, port,"
        " slots, suspects_queue, trials_queue, leaf_queues)"
        " VALUES ('e', 'a', 'v', 'worker', 'h', 1, 1, 0, 's', 't', '{}')"
    )
    database.rows("INSERT INTO ops.registrations VALUES ('e', 'py_pickle', '{}')")
    database.rows("DELETE FROM ops.executors")
    assert database.rows("SELECT * FROM ops.registrations") == []
