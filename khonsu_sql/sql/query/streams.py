"""Results that stream: batches of exactly our types, as DuckDB computes them.

Made by `execution`. `Batches` is the open result of a cursor; `Stream` is what leaves this room: it owns the cursor, and so the
relations and their snapshot, until it is read out, closed or forgotten. A forgotten one only says so: its instance cleans up at the
next query.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from khonsu_engine.errors import EngineError
from khonsu_engine.schema.types import SqlType, arrow_schema
from khonsu_sql.errors import Error, OutOfMemory, translate
from khonsu_sql.session import ColumnInfo
from khonsu_sql.sql.query.bindings import open_stream
from khonsu_sql.sql.query.calls import Calls
from khonsu_sql.sql.query.cursors import PooledCursor
from khonsu_sql.sql.query.relations import Served
from khonsu_sql.sql.query.results import columns_of, exact
from khonsu_sql.sql.query.translation import from_text, translate_duckdb

__all__ = ["Batches", "Stream", "translated"]

BATCH_ROWS = 16_384


@contextmanager
def translated(cursor: PooledCursor, relations: Sequence[Served]) -> Iterator[None]:
    """What DuckDB and Arrow raise within becomes ours. An instance that says it is broken is used no more."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory("out of memory") from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raised = error if isinstance(error, duckdb.Error) else from_text(error)
        if isinstance(raised, duckdb.FatalException | duckdb.InternalException):
            cursor.instance.broken = True
        cause = cursor.cause()
        if isinstance(cause, EngineError | Error):
            raise translate(cause) from cause
        raise translate_duckdb(raised, relations) from (cause or error)


class Batches:
    """The result of `statement`, opened on `cursor`, whose slots are bound to `relations`. `end` gives the cursor back."""

    __slots__ = ("_calls", "_cursor", "_failed", "_reader", "_relations", "columns", "schema")

    def __init__(
        self,
        calls: Calls,
        cursor: PooledCursor,
        relations: Sequence[Served],
        statement: duckdb.Statement,
        values: list[Any],
        names: Sequence[str] | None,
    ) -> None:
        self._calls = calls
        self._cursor = cursor
        self._relations = relations
        self._failed = False
        with translated(cursor, relations):
            description, reader = calls.run(cursor, lambda: open_stream(cursor.connection, statement, values, BATCH_ROWS))
        self._reader: Any = reader
        self.columns = columns_of(description, names)
        self.schema = arrow_schema([column.type for column in self.columns], [column.name for column in self.columns])

    def read(self) -> pa.RecordBatch | None:
        """The next batch that has rows; None at the end. After an exception only `end` makes sense."""
        try:
            with translated(self._cursor, self._relations):
                batch = self._calls.run(self._cursor, self._pull)
                while batch is not None and not batch.num_rows:
                    batch = self._calls.run(self._cursor, self._pull)
                return None if batch is None else exact(self.columns, self.schema, batch)
        except BaseException:
            self._failed = True
            raise

    def _pull(self) -> pa.RecordBatch | None:
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            return None

    def end(self) -> None:
        """Close the result, read out or not."""
        reader, self._reader = self._reader, None
        if self._failed:
            self._cursor.close()
            return
        try:
            with translated(self._cursor, self._relations):
                reader.close()
        except BaseException:
            self._cursor.close()
            raise
        self._cursor.release()

    def forget(self) -> None:
        """`end`, later, by somebody else: for finalisers."""
        self._cursor.instance.abandoned.append(self.end)


class Stream:
    """Batches of a result: what a `pa.RecordBatchReader` is, but closing it takes effect at once.

    `columns`: names and types; `schema`: the same in Arrow. Any thread may read and close. Raises `khonsu_sql.errors.Error` only.
    """

    __slots__ = ("__weakref__", "_batches", "_head", "_latch", "columns", "schema")

    def __init__(self, batches: Batches, head: Sequence[pa.RecordBatch] = ()) -> None:
        self.columns: tuple[ColumnInfo, ...] = batches.columns
        self.schema: pa.Schema = batches.schema
        self._head = list(head[::-1])
        self._batches: Batches | None = batches
        self._latch = threading.Lock()

    @property
    def types(self) -> list[SqlType]:
        """The types of the columns."""
        return [column.type for column in self.columns]

    def read_next_batch(self) -> pa.RecordBatch:
        """The next batch, never an empty one. Raises StopIteration at the end."""
        with self._latch:
            if self._head:
                return self._head.pop()
            batch = self._read()
        if batch is None:
            raise StopIteration
        return batch

    def _read(self) -> pa.RecordBatch | None:
        if self._batches is None:
            return None
        batch = None
        try:
            batch = self._batches.read()
        finally:
            if batch is None:
                self._end()
        return batch

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        return self.read_next_batch()

    def read_all(self) -> pa.Table:
        """All that is left."""
        return pa.Table.from_batches(list(self), self.schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow PyCapsule protocol: polars, pandas and others read from here."""
        return pa.RecordBatchReader.from_batches(self.schema, self).__arrow_c_stream__(requested_schema)

    def close(self) -> None:
        """Free the cursor and the snapshot. Reading on finds the end."""
        with self._latch:
            self._head.clear()
            self._end()

    def _end(self) -> None:
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.end()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._batches is not None:
            self._batches.forget()
