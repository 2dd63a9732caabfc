"""The effect ledger: one row a workflow, whatever happens between effect, marker and checkpoint."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from dbos import DBOS

from holdfast.dbos_adapter.ledger import EffectLedger
from holdfast.postgres.database import query, transaction
from holdfast.postgres.sessions import Sessions
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched
from tests.support.executors import insert, workflow

QUEUE = "ledger-q"


@dataclass
class Scene:
    """What the workflow of this module does, execution by execution."""

    ledger: EffectLedger | None = None
    executions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    hold_before: set[str] = field(default_factory=set)
    hold_after: set[str] = field(default_factory=set)
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    went_on: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


_scene = Scene()


@DBOS.workflow(name="ledger.effect", max_recovery_attempts=None)
def _effect() -> str:
    scene, workflow_id = _scene, str(DBOS.workflow_id)
    scene.executions[workflow_id] += 1
    first = scene.executions[workflow_id] == 1
    try:
        if first and workflow_id in scene.hold_before:
            scene.held.release()
            scene.go_on.wait(60)
        assert scene.ledger is not None
        key = scene.ledger.record(
            "effect", executor_id=f"execution-{scene.executions[workflow_id]}", n=1, sha256="x"
        )
        scene.went_on.append(workflow_id)
        if first and workflow_id in scene.hold_after:
            scene.held.release()
            scene.go_on.wait(60)
        return key
    finally:
        scene.ended.append(workflow_id)


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    global _scene  # noqa: PLW0603
    _scene = Scene()
    settings = database.settings()
    sessions = Sessions(settings, purpose="holdfast/worker-engine/trips", size=4)

    def prepare() -> None:
        _scene.ledger = EffectLedger(
            settings, sessions, application="holdfast-worker", purpose="holdfast/worker-engine/effects"
        )

    with launched(database, queues=[QUEUE], prepare=prepare) as made:
        made.queue(QUEUE, worker_concurrency=None)
        yield made
        _scene.go_on.set()
    assert _scene.ledger is not None
    _scene.ledger.datasource.engine.dispose()
    sessions.close()


def start(app: Launched, workflow_id: str) -> None:
    app.enqueue("ledger.effect", queue=QUEUE, workflow_id=workflow_id)
    app.waker.wake(QUEUE)


def take_over(app: Launched, workflow_id: str) -> None:
    """Releases it from this executor; the same process then claims it for a second execution."""
    with transaction(app.database.connect()) as connection:
        released = query(connection, "release_work", executor_id=app.identity.executor_id,
                         workflow_ids=[workflow_id], queues=[QUEUE], waits=[False])  # fmt: skip
    assert released
    app.waker.wake(QUEUE)


def effects(app: Launched) -> list[tuple[str, str]]:
    rows = app.database.rows("SELECT workflow_id, effect_key FROM ops.effects ORDER BY effect_id")
    return [(row["workflow_id"], row["effect_key"]) for row in rows]


def ends(app: Launched, workflow_id: str, executions: int) -> None:
    app.wait(workflow_id)
    wait_until(lambda: _scene.executions[workflow_id] == executions, "so many executions began")
    assert effects(app) == [(workflow_id, f"{workflow_id}:effect")]
    steps = app.database.rows(
        "SELECT function_name FROM dbos.operation_outputs WHERE workflow_uuid = %(id)s", id=workflow_id
    )
    assert [step["function_name"] for step in steps] == ["effects.record"]


def test_one_workflow_one_effect(app: Launched) -> None:
    start(app, "plain")
    ends(app, "plain", executions=1)


def test_many_at_once(app: Launched) -> None:
    ids = [f"many-{n}" for n in range(30)]
    for workflow_id in ids:
        app.enqueue("ledger.effect", queue=QUEUE, workflow_id=workflow_id)
    app.waker.wake(QUEUE)
    for workflow_id in ids:
        app.wait(workflow_id)
    assert sorted(effects(app)) == sorted((w, f"{w}:effect") for w in ids)


def test_taken_over_after_the_effect(app: Launched) -> None:
    """The step is recorded: the second execution replays it."""
    _scene.hold_after.add("w")
    start(app, "w")
    assert _scene.held.acquire(timeout=30)
    take_over(app, "w")
    ends(app, "w", executions=2)


def test_an_answer_that_is_lost(app: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Effect and record are committed, and nobody hears of it: the next try finds them."""
    assert _scene.ledger is not None
    sessions = _scene.ledger._sessions
    original, answers = sessions.run, 0

    def lossy(name: str, **params: object) -> list[dict[str, object]]:
        nonlocal answers
        rows = original(name, **params)
        answers += name == "record_effect"
        if answers == 1:
            lost = psycopg.OperationalError("server closed the connection unexpectedly")
            raise sa.exc.OperationalError(name, None, lost, connection_invalidated=True)
        return rows

    monkeypatch.setattr(sessions, "run", lossy)
    start(app, "w")
    ends(app, "w", executions=1)
    assert answers == 2


