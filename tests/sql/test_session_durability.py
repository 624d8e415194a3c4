"""Nothing leaves a session that depends on a commit which is not durable: no acknowledgement, no row, no error."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from khonsu_engine.database import Database
from khonsu_engine.protocols import Ticket
from khonsu_engine.storage.keys import log_key
from khonsu_sql import errors
from khonsu_sql.core import SessionCore
from khonsu_sql.local import LocalSession
from khonsu_sql.requests import Answered, Execute
from khonsu_sql.session import Result, TransactionStatus
from khonsu_sql.sql.cache import PlanCache
from khonsu_sql.sql.settings import Settings
from tests.stores import FaultyStore, RecordingStore


def core_on(database: Database, *, autocommit: bool = True) -> SessionCore:
    return SessionCore(database, PlanCache(), Settings(), autocommit=autocommit)


def finished(core: SessionCore, answer: Result | Ticket) -> Result:
    while not isinstance(answer, Result):
        error: BaseException | None = None
        try:
            assert answer.wait(10.0)
        except errors.Error as caught:
            raise AssertionError("tickets raise engine errors") from caught
        except Exception as caught:
            error = caught
        answer = core.step(Answered(error))
    return answer


def run(core: SessionCore, sql: str) -> Result:
    return finished(core, core.step(Execute(sql)))


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


@pytest.fixture
def database(store: RecordingStore) -> Iterator[Database]:
    database = Database(store)
    run(core_on(database), "CREATE TABLE t (id BIGINT PRIMARY KEY, n INTEGER); INSERT INTO t VALUES (1, 1)")
    yield database
    store.release_sync()
    database.close()


def held(store: RecordingStore, core: SessionCore, sql: str) -> Ticket:
    """A statement that must wait for the sync held back."""
    answer = core.step(Execute(sql))
    assert not isinstance(answer, Result)
    assert answer.wait(0.01) is False
    store.wait_until_held()
    return answer


def test_an_acknowledgement_waits_and_readers_do_not(store: RecordingStore, database: Database) -> None:
    writer, reader = core_on(database), core_on(database)
    store.hold_sync()
    ticket = held(store, writer, "INSERT INTO t VALUES (2, 2)")
    answer = reader.step(Execute("SELECT * FROM t"))
    assert isinstance(answer, Result) and answer.rows == [(1, 1)]
    store.release_sync()
    assert finished(writer, ticket).rowcount == 1
    assert run(reader, "SELECT * FROM t ORDER BY id").rows == [(1, 1), (2, 2)]


def test_a_row_count_in_a_transaction_does_not_wait_and_its_rows_do(store: RecordingStore, database: Database) -> None:
    first, second = core_on(database), core_on(database, autocommit=False)
    store.hold_sync()
    pending = held(store, first, "UPDATE t SET n = 5")
    count = second.step(Execute("UPDATE t SET n = n + 1"))
    assert isinstance(count, Result) and count.rowcount == 1
    ticket = held(store, second, "SELECT n FROM t")
    store.release_sync()
    assert finished(second, ticket).rows == [(6,)]
    finished(first, pending)


def test_a_row_of_the_point_path_waits(store: RecordingStore, database: Database) -> None:
    """In a transaction that began by writing, and so reads what is published."""
    first, reader = core_on(database), LocalSession(database)
    run(first, "INSERT INTO t VALUES (2, 2)")
    reader.execute("UPDATE t SET n = n WHERE id = 2")  # both plans are compiled by then
    reader.execute("SELECT n FROM t WHERE id = 1")
    reader.rollback()
    store.hold_sync()
    pending = held(store, first, "UPDATE t SET n = 5 WHERE id = 1")
    told: list[object] = []

    def read() -> None:
        reader.execute("UPDATE t SET n = n WHERE id = 2")
        told.append(reader.execute("SELECT n FROM t WHERE id = 1").rows)
        store.note("told")
        reader.rollback()

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(0.1)  # it has been told by then, or it waits
    store.release_sync()
    thread.join(10.0)
    finished(first, pending)
    assert told == [[(5,)]]
    (note,) = [event.number for event in store.events if event.name == "told"]
    assert store.was_durable(log_key(database.state.index), note), "it was told before"
    reader.close()


def test_an_error_waits(store: RecordingStore, database: Database) -> None:
    first, second = core_on(database), core_on(database)
    store.hold_sync()
    pending = held(store, first, "INSERT INTO t VALUES (2, 2)")
    ticket = held(store, second, "INSERT INTO t VALUES (2, 99)")
    store.release_sync()
    with pytest.raises(errors.UniqueViolation):
        finished(second, ticket)
    finished(first, pending)


def test_a_conflict_waits(store: RecordingStore, database: Database) -> None:
    first, second = core_on(database), core_on(database, autocommit=False)
    run(second, "UPDATE t SET n = 9")
    store.hold_sync()
    pending = held(store, first, "UPDATE t SET n = 5")
    ticket = held(store, second, "COMMIT")
    assert second.transaction.status is TransactionStatus.IDLE
    store.release_sync()
    with pytest.raises(errors.SerializationFailure):
        finished(second, ticket)
    finished(first, pending)


def test_returning_waits(store: RecordingStore, database: Database) -> None:
    writer = core_on(database)
    store.hold_sync()
    ticket = held(store, writer, "INSERT INTO t VALUES (2, 2) RETURNING id")
    store.release_sync()
    assert finished(writer, ticket).rows == [(2,)]


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("where", ["id = 1", "n % 1 = 0"], ids=["by key", "by query"])
@pytest.mark.parametrize("clause", ["FOR UPDATE", "FOR SHARE SKIP LOCKED"])
def test_a_locked_row_waits(store: RecordingStore, database: Database, autocommit: bool, where: str, clause: str) -> None:
    """It is the newest version, also where a SELECT would have read the last durable one."""
    writer, reader = core_on(database), core_on(database, autocommit=autocommit)
    if not autocommit:
        assert run(reader, "SELECT n FROM t WHERE id = 2").rows == []
    store.hold_sync()
    pending = held(store, writer, "UPDATE t SET n = 5")
    ticket = held(store, reader, f"SELECT n FROM t WHERE {where} {clause}")
    store.release_sync()
    assert finished(reader, ticket).rows == [(5,)]
    finished(writer, pending)


def test_an_outcome_may_be_unknown() -> None:
    store = FaultyStore()
    database = Database(store)
    core = core_on(database)
    run(core, "CREATE TABLE t (id BIGINT PRIMARY KEY)")
    store.fail("sync")
    with pytest.raises(errors.CommitOutcomeUnknown) as caught:
        run(core, "INSERT INTO t VALUES (1)")
    assert caught.value.sqlstate == "08007" and len(caught.value.transaction_id) == 16
    assert core.transaction.status is TransactionStatus.IDLE
    with pytest.raises(errors.OperationalError):
        run(core, "INSERT INTO t VALUES (2)")
    assert run(core, "SELECT * FROM t").rows == []
    core.close()
    database.close()
