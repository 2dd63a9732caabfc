"""The command line against a stand-in for the API: what it prints, and which exit code says what."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.audit.findings import make_finding
from holdfast.cli import archive, backup, checks, main, messages, retention, shown, watch
from holdfast.installations import (
    compose_installation,
    detection,
    embedded,
    native_installation,
    postgres_tools,
)
from holdfast.installations.compose_installation import ComposeInstallation
from holdfast.installations.detection import InsideContainer
from holdfast.installations.installation import NothingRunsError

EXECUTORS = [
    {
        "executor_id": f"worker-a-{state}",
        "application": "holdfast-worker",
        "role": "worker",
        "state": state,
        "hostname": "a",
        "pid": 1,
        "heartbeat_age_seconds": 0.5,
        "slots": 2,
        "in_flight": 1,
        "taken_over_by": None,
        "reason": None,
    }
    for state in ("live", "dead")
]


class Fake:
    """Answers by path; ``asked`` are the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                path = self.path.partition("?")[0]
                fake.asked.append((f"{self.command} {path}", body, dict(self.headers)))
                answers = fake.answers[path]
                status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
                text = answer if isinstance(answer, str) else json.dumps(answer)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def api() -> Iterator[Fake]:
    fake = Fake()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def run(*words: str, url: str = "") -> Any:
    return CliRunner().invoke(main.app, list(words), env={"HOLDFAST_URL": url or "http://127.0.0.1:9"})


def batch(status: str, completed: int) -> dict[str, Any]:
    return {
        "workflow_id": "b",
        "status": status,
        "total": 2,
        "completed": completed,
        "results": [],
        "error": None,
    }


def test_executors_lists_the_living(api: Fake) -> None:
    api.answers["/executors"] = [(200, {"executors": EXECUTORS})]
    living = json.loads(run("executors", "--json", url=api.url).stdout)["executors"]
    assert [row["state"] for row in living] == ["live"]
    everyone = json.loads(run("executors", "--json", "--all", url=api.url).stdout)["executors"]
    assert len(everyone) == 2
    human = run("executors", url=api.url)
    assert human.exit_code == 0
    assert "worker-a-live" in human.stdout


def test_submit_sends_a_key_and_the_body(api: Fake) -> None:
    api.answers["/fibonacci/batches"] = [(202, {"workflow_id": "b", "status": "ENQUEUED", "total": 2})]
    done = run("submit", "--numbers", "3,4", "--method", "doubling", "--key", "k", "--json", url=api.url)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["workflow_id"] == "b"
    asked, body, headers = api.asked[0]
    assert asked == "POST /fibonacci/batches"
    assert body == {"numbers": [3, 4], "method": "doubling", "sequential": False}
    assert headers["Idempotency-Key"] == "k"


@pytest.mark.parametrize(("status", "code"), [("SUCCESS", 0), ("ERROR", 1), ("CANCELLED", 1)])
def test_submit_waits_through_an_outage_and_shows_the_outcome(api: Fake, status: str, code: int) -> None:
    api.answers["/fibonacci/batches"] = [(202, {"workflow_id": "b", "status": "ENQUEUED", "total": 2})]
    away = (503, {"detail": "PostgreSQL does not answer."})
    api.answers["/fibonacci/batches/b"] = [(200, batch("PENDING", 1)), away, (200, batch(status, 2))]
    done = run("submit", "--count", "2", "--wait", "--json", url=api.url)
    assert done.exit_code == code
    assert json.loads(done.stdout)["status"] == status


def test_submit_gives_up_at_the_timeout(api: Fake) -> None:
    api.answers["/fibonacci/batches"] = [(202, {"workflow_id": "b", "status": "ENQUEUED", "total": 2})]
    api.answers["/fibonacci/batches/b"] = [(200, batch("PENDING", 1))]
    done = run("submit", "--wait", "--timeout", "0.3", url=api.url)
    assert done.exit_code == 1
    assert "PENDING, 1 of 2 numbers" in done.stdout


