"""The ``holdfast`` command on the machine that runs the stack under test."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support.compose_stack import ComposeStack
from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, Stack, clean_environment


def environment(stack: Stack) -> dict[str, str]:
    """Returns the variables that select the stack for the command."""
    if isinstance(stack, ComposeStack):
        return {
            **stack.environment,
            "COMPOSE_PROJECT_NAME": stack.project,
            "COMPOSE_ENV_FILES": "/dev/null",
            "HOLDFAST_HOME": "/nonexistent",
        }
    assert isinstance(stack, NativeStack)
    return clean_environment(**stack.settings, HOLDFAST_HOME=str(stack.home))


def command(*words: str) -> list[str]:
    """Returns the command line."""
    return [sys.executable, "-m", "holdfast.cli.main", *words]


def holdfast(stack: Stack, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        command(*words),
        cwd=ROOT,
        env=environment(stack),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def started(stack: Stack, *words: str) -> subprocess.Popen[str]:
    """Starts the command. The caller ends it."""
    return subprocess.Popen(
        command(*words),
        cwd=ROOT,
        env=environment(stack),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(stack: Stack, *words: str) -> Any:
    """Runs the command, which must succeed, and returns its JSON."""
    done = holdfast(stack, *words, "--json")
    assert done.returncode == 0, f"holdfast {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)
