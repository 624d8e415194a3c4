"""Arrow out of a cursor and into a table, in every form people have it in."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest

import khonsu_sql
from khonsu_sql import Connection

MANY = 25_000
SELECTS = pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT id, owner, balance FROM accounts WHERE id = 3", 1),
        ("SELECT id, owner, balance FROM accounts ORDER BY id", 5),
        ("SELECT id, owner, balance FROM accounts WHERE id = 99", 0),
        (f"SELECT range AS id, 'x' AS owner, CAST(1 AS DECIMAL(12, 2)) AS balance FROM range({MANY}) ORDER BY range", MANY),
    ],
)
SCHEMA = pa.schema([("id", pa.int64()), ("owner", pa.string()), ("balance", pa.decimal128(12, 2))])


@SELECTS
def test_a_table_has_the_rows_and_the_types(accounts: Connection, sql: str, count: int) -> None:
    rows = accounts.execute(sql).fetchall()
    table = accounts.execute(sql).fetch_arrow_table()
    assert len(rows) == count
    assert table.schema.names == SCHEMA.names and table.schema.types == SCHEMA.types
    assert [tuple(row.values()) for row in table.to_pylist()] == rows


@SELECTS
def test_a_reader_streams_the_same(accounts: Connection, sql: str, count: int) -> None:
    reader = accounts.execute(sql).fetch_record_batch()
    assert reader.schema.types == SCHEMA.types
    assert sum(batch.num_rows for batch in reader) == count


@SELECTS
def test_arrow_takes_what_rows_have_left(accounts: Connection, sql: str, count: int) -> None:
    cursor = accounts.execute(sql)
    first = cursor.fetchmany(2)
    table = cursor.fetch_arrow_table()
    assert len(first) + table.num_rows == count
    if count > 2:
        assert table.column("id")[0].as_py() == accounts.execute(sql).fetchall()[2][0]


@pytest.mark.parametrize("take", ["fetch_arrow_table", "fetch_record_batch", "fetch_df", "fetch_polars", "__arrow_c_stream__"])
@SELECTS
def test_rows_after_arrow_are_an_error_that_says_so(accounts: Connection, sql: str, count: int, take: str) -> None:
    cursor = accounts.execute(sql)
    kept = getattr(cursor, take)()
    for again in (cursor.fetchall, cursor.fetchone, cursor.fetchmany, cursor.fetch_arrow_table, lambda: next(cursor)):
        with pytest.raises(khonsu_sql.InvalidCursorState, match="Arrow"):
            again()
    assert kept is not None
    assert len(cursor.execute(sql).fetchall()) == count


@SELECTS
def test_whoever_speaks_the_capsule_protocol_reads_a_cursor(accounts: Connection, sql: str, count: int) -> None:
    assert pa.table(accounts.execute(sql)).num_rows == count
    frame = pl.DataFrame(accounts.execute(sql))
    assert (frame.height, frame.columns) == (count, SCHEMA.names)
    assert accounts.execute(sql).fetch_polars().equals(frame)
    assert len(accounts.execute(sql).fetch_df()) == count


def test_a_reader_ends_when_the_cursor_goes_on(accounts: Connection) -> None:
    cursor = accounts.execute(f"SELECT range FROM range({MANY * 10})")
    reader = cursor.fetch_record_batch()
    reader.read_next_batch()
    cursor.execute("SELECT 1")
    with pytest.raises(khonsu_sql.InvalidCursorState):
        while True:
            reader.read_next_batch()


def test_a_reader_ends_with_its_connection(accounts: Connection) -> None:
    reader = accounts.execute(f"SELECT range FROM range({MANY * 10})").fetch_record_batch()
    accounts.close()
    with pytest.raises(khonsu_sql.Error):
        while True:
            reader.read_next_batch()


def frame() -> pa.Table:
    return pa.table({"id": pa.array([10, 11, 12], pa.int64()), "owner": ["a", None, "c"]})


def batches() -> Iterator[pa.RecordBatch]:
    yield from frame().to_batches(max_chunksize=1)


class Foreign:
    """Something that only speaks the PyCapsule protocol."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return frame().__arrow_c_stream__(requested_schema)


