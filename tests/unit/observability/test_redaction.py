"""What PostgreSQL quotes in its errors stays out of logs, whichever logger is used."""

from __future__ import annotations

import json
import logging

import pytest
import sqlalchemy as sa

from holdfast.api.views import error_text
from holdfast.observability.redaction import without_values
from tests.support.logged import logged

MESSAGE = 'duplicate key value violates unique constraint "k"'
ROW = f"{MESSAGE}\nDETAIL:  Key (key)=(planted\nacross lines) already exists."
CAUSE = "\n\nThe above exception was the cause\nb"
NUMBER = "invalid input syntax for type integer: "


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("all is well: DETAIL: not at a line's start", None),
        ("line one\nline two", None),
        (ROW, MESSAGE),
        (f"{ROW}\n[SQL: INSERT INTO t]", f"{MESSAGE}\n[SQL: INSERT INTO t]"),
        (f"{ROW}{CAUSE}\nCONTEXT:  planted", f"{MESSAGE}{CAUSE}"),
        ("no such column\nLINE 1: SELECT 'planted'\n               ^\n", "no such column"),
        (f'{NUMBER}"planted"', f"{NUMBER}…"),
        (f'{NUMBER}"planted"\nLINE 1: planted', f"{NUMBER}…"),
    ],
)
def test_what_is_left(text: str, left: str | None) -> None:
    assert without_values(text) == (text if left is None else left)


def test_a_logged_error_holds_no_row() -> None:
    error = sa.exc.IntegrityError("INSERT INTO t", {"x": "planted"}, Exception(ROW), hide_parameters=True)
    with logged() as written:
        logging.getLogger("dbos").error(f"failed: {error}", exc_info=error)  # noqa: G004 - as DBOS does it
    line = json.loads(written.getvalue())
    assert "duplicate key" in line["message"]
    assert "INSERT INTO t" in line["exc_info"]
    assert "planted" not in written.getvalue()


def test_the_access_log_holds_no_query() -> None:
    with logged() as written:
        access = logging.getLogger("uvicorn.access")
        access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/workflows?token=planted", "1.1", 200)
        access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/livez?token=planted", "1.1", 200)
    assert '"GET /workflows HTTP/1.1' in json.loads(written.getvalue())["message"]
    assert "planted" not in written.getvalue()


def test_an_error_that_is_shown_holds_no_row() -> None:
    assert error_text(Exception(ROW)) == f"Exception: {MESSAGE}"
