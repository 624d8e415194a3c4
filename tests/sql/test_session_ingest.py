"""Arrow in, through a session."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from khonsu_engine.database import Database
from khonsu_sql import errors
from khonsu_sql.local import LocalSession
from khonsu_sql.session import IngestMode, TransactionStatus

CREATE, APPEND, REPLACE, CREATE_APPEND = IngestMode.CREATE, IngestMode.APPEND, IngestMode.REPLACE, IngestMode.CREATE_APPEND


def reader(batch_rows: int = 1000, **columns: Any) -> pa.RecordBatchReader:
    return pa.table(columns).to_reader(max_chunksize=batch_rows)


def rows(session: LocalSession, sql: str) -> list[tuple[object, ...]] | None:
    return session.execute(sql).rows


@pytest.fixture
def table(session: LocalSession) -> LocalSession:
    session.execute(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, name VARCHAR(5) NOT NULL DEFAULT 'x', day DATE UNIQUE, n INTEGER CHECK (n < 100))"
    )
    session.execute("INSERT INTO t VALUES (1, 'one', '2020-01-01', 1)")
    return session


@pytest.mark.parametrize("count", [3, 20_000])
def test_create_infers_types(session: LocalSession, count: int) -> None:
    data = reader(a=pa.array(range(count), pa.int32()), B=pa.array([f"v{n}" for n in range(count)], pa.large_string()))
    assert session.ingest("made", data, CREATE) == count
    assert rows(session, "SELECT count(*) AS c, max(a) AS m FROM made") == [(count, count - 1)]
    result = session.execute("SELECT a, b FROM made WHERE a = 2")
    assert result.rows == [(2, "v2")]
    assert [str(column.type) for column in result.columns or ()] == ["INTEGER", "VARCHAR"]
    with pytest.raises(errors.DuplicateTable):
        session.ingest("MADE", reader(a=[1]), CREATE)


@pytest.mark.parametrize("count", [3, 20_000])
def test_append_matches_columns_by_name_and_fills_the_others(table: LocalSession, count: int) -> None:
    assert table.ingest("T", reader(N=[7] * count, ID=range(10, 10 + count)), APPEND) == count
    assert rows(table, "SELECT * FROM t WHERE id = 12") == [(12, "x", None, 7)]
    assert rows(table, "SELECT count(*) AS c FROM t") == [(count + 1,)]


@pytest.mark.parametrize("count", [3, 20_000])
def test_replace_empties_first(table: LocalSession, count: int) -> None:
    day = [datetime.date(2020, 1, 1), *[None] * (count - 1)]
    assert table.ingest("t", reader(id=range(count), day=pa.array(day, pa.date32())), REPLACE) == count
    assert rows(table, "SELECT count(*) AS c, count(day) AS d, min(id) AS m FROM t") == [(count, 1, 0)]
    with pytest.raises(errors.UniqueViolation):
        table.execute("INSERT INTO t VALUES (-1, 'y', '2020-01-01', 1)")


def test_create_append_makes_or_adds(session: LocalSession) -> None:
    for total in (2, 4):
        assert session.ingest("t", reader(a=[1, 2]), CREATE_APPEND) == 2
        assert rows(session, "SELECT count(*) AS c FROM t") == [(total,)]


@pytest.mark.parametrize("padding", [0, 10_000])
@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"id": [1]}, errors.UniqueViolation, "t_pkey"),
        ({"id": [50], "day": [datetime.date(2020, 1, 1)]}, errors.UniqueViolation, "day"),
        ({"id": [50], "n": [100]}, errors.CheckViolation, "n"),
        ({"id": [50], "name": pa.array([None], pa.string())}, errors.NotNullViolation, "name"),
        ({"id": [50], "name": ["longer than five"]}, errors.DataError, "name"),
        ({"id": ["abc"]}, errors.DataError, "id"),
        ({"id": [2.5]}, errors.DataError, "id"),
        ({"id": [50], "n": [2**40]}, errors.DataError, "n"),
        ({"n": [1]}, errors.NotNullViolation, "id"),
        ({"id": [50], "color": [1]}, errors.UndefinedColumn, "color"),
    ],
)
def test_bad_data(table: LocalSession, padding: int, columns: dict[str, Any], error: type[errors.Error], message: str) -> None:
    data = padded(pa.table(columns), padding).to_reader(max_chunksize=3000)
    before = rows(table, "SELECT * FROM t")
    with pytest.raises(error) as caught:
        table.ingest("t", data, APPEND)
    assert message in str(caught.value)
    assert table.status is TransactionStatus.IDLE
    assert rows(table, "SELECT * FROM t") == before


def padded(bad: pa.Table, count: int) -> pa.Table:
    """`count` good rows of the same columns, then `bad`."""
    good = {"id": range(1000, 1000 + count), "day": [None] * count, "n": [1] * count, "name": ["ok"] * count, "color": [1] * count}
    arrays = [pa.array(good[field.name]).cast(field.type) for field in bad.schema]
    return pa.concat_tables([pa.table(arrays, schema=bad.schema), bad])


def test_append_to_nothing(session: LocalSession) -> None:
    with pytest.raises(errors.UndefinedTable):
        session.ingest("nowhere", reader(a=[1]), APPEND)


def test_a_reader_that_fails(table: LocalSession) -> None:
    def batches() -> Any:
        yield pa.record_batch({"id": [100]})
        raise pa.ArrowInvalid("the file is cut off")

    schema = pa.schema([pa.field("id", pa.int64())])
    with pytest.raises(errors.DataError, match="cut off"):
        table.ingest("t", pa.RecordBatchReader.from_batches(schema, batches()), APPEND)
    assert rows(table, "SELECT count(*) AS c FROM t") == [(1,)]


def test_ingest_is_part_of_a_transaction(table: LocalSession, database: Database) -> None:
    table.execute("BEGIN")
    table.ingest("t", reader(id=range(100, 10_100)), APPEND)
    assert rows(table, "SELECT count(*) AS c FROM t") == [(10_001,)]
    with LocalSessionOf(database) as other:
        assert rows(other, "SELECT count(*) AS c FROM t") == [(1,)]
    table.execute("ROLLBACK")
    assert rows(table, "SELECT count(*) AS c FROM t") == [(1,)]


class LocalSessionOf:
    """A second session for the length of a block."""

    def __init__(self, database: Database) -> None:
        self.session = LocalSession(database, autocommit=True)

    def __enter__(self) -> LocalSession:
        return self.session

    def __exit__(self, *exception: object) -> None:
        self.session.close()


def test_read_only(table: LocalSession, database: Database) -> None:
    session = LocalSession(database, autocommit=True, read_only=True)
    with pytest.raises(errors.ReadOnlySqlTransaction):
        session.ingest("t", reader(id=[9]), APPEND)
    session.close()
