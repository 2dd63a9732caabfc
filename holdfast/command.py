"""The program ``holdfast``. `holdfast run` needs none of the packages that the other commands need."""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> None:
    """Runs ``holdfast`` with the arguments of this process."""
    if sys.argv[1:2] == ["run"]:
        from holdfast.attached import run

        sys.exit(run.main(sys.argv[2:]))
    import_module("holdfast.cli.main").main()


if __name__ == "__main__":
    main()
