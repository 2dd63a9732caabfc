"""`make up` and `make down` of one of several checkouts, with an engine that only says what it was asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_DOCKER = """#!/bin/sh
case "$1 $PWD" in "compose "*%*) echo "invalid URL escape" >&2; exit 1 ;; esac  # as Compose 2.40 does
if [ "$2" = --project-directory ]; then
    [ -e "$3/Makefile" ] || exit 1
    shift 3
    set -- compose "$@"
fi
echo "$@" >>"$DOCKER_ASKED"
case "$*" in
    "compose config") echo "name: ${COMPOSE_PROJECT_NAME:-holdfast}" ;;
    "ps --all --quiet"*) [ -z "$DOCKER_FOLDER" ] || echo 4711 ;;
    "ps --all"*) echo "$DOCKER_FOLDER" | sed '/^$/d' ;;
    "volume inspect"*) [ -n "$DOCKER_VOLUME" ] ;;
    "compose port"*) echo 127.0.0.1:8000 ;;
    "version "*) [ "$DOCKER_ENGINE" != fails ] || exit 1; echo "$DOCKER_ENGINE" ;;
esac
"""


class Checkout:
    """A folder with what both targets need, and an engine in front of any other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a folder's 100% +c&d"
        (self.folder / "deploy").mkdir(parents=True)
        for name in ("Makefile", "deploy/check-project.sh", "deploy/compose.sh"):
            shutil.copy(ROOT / name, self.folder / name)
        for name in ("postgres", "observability"):
            (self.folder / name).mkdir()
        self._programs = folder / "programs"
        self._programs.mkdir()
        (self._programs / "docker").write_text(_DOCKER)
        (self._programs / "docker").chmod(0o755)
        self._asked = folder / "asked"

    def make(self, target: str, *, runs_from: str = "", volume: bool = False, **more: str) -> str:
        """Runs a target and returns what it prints."""
        self._asked.write_text("")
        variables = {"DOCKER_ASKED": str(self._asked), "DOCKER_FOLDER": runs_from, "DOCKER_ENGINE": "28.5.2"}
        variables |= more
        variables["DOCKER_VOLUME"] = "yes" if volume else ""
        done = subprocess.run(
            ["make", "--no-print-directory", target],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}", **variables},
            capture_output=True,
            text=True,
        )
        return done.stdout + done.stderr

    def asked(self, words: str) -> bool:
        """Whether the engine was asked for that."""
        return words in self._asked.read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_first_start_and_its_repetition(checkout: Checkout) -> None:
    assert "ready at http://127.0.0.1:8000" in checkout.make("up")
    assert "ready" in checkout.make("up", runs_from=str(checkout.folder))
    assert "ready" in checkout.make("up", volume=True), "after `make down`: the volumes are its own"
    assert "ready" in checkout.make("up", runs_from=f"{checkout.folder}/examples/storefront")


def test_another_checkouts_project_is_left_alone(checkout: Checkout) -> None:
    said = checkout.make("up", runs_from="/home/other/holdfast")
    assert "/home/other/holdfast" in said and "COMPOSE_PROJECT_NAME=" in said and "HOLDFAST_API_PORT=" in said
    assert not checkout.asked("compose up")
    said = checkout.make("down", runs_from="/home/other/holdfast")
    assert "/home/other/holdfast" in said and not checkout.asked("compose --profile * down")
    checkout.make("down", runs_from=str(checkout.folder))
    assert checkout.asked("compose --profile * down")


def test_volumes_of_an_earlier_checkout_are_used_only_when_asked(checkout: Checkout) -> None:
    said = checkout.make("up", volume=True)
    assert "did not make them" in said and not checkout.asked("compose up")
    assert "ready" in checkout.make("up", volume=True, HOLDFAST_USE_VOLUMES="true")
    said = checkout.make("up", volume=True, COMPOSE_PROJECT_NAME="holdfast2")
    assert '"holdfast2"' in said, "another project, which it did not make either"


def test_a_native_stack_with_data_is_named(checkout: Checkout) -> None:
    assert "native stack" not in checkout.make("up")
    (checkout.folder / ".holdfast" / "postgres").mkdir(parents=True)
    said = checkout.make("up")
    assert "A native stack with data is in" in said and "ready" in said


@pytest.mark.parametrize("engine", ["27.5.1", "25.0.0-rc.1", "9.0"])
def test_an_engine_that_opens_published_ports_to_neighbours_is_named(checkout: Checkout, engine: str) -> None:
    said = checkout.make("up", DOCKER_ENGINE=engine)
    [warning] = [line for line in said.splitlines() if engine in line]
    assert "older than 28" in warning and "127.0.0.1" in warning
    assert "ready at" in said


@pytest.mark.parametrize("engine", ["28.0.0", "28.5.2+dfsg4", "100.1", "", "dev", "fails"])
def test_a_newer_or_unknown_engine_is_not(checkout: Checkout, engine: str) -> None:
    said = checkout.make("up", DOCKER_ENGINE=engine)
    assert "older than 28" not in said and "ready at" in said
