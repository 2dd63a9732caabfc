"""Ticks that nobody scheduled: found wherever they are missing, scheduled once, within the window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from dbos import DBOS

from services.runtime.database import OpsPool
from services.runtime.engine import guard_schedule
from services.runtime.resources import Resources, provide
from services.workflows import names
from services.workflows.composition import Worker
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched, worker_process
from tests.support.executors import Peer, insert

TICK = timedelta(seconds=names.PULSE_SECONDS)


def grid_now(database: Database) -> datetime:
    """The newest point of the grid."""
    at = int(database.one("SELECT extract(epoch FROM clock_timestamp())::float8"))
    return datetime.fromtimestamp(at - at % names.PULSE_SECONDS, UTC)


def pulses(database: Database, *moments: datetime) -> None:
    for moment in moments:
        database.rows(
            "INSERT INTO ops.pulses (scheduled_at, workflow_id, executor_id, lateness_seconds, status,"
            " queue_depth, live_executors) VALUES (%(at)s, %(id)s, 'w', 0, 'run', 0, 1)",
            at=moment,
            id=f"sched-pulse-{moment.isoformat()}",
        )


def missed(database: Database, window_seconds: float = 60) -> list[datetime]:
    rows = database.run(
        "missed_ticks",
        schedule=names.PULSE_SCHEDULE,
        tick_seconds=names.PULSE_SECONDS,
        window_seconds=window_seconds,
    )
    return [row["scheduled_at"].astimezone(UTC) for row in rows]


def test_a_hole_before_the_newest_tick_is_seen(database: Database) -> None:
    """Every worker was down; the next one fired a tick before it looked back."""
    now = grid_now(database)
    pulses(database, *(now - TICK * n for n in (8, 7, 4, 0)))
    assert [moment for moment in missed(database) if moment <= now] == [
        now - TICK * n for n in (6, 5, 3, 2, 1)
    ]


def test_the_first_tick_ever_and_the_window_bound_it(database: Database) -> None:
    now = grid_now(database)
    assert missed(database) == [], "nothing was missed before the first tick ever"
    pulses(database, now)
    assert [moment for moment in missed(database) if moment <= now] == []
    pulses(database, now - TICK * 1000)
    found = missed(database, window_seconds=20)
    assert 3 <= len(found) <= 5
    assert min(found) >= now - timedelta(seconds=20)


def test_a_tick_that_is_still_to_run_is_not_missed(database: Database) -> None:
    now = grid_now(database)
    pulses(database, now - TICK * 3, now)
    insert(database, [f"sched-pulse-{(now - TICK).isoformat()}"], name=names.PULSE_TICK)
    assert [moment for moment in missed(database) if moment <= now] == [now - TICK * 2]


@pytest.fixture
def worker(database: Database) -> Iterator[tuple[Launched, Resources]]:
    """A launched worker whose own schedule stands still."""
    settings = database.settings()
    with launched(database, prepare=lambda: Worker().prepare(settings)) as app:
        ops = OpsPool(settings, purpose="test")
        resources = Resources(settings, app.peer.id, ops, app.waker)
        provide(resources)
        Worker().register(settings)
        DBOS.pause_schedule(names.PULSE_SCHEDULE)
        try:
            yield app, resources
        finally:
            provide(None)
            ops.close()


def rows(database: Database) -> list[datetime]:
    found = database.rows("SELECT scheduled_at FROM ops.pulses ORDER BY 1")
    return [row["scheduled_at"].astimezone(UTC) for row in found]


def test_a_worker_fills_the_hole_once(worker: tuple[Launched, Resources]) -> None:
    app, resources = worker
    now = grid_now(app.database)
    pulses(app.database, now - TICK * 9, now)
    threads = [
        threading.Thread(target=Worker().catch_up, args=(resources.settings, resources)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = [now - TICK * n for n in range(9, -1, -1)]
    wait_until(
        lambda: set(wanted) <= set(rows(app.database)), "every tick of the hole has its row", seconds=20
    )
    assert len(rows(app.database)) == len(set(rows(app.database)))
    ids = app.database.rows("SELECT workflow_uuid FROM dbos.workflow_status WHERE schedule_name = 'pulse'")
    filled = [f"sched-pulse-{moment.isoformat()}" for moment in wanted[1:-1]]
    assert sum(row["workflow_uuid"] in filled for row in ids) == len(filled)


def test_whoever_fires_a_tick_looks_back(worker: tuple[Launched, Resources]) -> None:
    """The start's look came too early, or a tick was dropped: the next tick mends it, and only once."""
    app, resources = worker
    now = grid_now(app.database)
    pulses(app.database, now - TICK * 4)
    looks: list[int] = []

    def look_back() -> None:
        looks.append(1)
        Worker().catch_up(resources.settings, resources)

    guard_schedule(lambda: datetime.now(UTC), early_seconds=2, late_seconds=65, on_tick=look_back)
    second = timedelta(seconds=1)
    DBOS.backfill_schedule(names.PULSE_SCHEDULE, now - second, now + second)
    wait_until(lambda: {now - TICK * n for n in range(5)} <= set(rows(app.database)), "the hole is filled")
    assert len(looks) == 1, "what it schedules itself makes it look again"


