"""Runs a command with plain text output and logs each line as JSON, as every container does.

``python -m holdfast.cli.json_lines LOGGER COMMAND...`` exits with the command's status.
"""

from __future__ import annotations

import subprocess
import sys

from holdfast.observability.json_lines import as_json_line


def main(logger: str, command: list[str]) -> int:
    """Runs ``command`` and returns its exit status. For a signal, that is 128 plus the signal's number."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(as_json_line(line.rstrip(), logger=logger), flush=True)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
