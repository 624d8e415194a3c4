"""SELECT … FOR UPDATE and FOR SHARE of real threads: who waits, what they read afterwards, who loses, and queues."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import khonsu_sql
from khonsu_engine.transaction import LocalTransaction
from khonsu_sql import Connection
from khonsu_sql.opening import connect as connect_to
from tests.driver.test_locks import LEVELS, PATIENCE, aside, held, until_waiting

Connect = Callable[..., Connection]
MODES = ["OPTIMISTIC", "ADAPTIVE", "PESSIMISTIC"]

BY_KEY = "SELECT v FROM t WHERE k = 1 FOR UPDATE"
BY_QUERY = "SELECT v FROM t WHERE v % 10 = 0 AND k <> 2 ORDER BY v LIMIT 1 FOR UPDATE"


@pytest.fixture
def three(connect: Connect) -> tuple[Connection, Connection, Connection]:
    """Two that begin transactions, and one in autocommit, on `t` with rows (1, 10), (2, 20), (3, 30)."""
    one = connect(":memory:row_locks")
    one.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    one.execute("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)")
    one.commit()
    return one, connect(":memory:row_locks"), connect(":memory:row_locks", autocommit=True)


def asked(connection: Connection, sql: str) -> list[tuple[object, ...]]:
    return connection.execute(sql).fetchall()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sql", [BY_KEY, BY_QUERY], ids=["by key", "by query"])
def test_it_waits_and_reads_what_is_there_then(three: tuple[Connection, ...], level: str, mode: str, sql: str) -> None:
    one, two, watcher = three
    for connection in (one, two):
        connection.isolation_level = level
        connection.execute(f"SET locking = {mode}")
    assert asked(one, sql) == [(10,)]
    waiting = aside(lambda: asked(two, sql))
    until_waiting(one)
    one.execute("UPDATE t SET v = 40 WHERE k = 1")
    one.commit()
    assert waiting.result(PATIENCE) == ([(40,)] if sql == BY_KEY else [(30,)])
    two.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    two.commit()
    assert asked(watcher, "SELECT v FROM t WHERE k = 1") == [(41,)]
    assert held(watcher) == 0


@pytest.mark.parametrize("level", LEVELS)
def test_it_waits_for_the_row_somebody_deletes(three: tuple[Connection, ...], level: str) -> None:
    one, two, _ = three
    one.isolation_level = two.isolation_level = level
    assert asked(one, BY_KEY) == [(10,)]
    waiting = aside(lambda: asked(two, "SELECT k FROM t FOR UPDATE"))
    until_waiting(one)
    one.execute("DELETE FROM t WHERE k = 1")
    one.commit()
    assert waiting.result(PATIENCE) == [(2,), (3,)]
    two.rollback()
    assert held(one) == 0


def test_an_autocommit_statement_waits_too_and_lets_go(three: tuple[Connection, ...]) -> None:
    one, _, watcher = three
    assert asked(one, BY_KEY) == [(10,)]
    waiting = aside(lambda: asked(watcher, BY_KEY))
    until_waiting(one)
    one.execute("UPDATE t SET v = 11 WHERE k = 1")
    one.commit()
    assert waiting.result(PATIENCE) == [(11,)]
    assert held(one) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", ["SELECT v FROM t WHERE k = 1 FOR UPDATE", "UPDATE t SET v = v + 1 WHERE k = 1"], ids=["lock", "write"])
def test_two_who_share_and_both_want_it_all_are_a_deadlock(three: tuple[Connection, ...], mode: str, step: str) -> None:
    """The younger one loses, be it at the statement or at its COMMIT."""
    one, two, watcher = three

    def go_on(connection: Connection) -> None:
        connection.execute(step)
        connection.commit()

    for connection in (one, two):
        connection.execute(f"SET locking = {mode}")
        assert asked(connection, "SELECT v FROM t WHERE k = 1 FOR SHARE") == [(10,)]
    first, second = aside(lambda: go_on(one)), aside(lambda: go_on(two))
    with pytest.raises(khonsu_sql.DeadlockDetected) as caught:
        second.result(PATIENCE)
    assert caught.value.sqlstate == "40P01"
    two.rollback()
    first.result(PATIENCE)
    assert asked(watcher, "SELECT v FROM t WHERE k = 1") == [(11 if step.startswith("UPDATE") else 10,)]
    assert held(watcher) == 0


def test_crossed_locks_have_one_victim(three: tuple[Connection, ...]) -> None:
    one, two, watcher = three
    asked(one, "SELECT v FROM t WHERE k = 1 FOR UPDATE")
    asked(two, "SELECT v FROM t WHERE k = 2 FOR UPDATE")
    waiting = aside(lambda: asked(one, "SELECT v FROM t WHERE k = 2 FOR UPDATE"))
    until_waiting(watcher)
    with pytest.raises(khonsu_sql.DeadlockDetected):
        asked(two, "SELECT v FROM t WHERE k = 1 FOR SHARE")
    two.rollback()
    assert waiting.result(PATIENCE) == [(20,)]
    one.commit()


def test_a_large_result_has_all_its_locks_before_its_first_row(connect: Connect) -> None:
    """It streams from what was read."""
    one, two = connect(":memory:large"), connect(":memory:large")
    one.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
    one.execute("INSERT INTO t SELECT range, range % 7 FROM range(30000)")
    one.commit()
    two.execute("SET stream_rows_min = 1000")
    asked(one, "SELECT v FROM t WHERE k = 29999 FOR UPDATE")
    waiting = aside(lambda: two.execute("SELECT k, v FROM t WHERE v < 7 ORDER BY k FOR SHARE"))
    until_waiting(one)
    one.commit()
    cursor = waiting.result(PATIENCE)
    assert held(one) == 30_000
    assert cursor.fetchmany(2) == [(0, 0), (1, 1)]
    two.commit()
    assert held(one) == 0
    assert len(cursor.fetchall()) == 29_998


# --- queues


def consumer(level: str, mode: str, sql: str, taken: list[int], failures: list[str], start: threading.Barrier) -> None:
    """Take job after job until none is free; what fails is tried again."""
    with connect_to(":memory:queue", isolation_level=level, locking=mode) as connection:
        start.wait(PATIENCE)
        while True:
            try:
                found = asked(connection, sql)
                if found:
                    (job,) = found[0]
                    assert connection.execute("DELETE FROM jobs WHERE id = ?", (job,)).rowcount == 1
                connection.commit()
            except (khonsu_sql.SerializationFailure, khonsu_sql.DeadlockDetected) as error:
                connection.rollback()
                failures.append(str(error.sqlstate))
                continue
            if not found:
                return
            taken.append(job)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM jobs ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
        "SELECT id FROM jobs WHERE id BETWEEN 1 AND 1000 LIMIT 1 FOR UPDATE SKIP LOCKED",
    ],
    ids=["DuckDB path", "point path"],
)
def test_each_job_of_a_queue_is_taken_once(connect: Connect, level: str, sql: str) -> None:
    """And nobody is in anybody's way."""
    count, threads = 60, 4
    keeper = connect(":memory:queue", autocommit=True)
    keeper.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY)")
    keeper.execute("INSERT INTO jobs SELECT range + 1 FROM range(?)", (count,))
    taken: list[int] = []
    failures: list[str] = []
    start = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(consumer, level, "ADAPTIVE", sql, taken, failures, start) for _ in range(threads)]:
            future.result(60)
    assert Counter(taken) == Counter(range(1, count + 1))
    assert failures == []
    assert held(keeper) == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
