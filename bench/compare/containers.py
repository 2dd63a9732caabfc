"""What the containers weigh and how soon they are there, where a Docker engine answers."""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import Any

from bench.compare.cases import Case, Context
from bench.compare.holdfast import Holdfast
from bench.compare.processes import NotMeasured
from holdfast.installations.embedded import ROOT
from tests.support.compose_stack import ComposeStack
from tests.support.stack import running_stack

IMAGE = "holdfast-bench"


def _docker(*arguments: str, **environment: str) -> str:
    try:
        done = subprocess.run(
            ["docker", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    except OSError as error:
        raise NotMeasured(f"no Docker engine: {error}") from error
    if done.returncode != 0:
        raise NotMeasured(f"docker {arguments[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def base_image() -> str:
    """What the Dockerfile builds on, unless told otherwise."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return os.environ.get("BASE_IMAGE", found[1])


def containers(_: Holdfast, __: Context) -> dict[str, Any]:
    """The image's size over its base, and a second ``docker compose up`` until everything is healthy."""
    _docker("info", "--format", "{{.ServerVersion}}")
    _docker("compose", "build", "--quiet", HOLDFAST_IMAGE=IMAGE)
    sizes = [
        int(_docker("image", "inspect", "--format", "{{.Size}}", name)) for name in (IMAGE, base_image())
    ]
    stack = ComposeStack(IMAGE)
    with running_stack(stack):
        stack.workers()
        # Warm: images, volumes, secrets and the migrated database are there.
        stack.compose("down", "--timeout", "30")
        begun = time.monotonic()
        stack.start()
        ready = time.monotonic() - begun
    return {
        "image_megabytes": sizes[0] / 1e6,
        "image_over_base_megabytes": (sizes[0] - sizes[1]) / 1e6,
        "ready_seconds": ready,
    }


CASES: tuple[Case, ...] = (
    Case("containers", "image and warm start", containers, 400, holdfast_only=True, alone=True),
)
