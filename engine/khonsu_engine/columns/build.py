"""Sorted rows become segment files.

Called by flush, compaction and bulk writes, outside every latch. Rows stream in as Arrow tables that follow each other in key
order; they are cut into chunks of `chunk_rows_max` rows and files of `segment_rows_max`, and each chunk is serialised,
measured (first and last key, minimum, maximum and NULLs per column) and summed (CRC-32) on its way to the store, so no more than
a few chunks are held at once. A failure removes the files written so far.

File: an Arrow IPC stream (schema message, one message a chunk, end mark), readable by any Arrow library.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from khonsu_engine.columns.segment import Segment, segment_schema
from khonsu_engine.columns.segment_meta import ChunkMeta, ColumnStatistics, SegmentMeta
from khonsu_engine.columns.sorting import key_in
from khonsu_engine.commands import Timestamp
from khonsu_engine.errors import EngineError
from khonsu_engine.limits import Limits
from khonsu_engine.protocols import Store
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import SqlType, arrow_from_rows, rows_from_arrow

__all__ = ["Span", "arrow_tables", "write_segments"]

STATISTICS_LENGTH_MAX = 64
"""Longer texts are bounded by a prefix below and by nothing above."""

CONVERTED_ROWS = 1_024
"""Rows turned into Arrow at once, under the interpreter's lock; other threads run in between."""

END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"

Span = tuple[Timestamp, Timestamp]
"""(oldest, newest) commit timestamp of some rows."""


def write_segments(
    store: Store,
    table: Table,
    rows: Iterable[pa.Table],
    *,
    limits: Limits,
    new_name: Callable[[], str],
    span: Span = (0, 0),
    timestamps: bool = False,
) -> list[Segment]:
    """Files of all `rows`, durable when this returns. `rows`: tables in key order, with `__ts` as last column if `timestamps`.

    `span` is noted when rows keep no timestamps of their own. Raises StoreFailed; then nothing is left behind."""
    schema = segment_schema(table, timestamps)
    chunks = _chunks(rows, schema, limits.chunk_rows_max)
    per_file = max(1, limits.segment_rows_max // limits.chunk_rows_max)
    segments: list[Segment] = []
    name = ""
    try:
        for first in chunks:
            name = new_name()
            written = _Writing(table, schema, chain((first,), islice(chunks, per_file - 1)))
            size_bytes = store.add_file(name, written.messages())
            known = written.span if timestamps else span
            rows_of_chunks = sum(chunk.rows for chunk in written.chunks)
            meta = SegmentMeta(
                name, table.id, table.version, rows_of_chunks, limits.chunk_rows_max, size_bytes, *known, timestamps, tuple(written.chunks)
            )
            segments.append(Segment(meta, table, store))
    except BaseException:
        for unwanted in {name, *(segment.meta.name for segment in segments)} - {""}:
            store.remove_file(unwanted)
        raise
    return segments


class _Writing:
    """One file on its way: `messages` are its bytes, `chunks` and `span` what was seen in them."""

    def __init__(self, table: Table, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        self.chunks: list[ChunkMeta] = []
        self.span: Span = (0, 0)
        self._table = table
        self._schema = schema
        self._batches = batches

    def messages(self) -> Iterator[pa.Buffer | bytes]:
        head = self._schema.serialize()
        offset = head.size
        yield head
        for batch in self._batches:
            message = batch.serialize()
            self.chunks.append(self._describe(batch, offset, message))
            offset += message.size
            yield message
        yield END_OF_STREAM

    def _describe(self, batch: pa.RecordBatch, offset: int, message: pa.Buffer) -> ChunkMeta:
        columns = self._table.columns
        if batch.num_columns > len(columns):
            bounds = pc.min_max(batch.column(len(columns))).as_py()
            self.span = (min(self.span[0] or bounds["min"], bounds["min"]), max(self.span[1], bounds["max"]))
        return ChunkMeta(
            batch.num_rows,
            offset,
            message.size,
            zlib.crc32(message),
            key_in(self._table, batch, 0),
            key_in(self._table, batch, batch.num_rows - 1),
            tuple([_statistics(column, array) for column, array in zip(columns, batch.columns, strict=False)]),
        )


def _statistics(column: Column, array: pa.Array) -> ColumnStatistics:
    """Bounds of one column of a chunk; unknown ones where the type has no order or Python no value."""
    nulls = array.null_count
    if not column.type.can_be_key or nulls == len(array):
        return ColumnStatistics(None, None, nulls)
    bounds = pc.min_max(array)
    if pa.types.is_floating(array.type) and pc.any(pc.is_nan(array)).as_py():
        nan = pa.scalar(float("nan"), array.type)
        bounds = {"min": bounds["min"] if bounds["min"].is_valid else nan, "max": nan}
    try:
        minimum, maximum = _canonical(column.type, bounds["min"]), _canonical(column.type, bounds["max"])
    except EngineError:  # a date beyond Python's calendar: the chunk is never pruned by this column
        return ColumnStatistics(None, None, nulls)
    if isinstance(minimum, str | bytes):
        minimum = minimum[:STATISTICS_LENGTH_MAX]
        maximum = maximum if len(maximum) <= STATISTICS_LENGTH_MAX else None
    return ColumnStatistics(minimum, maximum, nulls)


def _canonical(sql_type: SqlType, scalar: pa.Scalar) -> Any:
    return rows_from_arrow((sql_type,), pa.table([pa.repeat(scalar, 1)], names=["value"]))[0][0]


def _chunks(tables: Iterable[pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of `tables` as batches of exactly `rows` rows (the last one: what is left)."""
    held: list[pa.Table] = []
    count = 0
    for part in tables:
        start = 0
        while part.num_rows - start >= rows - count:
            held.append(part.slice(start, rows - count))
            start += rows - count
            yield _batch(held, schema)
            held, count = [], 0
        if start < part.num_rows:
            held.append(part.slice(start))
            count += part.num_rows - start
    if held:
        yield _batch(held, schema)


def _batch(parts: list[pa.Table], schema: pa.Schema) -> pa.RecordBatch:
    whole = pa.concat_tables([part.rename_columns(schema.names) for part in parts]).combine_chunks()
    batch: pa.RecordBatch = whole.to_batches()[0]
    assert batch.num_rows == whole.num_rows and batch.schema.types == schema.types
    return batch


def arrow_tables(table: Table, rows: list[tuple[Any, ...]], timestamps: list[Timestamp] | None = None) -> Iterator[pa.Table]:
    """Row tuples as Arrow tables, a slice at a time; other threads run between the slices."""
    schema = segment_schema(table, timestamps is not None)
    types = [column.type for column in table.columns]
    for start in range(0, len(rows), CONVERTED_ROWS):
        batch = arrow_from_rows(types, rows[start : start + CONVERTED_ROWS])
        arrays = batch.columns
        if timestamps is not None:
            arrays.append(pa.array(timestamps[start : start + CONVERTED_ROWS], pa.int64()))
        yield pa.Table.from_arrays(arrays, schema=schema)
        time.sleep(0)
