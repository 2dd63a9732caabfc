"""The audit without a database: journal, ticks, logs, metrics."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.audit import evidence, promises
from holdfast.audit.findings import list_examples, make_finding
from holdfast.audit.journal import Journal
from holdfast.audit.ticks import inside, merged, unexcused

START = datetime(2026, 1, 1, tzinfo=UTC)
TICK, WINDOW = timedelta(seconds=5), timedelta(seconds=60)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def missing(
    seconds: list[float], *, workers: list[tuple[float, float]], down: list[tuple[float, float]]
) -> list[float]:
    found_late = unexcused(
        map(at, seconds),
        workers=[(at(b), at(e)) for b, e in workers],
        downtimes=[(at(b), at(e)) for b, e in down],
        tick=TICK,
        window=WINDOW,
    )
    return [(moment - START).total_seconds() for moment in found_late]


def test_a_tick_is_due_while_a_worker_is_there() -> None:
    assert missing([10, 15], workers=[(0, 100)], down=[]) == [10, 15]


def test_a_tick_in_declared_downtime_is_excused() -> None:
    assert missing([10, 15, 20], workers=[(0, 100)], down=[(12, 17)]) == [20]


def test_a_tick_within_the_window_before_a_start_is_due_and_an_older_one_is_not() -> None:
    assert missing([100, 155, 190], workers=[(0, 60), (200, 300)], down=[]) == [155, 190]


def test_a_worker_that_hardly_lived_owes_nothing() -> None:
    assert missing([100], workers=[(98, 104)], down=[]) == []


def test_the_last_tick_before_a_death_may_have_been_too_late() -> None:
    assert missing([57], workers=[(0, 60)], down=[]) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=8), st.integers(-1, 75))
def test_merged_intervals_hold_the_same_moments(pairs: list[tuple[int, int]], moment: int) -> None:
    intervals = [(at(begun), at(begun + length)) for begun, length in pairs]
    whole = merged(intervals)
    assert inside(at(moment), whole) == any(begun <= at(moment) <= ended for begun, ended in intervals)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(whole))


def test_a_repeated_request_settles_its_key() -> None:
    journal = Journal.read(
        [
            '{"kind": "request", "key": "a", "outcome": "unknown", "status": 0, "workflow_id": null}',
            '{"kind": "request", "key": "b", "outcome": "unknown", "status": 0, "workflow_id": null}',
            "",
            '{"kind": "request", "key": "a", "outcome": "ok", "status": 202, "workflow_id": "w"}',
            '{"kind": "request", "key": "c", "outcome": "refused", "status": 500, "workflow_id": null}',
            '{"kind": "downtime", "from": "2026-01-01T00:00:00+00:00", "to": "2026-01-01T00:01:00+00:00"}',
            '{"kind": "fault", "fault": {}}',
        ]
    )
    assert journal.accepted == {"w"}
    assert (journal.unresolved, journal.server_errors) == (1, 1)
    assert journal.outcomes == {"unknown": 2, "ok": 1, "refused": 1}
    assert journal.downtimes == [(at(0), at(60))]


@pytest.mark.parametrize("line", ["not json", '{"kind": "request"}'])
def test_a_broken_journal_is_an_error(line: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        Journal.read([line])


def test_logs_must_be_json_objects_without_secrets() -> None:
    clean = evidence.logs_are_clean(['{"a": 1}\n', "\n", '{"b": 2}'], ["long-enough-secret"])
    assert clean["ok"]
    assert clean["figures"] == {"lines": 2, "secrets_looked_for": 1}
    broken = evidence.logs_are_clean(["plain", "[1]", '{"p": "long-enough-secret"}'], ["long-enough-secret"])
    assert broken["details"] == ["2 log lines are not JSON: 'plain', '[1]'", "1 log lines hold a secret"]


def test_lines_of_others_may_be_plain_but_hold_no_secret() -> None:
    assert evidence.logs_are_clean([], ["long-enough-secret"], plain=["LOG: ready"])["ok"]
    assert not evidence.logs_are_clean([], ["long-enough-secret"], plain=["LOG: long-enough-secret"])["ok"]


def test_short_values_are_not_looked_for() -> None:
    assert evidence.logs_are_clean(['{"a": "postgres"}'], ["post"])["figures"]["secrets_looked_for"] == 0


def test_secrets_of_a_password_file_are_its_passwords() -> None:
    assert evidence.secrets_in("*:*:*:holdfast_api:word-1\n*:*:*:b:word-2\n") == {"word-1", "word-2"}
    assert evidence.secrets_in("token\n") == {"token"}


def test_findings_of_one_invariant_are_joined() -> None:
    joined = evidence.joined(make_finding(9, "a", [], x=1), make_finding(9, "b", ["wrong"], y=2))
    assert (joined["ok"], joined["text"], joined["figures"]) == (False, "a; b", {"x": 1, "y": 2})


def test_of_many_rows_the_first_are_listed() -> None:
    assert list_examples([], "things") == []
    assert list_examples(list(range(12)), "things") == ["12 things: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"]


def test_samples_of_a_metric_by_label_values() -> None:
    text = '# TYPE a counter\na_total{z="1",b="x"} 2.0\na_total{z="1",b="y"} 3.0\n# TYPE g gauge\ng 7.0\n'
    assert evidence.samples(text, "a_total") == {("x", "1"): 2.0, ("y", "1"): 3.0}
    assert evidence.samples(text, "g") == {(): 7.0}


def throughput(alone: float, beside: float, crashes: int = 5) -> dict[str, float]:
    return {"alone": alone, "beside": beside, "crashes": crashes, "seconds": 60.0}


@pytest.mark.parametrize(
    ("beside", "details"),
    [
        (10.0, []),
        (8.0, []),
        (
            7.9,
            ["1 times healthy throughput beside poison was below 80%: 79% (7.90 of 10.00 jobs per second)"],
        ),
        (0.0, ["1 times healthy throughput beside poison was below 80%: 0% (0.00 of 10.00 jobs per second)"]),
    ],
)
def test_throughput_beside_poison_is_held_against_the_promise(beside: float, details: list[str]) -> None:
    told, figures = promises.throughput_beside_poison([throughput(10.0, beside)], crash_limit=5)
    assert told == details
    assert figures == {"throughput_beside_poison": beside / 10, "throughputs_measured": 1}


def test_every_measurement_counts_and_the_worst_is_shown() -> None:
    entries = [throughput(10.0, 9.0), throughput(10.0, 5.0), throughput(10.0, 9.9)]
    told, figures = promises.throughput_beside_poison(entries, crash_limit=5)
    assert len(told) == 1
    assert figures == {"throughput_beside_poison": 0.5, "throughputs_measured": 3}


def test_a_measurement_that_left_crashes_out_is_none() -> None:
    told, _ = promises.throughput_beside_poison([throughput(10.0, 9.0, crashes=4)], crash_limit=5)
    assert told == ["1 measurements beside poison ended before its 5 crashes: 4 in 60 s"]


def test_without_healthy_work_there_is_no_throughput() -> None:
    assert promises.throughput_beside_poison([throughput(0.0, 0.0)], crash_limit=5)[0]
    _, figures = promises.throughput_beside_poison([], crash_limit=5)
    assert figures == {"throughput_beside_poison": "not measured", "throughputs_measured": 0}


def test_a_child_that_outlives_its_parent_is_found() -> None:
    ends = [
        {"who": "worker-a", "children": 2, "left": [], "seconds": 0.0},
        {"who": "worker-b", "children": 2, "left": [7, 8], "seconds": 2.0},
    ]
    told, figures = promises.children_of_the_ended(ends)
    assert told == ["1 ended processes left children behind: worker-b: 2 alive 2.0 s after its end"]
    assert figures == {"ends_watched": 2, "children_watched": 4, "children_left": 2}
    assert promises.children_of_the_ended(ends[:1])[0] == []


def test_the_journal_keeps_what_was_measured() -> None:
    journal = Journal.read(
        [
            '{"kind": "throughput", "alone": 2.0, "beside": 1.0, "crashes": 5, "seconds": 60.0}',
            '{"kind": "children", "who": "w", "children": 2, "left": [], "seconds": 0.0}',
        ]
    )
    assert [promises.ratio(entry) for entry in journal.throughputs] == [0.5]
    assert [entry["who"] for entry in journal.children] == ["w"]
