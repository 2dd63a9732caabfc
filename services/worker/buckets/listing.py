"""Lists a bucket in ranges of keys: ends of ranges, and sums of bounded size that add up exactly.

A range contains the keys after one key, up to and including another, in the server's own order. S3 lists in
the order of UTF-8 bytes. Servers that keep folders (SeaweedFS) list ``a/x`` before ``a-b``, as if "/" were
the lowest character. In both orders, the keys below one folder are adjacent. A folder that neither begins nor
ends a page is therefore completely on that page, which keeps :class:`PageTally` small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from typing_extensions import TypedDict

TOP = 20
"""The number of largest folders that a page and the report name."""


class Group(TypedDict):
    """The sums of one folder, whose keys begin with ``prefix``."""

    prefix: str
    keys: int
    bytes: int


class Largest(TypedDict):
    """The largest object, with its key and size."""

    key: str
    bytes: int


class PageSums(TypedDict):
    """The sums of one page. ``groups`` are its first folder, its largest, and its last, in no order."""

    keys: int
    bytes: int
    largest: Largest | None
    folders: int
    first: str | None
    last: str | None
    groups: list[Group]
    loose: Group


class Sums(TypedDict):
    """The sums of consecutive pages: the largest folders, and the keys outside folders (``loose``)."""

    keys: int
    bytes: int
    largest: Largest | None
    folders: int
    top: list[Group]
    loose: Group


def by_bytes(key: str) -> bytes:
    """Returns the sort key of S3's order."""
    return key.encode()


def by_folder(key: str) -> bytes:
    """Returns the sort key of the order of servers that keep folders."""
    return key.replace("/", "\0").encode()


def is_ordered(keys: Sequence[str]) -> bool:
    """Whether these keys are distinct and in one of the two orders, which ranges need."""
    ordered = list(keys) in (sorted(keys, key=by_bytes), sorted(keys, key=by_folder))
    return ordered and len(set(keys)) == len(keys)


def is_beyond(key: str, end: str, first_after: Callable[[], str | None]) -> bool:
    """Whether a listed key is beyond the end of its range. The end may be a deleted key.

    If the two orders disagree, ``first_after`` asks the server for its first key after the end.
    """
    verdicts = {by_bytes(key) > by_bytes(end), by_folder(key) > by_folder(end)}
    return verdicts == {True} or (len(verdicts) == 2 and key == first_after())


def _largest(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (-group["bytes"], -group["keys"], group["prefix"]))[:TOP]


def _larger(one: Largest | None, other: Largest | None) -> Largest | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda found: (-found["bytes"], found["key"]))


class PageTally:
    """Sums up one page of any size, key by key in the listing's order."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._keys = self._bytes = self._folders = 0
        self._largest: Largest | None = None
        self._loose = Group(prefix=prefix, keys=0, bytes=0)
        self._first: Group | None = None
        self._open: Group | None = None
        self._inner: list[Group] = []

    def add(self, key: str, size: int) -> None:
        """Counts one object of ``size`` bytes."""
        self._keys += 1
        self._bytes += size
        self._largest = _larger(self._largest, Largest(key=key, bytes=size))
        group = self._group(key)
        group["keys"] += 1
        group["bytes"] += size

    def _group(self, key: str) -> Group:
        folder, slash, _ = key[len(self._prefix) :].partition("/")
        if not slash:
            return self._loose
        name = f"{self._prefix}{folder}/"
        if self._open is None or self._open["prefix"] != name:
            if self._open is not None and self._open is not self._first:
                self._inner.append(self._open)
                if len(self._inner) > 2 * TOP:
                    self._inner = _largest(self._inner)
            self._open = Group(prefix=name, keys=0, bytes=0)
            self._first = self._first or self._open
            self._folders += 1
        return self._open

    def sums(self) -> PageSums:
        """Returns the page's sums as they are recorded: a few kilobytes."""
        edges = [] if self._first is None or self._open is None else [self._first]
        if self._open is not None and self._open is not self._first:
            edges.append(self._open)
        return PageSums(
            keys=self._keys,
            bytes=self._bytes,
            largest=self._largest,
            folders=self._folders,
            first=edges[0]["prefix"] if edges else None,
            last=edges[-1]["prefix"] if edges else None,
            groups=[*edges, *_largest(self._inner)],
            loose=self._loose,
        )


class Total:
    """Adds up pages in their order. A folder may begin on one page and end on a later one."""

    def __init__(self, prefix: str) -> None:
        self._keys = self._bytes = self._folders = 0
        self._largest: Largest | None = None
        self._loose = Group(prefix=prefix, keys=0, bytes=0)
        self._open: Group | None = None
        self._top: list[Group] = []

    def add(self, page: PageSums) -> None:
        """Adds the next page."""
        self._keys += page["keys"]
        self._bytes += page["bytes"]
        self._folders += page["folders"]
        self._largest = _larger(self._largest, page["largest"])
        _put(self._loose, page["loose"])
        groups = {group["prefix"]: group for group in page["groups"]}
        if page["first"] is None or page["last"] is None:
            return
        first = groups.pop(page["first"])
        if self._open is not None and self._open["prefix"] == first["prefix"]:
            self._folders -= 1
            _put(self._open, first)
        else:
            self._close()
            self._open = Group(**first)
        if page["last"] != page["first"]:
            self._close()
            self._open = Group(**groups.pop(page["last"]))
            self._top = _largest([*self._top, *groups.values()])

    def _close(self) -> None:
        if self._open is not None:
            self._top = _largest([*self._top, self._open])

    def sums(self) -> Sums:
        """Returns the sums of all pages added."""
        return Sums(
            keys=self._keys,
            bytes=self._bytes,
            largest=self._largest,
            folders=self._folders,
            top=_largest([*self._top, *([self._open] if self._open else [])]),
            loose=self._loose,
        )


def _put(into: Group, more: Group) -> None:
    into["keys"] += more["keys"]
    into["bytes"] += more["bytes"]
