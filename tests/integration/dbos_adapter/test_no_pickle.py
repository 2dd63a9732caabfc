"""A row marked as pickled is refused, never loaded, wherever a process of ours reads it.

The planted pickle makes a directory when somebody loads it: whatever the process answers, the directory
tells. Planting needs the right to write rows, which every role of Holdfast's has.
"""

from __future__ import annotations

import ast
import base64
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dbos
import dbos._serialization
import pytest
import sqlalchemy as sa
from dbos import DBOS

from holdfast.dbos_adapter.ledger import EffectLedger
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.errors import PickleRefused
from holdfast.installations.embedded import ROOT
from holdfast.postgres.sessions import Sessions
from tests.support import names
from tests.support.api_server import serving
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched, worker_process
from tests.support.executors import Peer, insert, workflow
from tests.support.sources import source_files

QUEUE = "pickle-q"
_SERIALIZATION = "dbos._serialization is not what holdfast/dbos_adapter/serializer.py replaces"
_ledger: list[EffectLedger] = []
_INSERT = sa.text(
    "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256) VALUES (:id, :id, 'e', 1, 'x')"
)


class _MakesDirectory:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


class Trap:
    """A pickle, and whether anybody has loaded it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = base64.b64encode(pickle.dumps(_MakesDirectory(path))).decode("ascii")

    @property
    def sprung(self) -> bool:
        return self.path.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    made = Trap(tmp_path / "loaded")
    yield made
    assert not made.sprung, "somebody has loaded the pickle"


def test_the_trap_works(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "loaded")
    pickle.loads(base64.b64decode(trap.text))
    assert trap.sprung


# --- what DBOS does with such a row -------------------------------------------------------------------


@DBOS.step(name="pickle.step")
def _step() -> int:
    return 1


@DBOS.workflow(name="pickle.steps", max_recovery_attempts=None)
def _steps() -> int:
    return _step()


@DBOS.workflow(name="pickle.result", max_recovery_attempts=None)
def _result(other: str) -> Any:
    return DBOS.retrieve_workflow(other, existing_workflow=False).get_result(polling_interval_sec=0.05)


@DBOS.workflow(name="pickle.event", max_recovery_attempts=None)
def _event(other: str) -> Any:
    return DBOS.get_event(other, "key", timeout_seconds=5)


@DBOS.workflow(name="pickle.message", max_recovery_attempts=None)
def _message() -> Any:
    return DBOS.recv("topic", timeout_seconds=5)


@DBOS.workflow(name="pickle.stream", max_recovery_attempts=None)
def _stream(other: str) -> Any:
    return list(DBOS.read_stream(other, "key"))


@DBOS.workflow(name="pickle.effect", max_recovery_attempts=None)
def _effect() -> str:
    datasource = _ledger[0].datasource

    @datasource.transaction(name="pickle.transaction", isolation_level="READ COMMITTED")
    def write(workflow_id: str) -> str:
        datasource.sql_session().execute(_INSERT, {"id": workflow_id})
        return workflow_id

    return write(str(DBOS.workflow_id))


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    settings = database.settings()
    sessions = Sessions(settings, purpose="holdfast/worker-engine/trips", size=2)

    def prepare() -> None:
        effects = "holdfast/worker-engine/effects"
        _ledger[:] = [EffectLedger(settings, sessions, application="holdfast-worker", purpose=effects)]

    with launched(database, queues=[QUEUE], prepare=prepare) as made:
        made.queue(QUEUE)
        yield made
    _ledger[0].datasource.engine.dispose()
    sessions.close()


def planted(database: Database, workflow_id: str, **columns: Any) -> None:
    """A finished workflow whose row says that its payloads are pickles."""
    insert(database, [workflow_id], **{"status": "SUCCESS", "serialization": "py_pickle", **columns})


def payload(database: Database, table: str, column: str, workflow_id: str, text: str) -> None:
    database.rows(
        f"INSERT INTO dbos.{table} (workflow_uuid, {column}) VALUES (%(id)s, %(text)s)",
        id=workflow_id,
        text=text,
    )


def refused(app: Launched, workflow_id: str) -> None:
    """It ends as ERROR that names the refusal, at once, and nobody counts it as a crash."""
    app.waker.wake(QUEUE)
    app.wait(workflow_id, "ERROR")
    error = app.database.one(
        "SELECT error FROM dbos.workflow_output WHERE workflow_uuid = %(id)s", id=workflow_id
    )
    assert "PickleRefused" in error
    assert app.database.rows("SELECT * FROM ops.crashes") == []
    with pytest.raises(Exception, match="never loaded here"):
        app.client.retrieve_workflow(workflow_id).get_result()


def alive(app: Launched) -> None:
    """The queue's thread goes on."""
    app.enqueue("pickle.steps", queue=QUEUE, workflow_id="healthy")
    app.waker.wake(QUEUE)
    app.wait("healthy")


