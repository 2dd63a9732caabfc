"""How often one client may ask, and when too much work is unfinished."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from holdfast.api import admission as module
from holdfast.api.admission import Admission
from holdfast.errors import BacklogFull, DatabaseUnavailable
from holdfast.probe_paths import PROBE_PATHS
from holdfast.rate import Buckets
from tests.support.app import create_app
from tests.unit.api_fakes import FakeProcess

# --- the rate ------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_and_then_the_rate(clock: Clock) -> None:
    buckets = Buckets(10, 5, clock=clock)
    assert [buckets.take("a") for _ in range(5)] == [0] * 5
    assert buckets.take("a") == pytest.approx(0.1)
    clock.now += 0.05
    assert buckets.take("a") == pytest.approx(0.05), "a refusal costs nothing"
    clock.now += 0.051
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    clock.now += 3600
    assert sum(buckets.take("a") == 0 for _ in range(100)) == 5, "no more than a burst is saved up"


def test_a_slow_rate_waits_longer_than_a_second(clock: Clock) -> None:
    buckets = Buckets(0.1, 1, clock=clock)
    assert buckets.take("a") == 0
    assert buckets.take("a") == pytest.approx(10)


def test_clients_do_not_share(clock: Clock) -> None:
    buckets = Buckets(1, 1, clock=clock)
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    assert buckets.take("b") == 0


def test_the_table_is_bounded_and_forgets_who_was_away_longest(clock: Clock) -> None:
    buckets = Buckets(1, 1, clients=100, clock=clock)
    buckets.take("busy")
    for number in range(10_000):
        buckets.take(f"client {number}")
        assert buckets.take("busy") > 0, "a client that keeps asking stays known"
        assert len(buckets) <= 100


def limited(**settings: Any) -> TestClient:
    return TestClient(create_app(FakeProcess(**settings)))  # type: ignore[arg-type]


def test_too_many_requests_get_429_and_a_time() -> None:
    with limited(rate_limit=0.5, rate_burst=3) as client:
        answers = [client.get("/executors") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        refused = answers[-1]
        assert refused.headers["content-type"] == "application/problem+json"
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert refused.json()["type"].endswith("too-many-requests")
        assert client.post("/nested").status_code == 429
        for path in PROBE_PATHS:
            assert client.get(path).status_code == 200, path


def test_what_others_write_into_a_header_is_not_believed() -> None:
    with limited(rate_limit=0.5, rate_burst=1) as client:
        assert client.get("/executors").status_code == 200
        for number in range(5):
            headers = {"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}"}
            assert client.get("/executors", headers=headers).status_code == 429


def test_a_hostile_page_uses_up_nobodys_share() -> None:
    with limited(rate_limit=0.5, rate_burst=2) as client:
        for _ in range(10):
            assert client.get("/executors", headers={"Origin": "http://evil.example"}).status_code == 403
            assert client.get("/executors", headers={"Host": "evil.example"}).status_code == 421
        assert client.get("/executors").status_code == 200


def test_guesses_at_the_token_are_limited() -> None:
    with limited(rate_limit=0.5, rate_burst=3, require_token=True) as client:
        statuses = [
            client.get("/executors", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(5)
        ]
        assert statuses == [403, 403, 403, 429, 429]


def test_0_means_any_number() -> None:
    with limited(rate_limit=0, rate_burst=1) as client:
        assert {client.get("/executors").status_code for _ in range(50)} == {200}
        assert "429" not in client.get("/openapi.json").json()["paths"]["/executors"]["get"]["responses"]


def test_the_default_lets_two_hundred_a_second_through(clock: Clock) -> None:
    settings = FakeProcess().settings
    buckets = Buckets(settings.rate_limit, settings.rate_burst, clock=clock)
    for _ in range(200 * 60):
        assert buckets.take("load test") == 0
        clock.now += 1 / 200


# --- the backlog ---------------------------------------------------------------------------


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess(queue_limit=3)


@pytest.fixture
def client(process: FakeProcess) -> Iterator[TestClient]:
    with TestClient(create_app(process)) as client:  # type: ignore[arg-type]
        yield client


def is_full(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["type"].endswith("backlog-full")
    assert "HOLDFAST_QUEUE_LIMIT" in answer.json()["detail"]


STARTS = [
    "/nested",
    "/scope/class",
    "/scope/function",
    "/scope/instance/alpha",
    "/users/pages",
    "/fibonacci/batches",
]


@pytest.mark.parametrize("path", STARTS)
def test_no_more_work_than_the_limit(client: TestClient, process: FakeProcess, path: str) -> None:
    # Else a batch's numbers count, too.
    body = {"sequential": True} if "batches" in path else {}
    assert [client.post(path, json=body).status_code for _ in range(3)] == [202] * 3
    is_full(client.post(path, json=body))
    is_full(client.post(path, json=body, headers={"Idempotency-Key": "new"}))
    assert len(process.gateway.client.rows) == 3
    assert process.gateway.requests == {}, "a refused key leaves nothing behind"


def test_a_batch_counts_with_its_numbers(client: TestClient) -> None:
    assert client.post("/fibonacci/batches", json={"count": 2}).status_code == 202
    is_full(client.post("/nested"))


def test_a_fork_is_new_work(client: TestClient, process: FakeProcess) -> None:
    from tests.unit.api_fakes import ADMIN

    for _ in range(3):
        client.post("/nested")
    (first, *_) = process.gateway.client.rows
    is_full(client.post(f"/workflows/{first}/fork", headers=ADMIN))
    assert client.post(f"/workflows/{first}/cancel", headers=ADMIN).status_code == 200, "orders go through"


def test_stored_work_is_answered_while_it_is_full(client: TestClient, process: FakeProcess) -> None:
    key = {"Idempotency-Key": "k"}
    first = client.post("/nested", json={"queued": True}, headers=key)
    for _ in range(2):
        client.post("/nested")
    again = client.post("/nested", json={"queued": True}, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert client.post("/nested", json={"queued": False}, headers=key).status_code == 409
    # Claimed, and then the process died: that is new work.
    process.gateway.requests["lost"] = {"fingerprint": "f", "workflow_id": "never-stored"}
    is_full(client.post("/nested", headers={"Idempotency-Key": "lost"}))


def test_it_opens_again(
    client: TestClient,
    process: FakeProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(module, "SHARE", 0)
    for _ in range(3):
        client.post("/nested")
    for _ in range(5):
        is_full(client.post("/nested"))
    for row in process.gateway.client.rows.values():
        row.status = "SUCCESS"
    assert client.post("/nested").status_code == 202
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert [a for a in actions if a in ("work.refused", "work.admitted")] == ["work.refused", "work.admitted"]


def test_0_means_no_limit(process: FakeProcess) -> None:
    process = FakeProcess(queue_limit=0)
    with TestClient(create_app(process)) as client:  # type: ignore[arg-type]
        assert {client.post("/nested").status_code for _ in range(10)} == {202}


class Counter:
    def __init__(self, unfinished: int) -> None:
        self.unfinished = unfinished
        self.asked: list[str] = []
        self.down = False

    async def __call__(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        self.asked.append(statement)
        await asyncio.sleep(0.01)
        if self.down:
            raise DatabaseUnavailable
        return [{"unfinished": min(self.unfinished, params["limit"])}] if statement == "backlog" else []


def test_many_at_once_are_counted_once_and_never_too_many() -> None:
    counter = Counter(unfinished=90)

    async def main() -> list[BaseException | None]:
        admission = Admission(counter, 100)
        return await asyncio.gather(*(admission.admit(None) for _ in range(500)), return_exceptions=True)

    results = asyncio.run(main())
    assert results.count(None) == 10
    assert {type(result) for result in results if result is not None} == {BacklogFull}
    assert counter.asked == ["backlog"]


def test_a_count_that_takes_long_is_made_seldom(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(module.time, "monotonic", clock)
    counted = []

    async def slow(statement: str, **_: Any) -> list[dict[str, Any]]:
        counted.append(clock.now)
        clock.now += 2.0
        return [{"unfinished": 0}]

    async def main() -> None:
        admission = Admission(slow, 100)
        await admission.admit(None)
        for _ in range(30):
            clock.now += 1.0
            await admission.admit(None)

    asyncio.run(main())
    assert counted == [100.0, 122.0], "two seconds of counting are worth twenty without"


def test_with_the_database_away_nobody_is_let_in_and_the_next_asks_again() -> None:
    counter = Counter(unfinished=0)

    async def main() -> None:
        admission = Admission(counter, 100)
        counter.down = True
        asked = (admission.admit(None) for _ in range(50))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {DatabaseUnavailable}
        assert counter.asked == ["backlog"], "they wait together, not one after the other"
        counter.down = False
        await admission.admit(None)

    asyncio.run(main())


def test_whoever_leaves_takes_nobodys_count_along() -> None:
    counter = Counter(unfinished=0)

    async def main() -> None:
        admission = Admission(counter, 100)
        first, second = (asyncio.create_task(admission.admit(None)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second

    asyncio.run(main())
    assert counter.asked == ["backlog"]