def test_bucket_waits_and_shows_the_report(api: Fake) -> None:
    api.answers["/buckets/some-bucket/listing"] = [(202, {"workflow_id": "l", "status": "ENQUEUED"})]
    report = {
        "keys": 7,
        "bytes": 70,
        "folders": 1,
        "complete": False,
        "next_start_after": "a/6",
        "top": [{"prefix": "a/", "keys": 5, "bytes": 50}],
        "loose": {"prefix": "", "keys": 2, "bytes": 20},
    }
    running = {
        "workflow_id": "l",
        "status": "PENDING",
        "pages": 3,
        "completed": 1,
        "report": None,
        "error": None,
    }
    done = {**running, "status": "SUCCESS", "completed": 3, "report": report}
    api.answers["/buckets/some-bucket/listing/l"] = [(200, running), (200, done)]
    shown = run("bucket", "some-bucket", "--prefix", "a", "--max-pages", "3", "--wait", url=api.url)
    assert shown.exit_code == 0
    assert "7 keys, 70 bytes, 1 folders; not complete: --start-after 'a/6'" in " ".join(shown.stdout.split())
    assert api.asked[0][1] == {"prefix": "a", "start_after": "", "max_pages": 3}
    api.answers["/buckets/some-bucket/listing/l"] = [
        (200, {**running, "status": "ERROR", "error": "No bucket."})
    ]
    failed = run("bucket", "some-bucket", "--wait", url=api.url)
    assert failed.exit_code == 1
    assert "No bucket." in failed.stdout


def test_a_refusal_is_shown_in_one_line(api: Fake) -> None:
    api.answers["/executors/x/crash"] = [(403, {"title": "Forbidden", "detail": "Crashing is switched off."})]
    done = run("crash", "x", url=api.url)
    assert done.exit_code == 1
    assert done.stderr == "holdfast: 403: Crashing is switched off.\n"


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "admin_token"
    file.write_text("the-token\n", "ascii")
    monkeypatch.setenv("HOLDFAST_ADMIN_TOKEN_FILE", str(file))
    return file


NEEDED = (401, {"detail": "This call needs the admin token."})


def test_the_token_is_sent_once_it_is_asked_for_and_then_always(api: Fake, token_file: Path) -> None:
    """HOLDFAST_REQUIRE_TOKEN=true."""
    accepted = (202, {"workflow_id": "batch-1", "status": "ENQUEUED", "total": 3})
    api.answers["/fibonacci/batches"] = [NEEDED, accepted]
    api.answers["/fibonacci/batches/batch-1"] = [(200, batch("SUCCESS", 3))]
    done = run("submit", "--count", "3", "--wait", "--json", url=api.url)
    assert done.exit_code == 0, done.output
    sent = [headers.get("Authorization") for _, _, headers in api.asked]
    assert sent == [None, "Bearer the-token", "Bearer the-token"]
    # The order that was sent again is the same one.
    assert api.asked[0][1] == api.asked[1][1]
    assert api.asked[0][2]["Idempotency-Key"] == api.asked[1][2]["Idempotency-Key"]
    assert "the-token" not in done.output + "".join(path for path, _, _ in api.asked)


def test_an_open_api_never_sees_the_token(api: Fake, token_file: Path) -> None:
    api.answers["/executors"] = [(200, {"executors": EXECUTORS})]
    assert run("executors", url=api.url).exit_code == 0
    assert "Authorization" not in api.asked[0][2]


@pytest.mark.parametrize("answers", [[NEEDED, (403, {"detail": "This is not the admin token"})], [NEEDED]])
def test_a_token_that_does_not_help_ends_it(
    api: Fake, token_file: Path, answers: list[tuple[int, Any]]
) -> None:
    api.answers["/executors"] = answers
    done = run("executors", url=api.url)
    assert done.exit_code == 1
    assert "admin token" in done.stderr
    assert len(api.asked) == 2


def test_drain_is_requested(api: Fake) -> None:
    api.answers["/executors/x/drain"] = [(202, {"executor_id": "x", "desired_state": "draining"})]
    done = run("drain", "x", "--json", url=api.url)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["desired_state"] == "draining"


def test_without_an_api_it_says_so() -> None:
    done = run("executors")
    assert done.exit_code == 1
    assert "the API does not answer" in done.stderr


