"""``python -m tests.fuzz --cases N --seed S``: the whole OpenAPI schema, until N cases are done.

Exit code 0 only when no check failed and the server still answers. Each round prints its seed; the seed
repeats it.
"""

from __future__ import annotations

import argparse
import random
import time

from tests.fuzz.campaign import fuzz
from tests.fuzz.ground import ground
from tests.support.database import Database, Server

EXAMPLES = 60
ROUND_SECONDS = 1800.0


def main() -> int:
    """Rounds with seeds in a row; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="end after the round that reaches it")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="random cases an operation and round")
    options = parser.parse_args()
    server = Server()
    try:
        database = Database.create(server)
        with ground(database) as target:
            cases = failed = rounds = operations = 0
            began = time.monotonic()
            while cases < options.cases:
                done = fuzz(
                    target,
                    seed=options.seed + rounds,
                    examples=options.examples,
                    phases="examples,coverage,fuzzing,stateful",
                    limit_seconds=ROUND_SECONDS,
                )
                rounds, cases, operations = rounds + 1, cases + done.cases, done.operations
                verdict = "ok" if done.passed else "FAILED"
                print(f"seed {done.seed}: {done.cases} cases, {done.seconds:.0f} s, {verdict}", flush=True)
                if not done.passed:
                    failed += 1
                    print(done.output, flush=True)
                if done.cases == 0:
                    break
            alive = target.api.http.get("/readyz").status_code == 200
            print(
                f"{cases} cases over {operations} operations in {time.monotonic() - began:.0f} s, "
                f"seeds {options.seed} to {options.seed + rounds - 1}: "
                f"{failed} of {rounds} rounds failed; {'ready' if alive else 'NOT READY'} afterwards; "
                f"{len(target.api.process.stops)} orders to stop noted"
            )
        return 0 if alive and not failed and cases >= options.cases else 1
    finally:
        server.close()


if __name__ == "__main__":
    raise SystemExit(main())