def test_a_workflow_with_a_pickled_input_ends_as_an_error(app: Launched, trap: Trap) -> None:
    columns = {"name": "pickle.steps", "queue_name": QUEUE}
    planted(app.database, "w", **columns)
    payload(app.database, "workflow_input", "inputs", "w", trap.text)
    app.database.rows("UPDATE dbos.workflow_status SET status = 'ENQUEUED' WHERE workflow_uuid = 'w'")
    refused(app, "w")
    assert workflow(app.database, "w")["recovery_attempts"] == 2, "claimed once, not again and again"
    alive(app)


def test_a_pickled_input_that_runs_on_a_dead_executor(app: Launched, trap: Trap) -> None:
    """The takeover puts it back into its queue; who claims it, ends it, and it is not taken for poison."""
    dead = Peer.start(app.database, "worker-dead")
    dead.runs("w", name="pickle.steps", queue_name=QUEUE, serialization="py_pickle")
    payload(app.database, "workflow_input", "inputs", "w", trap.text)
    dead.die()
    app.peer.poll_twice()
    app.waker.wake(QUEUE)
    app.wait("w", "ERROR")
    assert workflow(app.database, "w")["recovery_attempts"] == 2
    alive(app)


def test_a_pickled_step_is_not_replayed(app: Launched, trap: Trap) -> None:
    for column in ("output", "error"):
        # On its queue once all of it is there.
        insert(app.database, [column], name="pickle.steps", queue_name="q", serialization="portable_json")
        payload(app.database, "workflow_input", "inputs", column, '{"positionalArgs":[],"namedArgs":{}}')
        app.database.rows(
            f"INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, {column},"
            " serialization) VALUES (%(id)s, 1, 'pickle.step', %(text)s, 'py_pickle')",
            id=column,
            text=trap.text,
        )
        app.database.rows(f"UPDATE dbos.workflow_status SET queue_name = '{QUEUE}' WHERE queue_name = 'q'")
        refused(app, column)
        [step] = app.client.list_workflow_steps(column)
        assert trap.text in (step["output"], step["error"])
    alive(app)


@pytest.mark.parametrize(("status", "column"), [("SUCCESS", "output"), ("ERROR", "error")])
def test_a_pickled_result_is_not_awaited(app: Launched, trap: Trap, status: str, column: str) -> None:
    planted(app.database, "other", status=status)
    payload(app.database, "workflow_output", column, "other", trap.text)
    app.enqueue("pickle.result", "other", queue=QUEUE, workflow_id="w")
    refused(app, "w")
    with pytest.raises(PickleRefused):
        app.client.retrieve_workflow("other").get_result()


