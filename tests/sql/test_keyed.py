"""Keyed batches and entries through SQL: read in the transaction, written by nobody, the content of one as a table."""

from __future__ import annotations

import gc
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import khonsu_engine
import khonsu_sql
from khonsu_engine.errors import EngineClosed, InvalidArgument
from khonsu_engine.keyed.batches import BatchStore
from khonsu_engine.keyed.key_value import KeyValueStore
from khonsu_sql.errors import (
    ConnectionDoesNotExist,
    FeatureNotSupported,
    InsufficientPrivilege,
    SerializationFailure,
    UndefinedTable,
)
from tests.engine.batch_stores import batch, content, write

PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def connection() -> Any:
    with khonsu_sql.connect() as made:
        yield made


@pytest.fixture
def store(connection: khonsu_sql.Connection) -> Any:
    with khonsu_sql.batches(connection) as made:
        yield made


def rows(connection: khonsu_sql.Connection, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(sql, parameters).fetchall()


def test_before_the_first_use_there_are_none(connection: khonsu_sql.Connection) -> None:
    cursor = connection.execute("SELECT * FROM khonsu.batches")
    assert [column[0] for column in cursor.description] == ["key", "revision", "expires_at", "rows", "size_bytes", "oldest_revision"]
    assert cursor.fetchall() == []
    assert rows(connection, "SELECT count(*) FROM KHONSU.Entries") == [(0,)]
    assert connection.tables() == ()


def test_that_there_are_none_is_a_read(connection: khonsu_sql.Connection) -> None:
    connection.execute("CREATE TABLE t (n BIGINT)")
    connection.commit()
    rows(connection, "SELECT count(*) FROM khonsu.batches")
    connection.execute("INSERT INTO t VALUES (1)")
    with khonsu_sql.batches(connection) as store:
        write(store, {"k": 1})
    with pytest.raises(SerializationFailure):
        connection.commit()


def test_batches_are_rows(connection: khonsu_sql.Connection, store: BatchStore) -> None:
    with store.start_transaction() as transaction:
        transaction.write("a", batch(1, 2))
        transaction.write("b", batch(3), expires=FUTURE)
        transaction.write("gone", batch(4), expires=PAST)
        transaction.write("deleted", batch(5))
    with store.start_transaction() as transaction:
        transaction.delete("deleted")
        transaction.append("a", batch(9))
    assert rows(connection, "SELECT key, revision, rows, expires_at, oldest_revision FROM khonsu.batches ORDER BY key") == [
        ("a", 2, 3, None, 1),
        ("b", 1, 1, FUTURE, 1),
    ]
    assert rows(connection, "SELECT b.key FROM khonsu.batches AS b WHERE size_bytes > 0 AND b.key >= ? ORDER BY 1", "b") == [("b",)]
    assert rows(connection, "SELECT khonsu.batches.rows FROM khonsu.batches WHERE key = 'a'") == [(3,)]
    store.database.checkpoint()
    write(store, {"c": 1})
    connection.rollback()
    assert rows(connection, "SELECT key FROM khonsu.batches ORDER BY ALL") == [("a",), ("b",), ("c",)]
    assert connection.execute("SELECT * FROM khonsu.batches").fetch_arrow_table().num_rows == 3


def test_entries_are_rows(connection: khonsu_sql.Connection, store: BatchStore) -> None:
    kv = KeyValueStore("a", store.database)
    tx = kv.begin()
    kv.put(tx, "k", b"\0x")
    kv.put(tx, "t", "text", expires=FUTURE)
    kv.put(tx, "gone", "text", expires=PAST)
    kv.commit(tx)
    found = rows(connection, "SELECT key, revision, value, is_text, expires_at FROM khonsu.entries ORDER BY key")
    assert found == [("k", 1, b"\0x", False, None), ("t", 1, b"text", True, FUTURE)]


def test_many_hidden_rows(connection: khonsu_sql.Connection, store: BatchStore) -> None:
    """So many superseded rows that a scan marks them instead of slicing around."""
    for _ in range(2):
        write(store, {f"{number:03}": number for number in range(200)})
        store.database.checkpoint()
    write(store, {f"{number:03}": number for number in range(0, 200, 3)})
    assert rows(connection, "SELECT count(*), sum(revision), min(revision) FROM khonsu.batches") == [(200, 467, 2)]


def test_sql_reads_them_in_its_transaction(connection: khonsu_sql.Connection, store: BatchStore) -> None:
    write(store, {"a": 1})
    assert rows(connection, "SELECT sum(rows) FROM khonsu.batches") == [(1,)]
    write(store, {"b": 1})
    assert rows(connection, "SELECT sum(rows) FROM khonsu.batches") == [(1,)]
    connection.commit()
    assert rows(connection, "SELECT sum(rows) FROM khonsu.batches") == [(2,)]


@pytest.mark.parametrize(
    ("read", "conflicts"),
    [
        ("SELECT key FROM khonsu.batches WHERE key = 'a'", True),
        ("SELECT key FROM khonsu.batches WHERE key = 'new'", True),
        ("SELECT count(*) FROM khonsu.batches", True),
        ("SELECT * FROM khonsu_batch('a')", True),
        ("SELECT key FROM khonsu.batches WHERE key = 'b'", False),
        ("SELECT key FROM khonsu.batches WHERE key LIKE 'b%' AND key > 'b' AND key < 'c'", False),
        ("SELECT * FROM khonsu_batch('b')", False),
        ("SELECT count(*) FROM khonsu.entries", False),
    ],
)
def test_conflicts_are_those_of_a_table(connection: khonsu_sql.Connection, store: BatchStore, read: str, conflicts: bool) -> None:
    connection.execute("CREATE TABLE t (n BIGINT)")
    connection.commit()
    write(store, {"a": 1, "b": 2})
    rows(connection, read)
    connection.execute("INSERT INTO t VALUES (1)")
    write(store, {"a": 3, "new": 1})
    if conflicts:
        with pytest.raises(SerializationFailure):
            connection.commit()
    else:
        connection.commit()


def test_the_content_of_a_batch_is_a_table(connection: khonsu_sql.Connection, store: BatchStore) -> None:
    schema = pa.schema([("id", pa.int32()), ("Tags", pa.list_(pa.string())), ("d", pa.dictionary(pa.int8(), pa.string()))])
    given = pa.RecordBatch.from_pylist(
        [{"id": 1, "Tags": ["a", None], "d": "x"}, {"id": 2, "Tags": None, "d": None}, {"id": 3, "Tags": [], "d": "x"}], schema=schema
    )
    with store.start_transaction() as transaction:
        transaction.write("it's", given)
    cursor = connection.execute("SELECT * FROM khonsu_batch('it''s') ORDER BY id")
    assert [column[0] for column in cursor.description] == ["id", "Tags", "d"]
    assert cursor.fetchall() == [(1, ["a", None], "x"), (2, None, None), (3, [], "x")]
    assert rows(connection, "SELECT khonsu_batch.id FROM KHONSU_BATCH('it''s') WHERE id > ? ORDER BY 1", 1) == [(2,), (3,)]
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR)")
    connection.execute("INSERT INTO t SELECT id, d FROM khonsu_batch('it''s')")
    joined = "SELECT x.number, t.name FROM t JOIN khonsu_batch('it''s') AS x(number) ON t.id = x.number WHERE x.d = 'x' ORDER BY 1"
    assert rows(connection, joined) == [(1, "x"), (3, "x")]
    assert rows(connection, "SELECT (SELECT count(*) FROM khonsu_batch('it''s') b WHERE b.id <= t.id) FROM t ORDER BY 1") == [
        (1,),
        (2,),
        (3,),
    ]
    assert rows(connection, "EXPLAIN SELECT * FROM khonsu_batch('it''s')") == [('DuckDB path: system view khonsu_batch("it\'s")',)]