def snapshot(**changed: Any) -> dict[str, Any]:
    """The console's document, with one live worker and one that was taken over 20 s ago."""
    live = {
        "executor_id": "worker-a", "role": "worker", "state": "live", "slots": 2, "in_flight": 1,
        "heartbeat_at": 999.5, "started_at": 900.0, "ended_at": None, "taken_over_by": None, "reason": None,
    }  # fmt: skip
    dead = live | {
        "executor_id": "worker-b", "state": "dead", "ended_at": 980.2, "taken_over_by": "worker-a",
        "reason": "lock lost",
    }  # fmt: skip
    bar = {"executor_id": "worker-a", "started_at": 990.0, "ended_at": None}
    move = {
        "workflow_id": "w-1", "kind": "takeover", "reason": "lock lost", "from": "worker-b", "to": "worker-a",
        "released_at": 980.5,
    }  # fmt: skip
    return {
        "now": 1000.0,
        "database": {"up": True, "since": 0.0},
        "executors": [live, dead, dead | {"executor_id": "worker-c", "ended_at": 100.0}],
        "bars": [bar, bar | {"executor_id": "worker-b", "started_at": 975.0, "ended_at": 980.2}],
        "moves": [move],
        "pulses": [{"scheduled_at": 990.0, "status": "run"}, {"scheduled_at": 995.0, "status": "missed"}],
        "queues": [{"queue": "fibonacci", "depth": 3, "oldest_age_seconds": 2.0}],
        "counts": {"running": 1, "queued": 3, "parked": 0, "stranded": 0, "orphaned": 0},
        "last_takeover": {"at": 980.5, "seconds": 0.34, "slot_wait_seconds": 4.2, "workflows": 5},
    } | changed


@pytest.mark.parametrize("flag", ["--once", "--json"])
def test_watch_once(api: Fake, flag: str) -> None:
    api.answers["/console/snapshot"] = [(200, snapshot())]
    api.answers["/workflows"] = [(200, {"workflows": [{"workflow_id": "b"}]})]
    api.answers["/fibonacci/batches/b"] = [(200, batch("PENDING", 1))]
    done = run("watch", flag, url=api.url)
    assert done.exit_code == 0
    if flag == "--json":
        data = json.loads(done.stdout)
        assert data["queues"] == [{"queue": "fibonacci", "depth": 3, "oldest_age_seconds": 2.0}]
        assert data["batches"] == [{"workflow_id": "b", "status": "PENDING", "completed": 1, "total": 2}]
        assert [e["executor_id"] for e in data["executors"]] == ["worker-a", "worker-b"], "long gone"
    else:
        first = " ".join(done.stdout.split())  # wrapped at the terminal's width
        assert (
            "Workers live: 1. Workflows running: 1, waiting: 3. Last takeover 20 s ago: 5 in 0.34 s" in first
        )
        assert "in 0.34 s, then waited up to 4.2 s for a free slot." in first
        assert "|·" in done.stdout, "one pulse ran, one was missed"


def test_what_a_workflow_returned_is_shown_as_it_is(api: Fake) -> None:
    """Nothing of it is taken for markup of ours."""
    api.answers["/workflows"] = [(202, {"workflow_id": "w", "status": "ENQUEUED"})]
    ended = {"workflow_id": "w", "status": "SUCCESS", "output": {"path": "[/data]", "colour": "[red]"}}
    api.answers["/workflows/w"] = [(200, {"workflow_id": "w", "status": "PENDING"}), (200, ended)]
    done = run("start", "x.y", "{}", "--wait", url=api.url)
    assert done.exit_code == 0
    assert "{'path': '[/data]', 'colour': '[red]'}" in done.stdout
    # Whoever does not wait for the end is asked again after a moment.
    assert [asked for asked, _, _ in api.asked].count("GET /workflows/w") == 2
    shown.console.print(shown.table("[/a]", ["folder"], [["[archive]/"]]))
    checks.show_findings([make_finding(1, "all of it [/x]", ["[/y] is [red]"], steps=7)])