def test_increments_behind_a_lock_never_conflict(connect: Connect, level: str, mode: str) -> None:
    """Whoever locks the row first is never refused, even without locks for writes."""
    keeper = connect(":memory:locked_increments", autocommit=True)
    keeper.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    keeper.execute("INSERT INTO t VALUES (1, 0)")
    each, threads = 25, 4

    def work(_: int) -> None:
        with connect_to(":memory:locked_increments", isolation_level=level, locking=mode) as connection:
            for _ in range(each):
                ((value,),) = asked(connection, BY_KEY)
                connection.execute("UPDATE t SET v = ? WHERE k = 1", (value + 1,))  # type: ignore[operator]
                connection.commit()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert asked(keeper, "SELECT v FROM t") == [(each * threads,)]
    assert held(keeper) == 0


# --- ranges, tables


@pytest.mark.parametrize("level", LEVELS)
def test_an_insert_into_a_locked_range_waits(connect: Connect, level: str) -> None:
    """Acceptance 11: the session depends on p/…, another inserts p/new."""
    one, other = connect(":memory:prefix", locking="PESSIMISTIC", isolation_level=level), connect(":memory:prefix")
    one.execute("CREATE TABLE t (k VARCHAR PRIMARY KEY)")
    one.execute("INSERT INTO t VALUES ('p/a'), ('q')")
    one.commit()
    prefix = "SELECT k FROM t WHERE k >= 'p/' AND k < 'p0' FOR UPDATE"
    assert asked(one, prefix) == asked(one, prefix) == [("p/a",)]

    def insert() -> None:
        other.execute("INSERT INTO t VALUES ('p/new')")
        other.commit()

    waiting = aside(insert)
    until_waiting(one)
    one.commit()
    waiting.result(PATIENCE)
    assert asked(one, "SELECT count(*) FROM t") == [(3,)]
    one.rollback()
    assert held(one) == 0


