"""The table of applications: who fills it, and who reads it."""

from __future__ import annotations

import pytest

from holdfast.dbos_adapter import schema
from holdfast.installations.embedded import ROOT
from holdfast.installations.secrets import scram_verifier
from holdfast.postgres.database import query
from tests.support.database import Database


@pytest.mark.parametrize("role", ["api", "worker"])
def test_migrate_adds_the_stacks_own_and_everybody_reads_them(database: Database, role: str) -> None:
    found = query(database.connect(role=role), "applications")
    assert [(row["name"], row["kind"], row["added_by"]) for row in found] == [
        ("holdfast-api", "stack", "migrate"),
        ("holdfast-worker", "stack", "migrate"),
    ]


def test_migrate_adds_the_applications_that_dbos_knows(database: Database) -> None:
    database.rows(
        "INSERT INTO dbos.application_versions (version_id, version_name, application_name)"
        " VALUES ('1', 'a', 'storefront'), ('2', 'b', 'storefront'), ('3', 'c', 'holdfast-api'),"
        " ('4', 'd', NULL)"
    )
    schema.migrate(database.settings("migrate"))
    schema.migrate(database.settings("migrate"))
    assert [(row["name"], row["kind"]) for row in database.run("applications")] == [
        ("holdfast-api", "stack"),
        ("holdfast-worker", "stack"),
        ("storefront", "user"),
    ]


def test_an_attached_launch_adds_its_application_once(database: Database) -> None:
    owner = database.connect(role="migrate")
    for version in ("3.0.0", "3.4.0"):
        query(owner, "note_attached", name="storefront", dbos_version=version)
    query(owner, "note_attached", name="holdfast-api", dbos_version="3.4.0")
    rows = {row["name"]: row for row in database.run("applications")}
    assert rows["storefront"]["dbos_version"] == "3.4.0"
    assert rows["storefront"]["attached_at"] > rows["storefront"]["added_at"]
    assert rows["storefront"]["added_by"] == "attach"
    assert rows["holdfast-api"]["kind"] == "stack"


def test_only_an_application_of_a_user_is_removed(database: Database) -> None:
    owner = database.connect(role="migrate")
    query(owner, "add_application", name="storefront", kind="user", added_by="app add", database_role="r")
    again = query(
        owner, "add_application", name="storefront", kind="user", added_by="migrate", database_role=None
    )
    assert [row["database_role"] for row in again] == ["r"]
    assert query(owner, "remove_application", name="holdfast-api") == []
    assert query(owner, "remove_application", name="storefront") == [{"name": "storefront"}]


def test_a_role_from_before_the_first_migrate_is_added_with_its_application(database: Database) -> None:
    """As at the first start of a stack whose HOLDFAST_APPLICATIONS names one."""
    script = (ROOT / "postgres" / "application.sql").read_text("utf-8")
    verifier = scram_verifier("secret", b"salt" * 4)
    make = f"\\set name early\n\\set verifier '{verifier}'\n{script}"
    try:
        database.rows("DROP SCHEMA ops CASCADE")
        database.server.psql(database.name, make)
        schema.migrate(database.settings("migrate"))
        (row,) = [row for row in database.run("applications") if row["kind"] == "user"]
        assert (row["name"], row["added_by"], row["database_role"]) == (
            "early",
            "migrate",
            "holdfast_app_early",
        )
        database.server.psql(database.name, make)
        schema.migrate(database.settings("migrate"))
        assert [each for each in database.run("applications") if each["kind"] == "user"] == [row]

        database.server.psql(
            database.name,
            "\\set name early\n" + (ROOT / "postgres" / "remove_application.sql").read_text("utf-8"),
        )
        schema.migrate(database.settings("migrate"))
        assert "early" not in {each["name"] for each in database.run("applications")}, "removed stays removed"
    finally:
        database.server.psql(database.name, "DROP SCHEMA IF EXISTS early; DROP OWNED BY holdfast_app_early")
        database.server.run("DROP ROLE holdfast_app_early")