def test_pickled_events_messages_and_streams_are_not_read(app: Launched, trap: Trap) -> None:
    planted(app.database, "other")
    text = {"text": trap.text}
    app.database.rows(
        "INSERT INTO dbos.workflow_events (workflow_uuid, key, value, serialization)"
        " VALUES ('other', 'key', %(text)s, 'py_pickle')",
        **text,
    )
    app.database.rows(
        'INSERT INTO dbos.streams (workflow_uuid, key, value, "offset", function_id, serialization)'
        " VALUES ('other', 'key', %(text)s, 0, 1, 'py_pickle')",
        **text,
    )
    for name in ("event", "stream"):
        app.enqueue(f"pickle.{name}", "other", queue=QUEUE, workflow_id=name)
        refused(app, name)
    # Nothing of Holdfast's receives messages, so its roles may not; DBOS would still read one.
    app.database.rows("GRANT UPDATE ON dbos.notifications TO holdfast_worker")
    app.enqueue("pickle.message", queue=QUEUE, workflow_id="message")
    app.database.rows(
        "INSERT INTO dbos.notifications (destination_uuid, topic, message, serialization)"
        " VALUES ('message', 'topic', %(text)s, 'py_pickle')",
        **text,
    )
    refused(app, "message")
    for read in (
        lambda: app.client.get_event("other", "key", 1),
        lambda: list(app.client.read_stream("other", "key")),
    ):
        with pytest.raises(PickleRefused):
            read()


def test_the_ledgers_datasource_does_not_replay_a_pickled_effect(app: Launched, trap: Trap) -> None:
    app.enqueue("pickle.effect", queue=QUEUE, workflow_id="first")
    app.waker.wake(QUEUE)
    app.wait("first")
    [step] = app.client.list_workflow_steps("first")
    app.database.rows(
        "INSERT INTO dbos.datasource_outputs (workflow_id, step_id, output, serialization)"
        " VALUES ('w', %(step)s, %(text)s, 'py_pickle')",
        step=step["function_id"],
        text=trap.text,
    )
    app.enqueue("pickle.effect", queue=QUEUE, workflow_id="w")
    refused(app, "w")
    assert app.database.one("SELECT count(*) FROM ops.effects") == 1


def test_a_whole_worker_outlives_a_planted_row(database: Database, trap: Trap) -> None:
    """With everything that a worker runs; the name is one that it knows, and the queue its own."""
    columns = {"name": names.PULSE_TICK, "queue_name": names.PULSE_QUEUE, "serialization": "py_pickle"}
    insert(database, ["input"], **columns)
    payload(database, "workflow_input", "inputs", "input", trap.text)
    dead = Peer.start(database, "worker-dead")
    dead.runs("running", **columns)
    payload(database, "workflow_input", "inputs", "running", trap.text)
    with worker_process(database) as process:
        wait_until(lambda: workflow(database, "input")["status"] == "ERROR", "the queued one ends")
        dead.die()
        wait_until(lambda: workflow(database, "running")["status"] == "ERROR", "the orphan ends", seconds=20)
        before = database.one("SELECT count(*) FROM ops.pulses")
        wait_until(
            lambda: database.one("SELECT count(*) FROM ops.pulses") > before, "pulses go on", seconds=15
        )
        assert process.ready()[0]
    parked = database.one(
        "SELECT count(*) FROM dbos.workflow_status WHERE status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'"
    )
    assert parked == 0


# --- what the API shows -----------------------------------------------------------------------------


def test_the_api_says_that_planted_rows_are_pickles(database: Database, trap: Trap) -> None:
    said = f"stored as pickle, readable only by the application ({len(trap.text)} bytes)"
    planted(database, "ended", name=names.FIBONACCI_BATCH)
    planted(database, "failed", name=names.NESTED_ROOT, status="ERROR", application_name="holdfast-api")
    for workflow_id in ("ended", "failed"):
        payload(database, "workflow_input", "inputs", workflow_id, trap.text)
    payload(database, "workflow_output", "output", "ended", trap.text)
    payload(database, "workflow_output", "error", "failed", trap.text)
    database.rows(
        "INSERT INTO dbos.operation_outputs"
        " (workflow_uuid, function_id, function_name, output, serialization)"
        " VALUES ('ended', 1, 's', %(text)s, 'py_pickle')",
        text=trap.text,
    )
    with serving(database.settings("api")) as api:

        def read(path: str) -> Any:
            answer = api.http.get(path)
            assert answer.status_code == 200, (path, answer.text)
            return answer.json()

        shown = read("/workflows/ended")
        assert (shown["input"], shown["output"]) == (said, said)
        assert read("/workflows/failed")["error"] == said
        assert len(read("/workflows")["workflows"]) == 2
        assert read("/workflows/ended/steps")["steps"][0]["output"] == said
        assert read("/fibonacci/batches/ended")["results"] == []
        assert read("/console/snapshot")
        assert read("/console/workflows/ended/tree")
        forked = api.http.post("/workflows/failed/fork", json={})
        assert forked.status_code == 202
        assert read(f"/workflows/{forked.json()['workflow_id']}")["status"] == "ENQUEUED"


