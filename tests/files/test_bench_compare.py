"""The comparison's arithmetic: percentiles, ratios within a round, the goals' verdicts, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.compare import goals, pictures, report
from bench.compare.__main__ import ALL_CASES, CONTENDERS, TITLES, rotated
from bench.compare.contender import check
from bench.compare.processes import NotMeasured
from bench.compare.results import Results
from bench.compare.summaries import Missing, Summary, percentile, ratios, slope, summarize, summary_of


def record(contender: str, case: str, number: int = 1, run: str = "a", **values: Any) -> dict[str, Any]:
    return {"contender": contender, "case": case, "round": number, "run": run, "load": 0.1, **values}


def verdict(text: str, records: list[dict[str, Any]]) -> goals.Verdict:
    (goal,) = [goal for goal in goals.GOALS if goal.text.startswith(text)]
    return goal.judge(records)


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0, 0.0)] == [50, 95, 99, 100, 1]
    assert percentile([7.0], 0.5) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_summary_is_the_median_with_its_range() -> None:
    assert summarize([3.0, 1.0, 9.0, 4.0]) == Summary(3.5, 1.0, 9.0, 4)
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_a_failed_round_is_no_result_and_its_reason_is_kept() -> None:
    records = [record("celery", "tiny", failed="no redis-server"), record("celery", "tiny", 2, failed="gone")]
    assert summary_of(records, "celery", "tiny", "seconds") == Missing("gone")
    assert summary_of(records, "celery", "takeover", "seconds") == Missing("did not run")
    assert summary_of(
        [*records, record("celery", "tiny", 3, seconds=2.0)], "celery", "tiny", "seconds"
    ) == Summary(2.0, 2.0, 2.0, 1)


def test_ratios_are_of_one_round_of_one_run() -> None:
    records = [
        record("holdfast", "tiny", 1, seconds=1.0),
        record("holdfast", "tiny", 2, seconds=2.0),
        record("holdfast", "tiny", 3, seconds=9.0),
        record("celery", "tiny", 1, seconds=2.0),
        record("celery", "tiny", 2, seconds=8.0),
        record("celery", "tiny", 3, run="of another day", seconds=1.0),
        record("celery", "pickup", 3, seconds=1.0),
    ]
    assert ratios(records, "tiny", "seconds", "holdfast", "celery") == [0.5, 0.25]
    assert ratios(records, "tiny", "seconds", "holdfast", "dbos") == []


def test_the_slope_is_what_one_more_costs() -> None:
    assert slope([(1, 12.0), (2, 22.0), (4, 42.0)]) == pytest.approx(10)


def test_ahead_of_every_peer_means_of_the_nearest() -> None:
    text = "50 × fib(30) concurrently"
    records = [
        record("holdfast", "at_once_30", of_bound=0.92),
        record("celery", "at_once_30", of_bound=0.90),
        record("dbos", "at_once_30", of_bound=0.41),
    ]
    found = verdict(text, records)
    assert found.reached
    assert "celery with 0.90" in found.result and "2 of 8 peers" in found.result
    beaten = verdict(text, [*records, record("procrastinate", "at_once_30", of_bound=0.93)])
    assert beaten.reached is False and "procrastinate" in beaten.result
    # Beside no peer there is nothing to be ahead of.
    assert verdict(text, records[:1]).reached is None
    assert verdict(text, records[1:]).reached is None


@pytest.mark.parametrize(("ratio", "reached"), [(0.0299, True), (0.0301, False), (-0.01, True)])
def test_three_percent_over_pure(ratio: float, reached: bool) -> None:
    records = [record("holdfast", "in_turn_long", over_ratio=ratio)]
    assert verdict("10 × fib(33)", records).reached is reached


@pytest.mark.parametrize(("seconds", "reached"), [(0.2, True), (0.201, False)])
def test_a_fifteenth_of_temporals(seconds: float, reached: bool) -> None:
    records = [
        record("holdfast", "in_turn_short", seconds=seconds),
        record("temporal", "in_turn_short", seconds=3.0),
    ]
    assert verdict("40 × fib(10) in turn: a fifteenth", records).reached is reached
    assert verdict("40 × fib(10) in turn: at most", records).reached is reached


@pytest.mark.parametrize(("own", "reached"), [(0.38, True), (0.4, False)])
def test_a_tenth_of_the_best_tuned_takeover(own: float, reached: bool) -> None:
    records = [
        record("holdfast", "takeover", seconds=own),
        record("procrastinate-tuned", "takeover", seconds=3.8),
        record("celery-tuned", "takeover", seconds=10.0),
        record("dbos-tuned", "takeover", never_within_seconds=90, samples=[]),
        # Not tuned: of no account here.
        record("temporal", "takeover", seconds=0.1),
    ]
    found = verdict("takeover", records)
    assert found.reached is reached
    assert "procrastinate-tuned" in found.result


def test_pickup_needs_both_percentiles() -> None:
    text = "pickup"
    assert verdict(text, [record("holdfast", "pickup", p50_ms=4.0, p95_ms=9.0)]).reached is True
    assert verdict(text, [record("holdfast", "pickup", p50_ms=4.0, p95_ms=11.0)]).reached is False
    assert verdict(text, [record("holdfast", "pickup", failed="slow")]).reached is None


def test_idle_transactions_are_those_of_one_worker_more() -> None:
    idle = {"1": 30.0, "2": 54.0, "4": 102.0, "8": 198.0}
    found = verdict("at most 25 idle", [record("holdfast", "workers", idle_transactions=idle)])
    assert found.reached is True and found.result.startswith("24.0")
    assert verdict("at most 25 idle", [record("holdfast", "workers", failed="x")]).reached is None


def test_growth_turns_what_is_better_when_more() -> None:
    def with_tiny(rate: float) -> goals.Verdict:
        return verdict(
            "the same results",
            [
                record("holdfast", "tiny", jobs_a_second=120.0),
                record("holdfast-1m", "tiny", jobs_a_second=rate),
                record("holdfast", "in_turn_short", seconds=1.0),
                record("holdfast-1m", "in_turn_short", seconds=1.1),
            ],
        )

    assert with_tiny(101.0).reached is True
    assert with_tiny(99.0).reached is False
    assert with_tiny(500.0).reached is True


def test_every_goal_says_so_when_nothing_was_measured() -> None:
    for goal in goals.GOALS:
        found = goal.judge([])
        assert found.reached is None and "not measured" in found.result, goal.text


def test_every_peer_of_the_goals_is_a_contender() -> None:
    assert {*goals.PEERS, goals.HOLDFAST, goals.GROWN} == set(CONTENDERS)
    assert set(goals.TUNED) <= set(goals.PEERS)


def test_the_order_rotates() -> None:
    names = ["a", "b", "c"]
    assert [rotated(names, number) for number in (1, 2, 4)] == [names, ["b", "c", "a"], names]


def test_the_takeover_comes_last_on_what_runs() -> None:
    assert [case.name for case in ALL_CASES.values() if not case.alone][-1] == "takeover"


def test_wrong_results_are_no_result() -> None:
    check(10, 3, [55, 55, 55])
    for values in ([55, 55], [55, 55, 56], [55, 55, 55, 55]):
        with pytest.raises(NotMeasured, match="results do not hold"):
            check(10, 3, values)


def test_a_new_run_replaces_what_it_measures_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    first = Results(path)
    for number in (1, 2):
        first.add("celery", "tiny", number, {"seconds": 1.0})
    first.add("dbos", "tiny", 1, {"seconds": 1.0})
    first.runs["0000 an earlier run"] = first.runs.pop(first.run)
    for each in first.records:
        each["run"] = "0000 an earlier run"
    first.run = "0000 an earlier run"
    first.write()
    second = Results(path)
    second.add("celery", "tiny", 1, {"seconds": 2.0})
    kept = [(r["contender"], r["round"], r["run"] == second.run) for r in second.records]
    assert kept == [("dbos", 1, False), ("celery", 1, True)]
    assert second.has("celery", "tiny", 1) and not second.has("celery", "tiny", 2)
    resumed = Results(path, resume=True)
    assert resumed.run == second.run and resumed.has("celery", "tiny", 1)
    resumed.add("celery", "tiny", 2, {"failed": "gone"})
    assert not resumed.has("celery", "tiny", 2)


def test_the_report_says_what_is_missing() -> None:
    records = [
        record("holdfast", "tiny", jobs_a_second=100.0),
        record("celery", "tiny", failed="redis-server is not on the PATH"),
        record("dbos", "takeover", never_within_seconds=90.0, samples=[]),
    ]
    measured = {"runs": {"a": {"machine": {"cpus": 2}}}, "versions": {}, "records": records}
    text = report.markdown(measured, TITLES, [])
    assert "**celery + redis: not measured:** tiny (round 1): redis-server is not on the PATH" in text
    assert "| DBOS as documented |" in text and "not within 90 s" in text
    assert "| 1,000 tiny jobs: ahead of every peer | **not measured** |" in text


def test_pictures_leave_out_what_never_came() -> None:
    records = [
        record("holdfast", "takeover", seconds=0.4, samples=[0.4]),
        record("dbos", "takeover", never_within_seconds=90.0, samples=[]),
    ]
    (drawing,) = pictures.drawings(records, TITLES)
    assert drawing["bars"] == [("Holdfast", 0.4)]
