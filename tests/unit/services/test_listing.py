"""Sums of bounded size: for any keys, in either order, cut anywhere, they are those of a plain count."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.buckets.listing import TOP, PageTally, Total, by_bytes, by_folder, is_beyond, is_ordered

_KEYS = st.dictionaries(
    st.text(st.sampled_from("ab/-.é "), min_size=1, max_size=7), st.integers(0, 5), max_size=120
)
_MANY = st.lists(st.integers(0, 200), min_size=60, max_size=150).map(
    lambda sizes: {
        f"f{at:03}/{number}": size for at, size in enumerate(sizes) for number in range(at % 3 + 1)
    }
)


@given(
    st.one_of(_KEYS, _MANY),
    st.integers(1, 30),
    st.sampled_from([by_bytes, by_folder]),
    st.sampled_from(["", "a", "a/"]),
)
def test_pages_add_up_to_what_a_plain_count_finds(
    objects: dict[str, int], page_size: int, order: object, prefix: str
) -> None:
    keys = sorted((key for key in objects if key.startswith(prefix)), key=order)  # type: ignore[call-overload]
    total = Total(prefix)
    for at in range(0, len(keys), page_size):
        tally = PageTally(prefix)
        for key in keys[at : at + page_size]:
            tally.add(key, objects[key])
        page = tally.sums()
        assert len(page["groups"]) <= TOP + 2
        total.add(page)
    found = total.sums()

    folders: dict[str, list[int]] = defaultdict(list)
    loose = []
    for key in keys:
        folder, slash, _ = key[len(prefix) :].partition("/")
        (folders[f"{prefix}{folder}/"] if slash else loose).append(objects[key])
    top = sorted(folders, key=lambda name: (-sum(folders[name]), -len(folders[name]), name))[:TOP]
    assert (found["keys"], found["bytes"]) == (len(keys), sum(objects[key] for key in keys))
    assert found["folders"] == len(folders)
    assert [(g["prefix"], g["keys"], g["bytes"]) for g in found["top"]] == [
        (name, len(folders[name]), sum(folders[name])) for name in top
    ]
    assert (found["loose"]["keys"], found["loose"]["bytes"]) == (len(loose), sum(loose))
    largest = min(keys, key=lambda key: (-objects[key], key), default=None)
    assert (found["largest"] or {}).get("key") == largest


def test_a_page_of_any_length_is_recorded_small() -> None:
    tally = PageTally("")
    for number in range(50_000):
        tally.add(f"{number:05}/x", number)
        assert len(tally._inner) <= 2 * TOP
    page = tally.sums()
    assert (page["folders"], page["first"], page["last"]) == (50_000, "00000/", "49999/")
    assert len(page["groups"]) == TOP + 2


@pytest.mark.parametrize(
    ("keys", "ordered"),
    [
        ([], True),
        (["a-b", "a/x", "a0"], True),
        (["a/x", "a-b", "a0"], True),
        (["b", "a"], False),
        (["a", "a", "b"], False),
        (["a/x", "a-b", "a0", "a/y"], False),
    ],
)
def test_two_orders_are_known(keys: list[str], ordered: bool) -> None:
    assert is_ordered(keys) is ordered


@pytest.mark.parametrize(
    ("key", "end", "first_after", "beyond"),
    [
        ("a", "b", None, False),
        ("c", "b", None, True),
        ("é", "z", None, True),
        # "-" stands before "/" in one order, behind it in the other: the server tells.
        ("a-b", "a/x", "a-b", True),
        ("a-b", "a/x", "b", False),
        ("a/x", "a-b", "a/x", True),
        ("a/x", "a-b", None, False),
    ],
)
def test_a_range_ends_though_its_end_is_gone(
    key: str, end: str, first_after: str | None, beyond: bool
) -> None:
    asked: list[None] = []

    def ask() -> str | None:
        asked.append(None)
        return first_after

    assert is_beyond(key, end, ask) is beyond
    assert bool(asked) is ("-" in key + end), "the server is asked only where it must be"