def test_a_tick_that_is_dropped_looks_at_nothing(worker: tuple[Launched, Resources]) -> None:
    """With a wrong clock nothing at all is scheduled."""
    app, _ = worker
    looks: list[int] = []
    guard_schedule(
        lambda: datetime.now(UTC) + timedelta(seconds=30),
        early_seconds=2,
        late_seconds=65,
        on_tick=lambda: looks.append(1),
    )
    now, second = grid_now(app.database), timedelta(seconds=1)
    DBOS.backfill_schedule(names.PULSE_SCHEDULE, now - second, now + second)
    assert (looks, [moment for moment in rows(app.database) if moment == now]) == ([], [])


def test_a_worker_fills_holes_at_its_start_and_ever_after(database: Database) -> None:
    """Seen in a campaign: both workers were down for two ticks, and the first to start fired the third
    before it looked back."""
    begun = grid_now(database)
    pulses(database, begun - TICK * 5, begun, begun + TICK)
    with worker_process(database):
        before = {begun - TICK * n for n in range(1, 5)}
        wait_until(lambda: before <= set(rows(database)), "the hole is filled", seconds=20)
        # What a look at start cannot know: a tick that is missing only later.
        database.rows("DELETE FROM ops.pulses WHERE scheduled_at = %(at)s", at=begun)
        wait_until(lambda: begun in rows(database), "the next tick fills it", seconds=20)


# --- the version that scheduled work is for -----------------------------------------------------------


def register(database: Database, *versions: str, application: str = "holdfast-worker") -> None:
    """Versions in the order in which they came, each the latest at its time."""
    for version in versions:
        database.rows(
            "INSERT INTO dbos.application_versions (version_id, version_name, application_name,"
            " version_timestamp, created_at)"
            " SELECT gen_random_uuid(), %(version)s, %(application)s, t.at, t.at"
            " FROM (SELECT greatest((extract(epoch FROM clock_timestamp()) * 1000)::bigint,"
            " 1 + (SELECT max(version_timestamp) FROM dbos.application_versions)) AS at) AS t",
            version=version,
            application=application,
        )


def latest(database: Database, application: str = "holdfast-worker") -> str:
    """As DBOS looks for it."""
    return str(
        database.one(
            "SELECT version_name FROM dbos.application_versions WHERE application_name = %(application)s"
            " ORDER BY version_timestamp DESC LIMIT 1",
            application=application,
        )
    )


def settled(database: Database, *, starting: bool = False) -> str:
    database.run("settle_latest_version", application="holdfast-worker", starting=starting)
    return latest(database)


@pytest.mark.timing
def test_ticks_after_a_roll_back_go_to_the_version_that_runs(database: Database) -> None:
    """A newer worker registered its version, was bad and was removed: its version stays the latest."""
    with worker_process(database):
        register(database, "worker-2")
        assert latest(database) == "worker-2"
        begun = database.one("SELECT clock_timestamp()")
        wait_until(
            lambda: database.rows(
                "SELECT 1 FROM ops.pulses WHERE status = 'run' AND scheduled_at > %(begun)s", begun=begun
            ),
            "a tick that came afterwards ran",
            seconds=15,
        )
        assert latest(database) == "worker-1"
        assert database.run("stranded", lease_seconds=5) == []


def test_a_version_that_lives_stays_the_latest(database: Database) -> None:
    register(database, "worker-1", "worker-2")
    Peer.start(database, "old")
    canary = Peer.start(database, "canary", version="worker-2")
    assert settled(database) == "worker-2"
    canary.silent(3600)
    assert settled(database) == "worker-2", "after an outage every heartbeat is old"
    database.run("beat", executor_id=canary.id, in_flight=0, state="draining")
    assert settled(database) == "worker-1", "who drains claims nothing"


def test_the_newest_of_the_living_becomes_the_latest(database: Database) -> None:
    """Whoever fires the tick."""
    register(database, "worker-0", "worker-1", "worker-2")
    register(database, "api-7", application="holdfast-api")
    Peer.start(database, "older", version="worker-0")
    Peer.start(database, "old")
    Peer.start(database, "api", application="holdfast-api", version="api-7")
    assert settled(database) == "worker-1"
    assert latest(database, "holdfast-api") == "api-7"


def test_a_newer_version_that_comes_again_is_the_latest_again(database: Database) -> None:
    """DBOS registers a version once: a second try of it would get no tick while old workers live."""
    register(database, "worker-0", "worker-1")
    Peer.start(database, "old", version="worker-0")
    assert settled(database) == "worker-0"
    with worker_process(database):
        assert latest(database) == "worker-1"
    assert settled(database, starting=True) == "worker-0", "the newer one has gone once more"


def test_an_old_version_that_starts_beside_a_newer_one_changes_nothing(database: Database) -> None:
    register(database, "worker-1", "worker-2")
    Peer.start(database, "canary", version="worker-2")
    with worker_process(database):
        assert latest(database) == "worker-2"
