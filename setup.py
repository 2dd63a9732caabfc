"""Adds to the wheel what pyproject.toml cannot name: a line beside the package that Python runs at its start.

Below ``holdfast run`` it puts the folder of the hook on the path, also where PYTHONPATH was replaced or is
not read. Elsewhere it does nothing.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILE = "holdfast_run.pth"
LINE = (
    "import os, sys; hook = os.environ.get('HOLDFAST_HOOK');"
    " hook and hook not in sys.path and sys.path.insert(0, hook)\n"
)


class BuildWithHook(build_py):
    """Builds the package and the line beside it. An editable installation has the hook's folder alone."""

    def run(self) -> None:
        """Runs the build."""
        super().run()
        if not self.editable_mode:
            Path(self.build_lib, FILE).write_text(LINE, "utf-8")


setup(cmdclass={"build_py": BuildWithHook})