def test_start_takes_the_arguments_of_a_plain_workflow(api: Fake) -> None:
    api.answers["/workflows"] = [(202, {"workflow_id": "w", "status": "ENQUEUED"})] * 2
    words = ("--kwargs", '{"gift": true}', "--application", "shop", "--queue", "carts")
    assert run("start", "checkout", '["cart-7"]', *words, url=api.url).exit_code == 0
    assert run("start", "orders.fulfil", '{"order": 1}', url=api.url).exit_code == 0
    plain, typed = (body for _, body, _ in api.asked)
    assert plain == {
        "workflow": "checkout",
        "args": ["cart-7"],
        "kwargs": {"gift": True},
        "application": "shop",
        "queue": "carts",
    }
    assert typed == {"workflow": "orders.fulfil", "arguments": {"order": 1}}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", "http://127.0.0.1:8000"),
        ("HOLDFAST_API_PORT=8100\n", "http://127.0.0.1:8100"),
        ("HOLDFAST_PUBLISH_ADDRESS=0.0.0.0\nHOLDFAST_API_PORT=8100\n", "http://127.0.0.1:8100"),
        ("HOLDFAST_PUBLISH_ADDRESS=10.1.2.3\n", "http://10.1.2.3:8000"),
    ],
)
def test_the_address_that_compose_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, expected: str
) -> None:
    (tmp_path / ".env").write_text(said)
    monkeypatch.setattr(compose_installation, "ROOT", tmp_path)
    monkeypatch.setattr(embedded, "ROOT", tmp_path)
    for name in ("HOLDFAST_URL", "HOLDFAST_API_PORT", "HOLDFAST_PUBLISH_ADDRESS", "HOLDFAST_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert detection.url() == expected
    # Inside the container, what is published is outside.
    monkeypatch.setenv("HOLDFAST_DATABASE_PASSFILE", "/run/holdfast/pgpass")
    assert detection.url().startswith("http://127.0.0.1:")


@pytest.mark.parametrize(("moved", "to_version", "code"), [(1, "2", 0), (0, "2", 1), (0, "typo", 1)])
def test_adopt_ends_with_whether_anything_moved(
    monkeypatch: pytest.MonkeyPatch, moved: int, to_version: str, code: int
) -> None:
    living = {"application": "a", "application_version": "2", "ended_at": None}
    dead = living | {"application_version": "typo", "ended_at": "then"}
    done = {"operation_id": "adopt-1", "status": "SUCCESS", "completed": moved}
    monkeypatch.setattr(checks, "here", InsideContainer)
    monkeypatch.setattr(checks, "database", lambda: nullcontext((None, None)))
    monkeypatch.setattr(checks, "query", lambda *_, **__: [living, dead])
    monkeypatch.setattr(checks, "carry_out", lambda *_, **__: done)
    words = ["--application", "a", "--from-version", "1", "--to-version", to_version, "--yes"]
    assert run("adopt", *words).exit_code == code


def progress(status: str, completed: int, **members: Any) -> dict[str, Any]:
    """An operation as the API answers with it."""
    ended_at = None if status == "RUNNING" else "2026-01-01T00:00:00Z"
    row = {"operation_id": "cancel-1", "kind": "cancel", "target": "workflow a/b", "requested_by": "api"}
    return row | {
        "status": status,
        "completed": completed,
        "total": 9,
        "note": None,
        "ended_at": ended_at,
        **members,
    }


@pytest.mark.parametrize(("status", "code"), [("SUCCESS", 0), ("ERROR", 1)])
def test_cancel_waits_for_the_end_of_its_operation(api: Fake, status: str, code: int) -> None:
    api.answers["/workflows/a%2Fb/cancel"] = [(202, progress("RUNNING", 1))]
    api.answers["/operations/cancel-1"] = [
        (200, progress("RUNNING", 5)),
        (200, progress(status, 9, note="why")),
    ]
    done = run("cancel", "a/b", url=api.url)
    assert done.exit_code == code
    assert f"cancel of workflow a/b: {status}, 9 workflows (why)" in done.stdout


def test_a_resume_that_is_done_says_so_and_operations_are_listed(api: Fake) -> None:
    api.answers["/workflows/w/resume"] = [(202, {"workflow_id": "w", "status": "ENQUEUED"})]
    assert run("resume", "w", url=api.url).stdout == "w: ENQUEUED\n"
    api.answers["/operations"] = [(200, {"operations": [progress("RUNNING", 3)]})]
    assert "cancel-1" in run("operations", url=api.url).stdout
    api.answers["/operations/cancel-1"] = [(200, progress("SUCCESS", 9))]
    done = run("operations", "cancel-1", "--json", url=api.url)
    assert (done.exit_code, json.loads(done.stdout)["completed"]) == (0, 9)


def test_a_lane_shows_what_ran_and_where_it_ended() -> None:
    bars = [{"started_at": 990.2, "ended_at": None}, {"started_at": 995.5, "ended_at": 997.5}]
    assert watch.lane(bars, 1000.0) == " " * 50 + "▁▁▁▁▁▂▂▂▁▁"
    broken = watch.lane([{"started_at": 970.1, "ended_at": 980.2}], 1000.0, mark="✖", ended_at=980.2)
    assert broken == " " * 30 + "▁" * 10 + "✖" + " " * 19


def test_watch_shows_what_was_known_last_while_the_database_is_away(api: Fake) -> None:
    api.answers["/console/snapshot"] = [(200, snapshot(database={"up": False, "since": 988.0}))]
    api.answers["/workflows"] = [(503, {"detail": "PostgreSQL does not answer."})]
    done = run("watch", "--once", url=api.url)
    assert done.exit_code == 0
    assert done.stdout.startswith("PostgreSQL has been away for 12 s; these are its last known figures.")


@pytest.mark.parametrize(("troubles", "code"), [([], 0), (["2 steps recorded twice"], 1)])
def test_verify_ends_with_what_it_found(
    monkeypatch: pytest.MonkeyPatch, troubles: list[str], code: int
) -> None:
    monkeypatch.setattr(
        checks, "findings_here", lambda *_, **__: [make_finding(2, "recorded once", troubles, steps=7)]
    )
    machine = run("verify", "--json")
    assert machine.exit_code == code
    assert json.loads(machine.stdout)["ok"] is (code == 0)
    human = run("verify")
    assert human.exit_code == code
    for trouble in troubles:
        assert trouble in human.stdout


def test_without_an_installation_verify_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> str:
        raise NothingRunsError("Holdfast does not run here. `holdfast up` starts it.")

    monkeypatch.setattr(checks, "here", nothing)
    done = run("verify")
    assert done.exit_code == 1
    assert "holdfast up" in done.stderr


def test_beside_compose_database_commands_run_in_the_api_container(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    ran: list[tuple[str, ...]] = []

    def inside(_: Any, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        ran.append(words)
        return subprocess.CompletedProcess(words, 1, '{"stranded": [1]}\n', "")

    monkeypatch.setattr(checks, "here", ComposeInstallation)
    monkeypatch.setattr(ComposeInstallation, "run", inside)
    done = run("stranded", "--json")
    assert (done.exit_code, done.stdout) == (1, '{"stranded": [1]}\n')
    names = ["--application", "a", "--from-version", "1", "--to-version", "2"]
    assert run("adopt", *names, "--yes").exit_code == 1
    assert ran == [("stranded", "--json"), ("adopt", *names, "--yes")]


@pytest.mark.parametrize("command", [c.name or c.callback.__name__ for c in main.app.registered_commands])  # type: ignore[union-attr]
def test_every_command_has_help_and_json(command: str) -> None:
    done = run(command, "--help")
    assert done.exit_code == 0
    # `holdfast run` becomes another program, whose output is its own.
    assert "--json" in done.stdout or command == "run"


# --- purge ------------------------------------------------------------------------------------------


def purged(deleted: int, *, complete: bool = True, dry_run: bool = False) -> dict[str, Any]:
    report = {
        "cutoff": "2026-11-15T00:00:00+00:00",
        "dry_run": dry_run,
        "complete": complete,
        "deleted": deleted,
        "workflows": {"fibonacci.number": {"SUCCESS": deleted}},
        "pulses": 3,
        "idempotency_keys": 0,
        "handovers": 0,
        "executors": 1,
        "operations": 0,
    }
    return {"workflow_id": "p", "status": "SUCCESS", "output": report, "error": None}


@pytest.fixture
def purges(api: Fake) -> Fake:
    api.answers["/purge"] = [(202, {"workflow_id": "p", "status": "ENQUEUED"})]
    api.answers["/workflows/p/steps"] = [(200, {"steps": []})]
    return api


def test_purge_waits_and_shows_what_went(purges: Fake) -> None:
    step = {"name": "retention.workflows", "output": {"rows": 5}}
    purges.answers["/workflows/p/steps"] = [(200, {"steps": [step]}), (200, {"steps": []})]
    running = {"workflow_id": "p", "status": "PENDING"}
    away = (503, {"detail": "PostgreSQL does not answer."})
    purges.answers["/workflows/p"] = [(200, running), away, (200, purged(7))]
    done = run("purge", "--older-than", "12h", url=purges.url)
    assert done.exit_code == 0, done.output
    assert "7 workflows deleted" in done.stdout
    assert "pulses" in done.stdout
    asked, body, _ = purges.asked[0]
    assert (asked, body) == ("POST /purge", {"dry_run": False, "older_than_seconds": 43_200.0})


def test_purge_goes_on_when_its_worker_drained(purges: Fake) -> None:
    purges.answers["/workflows/p"] = [(200, purged(7, complete=False)), (200, purged(5))]
    done = run("purge", "--json", url=purges.url)
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["ok"], told["deleted"], told["pulses"], told["executors"]) == (True, 12, 6, 2)
    assert told["workflows"] == {"fibonacci.number": {"SUCCESS": 12}}
    assert [asked for asked, _, _ in purges.asked].count("POST /purge") == 2


def test_a_dry_run_that_began_again_is_counted_once(purges: Fake) -> None:
    first, second = purged(7, complete=False, dry_run=True), purged(9, dry_run=True)
    purges.answers["/workflows/p"] = [(200, first), (200, second)]
    told = json.loads(run("purge", "--dry-run", "--json", url=purges.url).stdout)
    assert (told["deleted"], told["dry_run"]) == (9, True)


@pytest.mark.parametrize("status", ["ERROR", "CANCELLED", "PENDING"])
def test_a_purge_that_is_not_done_is_exit_code_1(purges: Fake, status: str) -> None:
    purges.answers["/workflows/p"] = [(200, {"status": status, "output": None, "error": "because"})]
    done = run("purge", "--timeout", "0.5", url=purges.url)
    assert done.exit_code == 1
    assert status in done.stdout


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("90m", 5400), ("1.5d", 129_600), ("3600", 3600)]
)
def test_ages(text: str, seconds: float) -> None:
    assert retention.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "7w", "7d1h", "1e9", "nan"])
