"""The order of a workflow's family on its page."""

from __future__ import annotations

import random
from typing import Any

from holdfast.console.tree import _order


def test_children_are_in_the_order_of_their_start_and_number() -> None:
    def row(workflow_id: str, level: int = 1, created_ms: int = 5) -> dict[str, Any]:
        return {"workflow_id": workflow_id, "level": level, "created_ms": created_ms}

    batch = [row(f"b-0f{number}") for number in (1, 2, 10, 11, 100)]
    strange = [row("b-\u0663"), row(f"c-{'9' * 5000}"), row(f"c-{'9' * 5001}")]
    family = [row("z", level=0), row("late", created_ms=4), *batch, *strange, row("a", created_ms=6)]
    mixed = random.Random(7).sample(family, len(family))
    assert [each["workflow_id"] for each in sorted(mixed, key=_order)] == [
        each["workflow_id"] for each in family
    ]
