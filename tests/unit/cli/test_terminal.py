"""No command prints the control characters of rows, errors, ids or S3 keys: to no terminal and no pipe."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from holdfast.audit.findings import make_finding
from holdfast.cli import applications, backup, checks, main
from holdfast.dbos_adapter import preparing
from holdfast.errors import DatabaseNotPrepared
from holdfast.installations import applications as installed
from holdfast.installations.detection import InsideContainer
from holdfast.installations.log_lines import readable
from holdfast.installations.postgres_tools import ToolError
from holdfast.visible import visible, visible_lines
from tests.unit.cli.test_cli import EXECUTORS, batch, progress, purged, snapshot

# The clipboard, a cleared line, a forged line, a link, an 8-bit control sequence, and text in another order.
EVIL = "x\x1b]52;c;eA==\x07\x1b[2K\r\nforged [link=http://x/\x1b]0;y]z\t\x9b31m\x7f\u202e\u2028y"
# What a terminal gets from rich itself: colours, the cursor, its column and its visibility.
OF_RICH = re.compile(r"\x1b\[[0-9;]*m|\x1b\[[0-9]*[ABK]|\x1b\[\?25[lh]|\r")
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]")


def poisoned(data: Any, *kept: str) -> Any:
    """The data with EVIL behind each text, but not of the members ``kept``, by which commands decide."""
    if isinstance(data, dict):
        kept = (*kept, "status", "state", "kind", "role", "ended_at")
        return {key: value if key in kept else poisoned(value, *kept) for key, value in data.items()}
    if isinstance(data, list):
        return [poisoned(each, *kept) for each in data]
    return f"{data}{EVIL}" if isinstance(data, str) else data


WORK = {"workflow_id": EVIL, "status": "ENQUEUED"}
BUCKET: dict[str, Any] = {"keys": 7, "bytes": 70, "folders": 1, "complete": False, "next_start_after": EVIL}
BUCKET |= {"top": [{"prefix": EVIL, "keys": 5, "bytes": 50}], "loose": {"prefix": "", "keys": 2, "bytes": 20}}
END = {"workflow_id": EVIL, "status": "SUCCESS", "output": EVIL, "error": EVIL, "completed": 3, "pages": 3}
VALUE = {"key": EVIL, "value": EVIL, "shortened": True, "bytes": 9, "offset": 0}
STREAM = f"event: value\ndata: {json.dumps(VALUE)}\n\nevent: end\ndata: {json.dumps({'why': EVIL})}\n\n"
RESULTS = [{"executor_id": EVIL}]
RUNNING, ENDED = (
    poisoned(progress(status, 9, note="why"), "operation_id") for status in ("RUNNING", "ERROR")
)

PURGED = purged(5)
PURGED["output"] |= {"cutoff": EVIL, "workflows": {EVIL: {EVIL: 5}}}

ANSWERS: list[tuple[str, str, Any]] = [
    ("POST", "/workflows", WORK),
    ("GET", "/workflows", {"workflows": [WORK]}),
    ("GET", "/console/snapshot", poisoned(snapshot(), "scheduled_at")),
    ("GET", "/executors", {"executors": poisoned(EXECUTORS)}),
    ("GET", "/operations", {"operations": [RUNNING]}),
    ("GET", "/operations/cancel-1", ENDED),
    ("POST", "/workflows/.*/(cancel|resume)", RUNNING),
    ("DELETE", "/workflows/.*", RUNNING),
    ("POST", "/workflows/.*/messages", {"message_id": EVIL}),
    ("GET", "/workflows/.*/events", {"events": [VALUE], "next_after": None}),
    ("GET", "/workflows/.*/streams/.*", STREAM),
    ("GET", "/workflows/.*/steps", {"steps": []}),
    ("POST", "/buckets/.*", WORK),
    ("GET", "/buckets/.*", END | {"report": BUCKET}),
    ("POST", "/fibonacci/batches", WORK | {"total": 2}),
    (
        "GET",
        "/fibonacci/batches/.*",
        batch("SUCCESS", 2) | {"workflow_id": EVIL, "error": EVIL} | {"results": RESULTS},
    ),
    ("POST", "/purge", {"workflow_id": "purge-1"}),
    ("GET", "/workflows/purge-1", PURGED),
    ("GET", "/workflows/.*", END),
    ("POST", ".*", WORK),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(self.path.partition("?")[0])
            found = [
                answer
                for method, pattern, answer in ANSWERS
                if method == self.command and re.fullmatch(pattern, path, re.DOTALL)
            ]
            refused = path.startswith("/executors/refused/")
            answer = {"detail": EVIL, "title": EVIL} if refused else found[0]
            self.send_response(403 if refused else 200)
            self.end_headers()
            self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


STRANDED: dict[str, Any] = {"workflows": 3, "status": "PENDING", "reason": "version", "application": EVIL}
STRANDED |= {
    "application_version": EVIL,
    "queue_name": EVIL,
    "name": EVIL,
    "workflow_name": EVIL,
    "ended_at": None,
}
HANDOVER: dict[str, Any] = {
    "workflow_id": EVIL,
    "kind": EVIL,
    "reason": EVIL,
    "from_executor": EVIL,
    "to_executor": EVIL,
}
HANDOVER |= {"seconds_from_loss_to_claim": 0.5, "slot_wait_seconds": 0.1}
APPLICATION: dict[str, Any] = {
    "application": EVIL,
    "kind": EVIL,
    "live_executors": 1,
    "unfinished_workflows": 2,
}
APPLICATION |= {"attached_at": EVIL, "dbos_version": EVIL}


def fail(error: Exception) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands ask besides the API: the database and PostgreSQL's programs."""
    finding = make_finding(2, f"recorded {EVIL}", [EVIL], **{f"steps{EVIL}": EVIL})
    monkeypatch.setattr(checks, "findings_here", lambda *_, **__: [finding])
    monkeypatch.setattr(checks, "recent_handovers", lambda *_: [HANDOVER])
    monkeypatch.setattr(checks, "here", InsideContainer)
    monkeypatch.setattr(checks, "database", lambda: nullcontext((SimpleNamespace(lease_seconds=1), None)))
    monkeypatch.setattr(checks, "query", lambda *_, **__: [STRANDED])
    monkeypatch.setattr(main, "admin_token", lambda: EVIL)
    monkeypatch.setattr(backup, "tools_here", fail(ToolError(EVIL)))
    monkeypatch.setattr(preparing, "prepare_database", fail(DatabaseNotPrepared(EVIL)))
    monkeypatch.setattr(applications, "tools_here", lambda: None)
    monkeypatch.setattr(installed, "applications", lambda _: [APPLICATION])
    monkeypatch.setattr(installed, "add_application", fail(ToolError(EVIL)))
    monkeypatch.setattr(installed, "remove_application", lambda *_, **__: APPLICATION)


