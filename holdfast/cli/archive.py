"""The backup file: it is written completely or not at all, and read completely before use.

It is a ``pg_dump`` archive (custom format). Its table of contents is at the beginning, so a truncated file
still lists without an error. Only reading the whole file detects the damage, and it also counts the contents.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from holdfast.dbos_adapter.schema import dbos_migration_count
from holdfast.installations.native_error import NativeError
from holdfast.installations.postgres_tools import PostgresTools, ToolError
from holdfast.statuses import UNFINISHED

_MAGIC = b"PGDMP"
_NEWER = "restore it into PostgreSQL of that version or a newer one"
# The column that is counted or compared, by table. None: only the table's existence is checked.
_COLUMNS = {
    "dbos.workflow_status": "status",
    "dbos.dbos_migrations": "version",
    "ops.migrations": "name",
    "ops.executors": None,
}


class ArchiveError(NativeError):
    """The file cannot be written as a backup, or cannot be restored."""


@dataclass
class Contents:
    """The contents of a backup archive."""

    server_version: str = ""
    begun_at: str = ""
    """The start time of ``pg_dump``, in UTC."""
    values: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def workflows(self) -> dict[str, int]:
        """The number of workflows in the archive, by status."""
        return dict(sorted(self.values["dbos.workflow_status"].items()))

    @property
    def unfinished(self) -> int:
        """The number of workflows that continue after a restore."""
        return sum(count for status, count in self.workflows.items() if status in UNFINISHED)

    def check(self, server_version_num: int) -> None:
        """Raises `ArchiveError` if this release or the server is too old for the archive."""
        made, here = int(self.server_version.partition(".")[0] or 0), server_version_num // 10_000
        if made > here:
            raise ArchiveError(f"the backup was made with PostgreSQL {made}, this server is {here}: {_NEWER}")
        folder = resources.files("holdfast.postgres") / "sql" / "migrations"
        unknown = set(self.values["ops.migrations"]) - {file.name for file in folder.iterdir()}
        ours = dbos_migration_count()
        if unknown or max(map(int, self.values["dbos.dbos_migrations"]), default=0) > ours:
            what = f" (it knows no {min(unknown)})" if unknown else ""
            raise ArchiveError(
                f"the backup was made by a newer Holdfast than this one{what}: update it first"
            )


@contextmanager
def written(file: Path, *, force: bool) -> Iterator[Path]:
    """Yields an empty temporary file, readable only by its owner. At the end it becomes ``file``.

    The data is flushed to disk before that. After an exception, the temporary file is deleted. Raises
    `ArchiveError` if ``file`` exists (unless ``force``) or cannot be written.
    """
    if file.is_dir() or (file.exists() and not force):
        raise ArchiveError(f"{file} exists{'' if file.is_dir() else '; --force replaces it'}")
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise ArchiveError(f"cannot write in {file.parent}: {error.strerror}") from None
    try:
        yield partial
        _sync(partial)
        _publish(partial, file, force=force)
        _sync(file.parent)
    except OSError as error:
        raise ArchiveError(f"{file} was not written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def _publish(partial: Path, file: Path, *, force: bool) -> None:
    if force:
        partial.replace(file)
    else:
        try:
            os.link(partial, file)  # unlike a rename, a link never replaces an existing file
        except FileExistsError:
            raise ArchiveError(f"{file} exists by now; --force replaces it") from None
        except OSError:  # the file system has no hard links
            partial.replace(file)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def examine(tools: PostgresTools, file: Path) -> Contents:
    """Reads a whole archive and returns its contents. Raises `ArchiveError`, ``OSError``."""
    with file.open("rb", buffering=0) as archive:  # unbuffered: the program shares this file's position
        if archive.read(len(_MAGIC)) != _MAGIC:
            raise ArchiveError(f"{file} is no backup: it is not an archive of pg_dump")
        archive.seek(0)
        try:
            with tools.run("pg_restore", "--verbose", "--file=-", stdin=archive) as reader:
                assert reader.stdout is not None
                contents = _contents(reader.stdout)
        except ToolError as error:
            if "unsupported version" in str(error):
                raise ArchiveError(f"{file} was made with a newer PostgreSQL ({error}): {_NEWER}") from None
            raise ArchiveError(f"{file} cannot be read to its end: {error}") from None
    if missing := sorted(_COLUMNS.keys() - contents.values.keys()):
        raise ArchiveError(f"{file} is no backup of Holdfast: it has no {missing[0]}")
    return contents


def _contents(script: Iterable[bytes]) -> Contents:
    """Reads the archive's SQL script. Each row of a table is one line of tab-separated values."""
    contents = Contents()
    lines = iter(script)
    for line in lines:
        if line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n"):
            table, _, rest = line[5:].decode("utf-8").partition(" (")
            rows = _rows(lines)
            if table in _COLUMNS:
                names = [name.strip('"') for name in rest.partition(")")[0].split(", ")]
                column = _COLUMNS[table]
                index = 0 if column is None else names.index(column)
                contents.values[table] = Counter(
                    row.split(b"\t", index + 1)[index].rstrip(b"\n").decode("utf-8") for row in rows
                )
            else:
                for _ in rows:
                    pass
        elif line.startswith(b"-- Dumped from database version "):
            contents.server_version = (
                line.decode("utf-8").removeprefix("-- Dumped from database version ").strip()
            )
        elif line.startswith(b"-- Started on "):
            contents.begun_at = line.decode("utf-8").removeprefix("-- Started on ").strip()
    return contents


def _rows(lines: Iterator[bytes]) -> Iterator[bytes]:
    for line in lines:
        if line == b"\\.\n":
            return
        yield line
