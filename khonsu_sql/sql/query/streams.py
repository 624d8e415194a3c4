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
from khonsu_engine.schema.types import SqlType
from khonsu_sql.errors import Error, OutOfMemory, translate
from khonsu_sql.session import ColumnInfo
from khonsu_sql.sql.query.aside import listening
from khonsu_sql.sql.query.bindings import Description, open_stream
from khonsu_sql.sql.query.calls import Calls
from khonsu_sql.sql.query.cursors import PooledCursor
from khonsu_sql.sql.query.relations import Served
from khonsu_sql.sql.query.results import columns_of, exact, schema_of
from khonsu_sql.sql.query.translation import from_text, translate_duckdb

__all__ = ["Batches", "Stream", "translated"]

BATCH_ROWS = 16_384


@contextmanager
def translated(cursor: PooledCursor, relations: Sequence[Served]) -> Iterator[None]:
    """What DuckDB and Arrow raise within becomes ours. An instance that says it is broken is used no more."""
    try:
        with listening():
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
    """The result of `statement`, opened on `cursor`, whose slots are bound to `relations`. `end` gives the cursor back.

    A batch that is not full is probably the last one, so the one after it is asked for in the same call, which the main thread has
    done aside: a small result is one call."""

    __slots__ = ("_ahead", "_calls", "_cursor", "_ended", "_failed", "_reader", "_relations", "columns", "schema")

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
        self._ahead: list[pa.RecordBatch] = []
        self._ended = False
        self._failed = False

        def begin() -> Description:
            description, self._reader = open_stream(cursor.connection, statement, values, BATCH_ROWS)
            self._pull()
            return description

        with translated(cursor, relations):
            description = calls.run(cursor, begin, aside=True)
        self.columns = columns_of(description, names)
        self.schema = schema_of(self.columns)

    def read(self) -> pa.RecordBatch | None:
        """The next batch that has rows; None at the end. After an exception only `end` makes sense."""
        try:
            with translated(self._cursor, self._relations):
                while not self._ahead and not self._ended:
                    self._calls.run(self._cursor, self._pull, aside=True)
                return exact(self.columns, self.schema, self._ahead.pop()) if self._ahead else None
        except BaseException:
            self._failed = True
            raise

    def _pull(self) -> None:
        """The next batches, up to a full one, two or the end."""
        reader: Any = self._reader
        pulled: list[pa.RecordBatch] = []
        while len(pulled) < 2 and not self._ended:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                self._ended = True
                break
            if batch.num_rows:
                pulled.append(batch)
            if batch.num_rows >= BATCH_ROWS:
                break
        self._ahead = pulled[::-1]

    def end(self) -> None:
        """Close the result, read out or not."""
        reader, self._reader = self._reader, None
        if self._failed:
            self._cursor.close()
            return
        try:
            with translated(self._cursor, self._relations):
                self._cursor.abort(reader.close)
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

    def __init__(self, columns: tuple[ColumnInfo, ...], head: Sequence[pa.RecordBatch], batches: Batches | None) -> None:
        """`head`: what was read of `batches` already, or all there is."""
        self._batches = batches
        self._head = list(head[::-1])
        self.columns = columns
        self.schema = schema_of(columns) if batches is None else batches.schema
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