ADOPT = ["adopt", "--application", EVIL, "--from-version", EVIL, "--to-version"]
CASES: dict[str, list[str]] = {
    "start": ["start", "x.y", "{}"],
    "start --wait": ["start", "x.y", "{}", "--wait"],
    "watch": ["watch", "--once"],
    "executors": ["executors", "--all"],
    "drain": ["drain", EVIL],
    "crash": ["crash", EVIL],
    "crash refused": ["crash", "refused"],
    "fork": ["fork", "w"],
    "reopen": ["reopen", "w"],
    "cancel": ["cancel", "w"],
    "resume": ["resume", "w"],
    "delete": ["delete", "w"],
    "operations": ["operations"],
    "operations ended": ["operations", "cancel-1"],
    "send": ["send", EVIL, "1"],
    "events": ["events", "w"],
    "stream": ["stream", "w", "k"],
    "verify": ["verify"],
    "handovers": ["handovers"],
    "stranded": ["stranded"],
    "adopt": [*ADOPT, "2"],
    "adopt --yes": [*ADOPT, "2", "--yes"],
    "purge": ["purge"],
    "submit": ["submit", "--wait"],
    "bucket": ["bucket", "some-bucket"],
    "bucket --wait": ["bucket", "some-bucket", "--wait"],
    "backup": ["backup", "file"],
    "restore": ["restore", "file"],
    "migrate": ["migrate", "--database-url", "postgresql://x"],
    "token": ["token"],
    "app add": ["app", "add", "shop"],
    "app remove": ["app", "remove", EVIL],
    "app list": ["app", "list"],
}
NOT_HERE = {
    "run": "becomes another program",
    "up": "runs make",
    "down": "runs make",
    "demo": "prints through the console of `watch`, and its findings as `verify`",
}


