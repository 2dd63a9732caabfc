"""Both forms, their limits, and the summary of huge results."""

import hashlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidRequest
from services.worker.fibonacci import rule as fibonacci

FIRST = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]


@pytest.mark.parametrize(("n", "expected"), list(enumerate(FIRST)))
def test_both_forms_give_the_first_numbers(n: int, expected: int) -> None:
    assert fibonacci.recursive(n) == fibonacci.doubling(n) == expected


@given(st.integers(0, 20))
def test_recursive_equals_doubling(n: int) -> None:
    assert fibonacci.recursive(n) == fibonacci.doubling(n)


@given(st.integers(1, 3000))
def test_cassini(n: int) -> None:
    before, here, after = (fibonacci.doubling(k) for k in (n - 1, n, n + 1))
    assert after == here + before
    assert before * after - here * here == (-1) ** n


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_addition(m: int, n: int) -> None:
    left = fibonacci.doubling(m + n + 1)
    f = fibonacci.doubling
    assert left == f(m + 1) * f(n + 1) + f(m) * f(n)


@given(st.integers(-(10**1500), 10**1500))
def test_decimal_string_equals_str(value: int) -> None:
    assert fibonacci.decimal_string(value) == str(value)


@given(st.integers(4200, 30_000), st.integers(-2, 2))
def test_decimal_string_beyond_the_interpreters_limit(digits: int, offset: int) -> None:
    text = fibonacci.decimal_string(10**digits + offset)
    assert text == ("9" * (digits - 1) + str(10 + offset) if offset < 0 else "1" + str(offset).zfill(digits))


@pytest.mark.parametrize("n", [-1, fibonacci.DOUBLING_LIMIT + 1, True, 2.0, "3", None])
def test_doubling_refuses(n: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fibonacci.compute(n, "doubling")
    assert caught.value.field == "n"


def test_recursive_has_its_own_limit_and_says_what_to_use_instead() -> None:
    fibonacci.check(fibonacci.RECURSIVE_LIMIT, "recursive")
    with pytest.raises(InvalidRequest, match=r"0 to 40 .*doubling"):
        fibonacci.compute(fibonacci.RECURSIVE_LIMIT + 1, "recursive")
    with pytest.raises(InvalidRequest, match=r"numbers\.3 must be from 0 to 34") as caught:
        fibonacci.check(35, "recursive", recursive_limit=34, field="numbers.3")
    assert caught.value.field == "numbers.3"


def test_unknown_method() -> None:
    with pytest.raises(InvalidRequest) as caught:
        fibonacci.compute(3, "matrix")  # type: ignore[arg-type]
    assert caught.value.field == "method"


def test_summary_of_a_small_result() -> None:
    digits = str(FIRST[12])
    assert fibonacci.summary(12, "recursive") == {
        "n": 12,
        "method": "recursive",
        "result": digits,
        "digits": 3,
        "sha256": hashlib.sha256(digits.encode()).hexdigest(),
        "short": digits,
    }


def test_summary_shortens_and_drops_long_results() -> None:
    # F(n) has n log10(phi) - log10(sqrt 5) digits, rounded up.
    last, first_dropped = fibonacci.summary(19_141, "doubling"), fibonacci.summary(19_142, "doubling")
    assert last["digits"] == 4000
    assert last["result"] is not None
    assert last["result"].startswith(last["short"][:6])
    assert last["result"].endswith(last["short"][-4:])
    assert last["short"][6] == "…"
    assert (first_dropped["digits"], first_dropped["result"]) == (4001, None)


def test_the_largest_n_takes_no_more_than_a_few_seconds() -> None:
    began = time.thread_time()
    summary = fibonacci.summary(fibonacci.DOUBLING_LIMIT, "doubling")
    assert time.thread_time() - began < 5  # 0.1 s when measured
    assert (summary["digits"], summary["short"], summary["result"]) == (208_988, "195328…6875", None)
    # The last digits have a short period, an oracle of its own: F(n) mod 10**4 repeats after 15,000.
    assert int(summary["short"][-4:]) == fibonacci.doubling(1_000_000 % 15_000) % 10**4
