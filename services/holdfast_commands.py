"""The showcase's commands, which ``holdfast`` finds here by the module's name."""

from __future__ import annotations

import typer

from holdfast.commands import JsonOption, Subjects, plain_errors, show
from services.worker.buckets.command import bucket
from services.worker.fibonacci.command import BATCHES, submit
from services.worker.pulse.command import PULSE
from services.worker.pulse.settings import PULSE_SECONDS, PulseSettings


def demo(
    as_json: JsonOption = False,
) -> None:
    """Kill a worker, pause another, restart the API under work, and show that nothing is lost."""
    with plain_errors():
        from services.demo import Demo

        result = Demo(quiet=as_json).run()
        show(result, as_json=as_json, human=lambda: None)
        raise typer.Exit(0 if result["ok"] else 1)


COMMANDS = [submit, bucket, demo]
TABLES = [BATCHES]
LANES = [PULSE]
SUBJECTS = Subjects(
    batch="fibonacci.batch",
    sequence="fibonacci.sequence",
    number="fibonacci.number",
    tick="pulse.tick",
    poison="chaos.poison",
    scopes=["ClassScope.run", "InstanceScope.run", "scope.function"],
    listing="buckets.listing",
    page="buckets.page",
    tick_seconds=PULSE_SECONDS,
    tick_catch_up_seconds=lambda: PulseSettings().pulse_catch_up_seconds,
    late_tick_seconds=lambda: PulseSettings().late_tick_seconds,
)
