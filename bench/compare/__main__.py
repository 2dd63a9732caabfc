"""``python -m bench.compare --rounds 5`` (``make bench ROUNDS=5``).

Runs every contender's cases in every round, each contender started and ended in its turn, in an order
that rotates. ``--only`` and ``--cases`` renew a part of the results, ``--resume`` goes on with the last
run, ``--report`` only writes the report anew. Exit code 0 when everything that was requested has results.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bench.compare import alone, containers, machine, pictures, report
from bench.compare.cases import CASES, Case, Context
from bench.compare.contender import Contender
from bench.compare.grown import HoldfastGrown
from bench.compare.holdfast import Holdfast
from bench.compare.peers import PEERS
from bench.compare.processes import NotMeasured
from bench.compare.results import RESULTS, Results

CONTENDERS: dict[str, type[Contender]] = {kind.name: kind for kind in (Holdfast, HoldfastGrown, *PEERS)}
# The takeover comes last: without a takeover, the contender is left with a job that hangs.
ALL_CASES: dict[str, Case] = {
    case.name: case for case in (*CASES[:-1], *alone.RUNNING, CASES[-1], *alone.ALONE, *containers.CASES)
}
TITLES = {name: (kind.title, kind.note) for name, kind in CONTENDERS.items()}


def say(text: str) -> None:
    """To a person who waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The order of a round, counted from 1: each contender comes first in its turn."""
    first = (number - 1) % len(names)
    return [*names[first:], *names[:first]]


class Run:
    """One call of this program."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.results = Results(options.results, resume=options.resume)
        self.failed: list[str] = []

    def everything(self) -> None:
        """All rounds."""
        names = [name for name in self.options.only or CONTENDERS if name not in self.options.skip]
        flush = machine.flush_milliseconds(Path(tempfile.gettempdir()))
        self.results.runs[self.results.run]["machine"]["flush_milliseconds"] = flush
        for number in range(1, self.options.rounds + 1):
            for name in rotated(names, number):
                self.contender(CONTENDERS[name](), number)

    def contender(self, contender: Contender, number: int) -> None:
        """One contender's cases of one round: those on what runs, then those with stacks of their own."""
        wanted = self.wanted(contender, number)
        if not wanted:
            return
        context = Context(
            round=number,
            generator=random.Random(f"{self.options.seed} {contender.name} {number}"),
            samples=self.options.samples,
            takeover_bound_seconds=self.options.takeover_bound,
        )
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory:
            Path(directory).chmod(0o711)  # PostgreSQL's user has to pass
            shared = [case for case in wanted if not case.alone]
            for attempt in range(len(shared)):
                if shared:
                    # After a failure it starts anew: what is left of the one before would hurt the next.
                    shared = self.started(contender, shared, context, Path(directory) / f"start-{attempt}")
            for case in wanted:
                if case.alone:
                    context.home = Path(directory) / case.name
                    self.case(contender, case, context)

    def started(self, contender: Contender, cases: list[Case], context: Context, home: Path) -> list[Case]:
        """The cases between start and stop; returns those that are left after one that failed."""
        left = list(cases)
        begun = time.monotonic()
        try:
            with contender.running(home):
                say(
                    f"round {context.round}: {contender.name} is ready after {time.monotonic() - begun:.1f} s"
                )
                self.results.versions[contender.name] = contender.versions()
                while left and self.case(contender, left.pop(0), context):
                    pass
        except Exception as error:  # whatever a peer's start or end comes to: the others go on
            why = _why(error)
            say(f"round {context.round}: {contender.name} NOT MEASURED: {why}")
            for case in left:
                self.fail(contender, case, context, why)
            return []
        return left

    def case(self, contender: Contender, case: Case, context: Context) -> bool:
        """One case, and its record; False when it failed."""
        begun = time.monotonic()
        try:
            with bounded(case.bound_seconds):
                values = case.run(contender, context)
        except Exception as error:
            why = _why(error)
            say(f"round {context.round}: {contender.name}: {case.title}: NOT MEASURED: {why}")
            self.fail(contender, case, context, why)
            return False
        summary = ", ".join(f"{k} {v:.3g}" for k, v in values.items() if isinstance(v, int | float))
        took = time.monotonic() - begun
        say(f"round {context.round}: {contender.name}: {case.title}: {summary} (took {took:.0f} s)")
        self.results.add(contender.name, case.name, context.round, {**values, "took_seconds": round(took, 1)})
        return True

    def fail(self, contender: Contender, case: Case, context: Context, why: str) -> None:
        """Kept and shown: a missing result must differ from one that was not requested."""
        self.failed.append(f"{contender.name} {case.name}")
        self.results.add(contender.name, case.name, context.round, {"failed": why})

    def wanted(self, contender: Contender, number: int) -> list[Case]:
        """The cases of a contender in a round."""
        named = self.options.cases
        cases = [case for case in ALL_CASES.values() if not named or case.name in named]
        found = []
        for case in cases:
            if case.holdfast_only and contender.name != Holdfast.name:
                continue
            if case.optional and contender.name != Holdfast.name and not named:
                continue
            slow = case.name == "takeover" and contender.slow_takeover
            if slow and (number > 1 or self.options.skip_slow):
                continue
            if self.options.resume and self.results.has(contender.name, case.name, number):
                continue
            found.append(case)
        return found


class bounded:  # noqa: N801 - reads as what it does
    """Raises `NotMeasured` in the main thread after ``seconds``, whatever it waits for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._over)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _over(self, _signum: int, _frame: FrameType | None) -> None:
        raise NotMeasured(f"not within {self.seconds:g} s")


def _why(error: Exception) -> str:
    return (str(error) if isinstance(error, NotMeasured) else repr(error))[-500:]


def _terminated(_signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)  # so that everything started is ended


def names_of(known: dict[str, object]) -> object:
    """An argument type: a comma-separated list of known names."""

    def parse(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return found

    return parse


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="3 by default; the report has 5")
    parser.add_argument("--only", type=names_of(dict(CONTENDERS)), help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--skip", type=names_of(dict(CONTENDERS)), default=[], help="these not")
    parser.add_argument("--cases", type=names_of(dict(ALL_CASES)), help=f"of {', '.join(ALL_CASES)}")
    parser.add_argument("--samples", type=int, default=60, help="pickups of a contender in a round")
    parser.add_argument("--takeover-bound", type=float, default=90.0, help="seconds; after that: never")
    parser.add_argument(
        "--skip-slow", action="store_true", help="no takeover of those who take a minute or never do"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on with the last run: only what is missing")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report anew")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file")
    return parser.parse_args()


def write_report(results: Results) -> Path:
    """Pictures and Markdown beside the JSON; the Markdown's path."""
    results.write()
    drawn = pictures.draw(results.records, TITLES, results.path.parent)
    measured = {"runs": results.runs, "versions": results.versions, "records": results.records}
    path = results.path.with_suffix(".md")
    path.write_text(report.markdown(measured, TITLES, drawn), "utf-8")
    return path


def main() -> int:
    """Entry point."""
    options = arguments()
    signal.signal(signal.SIGTERM, _terminated)
    run = Run(options)
    try:
        if not options.report:
            run.everything()
    finally:
        HoldfastGrown.discard()
        path = write_report(run.results)
        say(f"written: {path}")
    if run.failed:
        say(f"NOT MEASURED: {', '.join(sorted(set(run.failed)))}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
