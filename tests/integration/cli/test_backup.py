"""Backup and restore against a real server: all of it or nothing, whatever breaks in the middle."""

from __future__ import annotations

import os
import random
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.cli.archive import ArchiveError, examine, written
from holdfast.cli.backup import load, take, workflows_there
from holdfast.installations.native_installation import NativeTools
from holdfast.installations.postgres_tools import SCHEMAS, ToolError
from tests.support import backups
from tests.support.database import Database, Server, wait_until
from tests.support.executors import Peer, insert

NASTY = "tab\tline\nreturn\rback\\slash \\. \\N quote' “ü𝔘” \u2028 COPY x FROM stdin;"
"""What an archive's text form has to escape, or looks like its own syntax."""


def tools_for(database: Database) -> NativeTools:
    """The programs as a native stack's CLI runs them, on a test's database."""
    server = database.server
    state = {
        "postgres": {"port": server.cluster.port, "database": database.name},
        "passfiles": {"migrate": str(server.secrets / "migrate" / "pgpass")},
    }
    return NativeTools(server.home, state)


@pytest.fixture
def tools(database: Database) -> NativeTools:
    return tools_for(database)


@pytest.fixture
def other(server: Server) -> Iterator[Database]:
    """The empty stack's database that a backup goes into."""
    with Database.lent(server) as made:
        yield made


def fill(database: Database, count: int = 40, *, padding: int = 0) -> None:
    """Workflows in every state, with what is awkward to write down."""
    for number in range(count):
        status = ("SUCCESS", "ENQUEUED", "PENDING", "ERROR")[number % 4]
        insert(database, [f"w-{number}"], status=status)
    database.rows(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs)"
        " SELECT workflow_uuid, %(text)s || (SELECT coalesce(string_agg(md5(workflow_uuid || n), ''), '')"
        " FROM generate_series(1, %(words)s) AS n) FROM dbos.workflow_status",
        text=NASTY,
        words=padding // 32,
    )
    database.rows(
        "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)"
        " SELECT workflow_uuid, %(text)s, 'e', 1, 's' FROM dbos.workflow_status",
        text=NASTY,
    )


def tables(database: Database) -> dict[str, str]:
    """A digest of every row of every table."""
    names = database.rows(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables"
        " WHERE schemaname IN ('dbos', 'ops')"
    )
    return {
        row["name"]: database.one(
            f"SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '')"
            f" FROM {row['name']} AS t"
        )
        for row in names
    }


