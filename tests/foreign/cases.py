"""The foreign applications, and what is done to each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.foreign.ground import Ground, Lost, Process, ground, kill_in_a_step, kill_in_a_wait, wait_success
from tests.foreign.limits import limits_hold
from tests.foreign.model_server import ModelServer
from tests.support.database import Server
from tests.support.environments import Environment
from tests.support.stack import ROOT


@dataclass(frozen=True)
class Case:
    """One application. ``requirements`` are what its environment has beside Holdfast's wheel."""

    name: str
    requirements: tuple[str, ...]
    program: str
    versions_of: tuple[str, ...] = ("dbos",)
    """The packages whose versions the report names."""
    waits: bool = False
    """Whether its workflow waits for a message, too."""
    limits: bool = False
    """Whether it declares queues with limits, which must hold over two processes."""
    schema: str = "dbos"
    asks_a_model: bool = False
    refused_with: str = ""
    """Words of the warning with which Holdfast does not protect it, if so."""


@dataclass
class Result:
    """What came out. ``lost`` is None or says what went wrong."""

    name: str
    versions: dict[str, str] = field(default_factory=dict)
    seconds_in_step: list[float] = field(default_factory=list)
    seconds_in_wait: list[float] = field(default_factory=list)
    lost: str | None = None
    remark: str = ""


DBOS_VERSIONS = tuple(
    Case(
        f"3.{minor}",
        (f"dbos==3.{minor}.*",),
        "orders",
        waits=True,
        limits=True,
        refused_with="upgrade to DBOS 3.2 or newer" if minor < 2 else "",
    )
    for minor in range(5)
)
PACKAGES = (
    Case("pydantic-ai", ("pydantic-ai-slim[dbos]",), "pydantic_ai_agent", ("pydantic-ai-slim", "dbos")),
    Case(
        "openai-agents",
        ("dbos-openai-agents",),
        "openai_agent",
        ("openai-agents", "dbos-openai-agents", "dbos"),
        asks_a_model=True,
    ),
    Case(
        "dbosify",
        # dbosify 0.4.0 imports dbos._croniter, which DBOS 3.3 does not have any more.
        ("dbosify", "dbos==3.2.*"),
        "temporal_orders",
        ("dbosify", "dbos"),
        waits=True,
        schema="dbosify_default",
    ),
)


def environment_of(case: Case, wheel: Path) -> Environment:
    """Returns the environment of a case, kept from an earlier run, with this wheel."""
    environment = Environment(ROOT / "build" / "foreign" / case.name)
    environment.install(str(wheel), *case.requirements)
    # A wheel of the same version replaces an earlier one only if it is told to.
    environment.install("--force-reinstall", "--no-deps", str(wheel))
    return environment


def run(case: Case, server: Server, wheel: Path, folder: Path, *, kills: int) -> Result:
    """Kills processes of one application ``kills`` times in a step, and as often in a wait if it has one."""
    result = Result(case.name)
    environment = environment_of(case, wheel)
    result.versions = {name: environment.version(name) for name in case.versions_of}
    with ExitStack() as stack:
        variables = {}
        if case.asks_a_model:
            model = ModelServer()
            stack.callback(model.close)
            variables = {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
        try:
            made = stack.enter_context(
                ground(
                    server,
                    environment,
                    case.program,
                    folder / case.name,
                    schema=case.schema,
                    variables=variables,
                )
            )
            if case.refused_with:
                result.remark = _refusal(made, case.refused_with)
                return result
            peer = made.start()
            if case.limits:
                second = made.start()
                limits_hold(made, (peer, second))
                second.kill()
            peer, result.seconds_in_step = _rounds(made, peer, kills, kill_in_a_step, then_signal=case.waits)
            if case.waits:
                peer, result.seconds_in_wait = _rounds(made, peer, kills, kill_in_a_wait)
        except Lost as lost:
            result.lost = str(lost)
    return result


def _refusal(made: Ground, words: str) -> str:
    """Checks that the application does not start where it must be protected, and else runs with a warning."""
    try:
        made.start()
    except Lost as lost:
        if words not in str(lost):
            raise
    else:
        raise Lost("it started although it must be protected")
    process = made.start(required=False)
    if words not in process.log.read_text():
        raise Lost(f"no warning: {process.log.read_text()[-500:]}")
    process.command("start", "plain")
    process.command("signal", "plain")
    wait_success(made, "plain")
    return f"not protected, and says so once ({words}); runs as without Holdfast"


def _rounds(
    made: Ground,
    peer: Process,
    kills: int,
    kill: Callable[[Ground, str, tuple[Process, Process]], tuple[float, Process]],
    *,
    then_signal: bool = False,
) -> tuple[Process, list[float]]:
    """Kills several times. Each survivor gets a new peer, and every workflow must end with success."""
    seconds = []
    for number in range(kills):
        workflow_id = f"{kill.__name__.replace('_', '-')}-{number}"
        took, peer = kill(made, workflow_id, (peer, made.start()))
        seconds.append(took)
        if then_signal:
            peer.command("signal", workflow_id)
        wait_success(made, workflow_id)
    return peer, seconds
