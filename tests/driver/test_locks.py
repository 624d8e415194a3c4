"""Locks of real threads: who waits, who goes on, who loses, and that nothing is held by those who are gone."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

import khonsu_sql
from khonsu_sql import Connection
from khonsu_sql.opening import connect as connect_to

Connect = Callable[..., Connection]
PATIENCE = 20.0

LEVELS = ["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"]


@pytest.fixture
def three(connect: Connect) -> tuple[Connection, Connection, Connection]:
    one = connect(":memory:locks", locking="PESSIMISTIC")
    one.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    one.execute("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)")
    one.commit()
    return one, connect(":memory:locks", locking="PESSIMISTIC"), connect(":memory:locks", autocommit=True)


def aside(action: Callable[[], Any]) -> Future[Any]:
    """`action` in a thread of its own."""
    with_thread: Future[Any] = Future()

    def run() -> None:
        try:
            with_thread.set_result(action())
        except BaseException as error:
            with_thread.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return with_thread


def until_waiting(connection: Connection, count: int = 1) -> None:
    """Until so many requests wait for locks of others."""
    locks = connection._lease.database.locks
    deadline = time.monotonic() + PATIENCE
    while sum(not info.granted for info in locks.listed()) < count:
        assert time.monotonic() < deadline, "nobody waits"
        threading.Event().wait(0.001)


def held(connection: Connection) -> int:
    return len(connection._lease.database.locks.listed())


def bump(connection: Connection, key: int, by: int = 1) -> int:
    return connection.execute("UPDATE t SET v = v + ? WHERE k = ?", (by, key)).rowcount


@pytest.mark.parametrize("level", LEVELS)
def test_a_writer_waits_for_the_row_and_goes_on_from_there(three: tuple[Connection, ...], level: str) -> None:
    one, two, _ = three
    one.isolation_level = two.isolation_level = level
    bump(one, 1)
    waiting = aside(lambda: bump(two, 1))
    until_waiting(one)
    one.commit()
    assert waiting.result(PATIENCE) == 1
    two.commit()
    assert one.execute("SELECT v FROM t WHERE k = 1").fetchall() == [(12,)]
    one.commit()
    assert held(one) == 0


@pytest.mark.parametrize("end", ["rollback", "close", "drop"])
def test_whoever_is_gone_holds_nothing(three: tuple[Connection, ...], end: str) -> None:
    _, two, watcher = three
    gone = connect_to(":memory:locks", locking="PESSIMISTIC")
    bump(gone, 1)
    waiting = aside(lambda: bump(two, 1))
    until_waiting(watcher)
    if end == "drop":
        with pytest.warns(ResourceWarning):
            del gone
            gc.collect()
    else:
        getattr(gone, end)()
    assert waiting.result(PATIENCE) == 1
    two.commit()
    assert held(watcher) == 0
    assert watcher.execute("SELECT v FROM t WHERE k = 1").fetchall() == [(11,)]
    if end == "rollback":
        gone.close()


def test_a_failed_statement_lets_go(three: tuple[Connection, ...]) -> None:
    one, two, _ = three
    bump(one, 1)
    with pytest.raises(khonsu_sql.UndefinedTable):
        one.execute("SELECT * FROM nowhere")
    assert bump(two, 1) == 1
    two.commit()
    one.rollback()


def test_lock_timeout(three: tuple[Connection, ...]) -> None:
    one, two, watcher = three
    bump(one, 1)
    two.execute("SET lock_timeout = '120ms'")
    started = time.monotonic()
    with pytest.raises(khonsu_sql.LockNotAvailable) as caught:
        bump(two, 1)
    assert caught.value.sqlstate == "55P03"
    assert time.monotonic() - started >= 0.12
    assert two.transaction_status == "failed"
    two.rollback()
    one.rollback()
    assert held(watcher) == 0


@pytest.mark.parametrize("level", LEVELS)
def test_the_youngest_of_a_deadlock_loses_at_once(three: tuple[Connection, ...], level: str) -> None:
    """Acceptance 12: one victim, told by its own request, without any timeout; the other goes on."""
    one, two, watcher = three
    one.isolation_level = two.isolation_level = level
    bump(one, 1)
    bump(two, 2)
    waiting = aside(lambda: bump(one, 2))
    until_waiting(watcher)
    with pytest.raises(khonsu_sql.DeadlockDetected) as caught:
        bump(two, 1)
    assert (caught.value.sqlstate, caught.value.retryable) == ("40P01", True)
    two.rollback()
    assert waiting.result(PATIENCE) == 1
    one.commit()
    assert watcher.execute("SELECT v FROM t ORDER BY k").fetchall() == [(11,), (21,), (30,)]
    metrics = watcher._lease.database.metrics
    assert (metrics["deadlocks"], metrics["lock_timeouts"], held(watcher)) == (1, 0, 0)


def test_the_youngest_may_be_the_one_that_waits(three: tuple[Connection, ...]) -> None:
    one, two, watcher = three
    bump(one, 1)
    bump(two, 2)
    waiting = aside(lambda: bump(two, 1))
    until_waiting(watcher)
    closing = aside(lambda: bump(one, 2))
    with pytest.raises(khonsu_sql.DeadlockDetected):
        waiting.result(PATIENCE)
    two.rollback()
    assert closing.result(PATIENCE) == 1
    one.commit()


def test_cancel_ends_the_wait(three: tuple[Connection, ...]) -> None:
    one, two, watcher = three
    bump(one, 1)
    waiting = aside(lambda: bump(two, 1))
    until_waiting(watcher)
    two.cancel()
    with pytest.raises(khonsu_sql.QueryCanceled):
        waiting.result(PATIENCE)
    two.rollback()
    one.rollback()
    assert held(watcher) == 0


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_wait_that_was_ended_leaves_the_queue_though_the_transaction_stays(connect: Connect, how: str) -> None:
    """A savepoint keeps it; what it no longer waits for must not be given to it."""
    one, two, watcher = (connect(":memory:queue", locking="PESSIMISTIC", timeout=PATIENCE) for _ in range(3))
    one.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    one.execute("INSERT INTO t VALUES (1, 10), (2, 20)")
    one.commit()
    bump(one, 1)
    two.execute("SAVEPOINT s")
    bump(two, 2)
    if how == "timeout":
        two.execute("SET statement_timeout = 50")
    waiting = aside(lambda: bump(two, 1))
    if how == "cancel":
        until_waiting(watcher)
        two.cancel()
    with pytest.raises(khonsu_sql.QueryCanceled):
        waiting.result(PATIENCE)
    assert two.transaction_status == "failed"
    assert all(info.granted for info in watcher._lease.database.locks.listed())
    one.rollback()
    assert watcher.execute("SELECT v FROM t WHERE k = 1 FOR UPDATE NOWAIT").fetchall() == [(10,)]
    two.execute("ROLLBACK TO s")
    two.rollback()


def test_an_optimistic_commit_waits_for_a_hard_lock(three: tuple[Connection, ...]) -> None:
    """It never overwrites what is locked, in a transaction and by itself."""
    one, _, watcher = three
    optimist = connect_to(":memory:locks", locking="OPTIMISTIC")
    bump(one, 1)
    bump(optimist, 1, 100)
    commit = aside(optimist.commit)
    until_waiting(one)
    alone = aside(lambda: bump(watcher, 1, 1_000))
    until_waiting(one, 2)
    one.rollback()
    commit.result(PATIENCE)
    assert alone.result(PATIENCE) == 1
    assert watcher.execute("SELECT v FROM t WHERE k = 1").fetchall() == [(1_110,)]
    optimist.close()


def test_an_optimistic_commit_behind_one_that_committed_conflicts(three: tuple[Connection, ...]) -> None:
    one, _, watcher = three
    with connect_to(":memory:locks", locking="OPTIMISTIC") as optimist:
        bump(one, 1)
        bump(optimist, 1, 100)
        commit = aside(optimist.commit)
        until_waiting(one)
        one.commit()
        with pytest.raises(khonsu_sql.SerializationFailure):
            commit.result(PATIENCE)
    assert watcher.execute("SELECT v FROM t WHERE k = 1").fetchall() == [(11,)]
    assert held(watcher) == 0


def test_drop_table_waits_for_locked_rows(three: tuple[Connection, ...]) -> None:
    one, _, watcher = three
    bump(one, 1)
    dropping = aside(lambda: watcher.execute("DROP TABLE t"))
    until_waiting(one)
    one.commit()
    dropping.result(PATIENCE)
    with pytest.raises(khonsu_sql.UndefinedTable):
        watcher.execute("SELECT * FROM t")
    assert held(watcher) == 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_drop_waits_for_rows_locked_after_the_statement(connect: Connect, three: tuple[Connection, ...], level: str) -> None:
    """It took no lock, as there was none; so its COMMIT is the one that waits."""
    dropping, holding = connect(":memory:locks", isolation_level=level), three[0]
    dropping.execute("DROP TABLE t")
    holding.execute("SELECT v FROM t WHERE k = 1 FOR UPDATE")
    ended = aside(dropping.commit)
    until_waiting(holding)
    bump(holding, 1)
    holding.commit()
    with pytest.raises(khonsu_sql.SerializationFailure):  # rows of the table it drops were changed
        ended.result(PATIENCE)
    assert three[2].execute("SELECT v FROM t WHERE k = 1").fetchall() == [(11,)]
    assert held(three[2]) == 0


def test_a_bulk_write_waits_for_a_locked_key(three: tuple[Connection, ...]) -> None:
    one, _, watcher = three
    one.execute("INSERT INTO t VALUES (5000, 1)")
    filling = aside(lambda: watcher.execute("INSERT INTO t SELECT range + 100, 0 FROM range(20000)").rowcount)
    until_waiting(one)
    one.rollback()
    assert filling.result(PATIENCE) == 20_000
    assert held(watcher) == 0


def test_ingest_does_not_start_again(three: tuple[Connection, ...]) -> None:
    """Its reader is read once: a row that came meanwhile is a conflict."""
    one, _, watcher = three
    one.execute("SELECT count(*) FROM t").fetchall()
    watcher.execute("INSERT INTO t VALUES (7, 0)")
    one.cursor().ingest("t", pa.table({"k": [7, 8], "v": [1, 1]}), mode="append")
    with pytest.raises(khonsu_sql.SerializationFailure):
        one.commit()


def test_adaptive_blocks_nobody_for_long(connect: Connect, three: tuple[Connection, ...]) -> None:
    """A forgotten session holds a soft intent only: others wait a moment, then go on and commit; it conflicts."""
    forgotten, other = connect(":memory:locks"), connect(":memory:locks")
    bump(forgotten, 1)
    assert bump(other, 1) == 1
    other.commit()
    with pytest.raises(khonsu_sql.SerializationFailure):
        forgotten.commit()
    assert held(other) == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", ["OPTIMISTIC", "ADAPTIVE", "PESSIMISTIC"])
def test_increments_of_threads_are_never_lost(connect: Connect, level: str, mode: str) -> None:
    """Acceptance 10. With locks READ COMMITTED never fails."""
    keeper = connect(":memory:increments", autocommit=True)
    keeper.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    keeper.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    each, failures = 40, []

    def work(number: int) -> int:
        done = 0
        with connect_to(":memory:increments", isolation_level=level, locking=mode) as connection:
            while done < each:
                try:
                    bump(connection, 1 + number % 2)
                    bump(connection, 2 - number % 2)
                    connection.commit()
                    done += 1
                except (khonsu_sql.SerializationFailure, khonsu_sql.DeadlockDetected) as error:
                    connection.rollback()
                    failures.append(error.sqlstate)
        return done

    with ThreadPoolExecutor(4) as pool:
        total = sum(pool.map(work, range(4)))
    assert keeper.execute("SELECT v FROM t ORDER BY k").fetchall() == [(total,), (total,)]
    if level == "READ COMMITTED" and mode != "OPTIMISTIC":
        assert "40001" not in failures
    assert held(keeper) == 0


def test_ctrl_c_at_random_moments_leaves_no_lock_behind(connect: Connect) -> None:
    """Interrupted in the middle of a change the lock table is built anew."""
    import random
    import signal

    keeper = connect(":memory:torn", autocommit=True)
    keeper.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    keeper.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    connection = connect(":memory:torn", locking="PESSIMISTIC")
    dice, interrupts = random.Random(7), 0

    def ring(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(1_500):
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(5e-6, 300e-6))
                bump(connection, 1)
                bump(connection, 2)
                connection.commit()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupts += 1
                connection.rollback()
            assert not connection.in_transaction
            assert held(keeper) == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 300
    ((one, two),) = keeper.execute("SELECT min(v), max(v) FROM t").fetchall()
    assert one == two