def test_taken_over_before_the_record_that_follows(app: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    """DBOS's own record of the step comes late, when another execution has ended the workflow."""
    original = app.dbos._sys_db.record_operation_result
    reached, go_on = threading.Event(), threading.Event()

    def slow(*args: object, **kwargs: object) -> object:
        if not reached.is_set():
            reached.set()
            go_on.wait(60)
        return original(*args, **kwargs)

    monkeypatch.setattr(app.dbos._sys_db, "record_operation_result", slow)
    start(app, "w")
    assert reached.wait(30)
    assert len(effects(app)) == 1
    assert app.database.one("SELECT count(*) FROM dbos.operation_outputs") == 1, "recorded with its effect"
    take_over(app, "w")
    ends(app, "w", executions=2)
    go_on.set()
    wait_until(lambda: len(_scene.ended) == 2, "the first execution ends", seconds=10)
    ends(app, "w", executions=2)


def test_a_zombie_that_comes_when_all_is_over(app: Launched) -> None:
    """Its markers are deleted with the workflow's success, so only ownership can stop it."""
    _scene.hold_before.add("w")
    start(app, "w")
    assert _scene.held.acquire(timeout=30)
    take_over(app, "w")
    app.wait("w")
    assert app.database.one("SELECT count(*) FROM dbos.datasource_outputs") == 0
    before = workflow(app.database, "w")
    _scene.go_on.set()
    wait_until(lambda: len(_scene.ended) == 2, "the zombie ends", seconds=10)
    ends(app, "w", executions=2)
    assert workflow(app.database, "w") == before
    assert app.database.one("SELECT executor_id FROM ops.effects") == "execution-2"


def test_a_zombie_that_comes_first_goes_no_further(app: Launched) -> None:
    """What follows the effect would be done twice."""
    _scene.hold_before.add("w")
    start(app, "w")
    assert _scene.held.acquire(timeout=30)
    app.database.rows("UPDATE dbos.workflow_status SET owner_xid = 'another' WHERE workflow_uuid = 'w'")
    _scene.go_on.set()
    wait_until(lambda: _scene.ended == ["w"], "the zombie ends")
    assert (_scene.went_on, effects(app)) == ([], [])


def test_a_zombie_and_the_owner_at_the_same_moment(app: Launched) -> None:
    _scene.hold_before.add("w")
    start(app, "w")
    assert _scene.held.acquire(timeout=30)
    take_over(app, "w")
    _scene.go_on.set()
    ends(app, "w", executions=2)
    wait_until(lambda: len(_scene.ended) == 2, "both end", seconds=10)
    ends(app, "w", executions=2)


def test_a_session_that_ends_inside_the_transaction(app: Launched) -> None:
    """Neither effect nor marker: it is written again, once."""
    app.database.rows(
        "CREATE SEQUENCE ops.tries; GRANT USAGE ON SEQUENCE ops.tries TO holdfast_worker;"
        "CREATE FUNCTION ops.cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('ops.tries') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;"
        " RETURN NULL; END $$;"
        "CREATE TRIGGER cut AFTER INSERT ON ops.effects FOR EACH ROW EXECUTE FUNCTION ops.cut()"
    )
    start(app, "w")
    ends(app, "w", executions=1)
    assert app.database.one("SELECT last_value FROM ops.tries") == 3


def test_only_inside_a_workflow(app: Launched) -> None:
    assert _scene.ledger is not None
    with pytest.raises(RuntimeError, match="belongs to a workflow"):
        _scene.ledger.record("effect", executor_id="x", n=1, sha256="x")
    assert effects(app) == []


def test_who_does_not_own_the_workflow_writes_nothing(database: Database) -> None:
    """A zombie that comes first: the owner has neither an effect nor a record yet to run into."""
    insert(database, ["w"], status="PENDING", owner_xid="owner")

    def record(owner_xid: str) -> list[dict[str, Any]]:
        return database.run(
            "record_effect",
            workflow_uuid="w",
            owner_xid=owner_xid,
            function_id=2,
            function_name="effects.record",
            output="{}",
            serialization=None,
            application="holdfast-worker",
            effect_key="w:effect",
            executor_id=owner_xid,
            n=1,
            sha256="0",
        )

    assert record("zombie") == []
    assert database.one("SELECT count(*) FROM ops.effects") == 0
    assert database.one("SELECT count(*) FROM dbos.operation_outputs") == 0
    assert record("owner") == [{"written": True}]
    assert record("owner") == [{"written": False}]
    assert database.one("SELECT executor_id FROM ops.effects") == "owner"