def test_a_batch_may_change_its_schema(connection: khonsu_sql.Connection, store: BatchStore) -> None:
    """The same text means the columns of its snapshot, whatever was bound before."""
    sql = "SELECT * FROM khonsu_batch('k')"
    other = pa.record_batch({"x": ["a"]})
    write(store, {"k": 1})
    for _ in range(2):
        assert rows(connection, sql) == [(1, None)]
    with store.start_transaction() as transaction:
        transaction.write("k", other)
    assert rows(connection, sql) == [(1, None)], "the transaction goes on in its snapshot"
    with khonsu_sql.connect(autocommit=True) as elsewhere, pytest.raises(UndefinedTable, match="no batch under key 'k'"):
        elsewhere.execute(sql)
    connection.commit()
    cursor = connection.execute(sql)
    assert [column[0] for column in cursor.description] == ["x"] and cursor.fetchall() == [("a",)]
    with store.start_transaction() as transaction:
        transaction.delete("k")
    connection.commit()
    with pytest.raises(UndefinedTable):
        connection.execute(sql)
    connection.rollback()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM khonsu_batch(?)",
        "SELECT * FROM khonsu_batch(1)",
        "SELECT * FROM khonsu_batch()",
        "SELECT * FROM khonsu_batch('a' || 'b')",
    ],
)
def test_the_key_is_a_constant(connection: khonsu_sql.Connection, sql: str) -> None:
    with pytest.raises(FeatureNotSupported, match="text constant"):
        connection.execute(sql, ["k"] if "?" in sql else ())
    connection.rollback()