SOURCES: dict[str, Callable[[], Any]] = {
    "table": frame,
    "batch": lambda: frame().combine_chunks().to_batches()[0],
    "reader": lambda: pa.RecordBatchReader.from_batches(frame().schema, batches()),
    "dataset": lambda: pa.dataset.dataset(frame()),
    "scanner": lambda: pa.dataset.dataset(frame()).scanner(),
    "polars": lambda: pl.DataFrame(frame()),
    "lazy polars": lambda: pl.DataFrame(frame()).lazy(),
    "pandas": lambda: pd.DataFrame({"id": [10, 11, 12], "owner": ["a", None, "c"]}, index=[7, 8, 9]),
    "capsule": Foreign,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("mode", ["create", "append", "replace", "create_append"])
def test_ingest_takes_everything_arrow_like_in_every_mode(connection: Connection, source: str, mode: str) -> None:
    cursor = connection.cursor()
    if mode != "create":
        connection.execute("CREATE TABLE t (id BIGINT, owner VARCHAR)")
        connection.execute("INSERT INTO t VALUES (1, 'old')")
    assert cursor.ingest("t", SOURCES[source](), mode=mode) == 3
    assert cursor.rowcount == 3
    old = [(1, "old")] if mode in ("append", "create_append") else []
    assert connection.execute("SELECT id, owner FROM t ORDER BY id").fetchall() == [*old, (10, "a"), (11, None), (12, "c")]


def test_ingest_is_part_of_the_transaction(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, owner VARCHAR)")
    connection.commit()
    connection.cursor().ingest("t", frame(), mode="append")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (3,)
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_ingest_streams_another_cursor_of_the_same_connection(accounts: Connection) -> None:
    source = accounts.execute(f"SELECT range AS id FROM range({MANY})")
    assert accounts.cursor().ingest("copied", source) == MANY
    assert accounts.execute("SELECT count(*), sum(id) FROM copied").fetchone() == (MANY, MANY * (MANY - 1) // 2)


def test_ingest_refuses_what_is_not_arrow(connection: Connection) -> None:
    with pytest.raises(khonsu_sql.InterfaceError, match="list"):
        connection.cursor().ingest("t", [1, 2, 3])
    with pytest.raises(khonsu_sql.InterfaceError, match="upsert") as caught:
        connection.cursor().ingest("t", frame(), mode="upsert")
    assert "create_append" in (caught.value.hint or "")


def test_ingest_respects_what_exists(connection: Connection) -> None:
    cursor = connection.cursor()
    with pytest.raises(khonsu_sql.UndefinedTable):
        cursor.ingest("t", frame(), mode="append")
    connection.rollback()
    cursor.ingest("t", frame())
    connection.commit()
    with pytest.raises(khonsu_sql.DuplicateTable):
        cursor.ingest("t", frame(), mode="create")


def test_duplicates_are_refused_and_nothing_is_left(accounts: Connection) -> None:
    data = pa.table({"id": pa.array([8, 9, 8]), "owner": ["x", "y", "z"], "balance": pa.array([Decimal(1)] * 3, pa.decimal128(12, 2))})
    with pytest.raises(khonsu_sql.UniqueViolation):
        accounts.cursor().ingest("accounts", data, mode="append")
    accounts.rollback()
    assert accounts.execute("SELECT count(*) FROM accounts").fetchone() == (5,)


def test_an_error_in_the_source_comes_through_as_ours(connection: Connection) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches()
        raise OSError("the cable was pulled")

    with pytest.raises(khonsu_sql.Error, match="cable") as caught:
        connection.cursor().ingest("t", pa.RecordBatchReader.from_batches(frame().schema, broken()))
    assert caught.value.__cause__ is not None
    connection.rollback()
    with pytest.raises(khonsu_sql.UndefinedTable):
        connection.execute("SELECT * FROM t")


def test_values_are_the_same_as_rows_and_as_arrow(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE v (k INTEGER PRIMARY KEY, f DOUBLE, d DECIMAL(9, 3), t TIMESTAMP,"
        " z TIMESTAMPTZ, a DATE, b BLOB, u BOOLEAN, l INTEGER[])"
    )
    moment = datetime.datetime(2026, 11, 21, 12, 30, 0, 123456)
    row = (1, 0.1, Decimal("1.250"), moment, moment.replace(tzinfo=datetime.UTC), moment.date(), b"\x00\xff", True, [1, None])
    connection.execute("INSERT INTO v VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    for sql in ("SELECT * FROM v WHERE k = 1", "SELECT * FROM v ORDER BY f"):
        assert connection.execute(sql).fetchall() == [row]
        assert tuple(connection.execute(sql).fetch_arrow_table().to_pylist()[0].values()) == row
