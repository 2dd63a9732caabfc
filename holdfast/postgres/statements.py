"""SQL statements by name, from the folders ``sql``, and the schema in which they find DBOS's tables."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

DBOS_SCHEMA = "dbos"
"""The schema of DBOS's tables by default, which all stored SQL names."""

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_SCHEMA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_DBOS_TABLES = re.compile(r"\bdbos\.(?=[a-z_])")
_schema = DBOS_SCHEMA


@cache
def _statements() -> dict[str, str]:
    statements: dict[str, str] = {}
    folders = [folder / "sql" for folder in resources.files("holdfast").iterdir()]
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    for file in files:
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.split(file.read_text("utf-8"))[1:]
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in statements:
                raise ValueError(f"two statements are named {name}")
            statements[name] = text.strip()
    return statements


def use_schema(schema: str) -> None:
    """Makes all named statements of this process use another schema of DBOS's tables.

    A process has one DBOS, hence one such schema (the configuration's ``dbos_system_schema``).
    Raises ``ValueError`` for a name that is no plain identifier.
    """
    global _schema  # noqa: PLW0603 - like DBOS's own global instance
    check_schema(schema)
    _schema = schema
    sql.cache_clear()


def check_schema(schema: str) -> None:
    """Raises ``ValueError`` for the name of a schema that SQL text cannot contain safely."""
    if not _SCHEMA_NAME.fullmatch(schema) or schema in ("ops", "public", "information_schema"):
        raise ValueError(
            f"{schema!r} cannot be the schema of DBOS's tables: letters, digits, _ and -, at most 63, and "
            "not ops, public or information_schema"
        )


def in_schema(text: str, schema: str) -> str:
    """Returns SQL with DBOS's tables in the given schema. The text is unchanged for the schema ``dbos``."""
    return text if schema == DBOS_SCHEMA else _DBOS_TABLES.sub(f'"{schema}".', text)


@cache
def sql(name: str, schema: str | None = None) -> str:
    """Returns a statement from the ``sql`` folders by name. Raises ``KeyError`` for an unknown name.

    DBOS's tables are in ``schema``, by default in the one that `use_schema` named.
    """
    return in_schema(_statements()[name], schema or _schema)