@pytest.mark.parametrize(
    "given",
    [
        pa.record_batch([], names=[]),
        pa.record_batch([pa.array([1]), pa.array([2])], names=["a", "A"]),
        pa.record_batch([pa.array([1])], names=[""]),
        pa.record_batch([pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])], names=["u"]),
    ],
)
def test_batches_that_are_no_tables(connection: khonsu_sql.Connection, store: BatchStore, given: pa.RecordBatch) -> None:
    with store.start_transaction() as transaction:
        transaction.write("k", given)
    with pytest.raises(FeatureNotSupported, match="cannot be read as a table"):
        connection.execute("SELECT * FROM khonsu_batch('k')")
    connection.rollback()
    assert len(rows(connection, "SELECT * FROM khonsu.batches")) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO khonsu.batches (key) VALUES ('a')",
        "UPDATE khonsu.batches SET rows = 1",
        "DELETE FROM khonsu.entries",
        "DROP TABLE khonsu.batches",
        "DROP TABLE IF EXISTS khonsu.Batch_Contents",
        "CREATE TABLE khonsu.batches (key VARCHAR)",
    ],
)
def test_sql_does_not_write_them(connection: khonsu_sql.Connection, store: BatchStore, sql: str) -> None:
    write(store, {"k": 1})
    with pytest.raises(InsufficientPrivilege):
        connection.execute(sql)
    connection.rollback()
    with pytest.raises(UndefinedTable):
        connection.execute("SELECT * FROM khonsu.batch_contents")
    connection.rollback()
    assert content(store) == {"k": [1]} and connection.tables() == ()


def test_a_table_of_the_same_name_is_another(connection: khonsu_sql.Connection, store: BatchStore) -> None:
    connection.execute("CREATE TABLE batches (n BIGINT)")
    connection.commit()
    write(store, {"k": 1})
    assert rows(connection, "SELECT * FROM batches") == [] and len(rows(connection, "SELECT * FROM khonsu.batches")) == 1
    assert [table.name for table in connection.tables()] == ["batches"]


def test_a_directory_is_the_same_for_both(tmp_path: Path) -> None:
    with khonsu_engine.open(tmp_path / "db") as store:
        write(store, {"k": 7})
    with khonsu_sql.connect(tmp_path / "db") as connection:
        assert rows(connection, "SELECT id FROM khonsu_batch('k')") == [(7,)]
        connection.execute("CREATE TABLE t (n BIGINT)")
    with khonsu_engine.open(tmp_path / "db") as store:
        assert content(store) == {"k": [7]}


def test_a_store_keeps_the_database_open(tmp_path: Path) -> None:
    connection = khonsu_sql.connect(tmp_path / "db")
    store = khonsu_sql.batches(connection)
    connection.close()
    write(store, {"k": 1})
    store.close()
    store.close()
    with pytest.raises(EngineClosed):
        write(store, {"k": 1})
    with khonsu_engine.open(tmp_path / "db") as again:
        assert content(again) == {"k": [1]}
    with pytest.raises(ConnectionDoesNotExist):
        khonsu_sql.batches(connection)


def test_a_dropped_store_lets_the_database_go(tmp_path: Path) -> None:
    with khonsu_sql.connect(tmp_path / "db") as connection:
        store = khonsu_sql.batches(connection)
        transaction = store.start_transaction()
        del store
        gc.collect()
        transaction.write("k", batch(1))
    database = transaction._keyspace.database
    transaction.commit()
    assert not database.closed
    del transaction
    gc.collect()
    while not database.closed:
        threading.Event().wait(0.001)


def test_options_that_are_refused_hold_nothing(tmp_path: Path) -> None:
    with khonsu_sql.connect(tmp_path / "db") as connection, pytest.raises(InvalidArgument):
        khonsu_sql.batches(connection, isolation="none")
    with khonsu_engine.open(tmp_path / "db"):
        pass