def test_the_dbos_command_of_the_image_loads_none(database: Database, trap: Trap) -> None:
    planted(database, "w")
    payload(database, "workflow_input", "inputs", "w", trap.text)
    payload(database, "workflow_output", "output", "w", trap.text)
    database.rows(
        "INSERT INTO dbos.operation_outputs"
        " (workflow_uuid, function_id, function_name, output, serialization)"
        " VALUES ('w', 1, 's', %(text)s, 'py_pickle')",
        text=trap.text,
    )
    environment = {**os.environ, **database.server.environment(database.name, "api")}
    for arguments in (["get", "w"], ["list"], ["steps", "w"]):
        command = [sys.executable, "-m", "holdfast.cli.dbos_command", "workflow", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert trap.text[:20] in done.stdout or arguments == ["list"], done.stdout
        assert not trap.sprung, arguments
    written = (ROOT / "Dockerfile").read_text("utf-8")
    assert "from holdfast.cli.dbos_command import main" in written
    assert "> /opt/holdfast/bin/dbos " in written


# --- what it rests on -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deserialize_value", "deserialize_args", "deserialize_exception"])
def test_every_way_to_load_is_refused(trap: Trap, name: str) -> None:
    serializer = json_serializer()
    with pytest.raises(PickleRefused):
        getattr(dbos._serialization, name)(trap.text, "py_pickle", serializer)
    with pytest.raises(PickleRefused):
        dbos._serialization.DBOSDefaultSerializer.deserialize(trap.text)
    with pytest.raises(PickleRefused):
        dbos._serialization.serialize_value_as([1], "py_pickle", serializer)


def test_dbos_pickles_in_one_place_only() -> None:
    """The two methods that are replaced are the only ones that know how to load or make a pickle."""
    package = Path(dbos.__file__).parent
    loaders = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
    importers = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            imported: list[str] = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            if loaders & {name.partition(".")[0] for name in imported}:
                importers.add(str(file.relative_to(package)))
    assert importers == {"_serialization.py"}, _SERIALIZATION

    tree = ast.parse((package / "_serialization.py").read_text("utf-8"))
    (kind,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "DefaultSerializer")
    methods = {n.name: n for n in kind.body if isinstance(n, ast.FunctionDef)}

    def uses(node: ast.AST) -> int:
        return sum(isinstance(n, ast.Name) and n.id == "pickle" for n in ast.walk(node))

    replaced = uses(methods["serialize"]) + uses(methods["deserialize"])
    assert uses(tree) == replaced == 2, _SERIALIZATION
    subclasses = dbos._serialization.DefaultSerializer.__subclasses__()
    assert subclasses == [], _SERIALIZATION


def test_nothing_of_ours_has_another_serializer() -> None:
    """Whoever makes a client, an application or a datasource gives it the one that refuses pickles."""
    makers = 0
    for file in source_files():
        text = file.read_text("utf-8")
        if file.name != "serializer.py":
            assert not re.search(r"DBOS\w*Serializer\b", text), f"{file.name}: use json_serializer()"
        made = len(re.findall(r"\bDBOSClient\(|\bDBOS\(config=|SQLAlchemyDatasource\.create\(", text))
        given = len(re.findall(r"""serializer=json_serializer\(\)|"serializer": json_serializer\(\)""", text))
        assert made == given, f"{file.name} makes {made}, and gives {given} of them the serializer"
        makers += made
    assert makers >= 4