@pytest.mark.parametrize("level", LEVELS)
def test_lock_table_waits_and_sees_what_came_before(three: tuple[Connection, ...], level: str) -> None:
    one, two, _ = three
    two.isolation_level = level
    one.execute("LOCK TABLE t")
    waiting = aside(lambda: two.execute("LOCK TABLE t IN EXCLUSIVE MODE"))
    until_waiting(one)
    one.execute("INSERT INTO t VALUES (4, 40)")
    one.commit()
    waiting.result(PATIENCE)
    assert asked(two, "SELECT max(k) FROM t") == [(4,)]
    two.rollback()
    assert held(one) == 0


@pytest.mark.parametrize("level", LEVELS)
def test_what_was_committed_just_before_the_table_was_locked_is_seen(
    three: tuple[Connection, ...], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction has begun by then, but has handed out nothing."""
    one, _, watcher = three
    one.isolation_level = level
    lock = LocalTransaction.lock

    def late(transaction: LocalTransaction, *arguments: Any, **options: Any) -> bool:
        monkeypatch.setattr(LocalTransaction, "lock", lock)
        watcher.execute("INSERT INTO t VALUES (4, 40)")
        return lock(transaction, *arguments, **options)

    monkeypatch.setattr(LocalTransaction, "lock", late)
    one.execute("LOCK TABLE t")
    assert asked(one, "SELECT max(k) FROM t") == [(4,)]


def test_the_commits_that_did_not_see_the_locks_are_waited_out(three: tuple[Connection, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all rows of a statement, and not for rows that were locked before."""
    one, two, _ = three
    waited = []
    committer = one._lease.database.committer
    barrier = committer.barrier
    monkeypatch.setattr(committer, "barrier", lambda: waited.append(barrier()))
    asked(one, "SELECT k FROM t WHERE k < 3 FOR UPDATE")
    assert len(waited) == 1
    asked(one, "SELECT k FROM t WHERE k < 3 FOR SHARE")
    assert len(waited) == 1
    with pytest.raises(khonsu_sql.LockNotAvailable):
        asked(two, "SELECT k FROM t ORDER BY k DESC FOR UPDATE NOWAIT")
    assert len(waited) >= 2, "what was locked before the refusal stays locked"
