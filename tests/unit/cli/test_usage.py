"""The own words of the command: name, version, switches; an address that is none or does not answer."""

from __future__ import annotations

import pytest

from holdfast import __version__, command


def holdfast(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Runs the command as its users do, in a terminal of 80 columns. Returns the exit code."""
    monkeypatch.setattr("sys.argv", ["/any/where/main.py", *words])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        command.main()
    return int(ended.value.code or 0)


def test_it_says_its_name_and_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert holdfast(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"holdfast {__version__}\n"
    assert holdfast(monkeypatch, "start", "--help") == 0
    shown = capsys.readouterr().out
    assert "Usage: holdfast start" in shown
    (wait,) = (line for line in shown.splitlines() if " --wait " in line and "wait for the end" in line)
    assert "<bool>" not in wait, "a switch takes no value"


@pytest.mark.parametrize("words", [("executors",), ("watch", "--once")])
def test_an_address_without_scheme_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HOLDFAST_URL", "127.0.0.1:9")
    assert holdfast(monkeypatch, *words) == 1
    assert capsys.readouterr().err == "holdfast: 127.0.0.1:9 is no address: write http://127.0.0.1:9\n"


def test_the_address_that_was_tried_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_URL", "http://127.0.0.1:9")
    assert holdfast(monkeypatch, "executors") == 1
    assert capsys.readouterr().err.startswith("holdfast: the API does not answer at http://127.0.0.1:9: ")