def test_ages_that_are_none(text: str) -> None:
    done = run("purge", "--older-than", text)
    assert done.exit_code == 2
    assert "--older-than" in done.output


# --- restore: what is asked before anything is stopped --------------------------------------------


class Tools:
    """A database with work in it; nothing may be stopped, nothing loaded."""

    def ask(self, statement: str) -> str:
        return "170005" if "SHOW" in statement else "0" if "pg_locks" in statement else "12"

    def executors_stopped(self) -> Any:
        raise AssertionError("the stack was stopped")


@pytest.fixture
def occupied(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archive.Contents(server_version="17.5", values={name: Counter() for name in archive._COLUMNS})
    monkeypatch.setattr(backup, "tools_here", Tools)
    monkeypatch.setattr(backup, "examine", lambda tools, file: contents)


@pytest.mark.usefixtures("occupied")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "has 12 workflows of its own"),
        (["--replace"], "say --yes as well"),
        (["--replace", "--json"], "say --yes as well"),
        (["--yes"], "has 12 workflows of its own"),
    ],
)
def test_restore_asks_before_it_deletes(options: list[str], said: str) -> None:
    done = run("restore", "file", *options)
    assert done.exit_code == 1
    assert said in done.stderr


@pytest.mark.usefixtures("occupied")
def test_restore_wants_a_whole_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "at_a_terminal", lambda: True)
    typed = CliRunner().invoke(main.app, ["restore", "file", "--replace"], input="y\n")
    assert (typed.exit_code, "nothing was changed" in typed.stderr) == (1, True)
    nothing = CliRunner().invoke(main.app, ["restore", "file", "--replace"], input="")
    assert nothing.exit_code == 1


