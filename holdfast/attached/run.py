"""``holdfast run [--require] -- COMMAND…``: runs a command with Holdfast attached to its DBOS application.

It replaces itself by the command, with a folder in front of PYTHONPATH: the processes that the command starts
(workers of uvicorn and gunicorn, ``--reload``) attach Holdfast too.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

USAGE = "usage: holdfast run [--require] -- COMMAND [ARGUMENT…]"
_HOOK = Path(__file__).parent / "hook"


def run(command: Sequence[str], *, require: bool) -> NoReturn:
    """Replaces this process by the command. Raises ``OSError`` if it cannot be started."""
    environment = dict(os.environ)
    before = [
        entry
        for entry in environment.get("PYTHONPATH", "").split(os.pathsep)
        if entry and entry != str(_HOOK)
    ]
    environment["PYTHONPATH"] = os.pathsep.join([str(_HOOK), *before])
    environment["HOLDFAST_HOOK"] = str(_HOOK)  # where PYTHONPATH does not arrive: see setup.py
    if require:
        environment["HOLDFAST_REQUIRED"] = "true"
    os.execvpe(command[0], list(command), environment)


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments after ``holdfast run``. Returns an exit code only if it cannot run the command."""
    options = list(arguments)
    require = False
    while options and options[0].startswith("-"):
        option = options.pop(0)
        if option == "--":
            break
        if option in ("-h", "--help"):
            print(f"{USAGE}\n\n{__doc__}")
            return 0
        if option != "--require":
            print(f"holdfast run: unknown option {option}\n{USAGE}", file=sys.stderr)
            return 2
        require = True
    if not options:
        print(f"holdfast run: no command\n{USAGE}", file=sys.stderr)
        return 2
    try:
        run(options, require=require)
    except OSError as error:
        found = shutil.which(options[0])
        print(f"holdfast run: cannot start {found or options[0]}: {error.strerror}", file=sys.stderr)
        return 127 if found is None else 126
