"""Which errors of the two drivers mean an outage, and what a session can learn of its server."""

from __future__ import annotations

import psycopg
import psycopg.errors
import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy as sa

from holdfast import errors
from holdfast.postgres.outage import is_outage, is_read_only, unavailable
from tests.support.injected import OUTAGES, REFUSALS


def both(state: str) -> list[BaseException]:
    """The error of that SQLSTATE as each driver and SQLAlchemy raise it."""
    three = psycopg.errors.lookup(state)("said")

    class Two(psycopg2.errors.lookup(state)):  # type: ignore[misc]
        pgcode = state  # an error that the server sent has it

    return [three, Two("said"), sa.exc.DBAPIError.instance("SELECT", {}, three, psycopg.Error)]


@pytest.mark.parametrize("state", OUTAGES)
def test_outages(state: str) -> None:
    assert all(is_outage(error) for error in both(state))


@pytest.mark.parametrize("state", REFUSALS)
def test_refusals(state: str) -> None:
    assert not any(is_outage(error) for error in both(state))


@pytest.mark.parametrize(("state", "outage"), [("57014", False), ("55P03", False), ("57P01", True)])
def test_a_users_statement_has_timeouts_of_its_own(state: str, outage: bool) -> None:
    assert {is_outage(error, users_statement=True) for error in both(state)} == {outage}


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (psycopg.OperationalError("connection failed: refused"), True),
        (psycopg.OperationalError("[Errno -3] Temporary failure in name resolution"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (psycopg2.OperationalError("FATAL:  remaining connection slots are reserved"), True),
        (psycopg2.InterfaceError("connection already closed"), True),
        (psycopg2.DatabaseError("could not send data to server: Connection timed out"), True),
        *(
            (psycopg.OperationalError(f"sending query and params failed: {said}"), outage)
            for said, outage in (
                ("could not send data to server: Broken pipe", True),
                ("server closed the connection unexpectedly", True),
                ("SSL connection has been closed unexpectedly", True),
                ("SSL SYSCALL error: EOF detected", True),
                ("no connection to the server", True),
                ("number of parameters must be between 0 and 65535", False),
            )
        ),
        (psycopg.OperationalError("consuming input failed: could not receive data from server"), True),
        (psycopg.OperationalError("the connection is lost"), True),
        (psycopg.OperationalError("connection socket closed"), True),
        (psycopg.OperationalError("failed to resolve host 'db': [Errno -2] Name or service not known"), True),
        (psycopg.errors.ConnectionTimeout("connection timeout expired"), True),
        (psycopg.DatabaseError("server closed the connection unexpectedly"), True),
        (psycopg.InterfaceError("the cursor is closed"), False),
        (psycopg.ProgrammingError("the last operation didn't produce a result"), False),
        (psycopg2.ProgrammingError("no results to fetch"), False),
        (ValueError("57P01"), False),
    ],
)
def test_what_the_driver_says_itself(error: BaseException, outage: bool) -> None:
    assert is_outage(error) is outage


@pytest.mark.parametrize(
    ("statement", "invalidated", "outage"),
    [("SELECT", False, False), ("SELECT", True, True), (None, False, True)],
)
def test_what_sqlalchemy_adds(statement: str | None, invalidated: bool, outage: bool) -> None:
    """It knows whether the session is lost. Where it names no statement, the session was being opened."""
    said = psycopg.OperationalError("in words that are in no list")
    error = sa.exc.OperationalError(statement, None, said, connection_invalidated=invalidated)
    assert is_outage(error) is outage


@pytest.mark.parametrize("state", OUTAGES)
def test_what_a_client_is_told_says_what_the_server_did(state: str) -> None:
    answered = {
        "25006": errors.DatabaseReadOnly,
        "57014": errors.StatementTimeout,
        "55P03": errors.LockTimeout,
        **dict.fromkeys(("40001", "40003", "40P01", "53100", "53200", "53300"), errors.DatabaseBusy),
    }
    said = {type(unavailable(error)) for error in both(state)}
    assert said == {answered.get(state, errors.DatabaseUnavailable)}


def test_read_only_is_distinguished_from_away() -> None:
    assert all(is_read_only(error) for error in both("25006"))
    assert is_read_only(psycopg2.OperationalError('connection to "h" failed: session is read-only'))
    assert not any(is_read_only(error) for error in both("57P03"))