@pytest.mark.parametrize(
    ("address", "given"),
    [
        (None, True),
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("http://localhost:8000", True),
        ("http://192.168.1.5:8000", True),  # where this machine's own one listens
        ("http://192.168.1.6:8000", False),
        ("https://holdfast.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("nonsense", False),
    ],
)
def test_the_token_of_this_machine_goes_to_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, given: bool
) -> None:
    file = tmp_path / "admin_token"
    file.write_text("the-token", "ascii")
    state = {"api_url": "http://192.168.1.5:8000", "admin_token_file": str(file)}
    monkeypatch.delenv("HOLDFAST_ADMIN_TOKEN_FILE", raising=False)
    monkeypatch.setattr(native_installation, "native_state", lambda: state)
    assert detection.admin_token(address) == ("the-token" if given else None)


# --- a command that ends with its input -------------------------------------------------------------


def watched(*words: str) -> subprocess.Popen[bytes]:
    command = ["bash", "-c", postgres_tools.WATCHED, *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_watched_command_passes_output_and_exit_code_on() -> None:
    process = watched("sh", "-c", 'echo "$1"; exit 7', "-", "two words")
    assert process.stdout is not None
    assert process.stdout.read() == b"two words\n"
    assert process.wait(60) == 7


def test_a_watched_command_ends_with_its_input() -> None:
    process = watched("sleep", "60")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 128 + signal.SIGTERM


# --- messages, events, streams --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value"),
    [("yes", "yes"), ('{"by": "ada"}', {"by": "ada"}), ("5", 5), ('"5"', "5"), ("null", None)],
)
def test_send_sends_json_or_text(api: Fake, word: str, value: Any) -> None:
    stored = {"workflow_id": "w", "message_id": "m", "topic": "t"}
    api.answers["/workflows/w/messages"] = [(202, stored)]
    done = run("send", "w", word, "--topic", "t", "--key", "k", "--json", url=api.url)
    assert (done.exit_code, json.loads(done.stdout)) == (0, stored)
    asked, body, headers = api.asked[0]
    assert (asked, body) == ("POST /workflows/w/messages", {"message": value, "topic": "t"})
    assert headers["Idempotency-Key"] == "k"


