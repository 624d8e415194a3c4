"""Transactions of one call that lose against another commit are done again, unseen; nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import khonsu_sql
from khonsu_engine import database as database_module
from khonsu_engine.committer import Committer
from khonsu_engine.transaction import LocalTransaction
from khonsu_sql import Connection
from khonsu_sql.core import ATTEMPTS_MAX

Connect = Callable[..., Connection]


@pytest.fixture
def both(connect: Connect) -> tuple[Connection, Connection]:
    one = connect(":memory:restarts", autocommit=True)
    one.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
    one.execute("CREATE TABLE log (k INTEGER PRIMARY KEY, total INTEGER)")
    one.execute("INSERT INTO t VALUES (1, 10), (2, 20)")
    return one, connect(":memory:restarts", autocommit=True)


@contextmanager
def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> Iterator[list[int]]:
    """`act(attempt)` just before each commit that is not its own."""
    commit, attempts, acting = Committer.commit, [], False

    def disturbed(self: Committer, *rest: Any) -> Any:
        nonlocal acting
        if not acting:
            acting = True
            attempts.append(len(attempts) + 1)
            act(attempts[-1])
            acting = False
        return commit(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Committer, "commit", disturbed)
        yield attempts


COPY = "INSERT INTO log SELECT (SELECT count(*) FROM log), sum(v) FROM t"


def test_a_call_of_its_own_is_done_again(both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = both
    with meanwhile(monkeypatch, lambda attempt: attempt < 3 and two.execute("UPDATE t SET v = v + 1 WHERE k = 1")) as attempts:
        assert one.execute(COPY).rowcount == 1
    assert attempts == [1, 2, 3]
    assert one.execute("SELECT * FROM log").fetchall() == [(0, 32)]


def test_what_has_lost_twice_locks_what_it_reads(both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = both
    two.execute("SET lock_timeout = '1ms'")
    told: list[str] = []

    def write(attempt: int) -> None:
        try:
            two.execute("UPDATE t SET v = v + 1")
        except khonsu_sql.LockNotAvailable:
            told.append(f"attempt {attempt}")

    with meanwhile(monkeypatch, write) as attempts:
        assert one.execute(COPY).rowcount == 1
    assert attempts == [1, 2, 3]
    assert told == ["attempt 3"]
    assert two.execute("UPDATE t SET v = v + 1").rowcount > 0, "it has let go"


def test_a_script_and_executemany_too(both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = both
    with meanwhile(monkeypatch, lambda attempt: attempt == 1 and two.execute("UPDATE t SET v = v + 1")) as attempts:
        one.execute(f"{COPY}; {COPY}")
    assert attempts == [1, 2]
    with meanwhile(monkeypatch, lambda attempt: attempt == 1 and two.execute("UPDATE t SET v = v + 1")) as attempts:
        many = one.executemany("INSERT INTO log SELECT ?, sum(v) FROM t", ((number,) for number in (7, 8)))
    assert attempts == [1, 2]
    assert many.rowcount == 2
    assert one.execute("SELECT * FROM log ORDER BY k").fetchall() == [(0, 32), (1, 32), (7, 34), (8, 34)]


def test_a_result_that_streams_is_not_told_twice(both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = both
    with meanwhile(monkeypatch, lambda attempt: attempt == 1 and two.execute("UPDATE t SET v = v + 1")) as attempts:
        found = one.execute(f"SELECT sum(v) + 0 * range FROM t, range(20000) GROUP BY range; {COPY}")
    assert attempts == [1, 2]
    assert set(found.fetchall()) == {(32,)}


def test_not_for_ever(both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not lock what it reads (here: by force) loses until it is told."""
    one, two = both
    monkeypatch.setattr(database_module, "StarvingTransaction", LocalTransaction)
    with meanwhile(monkeypatch, lambda attempt: two.execute("UPDATE t SET v = v + 1")) as attempts:
        with pytest.raises(khonsu_sql.SerializationFailure) as caught:
            one.execute(COPY)
    assert len(attempts) == ATTEMPTS_MAX
    assert caught.value.sqlstate == "40001"
    assert one.execute("SELECT * FROM log").fetchall() == []


def test_a_transaction_of_several_calls_is_not(both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = both
    one.execute("BEGIN")
    one.execute(COPY)
    with meanwhile(monkeypatch, lambda attempt: two.execute("UPDATE t SET v = v + 1")) as attempts:
        with pytest.raises(khonsu_sql.SerializationFailure):
            one.execute("COMMIT")
    assert attempts == [1]
    assert one.execute("SELECT * FROM log").fetchall() == []


def test_a_violation_is_told_at_once(both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = both
    with meanwhile(monkeypatch, lambda attempt: None) as attempts:
        with pytest.raises(khonsu_sql.UniqueViolation):
            one.execute(f"{COPY}; INSERT INTO log SELECT 0, 0 FROM t")
    assert attempts == []
    assert two.execute("SELECT * FROM log").fetchall() == []


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"])
def test_a_first_statement_starts_again_on_a_newer_row(
    both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """Somebody commits between the snapshot of an UPDATE and its first write."""
    from khonsu_engine.transaction import LocalTransaction

    one, two = both
    one.isolation_level = level
    put, left = LocalTransaction.put, 1 if level == "READ COMMITTED" else 3  # there, the next one would wait for the lock

    def disturbed(self: LocalTransaction, *rest: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            with monkeypatch.context() as inner:
                inner.setattr(LocalTransaction, "put", put)
                two.execute("UPDATE t SET v = v + 1")
        put(self, *rest)

    one.execute("BEGIN")
    with monkeypatch.context() as patch:
        patch.setattr(LocalTransaction, "put", disturbed)
        assert one.execute("UPDATE t SET v = v + 100 WHERE v > 0").rowcount == 2
    one.execute("COMMIT")
    disturbances = 1 if level == "READ COMMITTED" else 3
    assert one.execute("SELECT * FROM t ORDER BY k").fetchall() == [(1, 110 + disturbances), (2, 120 + disturbances)]
