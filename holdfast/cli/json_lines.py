"""Runs a command with plain text output and logs each line as JSON, as every container does.

``python -m holdfast.cli.json_lines LOGGER COMMAND...`` exits with the command's status.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime


def main(logger: str, command: list[str]) -> int:
    """Runs ``command`` and returns its exit status. For a signal, that is 128 plus the signal's number."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            entry = {
                "time": time,
                "level": "INFO",
                "logger": logger,
                "message": line.rstrip(),
                "action": "log",
            }
            print(json.dumps(entry, ensure_ascii=False), flush=True)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