def test_send_to_an_ended_workflow_fails_in_one_line(api: Fake) -> None:
    api.answers["/workflows/w/messages"] = [(409, {"detail": "This workflow has ended."})]
    done = run("send", "w", "yes", url=api.url)
    assert (done.exit_code, done.stderr) == (1, "holdfast: 409: This workflow has ended.\n")


def stored_value(value: Any, **more: Any) -> dict[str, Any]:
    return {"value": value, "bytes": 9, "shortened": False, "format": "portable_json", **more}


def test_events_come_from_every_page(api: Fake) -> None:
    pages = [[stored_value({"n": 1}, key="a")], [stored_value("long", key="b", shortened=True)]]
    answers = [{"events": page, "next_after": after} for page, after in zip(pages, ("a", None), strict=True)]
    api.answers["/workflows/w/events"] = [(200, answer) for answer in answers]
    human = run("events", "w", url=api.url)
    assert human.exit_code == 0
    assert '{"n": 1}' in human.stdout and "long … (9 bytes)" in human.stdout
    api.answers["/workflows/w/events"] = [(200, {"events": [], "next_after": None})]
    assert json.loads(run("events", "w", "--json", url=api.url).stdout)["events"] == []


def sse(*events: tuple[str, dict[str, Any]]) -> str:
    return "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in events)


def test_a_stream_is_followed_through_a_restart_of_the_api(
    api: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_RETRY_SECONDS", 0.01)
    first, second = (("value", {"offset": n, **stored_value(f"v{n}")}) for n in range(2))
    end = ("end", {"closed": True, "status": "PENDING", "length": 2})
    answers = [(200, sse(first)), (503, {"detail": "stopping"}), (200, sse(second, end))]
    for as_json in ([], ["--json"]):
        api.answers["/workflows/w/streams/a%2Fb"] = list(answers)
        done = run("stream", "w", "a/b", *as_json, url=api.url)
        assert done.exit_code == 0, done.output
        if as_json:
            told = json.loads(done.stdout)
            assert [value["value"] for value in told["values"]] == ["v0", "v1"]
            assert told["end"]["closed"]
        else:
            assert done.stdout == "v0\nv1\n"


def test_a_stream_that_goes_on_is_no_success(api: Fake) -> None:
    api.answers["/workflows/w/streams/s"] = [(200, sse(("value", {"offset": 0, **stored_value(1)})))]
    assert run("stream", "w", "s", "--timeout", "0.2", url=api.url).exit_code == 1
    api.answers["/workflows/w/streams/s"] = [(404, {"detail": "no such workflow"})]
    assert run("stream", "w", "s", url=api.url).exit_code == 1
