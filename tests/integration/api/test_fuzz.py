"""The whole OpenAPI schema fuzzed, bounded; `make fuzz CASES=10000` runs the full campaign."""

from __future__ import annotations

import pytest

from tests.conftest import SEED
from tests.fuzz.campaign import fuzz
from tests.fuzz.ground import ground
from tests.support.database import Database

EXAMPLES = 6
OPERATIONS = 24


@pytest.mark.timeout(600)
def test_every_operation_keeps_its_schema(database: Database) -> None:
    with ground(database) as target:
        done = fuzz(target, seed=SEED, examples=EXAMPLES, phases="coverage,fuzzing", limit_seconds=540)
        assert done.passed, done.output
        assert done.operations >= OPERATIONS
        assert done.cases > OPERATIONS * EXAMPLES
        assert target.api.http.get("/readyz").status_code == 200
        assert target.api.http.get("/livez").status_code == 200