def schema_of(tools: NativeTools) -> list[str]:
    """Everything but the rows, rights and owners included, as pg_dump tells it."""
    with tools.run("pg_dump", "--schema-only") as dump:
        assert dump.stdout is not None
        text = dump.stdout.read().decode()
    # Its key is a random one.
    return [line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


# --- what a backup holds ------------------------------------------------------------------------


def test_restored_is_what_was_there(database: Database, other: Database, tmp_path: Path) -> None:
    """Every row, and after `migrate` the same schema, owners and rights; sequences go on."""
    fill(database)
    contents = take(tools_for(database), tmp_path / "b")
    assert contents.workflows == {"ENQUEUED": 10, "ERROR": 10, "PENDING": 10, "SUCCESS": 10}
    assert contents.unfinished == 20
    before, schema = tables(database), schema_of(tools_for(database))
    assert tables(other) != before
    load(tools_for(other), tmp_path / "b", replace=False)
    assert tables(other) == before
    other.server.migrate(other.name)
    assert schema_of(tools_for(other)) == schema
    newest = other.one("SELECT max(effect_id) FROM ops.effects")
    other.connect(role="worker").cursor().execute(
        "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)"
        " VALUES ('x', 'x', 'e', 1, 's')"
    )
    assert other.one("SELECT effect_id FROM ops.effects WHERE workflow_id = 'x'") == newest + 1


def test_statistics_are_there_after_a_restore(database: Database, other: Database, tmp_path: Path) -> None:
    fill(database)
    take(tools_for(database), tmp_path / "b")
    load(tools_for(other), tmp_path / "b", replace=False)
    assert other.one("SELECT count(*) FROM pg_stats WHERE schemaname = 'dbos' AND attname = 'status'") > 0


def test_all_of_holdfast_is_in_the_schemas_that_are_saved(database: Database) -> None:
    found = database.rows(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$|public$)' ORDER BY 1"
    )
    assert [row["nspname"] for row in found] == sorted(SCHEMAS)
    assert database.one("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    assert database.one("SELECT count(*) FROM pg_extension WHERE extname <> 'plpgsql'") == 0


def test_a_backup_is_one_moment(database: Database, tools: NativeTools, tmp_path: Path) -> None:
    """What one transaction writes into two tables is in both, in each of several backups."""
    stop = threading.Event()

    def write() -> None:
        connection = database.server.admin(database.name)
        cursor = connection.cursor()
        number = 0
        while not stop.is_set():
            number += 1
            cursor.execute(
                "BEGIN; INSERT INTO ops.requests VALUES (%(n)s, '', %(n)s);"
                "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)"
                " VALUES (%(n)s, '', '', 1, ''); COMMIT",
                {"n": str(number)},
            )
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    try:
        for number in range(3):
            wanted = 100 * (number + 1)
            wait_until(lambda n=wanted: database.one("SELECT count(*) FROM ops.effects") > n, "some pairs")
            file = tmp_path / f"b{number}"
            take(tools, file)
            with file.open("rb") as archive, tools.run("pg_restore", "-a", "-f-", stdin=archive) as reader:
                assert reader.stdout is not None
                rows = reader.stdout.read().decode().split("COPY ops.")
            counts = {
                part.partition(" ")[0]: len(part.partition("\\.\n")[0].splitlines()) - 1 for part in rows
            }
            assert counts["effects"] == counts["requests"] > 0
            seen.append(counts["effects"])
    finally:
        stop.set()
        writer.join()
    assert seen[0] < seen[1] < seen[2]


# --- what refuses -------------------------------------------------------------------------------


def test_work_that_is_there_is_not_deleted_unasked(
    database: Database, other: Database, tmp_path: Path
) -> None:
    fill(database)
    take(tools_for(database), tmp_path / "b")
    insert(other, ["mine"], status="SUCCESS")
    before = tables(other)
    assert workflows_there(tools_for(other)) == 1
    with pytest.raises(ToolError, match=r"--replace deletes them; nothing was changed"):
        load(tools_for(other), tmp_path / "b", replace=False)
    assert tables(other) == before
    load(tools_for(other), tmp_path / "b", replace=True)
    assert tables(other) == tables(database)


def test_the_schedules_work_is_nobodys(database: Database, other: Database, tmp_path: Path) -> None:
    """A stack that has just been started has ticks already: it counts as empty."""
    take(tools_for(database), tmp_path / "b")
    insert(other, ["sched-pulse-x"])
    other.rows("UPDATE dbos.workflow_status SET schedule_name = 'pulse'")
    assert workflows_there(tools_for(other)) == 0
    load(tools_for(other), tmp_path / "b", replace=False)
    assert tables(other) == tables(database)


def test_an_unmigrated_database_is_empty(database: Database, other: Database, tmp_path: Path) -> None:
    fill(database)
    take(tools_for(database), tmp_path / "b")
    other.rows("DROP SCHEMA dbos, ops CASCADE")
    assert workflows_there(tools_for(other)) == 0
    load(tools_for(other), tmp_path / "b", replace=False)
    assert tables(other) == tables(database)


def test_whoever_still_works_prevents_it(database: Database, other: Database, tmp_path: Path) -> None:
    take(tools_for(database), tmp_path / "b")
    before = tables(other)
    session = other.connect(role="worker")
    with pytest.raises(ToolError, match=r"still connected.*nothing was changed"):
        load(tools_for(other), tmp_path / "b", replace=False)
    assert tables(other) == before
    threading.Timer(1.0, session.close).start()  # it ends while the restore waits for that
    load(tools_for(other), tmp_path / "b", replace=False)


def test_a_cut_file_is_refused(database: Database, other: Database, tmp_path: Path) -> None:
    """Anywhere: also behind the table of contents, where `pg_restore --list` sees nothing wrong."""
    fill(database, 400)
    take(tools_for(database), tmp_path / "b")
    whole = (tmp_path / "b").read_bytes()
    before = tables(other)
    lengths = [0, 4, 5, 100, len(whole) // 2, len(whole) - 1, *random.sample(range(len(whole)), 6)]
    for length in lengths:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ArchiveError, match=r"no backup|cannot be read to its end"):
            examine(tools_for(other), tmp_path / "cut")
        if length > 4:
            with pytest.raises(ToolError, match="nothing was changed"):
                load(tools_for(other), tmp_path / "cut", replace=True)
    assert tables(other) == before


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("SET ROLE NONE; SET ROLE postgres", "permission denied to set role"),
        ("SET SESSION AUTHORIZATION postgres", "permission denied to set session authorization"),
        ("RESET ROLE; COPY (SELECT 1) TO PROGRAM 'cat >&2'", "permission denied to COPY"),
        (
            "RESET SESSION AUTHORIZATION; SELECT pg_read_file('/etc/hostname')",
            "permission denied for function",
        ),
        ("\\! touch taken", "restricted"),
    ],
)
def test_a_tampered_archive_has_the_migrators_rights(
    database: Database, other: Database, tmp_path: Path, statement: str, refusal: str
) -> None:
    database.rows(backups.PLACEHOLDER)
    take(tools_for(database), tmp_path / "b")
    backups.tamper(tmp_path / "b", statement)
    before = tables(other)
    with pytest.raises(ToolError, match=rf"{refusal}.*nothing was changed"):
        load(tools_for(other), tmp_path / "b", replace=False)
    assert tables(other) == before


