"""Public: what the commands of an application are built from. ``holdfast.cli.extensions`` describes how it
registers them.

A command takes the shared options (``UrlOption`` and others), talks to an ``Api`` inside ``plain_errors()``,
and prints its result with ``show``, which makes control characters visible. A command that starts work does
all of that with ``start_and_follow``. ``here()`` is the installation, whose members a demonstration may kill
and pause.
"""

from holdfast.audit.audit import Subjects
from holdfast.cli.checks import findings_here, recent_handovers, show_findings
from holdfast.cli.extensions import WatchLane, WatchTable
from holdfast.cli.shown import (
    Api,
    JsonOption,
    KeyOption,
    TimeoutOption,
    UrlOption,
    WaitOption,
    console,
    lines_of,
    plain_errors,
    show,
    table,
)
from holdfast.cli.waiting import poll_until, start_and_follow
from holdfast.installations.detection import here
from holdfast.installations.installation import Member, NothingRunsError
from holdfast.path_segment import encode_segment

__all__ = [
    "Api",
    "JsonOption",
    "KeyOption",
    "Member",
    "NothingRunsError",
    "Subjects",
    "TimeoutOption",
    "UrlOption",
    "WaitOption",
    "WatchLane",
    "WatchTable",
    "console",
    "encode_segment",
    "findings_here",
    "here",
    "lines_of",
    "plain_errors",
    "poll_until",
    "recent_handovers",
    "show",
    "show_findings",
    "start_and_follow",
    "table",
]
