"""The application of `bench.attached`: plain DBOS, and no line of it knows Holdfast.

It runs a workflow of as many steps as a line of its standard input says, and writes the seconds that it took.
"""

import os
import sys
import time

from dbos import DBOS, DBOSConfig

config: DBOSConfig = {"name": "bench", "system_database_url": os.environ["BENCH_URL"], "log_level": "WARNING"}
DBOS(config=config)


@DBOS.step()
def step(number: int) -> int:
    return number


@DBOS.workflow()
def steps(count: int) -> float:
    begun = time.perf_counter()
    for number in range(count):
        step(number)
    return time.perf_counter() - begun


if __name__ == "__main__":
    DBOS.launch()
    DBOS.register_queue("packing")
    print("ready", flush=True)
    for line in sys.stdin:
        print(steps(int(line)), flush=True)
