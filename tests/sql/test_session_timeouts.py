"""Timeouts of a session, driven by hand: the timeouts are hours, the reaper comes when the test says so, and finds them over.

So nothing here depends on how fast anything is. `come(session)` is the reaper's look, hours later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

import khonsu_sql.local as local
from khonsu_engine.columns.version import Version
from khonsu_engine.database import Database
from khonsu_sql import errors
from khonsu_sql.local import LocalSession
from khonsu_sql.session import IngestMode, TransactionOptions, TransactionStatus
from tests.stores import RecordingStore

Connect = Callable[..., LocalSession]
PATIENCE = 20.0
HOUR = 3_600.0
IDLE = {"idle_in_transaction_timeout": HOUR}
WHOLE = {"transaction_timeout": HOUR}
EACH = {"statement_timeout": HOUR}


def come(session: LocalSession, hours: float = 2.0) -> float:
    return session._core.deadlines.look(time.monotonic() + hours * HOUR)


@pytest.fixture
def table(session: LocalSession) -> LocalSession:
    session.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
    session.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
    return session


def content(session: LocalSession) -> dict[int, int]:
    return dict(session.execute("SELECT k, v FROM t").rows or [])


def holds_nothing(database: Database) -> bool:
    return database.metrics["snapshots"] == 0 and database.locks.listed() == []


# --- at rest


@pytest.mark.parametrize(("timeouts", "sqlstate"), [(IDLE, "25P03"), (WHOLE, "25P04"), (IDLE | WHOLE, "25P04")])
def test_what_rests_is_rolled_back(table: LocalSession, connect: Connect, database: Database, timeouts: Any, sqlstate: str) -> None:
    session = connect(autocommit=False, locking=local.Locking.PESSIMISTIC, timeouts=timeouts)
    session.execute("UPDATE t SET v = 9 WHERE k = 1")
    session.execute("SAVEPOINT s")
    shown = session.execute("SELECT v FROM t WHERE k = 1")
    assert len(database.locks.listed()) == 1
    come(session)
    assert holds_nothing(database)
    assert session.status is TransactionStatus.FAILED
    assert shown.validity is not None and shown.validity.broken
    for sql in ("SELECT v FROM t WHERE k = 1", "UPDATE t SET v = 3 WHERE k = 1", "SHOW locking", "BEGIN", "SAVEPOINT x", "ROLLBACK TO s"):
        with pytest.raises(errors.InternalError) as caught:
            session.execute(sql)
        assert caught.value.sqlstate == sqlstate and not caught.value.retryable
    come(session)
    session.rollback()
    assert session.status is TransactionStatus.IDLE
    assert session.execute("SELECT v FROM t WHERE k = 1").rows == [(1,)]


def test_commit_tells_and_ends(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False, timeouts=IDLE)
    session.execute("UPDATE t SET v = 9 WHERE k = 1")
    come(session)
    with pytest.raises(errors.IdleInTransactionTimeout):
        session.commit()
    assert session.status is TransactionStatus.IDLE
    assert content(table) == {1: 1, 2: 2}


def test_what_does_not_time_out(table: LocalSession, connect: Connect) -> None:
    """Not before its time, not without a transaction, not under statement_timeout alone, and not when it was switched off."""
    session = connect(autocommit=False, timeouts=IDLE | WHOLE | EACH)
    session.execute("UPDATE t SET v = 9 WHERE k = 1")
    assert come(session, 0.5) < time.monotonic() + HOUR
    session.commit()
    assert come(session) == float("inf")
    session.execute("SET transaction_timeout = 0")
    session.execute("SET idle_in_transaction_timeout = 0")
    session.execute("UPDATE t SET v = 8 WHERE k = 1")
    assert come(session) == float("inf")
    session.execute("SET statement_timeout = 0")
    assert come(session) == float("inf")
    session.commit()
    assert content(table) == {1: 8, 2: 2}


def test_a_failed_transaction_with_a_savepoint_is_let_go(table: LocalSession, connect: Connect, database: Database) -> None:
    session = connect(autocommit=False, locking=local.Locking.PESSIMISTIC, timeouts=IDLE)
    session.execute("UPDATE t SET v = 9 WHERE k = 1")
    session.execute("SAVEPOINT s")
    with pytest.raises(errors.UndefinedTable):
        session.execute("SELECT * FROM nowhere")
    assert not holds_nothing(database)
    come(session)
    assert holds_nothing(database)
    with pytest.raises(errors.IdleInTransactionTimeout):
        session.savepoint("rollback to", "s")


def test_begin_alone_idles_too(connect: Connect) -> None:
    session = connect(timeouts=IDLE)
    session.begin(TransactionOptions())
    come(session)
    with pytest.raises(errors.IdleInTransactionTimeout):
        session.execute("SELECT 1")


def test_the_time_of_a_transaction_counts_from_its_begin_or_from_the_set(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False)
    session.execute("UPDATE t SET v = 9 WHERE k = 1")
    assert come(session) == float("inf")
    before = time.monotonic()
    session.execute("SET transaction_timeout = '1h'")
    assert session._core.deadlines._begun >= before
    begun = session._core.deadlines._begun
    session.execute("SELECT 1")
    assert session._core.deadlines._begun == begun
    session.commit()
    session.execute("SELECT 1")
    assert session._core.deadlines._begun > begun
    session.commit()


def test_old_versions_are_collected_afterwards(table: LocalSession, connect: Connect, database: Database) -> None:
    """An open transaction keeps what it can see; its end gives that back."""
    reader = connect(autocommit=False, timeouts=IDLE)
    reader.execute("SELECT v FROM t WHERE k = 1")
    engine = reader._core.transaction.engine
    found = database.state.catalog.find("t")
    assert engine is not None and found is not None
    snapshot = engine.read_timestamp

    def oldest() -> int:
        version = database.state.tables[found.id].memtable.chains[1]
        while isinstance(version.older, Version):
            version = version.older
        return version.timestamp

    def write() -> None:
        for _ in range(100):
            table.execute("UPDATE t SET v = v + 1 WHERE k = 1")

    write()
    assert oldest() <= snapshot == database.horizon()
    come(reader)
    write()
    assert oldest() > snapshot
    assert database.horizon() == database.state.durable
    reader.rollback()


# --- what runs


def late_reader(session: LocalSession, batches: int = 3) -> pa.RecordBatchReader:
    """Between two of its batches the reaper comes, hours later."""
    schema = pa.schema([("k", pa.int32()), ("v", pa.int32())])

    def made() -> Iterator[pa.RecordBatch]:
        for number in range(batches):
            yield pa.record_batch([[10 + number], [0]], schema=schema)
            come(session)

    return pa.RecordBatchReader.from_batches(schema, made())


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize(("timeouts", "sqlstate"), [(EACH, "57014"), (WHOLE, "25P04")])
def test_what_runs_is_cancelled(
    table: LocalSession, connect: Connect, database: Database, timeouts: Any, sqlstate: str, autocommit: bool
) -> None:
    """Not rolled back by the reaper: the statement itself finds out, and fails as statements fail."""
    session = connect(autocommit=autocommit, locking=local.Locking.PESSIMISTIC, timeouts=timeouts)
    if not autocommit:
        session.execute("UPDATE t SET v = 9 WHERE k = 1")
    with pytest.raises(errors.Error) as caught:
        session.ingest("t", late_reader(session), IngestMode.APPEND)
    assert caught.value.sqlstate == sqlstate
    assert session.status is (TransactionStatus.IDLE if autocommit else TransactionStatus.FAILED)
    assert holds_nothing(database)
    if not autocommit:
        with pytest.raises(errors.Error) as again:
            session.execute("SELECT 1")
        assert again.value.sqlstate == ("25P02" if timeouts is EACH else "25P04")
    session.rollback()
    assert content(table) == {1: 1, 2: 2}


def test_idleness_does_not_count_while_something_runs(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False, timeouts=IDLE)
    session.execute("UPDATE t SET v = 9 WHERE k = 1")
    assert session.ingest("t", late_reader(session), IngestMode.APPEND) == 3
    session.commit()
    assert content(table) == {1: 9, 2: 2, 10: 0, 11: 0, 12: 0}


def test_a_cancellation_dies_with_its_statement(table: LocalSession, connect: Connect) -> None:
    """It came after the last look of a statement; the next one has its own time."""
    session = connect(timeouts=EACH)
    session._core.deadlines.begin()
    come(session)
    session._core.deadlines.rest()
    assert session.execute("SELECT sum(v) FROM t").rows == [(3,)]
    assert session.execute("SELECT v FROM t WHERE k = 1").rows == [(1,)]


def test_executemany_by_key_looks_now_and_then(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False, timeouts=EACH)
    sets = eventful([(number, 1) for number in range(1_000)], lambda: come(session))
    with pytest.raises(errors.QueryCanceled, match="statement timeout"):
        session.execute("UPDATE t SET v = ? WHERE k = ?", sets, many=True)
    assert sets[0].hits >= 1


def eventful(sets: list[tuple[int, int]], action: Callable[[], object]) -> list[Any]:
    """`sets`, of which the first one does `action` when it is read."""

    class Set(tuple):  # type: ignore[type-arg]
        hits = 0

        def __getitem__(self, place: Any) -> Any:
            type(self).hits += 1
            action()
            return tuple.__getitem__(self, place)

        def __iter__(self) -> Iterator[Any]:
            type(self).hits += 1
            action()
            return tuple.__iter__(self)

    return [Set(sets[0]), *sets[1:]]


# --- waiting for the sync


@pytest.fixture
def store() -> Iterator[RecordingStore]:
    store = RecordingStore()
    yield store
    store.release_sync()


@pytest.fixture
def slow(store: RecordingStore) -> Iterator[Database]:
    """A database whose syncs can be held back."""
    database = Database(store)
    LocalSession(database, autocommit=True).execute(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER); INSERT INTO t VALUES (1, 1), (2, 2)"
    )
    yield database
    store.release_sync()
    database.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.parametrize("sql", ["UPDATE t SET v = 9 WHERE k = 1", "UPDATE t SET v = 9 WHERE k + 0 = 1"])
def test_a_commit_that_has_its_place_is_not_taken_back(slow: Database, store: RecordingStore, pool: ThreadPoolExecutor, sql: str) -> None:
    session = LocalSession(slow, autocommit=True, timeouts=dict.fromkeys(EACH | WHOLE | IDLE, 1.0))
    watcher = LocalSession(slow, autocommit=True)
    store.hold_sync()
    committing: Future[Any] = pool.submit(session.execute, sql)
    store.wait_until_held()
    come(session)
    time.sleep(1.2)  # it cannot end before the sync is released, however long this is
    assert not committing.done()
    store.release_sync()
    assert committing.result(PATIENCE).rowcount == 1
    assert content(watcher) == {1: 9, 2: 2}
    session.close()


@pytest.mark.parametrize("point_path", ["on", "off"])
def test_waiting_to_tell_what_is_not_durable_counts(
    slow: Database, store: RecordingStore, pool: ThreadPoolExecutor, point_path: str
) -> None:
    writer, reader = LocalSession(slow, autocommit=True), LocalSession(slow)
    reader.execute(f"SET point_path = {point_path}")
    reader.execute("SELECT v FROM t WHERE k = 1")
    reader.rollback()
    store.hold_sync()
    pending = pool.submit(writer.execute, "UPDATE t SET v = 9 WHERE k = 1")
    store.wait_until_held()
    reader.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    reader.execute("SET statement_timeout = '50ms'")
    with pytest.raises(errors.QueryCanceled, match="statement timeout"):
        reader.execute("SELECT v FROM t WHERE k = 1")
    assert reader.status is TransactionStatus.FAILED
    reader.rollback()
    assert slow.locks.listed() == []
    store.release_sync()
    assert pending.result(PATIENCE).rowcount == 1
    reader.execute("SET statement_timeout = 0")
    assert reader.execute("SELECT v FROM t WHERE k = 1").rows == [(9,)]
    reader.close()
