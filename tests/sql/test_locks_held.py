"""How long a lock is held, and whom it holds up: until the commit has its place, through savepoints and restarts, also on the point path.

One thread plays all sessions, but for the last story. Who waits and who loses is in tests/engine/test_lock_table and tests/driver/test_locks.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from khonsu_engine import committer
from khonsu_engine.commands import Row
from khonsu_engine.locks import Locking
from khonsu_engine.mvcc.lock_table import LockInfo, LockMode
from khonsu_sql.errors import LockNotAvailable
from khonsu_sql.local import LocalSession
from khonsu_sql.requests import End, Execute
from khonsu_sql.session import Result
from tests.interleavings.harness import Session, Stage

PESSIMIST = "BEGIN ISOLATION LEVEL REPEATABLE READ PESSIMISTIC"


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    stage.reset()
    yield stage
    stage.close()


def locked(stage: Stage) -> list[LockInfo]:
    return [info for info in stage.database.locks.listed() if info.granted]


def begun(stage: Stage, how: str, sql: str = "UPDATE t SET n = n + 1 WHERE k = 1") -> Session:
    session = stage.session()
    session.run(how)
    session.run(sql)
    return session


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_locks_are_held_until_the_commit_has_its_place(stage: Stage, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun(stage, f"BEGIN ISOLATION LEVEL {level} PESSIMISTIC")
    true_validate, held = committer.validate, []

    def validate(*arguments: Any) -> Any:
        held.append([(info.target, info.hard) for info in locked(stage)])
        return true_validate(*arguments)

    monkeypatch.setattr(committer, "validate", validate)
    session.run("COMMIT")
    assert held and all(found == [(1, True)] for found in held)
    assert locked(stage) == []


def test_locks_outlive_a_savepoint(stage: Stage) -> None:
    """What they kept others from is taken back; who holds them still counts on nobody having come between."""
    session = begun(stage, PESSIMIST, "UPDATE t SET n = 5 WHERE k = 2")
    session.run("SAVEPOINT s")
    session.run("UPDATE t SET n = 6 WHERE k = 1")
    session.run("ROLLBACK TO s")
    assert sorted(info.target for info in locked(stage)) == [1, 2]
    session.run("ROLLBACK")
    assert locked(stage) == []


def test_locks_outlive_a_restart(stage: Stage) -> None:
    """A statement that has to wait for its second row keeps the lock of its first."""
    holder = begun(stage, PESSIMIST, "UPDATE t SET n = 7 WHERE k = 2")
    session = stage.session()
    session.run("BEGIN ISOLATION LEVEL READ COMMITTED PESSIMISTIC")
    assert session.ask(Execute("UPDATE t SET n = n + 1 WHERE k BETWEEN 1 AND 2")) is None, "it waits for row 2"
    assert sorted(info.target for info in locked(stage)) == [1, 2]
    holder.run("COMMIT")
    assert session.ready(10.0)
    assert isinstance(session.ask(None), Result)
    session.run("COMMIT")
    assert stage.manager.run("SELECT k, n FROM t WHERE k < 3") == [(1, 11), (2, 8)]


def test_a_transaction_that_is_garbage_holds_nothing(stage: Stage) -> None:
    table = next(table for table in stage.database.catalog.tables.values() if table.name == "t")
    transaction = stage.database.begin(restarts=True, locking=Locking.PESSIMISTIC)
    assert transaction.lock(table.id, 1, LockMode.EXCLUSIVE)
    assert [info.target for info in locked(stage)] == [1]
    del transaction
    gc.collect()
    assert locked(stage) == []


def test_read_committed_locks_hard_unless_it_was_told_to_be_optimistic(stage: Stage) -> None:
    for mode, hard in (("ADAPTIVE", [True]), ("PESSIMISTIC", [True]), ("OPTIMISTIC", [])):
        session = begun(stage, f"BEGIN ISOLATION LEVEL READ COMMITTED {mode}")
        assert [info.hard for info in locked(stage)] == hard, mode
        session.run("ROLLBACK")
    session = begun(stage, "BEGIN ISOLATION LEVEL SERIALIZABLE ADAPTIVE")
    assert [info.hard for info in locked(stage)] == [False]
    session.run("ROLLBACK")


@pytest.mark.parametrize("sql", ["UPDATE t SET n = n + 1 WHERE k = 1", "DELETE FROM t WHERE k = 1"])
def test_a_point_write_of_its_own_waits_too(stage: Stage, sql: str) -> None:
    holder = begun(stage, PESSIMIST)
    point = LocalSession(stage.database, autocommit=True, lock_timeout_seconds=0.06)
    for _ in range(3):  # its plan is compiled by then
        point.execute("UPDATE t SET n = n WHERE k = 2")
    for _ in range(2):
        with pytest.raises(LockNotAvailable):
            point.execute(sql)
    holder.ask(End(commit=True))
    assert point.execute(sql).rowcount == 1
    point.close()


def test_who_has_a_lock_sees_every_commit_that_did_not_see_the_lock(stage: Stage) -> None:
    """A write that was on its way when the lock was granted is finished before anything is read under the lock."""
    database = stage.database
    table = next(table for table in database.catalog.tables.values() if table.name == "t")
    on_its_way, read = threading.Event(), threading.Event()
    found: list[Row | None] = []

    def change(row: Row | None) -> Row:
        assert row is not None
        on_its_way.set()
        assert not read.wait(0.2), "the row was read under the lock, before this"
        return (row[0], 77, *row[2:])

    def write() -> None:
        database.committer.write_point(table, 1, change, b"8 bytes.")

    def lock_and_read() -> None:
        transaction = database.begin(writes_first=True, restarts=True, locking=Locking.PESSIMISTIC)
        assert transaction.lock(table.id, 1, LockMode.EXCLUSIVE)
        transaction.renew_after_wait()
        found.append(transaction.peek(table.id, 1))
        read.set()
        transaction.rollback()

    writer, locker = threading.Thread(target=write), threading.Thread(target=lock_and_read)
    writer.start()
    assert on_its_way.wait(10.0)
    locker.start()
    for thread in (writer, locker):
        thread.join(30.0)
    assert found == [(1, 77, 0, 101)]