def test_other_files_are_refused(tools: NativeTools, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("CREATE TABLE x ();")
    with pytest.raises(ArchiveError, match="no backup"):
        examine(tools, tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        examine(tools, tmp_path / "nowhere")
    dump = ("pg_dump", "--format=custom", "--table=dbos.queues", f"--file={tmp_path / 'foreign'}")
    with tools.run(*dump):
        pass
    with pytest.raises(ArchiveError, match="no backup of Holdfast"):
        examine(tools, tmp_path / "foreign")


def test_archives_of_newer_versions_are_refused(
    database: Database, tools: NativeTools, tmp_path: Path
) -> None:
    contents = take(tools, tmp_path / "b")
    ours = int(tools.ask("SHOW server_version_num"))
    contents.check(ours)
    contents.check(ours + 10_000)
    with pytest.raises(ArchiveError, match="made with PostgreSQL"):
        contents.check(ours - 10_000)
    database.rows("INSERT INTO ops.migrations VALUES ('999_later.sql')")
    with pytest.raises(ArchiveError, match=r"newer Holdfast.*999_later"):
        take(tools, tmp_path / "newer").check(ours)
    database.rows("DELETE FROM ops.migrations WHERE name LIKE '999%'")
    database.rows("UPDATE dbos.dbos_migrations SET version = version + 1")
    with pytest.raises(ArchiveError, match="newer Holdfast"):
        take(tools, tmp_path / "newer_dbos").check(ours)


def test_an_archive_format_of_the_future(tools: NativeTools, tmp_path: Path) -> None:
    take(tools, tmp_path / "b")
    data = bytearray((tmp_path / "b").read_bytes())
    data[6] = 99  # the minor version of the format, after the magic and the major one
    (tmp_path / "b").write_bytes(data)
    with pytest.raises(ArchiveError, match="newer PostgreSQL"):
        examine(tools, tmp_path / "b")


# --- what breaks in the middle ------------------------------------------------------------------


@contextmanager
def half_restored(database: Database, file: Path, fifo: Path) -> Iterator[Callable[[], None]]:
    """A restore that has read half of the file and waits for more; yields what waits for its end."""
    os.mkfifo(fifo)
    data = file.read_bytes()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(load, tools_for(database), fifo, replace=True)
        with fifo.open("wb") as feed:
            feed.write(data[: len(data) // 2])
            feed.flush()
            coming = "FROM pg_stat_progress_copy WHERE tuples_processed > 0 AND datname = current_database()"
            wait_until(lambda: database.rows(f"SELECT pid {coming}"), "rows of the archive come in")

            def end() -> None:
                feed.close()
                running.result(30)

            yield end


def test_a_restore_that_loses_its_file_changes_nothing(
    database: Database, other: Database, tmp_path: Path
) -> None:
    fill(database, 2000, padding=4096)
    take(tools_for(database), tmp_path / "b")
    insert(other, ["mine"], status="SUCCESS")
    before = tables(other)
    half = half_restored(other, tmp_path / "b", tmp_path / "fifo")
    with half as end, pytest.raises(ToolError, match="nothing was changed"):
        end()
    assert tables(other) == before


def test_a_restore_that_loses_its_server_changes_nothing(
    database: Database, other: Database, tmp_path: Path
) -> None:
    fill(database, 2000, padding=4096)
    take(tools_for(database), tmp_path / "b")
    insert(other, ["mine"], status="SUCCESS")
    before = tables(other)
    with half_restored(other, tmp_path / "b", tmp_path / "fifo") as end:
        ended = other.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'holdfast/backup'"
        )
        assert len(ended) == 1
        with pytest.raises(ToolError, match="nothing was changed"):
            end()
    assert tables(other) == before


def test_postgres_is_away(database: Database, tools: NativeTools, tmp_path: Path) -> None:
    tools.state["postgres"]["port"] = 1
    with pytest.raises(ToolError, match="refused"):
        take(tools, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_whose_server_goes_away_leaves_no_file(
    database: Database, tools: NativeTools, tmp_path: Path
) -> None:
    connection = database.admin()
    cursor = connection.cursor()
    cursor.execute("BEGIN; LOCK TABLE ops.effects IN ACCESS EXCLUSIVE MODE")  # the dump waits for it
    with ThreadPoolExecutor() as pool:
        running = pool.submit(take, tools, tmp_path / "b")
        dump = "FROM pg_stat_activity WHERE application_name = 'holdfast/backup' AND wait_event_type = 'Lock'"
        wait_until(lambda: database.rows(f"SELECT pid {dump}"), "the dump waits")
        assert [path.name[:3] for path in tmp_path.iterdir()] == [".b."]
        database.rows(f"SELECT pg_terminate_backend(pid) {dump}")
        with pytest.raises(ToolError, match="terminat"):
            running.result(30)
    assert list(tmp_path.iterdir()) == []


# --- the file -----------------------------------------------------------------------------------


def test_the_file_is_its_owners_alone_and_replaced_only_on_demand(tools: NativeTools, tmp_path: Path) -> None:
    file = tmp_path / "b"
    before = os.umask(0)
    try:
        take(tools, file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_bytes(b"mine")
    with pytest.raises(ArchiveError, match="--force"):
        take(tools, file)
    assert file.read_bytes() == b"mine"
    take(tools, file, force=True)
    assert file.read_bytes().startswith(b"PGDMP")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_two_at_once_write_one_file(tools: NativeTools, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="exists by now"), written(tmp_path / "b", force=False) as slow:
        slow.write_bytes(b"late")
        take(tools, tmp_path / "b")
    assert (tmp_path / "b").read_bytes().startswith(b"PGDMP")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("where", ["missing/b", "."])
def test_where_no_file_can_be_written(tools: NativeTools, tmp_path: Path, where: str) -> None:
    with pytest.raises(ArchiveError, match=r"cannot write|exists"):
        take(tools, tmp_path / where, force=True)


def test_a_full_disk_leaves_the_last_backup(database: Database, tools: NativeTools, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's: the write fails in the middle."""
    fill(database, 2000)
    take(tools, tmp_path / "b")
    before = (tmp_path / "b").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))
    try:
        with pytest.raises(ArchiveError, match="was not written: File too large"):
            take(tools, tmp_path / "b", force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "b").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


# --- after a restore ----------------------------------------------------------------------------


def test_lost_executors_are_blamed_for_nothing(database: Database, other: Database, tmp_path: Path) -> None:
    """Their work is released at the first poll and counts no crash, whatever executors the backup has."""
    peer = Peer.start(database, "worker-old")
    draining = Peer.start(database, "worker-draining")
    database.rows("UPDATE ops.executors SET state = 'draining' WHERE executor_id = 'worker-draining'")
    peer.runs("w-0", "w-1")
    draining.runs("w-2")
    database.rows("UPDATE ops.executors SET heartbeat_at = heartbeat_at - interval '3 days'")
    take(tools_for(database), tmp_path / "b")
    load(tools_for(other), tmp_path / "b", replace=False)
    other.server.migrate(other.name)
    rows = other.rows("SELECT state, reason, in_flight, lost_at = heartbeat_at AS then FROM ops.executors")
    assert [tuple(row.values()) for row in rows] == [("dead", "restored from a backup", 0, True)] * 2
    new = Peer.start(other, "worker-new")
    assert new.round() == []  # nobody to declare dead
    status = other.rows("SELECT status, recovery_attempts FROM dbos.workflow_status")
    assert {row["status"] for row in status} == {"ENQUEUED"}
    assert other.rows("SELECT * FROM ops.crashes") == []
    moves = other.rows(
        "SELECT kind, released_by, lost_at > now() - interval '1 min' AS lately FROM ops.handovers"
    )
    assert [tuple(row.values()) for row in moves] == [("orphan", "worker-new", True)] * 3


def test_another_restore_is_seen(database: Database, other: Database, tmp_path: Path) -> None:
    """Who asked the tables would wait for it."""
    fill(database, 2000, padding=4096)
    take(tools_for(database), tmp_path / "b")
    with half_restored(other, tmp_path / "b", tmp_path / "fifo") as end:
        with pytest.raises(ToolError, match="under way"):
            workflows_there(tools_for(other))
        with pytest.raises(ToolError, match="nothing was changed"):
            end()
    # The server hears of its end a moment later.
    ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'holdfast/backup'"
    wait_until(lambda: not other.rows(ours), "its session ends")
    assert workflows_there(tools_for(other)) == 0
