"""Attempts are measured however they end, and a step knows whether anything can cancel it."""

from __future__ import annotations

import pytest
from dbos import error as dbos_error

from holdfast.durable import steps
from holdfast.durable.measure import timed_step
from holdfast.observability import metrics
from holdfast.runtime import measured

LEFT = dbos_error.DBOSWorkflowCancelledError("cancelled")


@pytest.mark.parametrize(
    ("error", "status"), [(None, "SUCCESS"), (ValueError(), "ERROR"), (SystemExit(), "ERROR"), (LEFT, "LEFT")]
)
def test_every_attempt_is_measured_once(error: BaseException | None, status: str) -> None:
    def counts() -> dict[str, float]:
        return {
            each.labels["status"]: each.value
            for family in metrics.STEP_SECONDS.collect()
            for each in family.samples
            if each.name.endswith("_count") and each.labels["step_name"] == "measured"
        }

    before = counts()
    try:
        with measured("an earlier release's workflow"), timed_step("measured"):
            if error is not None:
                raise error  # noqa: TRY301
    except BaseException as raised:
        assert raised is error
    assert counts() == {**before, status: before.get(status, 0) + 1}


def test_a_step_without_a_process_of_holdfasts_has_no_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None:
        raise RuntimeError

    monkeypatch.setattr(steps, "resources", nothing)
    with steps._cancellation("w") as cancellation:
        assert cancellation is None
