"""DBOS's own command as the image has it: the same, but pickles are refused (runtime/serializer.py)."""

from __future__ import annotations

from dbos.cli.cli import app

from holdfast.dbos_adapter.serializer import refuse_pickles


def main() -> None:
    """Runs ``dbos`` with this process's arguments."""
    refuse_pickles()
    app(prog_name="dbos")


if __name__ == "__main__":
    main()
