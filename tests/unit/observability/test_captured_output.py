"""Each line that a process writes is a JSON object, also from C code and a dying interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from holdfast.observability.json_lines import _LONGEST_OBJECT_BYTES, _Source, as_json_line

_BEGIN = """
import ctypes, faulthandler, logging, os, sys, threading, warnings
from holdfast.observability.captured_output import capture_output
stream = capture_output()
"""
_LOGGING = """
from holdfast.observability import logs
logs.configure(None, role="worker", executor_id="w-1", stream=stream)
"""


def lines(program: str, *, code: int = 0, logging: bool = False) -> list[dict[str, Any]]:
    """Runs the program below `capture_output`, waits for the end of its output, and returns the lines."""
    begin = _BEGIN + (_LOGGING if logging else "")
    done = subprocess.run([sys.executable, "-c", begin + program], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout
    assert done.stderr == ""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(isinstance(line, dict) and {"time", "level", "message"} <= set(line) for line in found)
    return found


def test_what_libpq_and_a_print_write() -> None:
    program = r"""
libc = ctypes.CDLL(None)
libc.dprintf(2, b"FATAL:  terminating connection due to administrator command\n")
print("a user's print")
print('{"already": "JSON", "time": "t", "level": "INFO", "message": "m"}')
print("DETAIL:  Key (secret)=(planted) already exists.", file=sys.stderr)
logging.getLogger("any").info("ours")
os.write(1, b"no line end")
"""
    found = lines(program, logging=True)
    by_message = {line["message"]: line for line in found}
    fatal = by_message["FATAL:  terminating connection due to administrator command"]
    assert (fatal["level"], fatal["logger"]) == ("WARNING", "stderr")
    assert by_message["a user's print"]["logger"] == "stdout"
    assert by_message["m"]["already"] == "JSON", "passed through"
    assert by_message["ours"]["executor_id"] == "w-1"
    assert "no line end" in by_message
    assert "planted" not in json.dumps(found)


def test_tracebacks_are_one_line_each() -> None:
    program = r"""
def fail(): raise ValueError("in a thread")
thread = threading.Thread(target=fail, name="of-a-user"); thread.start(); thread.join()
class Bad:
    def __del__(self): raise ValueError("in __del__")
Bad(); del Bad
warnings.warn("careful")
raise KeyError("in the main thread")
"""
    found = lines(program, code=1, logging=True)
    tracebacks = [line for line in found if "Traceback" in line.get("exc_info", "")]
    assert len(tracebacks) == 3
    assert [line["level"] for line in tracebacks] == ["ERROR", "ERROR", "CRITICAL"]
    assert any("careful" in line["message"] for line in found)
    assert "of-a-user" in tracebacks[0]["message"]


@pytest.mark.parametrize("end", ["faulthandler._sigsegv()", "os.abort()", "ctypes.string_at(0)"])
def test_what_a_dying_interpreter_says_is_not_lost(end: str) -> None:
    found = lines(f"faulthandler.enable()\n{end}", code=-6 if "abort" in end else -11)
    assert any("Fatal Python error" in line["message"] for line in found)
    assert any("File " in line["message"] for line in found)


def test_a_long_line_is_cut_and_bytes_that_are_no_text_are_kept() -> None:
    found = lines("os.write(2, b'x' * 100_000 + b'\\n'); os.write(2, b'\\xff\\n')")
    assert sum(line["message"].count("x") for line in found) >= 100_000
    assert all(len(json.dumps(line)) < 4096 for line in found)
    assert found[-1]["message"] == "\\xff"


_READER = """
import pathlib, signal, time
(reader,) = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
"""


def test_signals_do_not_end_the_reader() -> None:
    program = r"""
time.sleep(0.3)
for number in (signal.SIGTERM, signal.SIGINT):
    os.kill(int(reader), number)
time.sleep(0.2)
print("still read")
"""
    assert lines(_READER + program, logging=True)[-1]["message"] == "still read"


def test_without_its_reader_a_process_prints_plain_text_and_ends() -> None:
    program = r"""
