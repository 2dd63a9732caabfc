"""Kills processes of unchanged applications: ``python -m tests.foreign dbos`` or ``packages``.

``dbos`` runs one plain application on each DBOS 3 of the index. ``packages`` runs packages that are built on
DBOS. Each has an environment of its own in build/foreign with Holdfast's wheel, and runs under
``holdfast run``. Exits with 1 if work was lost anywhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.foreign import argus, report
from tests.foreign.cases import DBOS_VERSIONS, PACKAGES, Case, run
from tests.support import environments
from tests.support.database import Server
from tests.support.stack import ROOT

REPORTS = {"dbos": "dbos-versions.md", "packages": "third-parties.md"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["dbos", "packages"])
    parser.add_argument("--only", nargs="+", default=[], help="names of cases")
    parser.add_argument("--kills", type=int, default=5, help="kills of each kind")
    parser.add_argument("--report", action="store_true", help="write the page in docs/reports")
    options = parser.parse_args()
    cases: tuple[Case, ...] = DBOS_VERSIONS if options.what == "dbos" else PACKAGES
    chosen = [case for case in cases if not options.only or case.name in options.only]
    wheel = environments.wheel()
    server = Server()
    results = []
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-foreign-") as folder:
            for case in chosen:
                results.append(run(case, server, wheel, Path(folder), kills=options.kills))
                print(report.line(results[-1]), flush=True)
            if options.what == "packages" and (not options.only or "dbos-argus" in options.only):
                results.append(argus.run(server, wheel, Path(folder)))
                print(report.line(results[-1]), flush=True)
    finally:
        server.close()
    if options.report:
        (ROOT / "docs" / "reports" / REPORTS[options.what]).write_text(
            report.page(options.what, results), "utf-8"
        )
    return 0 if all(result.lost is None for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
