"""The pool of sessions, whatever ends a statement, a session, or the pool, and in which order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from holdfast.postgres import sessions as sessions_module
from holdfast.postgres.sessions import Sessions

STATEMENTS = st.sampled_from(["answers", "is refused", "ends", "only reads", "sees the pool close"])
IDLE = st.sampled_from(["stays", "stays", "it ends", "the pool closes"])


class _Connection:
    def __init__(self, pool: _Pool) -> None:
        self.pool, self.closed, self.is_ended = pool, False, False

    def execute(self, *_: Any) -> Any:
        assert not self.closed and not self.is_ended, "a session that has ended is used"
        statement = self.pool.statement
        if statement == "sees the pool close":
            self.pool.sessions.close()
        elif statement == "ends":
            self.closed = True
            raise psycopg.OperationalError("consuming input failed")
        elif statement == "is refused":
            raise psycopg.errors.CheckViolation("wrong")
        elif statement == "only reads":
            raise psycopg.errors.ReadOnlySqlTransaction("read-only")
        return SimpleNamespace(fetchall=lambda: [{"n": 1}])

    def close(self) -> None:
        self.closed = True


class _Pool:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[_Connection] = []
        self.statement = ""
        self.sessions = Sessions(SimpleNamespace(database_url=""), purpose="test", size=2)  # type: ignore[arg-type]
        monkeypatch.setattr(psycopg, "connect", self.connect)
        monkeypatch.setattr(sessions_module, "server_options", lambda *_: "")
        monkeypatch.setattr(sessions_module, "set_options", lambda *_: None)
        monkeypatch.setattr(sessions_module, "sql", str)
        monkeypatch.setattr(sessions_module, "wait_readable", lambda connection, _: connection.is_ended)

    def connect(self, *_: Any, **__: Any) -> _Connection:
        self.opened.append(_Connection(self))
        return self.opened[-1]


@given(st.lists(st.tuples(STATEMENTS, IDLE), max_size=12))
def test_no_session_is_used_after_its_end_or_kept_after_the_pools(script: list[tuple[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        pool = _Pool(monkeypatch)
        is_closed = False
        for statement, idle in script:
            pool.statement = statement
            if statement in ("answers", "sees the pool close"):
                assert pool.sessions.run("a statement") == [{"n": 1}]
            else:
                with pytest.raises(sa.exc.DBAPIError) as raised:
                    pool.sessions.run("a statement")
                is_lost = statement in ("ends", "only reads")
                assert raised.value.connection_invalidated == is_lost, "whether another try makes sense"
            is_closed = is_closed or statement == "sees the pool close" or idle == "the pool closes"
            if idle == "the pool closes":
                pool.sessions.close()
            usable = [each for each in pool.opened if not each.closed]
            assert len(usable) <= (not is_closed), "one caller at a time needs one session"
            for each in usable if idle == "it ends" else ():
                each.is_ended = True
        pool.statement = "answers"
        assert pool.sessions.run("a statement") == [{"n": 1}]
