"""Exact Fibonacci numbers: F(0) = 0, F(1) = 1. Pure functions.

The recursive form is slow on purpose: it is the CPU load. The doubling form is the oracle for every result
and computes huge n.
"""

from __future__ import annotations

import hashlib
from typing import Literal, TypedDict, get_args

from holdfast.errors import InvalidRequest
from holdfast.integers import decimal_string

Method = Literal["recursive", "doubling"]
METHODS: tuple[Method, ...] = get_args(Method)

RECURSIVE_LIMIT = 40
"""The largest n of the recursive form. Its cost grows 1.6-fold per step; 40 takes some 15 s in CPython."""
DOUBLING_LIMIT = 1_000_000
"""The largest n of the doubling form: 208,988 digits."""
RESULT_DIGITS = 4000
"""The longest result returned in full. Python itself limits conversions of integers to 4,300 digits."""

_SHORT_HEAD, _SHORT_TAIL, _SHORT_WHOLE = 6, 4, 20


class Summary(TypedDict):
    """A result in a form that JSON can carry: huge numbers as digit count, hash and short form."""

    n: int
    method: Method
    result: str | None
    digits: int
    sha256: str
    short: str


def recursive(n: int) -> int:
    """Computes F(n) by plain recursion, about 1.6**n calls. Does not check its argument; see `check`."""
    return n if n < 2 else recursive(n - 1) + recursive(n - 2)


def doubling(n: int) -> int:
    """Computes F(n) by fast doubling: F(2k) = F(k)(2F(k+1) - F(k)), F(2k+1) = F(k)² + F(k+1)²."""
    a, b = 0, 1
    for bit in f"{n:b}":
        even, odd = a * (2 * b - a), a * a + b * b
        a, b = (odd, even + odd) if bit == "1" else (even, odd)
    return a


def check(n: int, method: str, *, recursive_limit: int = RECURSIVE_LIMIT, field: str = "n") -> None:
    """Raises `InvalidRequest` with the name of `field` unless `method` may compute F(n)."""
    if method not in METHODS:
        raise InvalidRequest(f"method must be one of {', '.join(METHODS)}.", field="method")
    limit = recursive_limit if method == "recursive" else DOUBLING_LIMIT
    if isinstance(n, bool) or not isinstance(n, int):
        raise InvalidRequest(f"{field} must be a whole number.", field=field)
    if not 0 <= n <= limit:
        hint = ' Use method "doubling" for larger ones.' if method == "recursive" else ""
        raise InvalidRequest(f"{field} must be from 0 to {limit} with method {method!r}.{hint}", field=field)


def compute(n: int, method: Method) -> int:
    """Computes F(n) by `method`. Raises `InvalidRequest` for n out of range or an unknown method."""
    check(n, method)
    return recursive(n) if method == "recursive" else doubling(n)


def summarise(n: int, method: Method, value: int) -> Summary:
    """Converts `value` to a `Summary`: no ``result`` above `RESULT_DIGITS`, ``sha256`` of all digits."""
    text = decimal_string(value)
    whole = len(text) <= _SHORT_WHOLE
    return {
        "n": n,
        "method": method,
        "result": text if len(text) <= RESULT_DIGITS else None,
        "digits": len(text),
        "sha256": hashlib.sha256(text.encode("ascii")).hexdigest(),
        "short": text if whole else f"{text[:_SHORT_HEAD]}…{text[-_SHORT_TAIL:]}",
    }


def summary(n: int, method: Method) -> Summary:
    """Computes and summarises in a child process. Raises `InvalidRequest` as `compute` does."""
    return summarise(n, method, compute(n, method))