os.kill(int(reader), signal.SIGKILL)
deadline = time.monotonic() + 10
while os.fstat(1).st_ino != os.fstat(stream.fileno()).st_ino and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.1)
print('{"time": "t", "level": "INFO", "message": "a print"}')
logs.flush()
os._exit(0)
"""
    found = {line["message"]: line for line in lines(_READER + program, logging=True)}
    assert "a print" in found
    assert [line["level"] for line in found.values() if line.get("action") == "output.plain"] == ["WARNING"]


def test_the_watchdog_needs_no_reader() -> None:
    program = r"""
from holdfast.recovery.watchdog import Watchdog
from holdfast.settings import Settings
from tests.support.executors import identity
watchdog = Watchdog(Settings(), identity("worker-1"))
watchdog.start()
same = os.path.samestat(os.stat(f"/proc/{watchdog._child.pid}/fd/1"), os.fstat(stream.fileno()))
logging.getLogger("any").info("the same: %s", same)
watchdog.stop()
"""
    assert [line["message"] for line in lines(program, logging=True)] == ["the same: True"]


def test_a_flush_that_fails_does_not_prevent_the_exit() -> None:
    program = r"""
sys.stdout.close()
os.close(2)
stream.close()
logs.flush()
os._exit(7)
"""
    assert lines(program, code=7, logging=True) == []


def _from_pieces(text: bytes) -> list[dict[str, Any]]:
    source = _Source("stdout", "INFO")
    pieces = [text[at : at + 4096] for at in range(0, len(text), 4096)]
    return [json.loads(line) for piece in [*pieces, b""] for line in source.lines(piece)]


@pytest.mark.parametrize("excess", [-1, 0, 1, 70_000])
def test_a_large_object_passes_and_a_larger_one_is_cut(excess: int) -> None:
    head, tail = b'{"message": "', b'"}'
    text = head + b"x" * (_LONGEST_OBJECT_BYTES + excess - len(head + tail)) + tail
    found = _from_pieces(text + b"\nnext\n")
    assert found[-1]["message"] == "next"
    if excess < 0:
        assert found[:-1] == [json.loads(text)]
    else:
        assert "".join(line["message"] for line in found[:-1]).encode() == text
        assert all(len(json.dumps(line)) < 4096 for line in found)


def test_what_only_begins_as_an_object_is_cut_and_read_in_linear_time() -> None:
    begun = time.monotonic()
    found = _from_pieces(b"{" * 5_000 + b"\n" + b"{" + b"y" * 20_000_000)
    assert all(len(json.dumps(line)) < 4096 for line in found)
    assert sum(line["message"].count("y") for line in found) == 20_000_000
    assert time.monotonic() - begun < 10


def test_of_a_failed_start_only_the_frameworks_tracebacks_are_dropped() -> None:
    program = r"""
for name in ("uvicorn.error", "orders"):
    logging.getLogger(name).error("Traceback (most recent call last)\n  of %s", name)
"""
    (line,) = lines(program, logging=True)
    assert line["logger"] == "orders", "a user's own line stays"


@pytest.mark.parametrize("text", ["[1]", '{"half', "plain", '"text"', '{"a":' * 100_000])
def test_only_objects_pass(text: str) -> None:
    assert json.loads(as_json_line(text, logger="any"))["message"] == text


@pytest.mark.parametrize("pieces", [1, 40])
def test_a_long_line_that_quotes_values_is_withheld_to_its_end(pieces: int) -> None:
    """It is cut, or comes in pieces: none of them is a line of its own."""
    source = _Source("stderr", "WARNING")
    data = b"DETAIL:  Failing row contains (" + b"secret, " * 4000 + b").\nafter\n"
    step = -(-len(data) // pieces)
    found = [line for at in range(0, len(data), step) for line in source.lines(data[at : at + step])]
    assert [json.loads(line)["message"] for line in found] == ["DETAIL: …", "after"]