def test_every_command_is_tried() -> None:
    known = {each.name or each.callback.__name__ for each in main.app.registered_commands if each.callback}
    known |= {
        f"app {each.name or each.callback.__name__}"
        for each in applications.app.registered_commands
        if each.callback
    }
    tried = {" ".join(words[:2]) if words[0] == "app" else words[0] for words in CASES.values()}
    assert tried | set(NOT_HERE) == known


def run(words: list[str], url: str, **variables: str) -> Any:
    done = CliRunner().invoke(main.app, words, env={"HOLDFAST_URL": url, "COLUMNS": "400", **variables})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("case", CASES)
def test_a_pipe_and_a_terminal_get_none_of_it(case: str, url: str) -> None:
    for variables in ({}, {"FORCE_COLOR": "1", "TERM": "xterm"}):
        done = run(CASES[case], url, **variables)
        text = done.stdout + done.stderr
        if case in ("start --wait", "stream"):  # the tabs of values stay
            text = text.replace("z\t\\", "z\\")
        assert FORBIDDEN.findall(OF_RICH.sub("", text) if variables else text) == [], text
        assert "\\u001b]52" in text, "it is shown, not dropped"
        assert "\nforged" not in text


@pytest.mark.parametrize("case", ["start --wait", "stream"])
def test_a_value_keeps_its_tabs_and_lines(case: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"a\tb\r\n{'c' * 500}\td"
    monkeypatch.setitem(END, "output", text)
    value = json.dumps(VALUE | {"value": text, "shortened": False})
    stream = ("GET", ".*/streams/.*", f"event: value\ndata: {value}\n\nevent: end\ndata: {{}}\n\n")
    monkeypatch.setattr(sys.modules[__name__], "ANSWERS", [stream, *ANSWERS])
    assert f"a\tb\n    {'c' * 500}\td\n" in run(CASES[case], url).stdout


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("case", CASES)
def test_a_json_document_stays_one(case: str, url: str) -> None:
    done = run([*CASES[case], "--json"], url)
    assert FORBIDDEN.findall(done.stdout + done.stderr) == []
    if done.stdout:
        assert EVIL in "".join(_texts(json.loads(done.stdout)))


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from (key, *_texts(value))
    elif isinstance(data, list):
        for each in data:
            yield from _texts(each)
    elif isinstance(data, str):
        yield data


def test_what_a_native_stack_prints_of_a_log() -> None:
    entry = {"level": "ERROR", "action": "x", "message": EVIL, "exc_info": f"Traceback\n{EVIL}"}
    for line in (json.dumps(entry), f"Fatal {EVIL}".replace("\n", "").replace("\u2028", "")):
        text = readable(line)
        assert text is not None and not FORBIDDEN.findall(text.replace("\t", "")) and "\n" not in text


def test_what_is_harmless_stays() -> None:
    text = "Grüße, 日本語 🎉 שלום 1\u00a0000 %\\n"
    assert visible(text) == visible_lines(text) == text
    assert visible_lines("a\n\tb") == "a\n\tb" and visible("a\n\tb") == "a\\u000a\\u0009b"
    assert visible("\ud800") == "\\ud800", "no terminal's encoding has it"
