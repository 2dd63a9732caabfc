"""The ``dbos`` command of the image: DBOS's own, except that it refuses pickles (module ``serializer``)."""

from __future__ import annotations

from dbos.cli.cli import app

from holdfast.dbos_adapter.serializer import refuse_pickles


def main() -> None:
    """Runs ``dbos`` with this process's arguments."""
    refuse_pickles()
    app(prog_name="dbos")


if __name__ == "__main__":
    main()
