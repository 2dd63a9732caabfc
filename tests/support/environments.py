"""Python environments of users: a fresh one with Holdfast's wheel, and none of this checkout's packages."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.support.stack import ROOT, clean_environment


def wheel() -> Path:
    """Builds the wheel with ``make wheel`` and returns its path. Runs of several tests take turns."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "--no-print-directory", "wheel"], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return ROOT / done.stdout.split()[-1]


class Environment:
    """A virtual environment in ``path``. It starts empty; pip's own configuration names the index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if (path / "bin" / "pip").exists():
            return
        subprocess.run([sys.executable, "-m", "venv", str(path)], check=True, timeout=120)

    def install(self, *requirements: str) -> None:
        """Installs the requirements. A failure raises ``AssertionError`` with pip's output."""
        done = self.run(
            "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def version(self, package: str) -> str:
        """Returns the version of an installed package."""
        code = "import sys; from importlib import metadata; print(metadata.version(sys.argv[1]))"
        return self.run("python", "-c", code, package).stdout.strip()

    def program(self, name: str) -> str:
        """Returns the path of a program of this environment."""
        return str(self.path / "bin" / name)

    def variables(self, **settings: str) -> dict[str, str]:
        """Returns the variables of a shell that has activated this environment."""
        plain = clean_environment(**settings)
        return {**plain, "PATH": f"{self.path / 'bin'}:{plain['PATH']}", "VIRTUAL_ENV": str(self.path)}

    def run(
        self, name: str, *words: str, timeout: float = 600, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of this environment in its own folder, to its end."""
        return subprocess.run(
            [self.program(name), *words],
            cwd=self.path,
            env=self.variables(**settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
