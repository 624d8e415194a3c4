"""An immutable sorted run of rows in a file: found, read and pruned by key, opened chunk by chunk when first touched.

Made by `build` (new files), recovery (`Segment(meta, table, store)`) and compaction; used by table versions and, for its own
bulk writes, by a transaction before anybody else sees it. The file is a stream of Arrow IPC messages; `SegmentMeta` says
where each stands, so one chunk can be read alone. A chunk's checksum is verified when it is opened: damage raises
CorruptDatabase with file and chunk, always.

Invariants: keys rise strictly; no key is NULL; positions count from 0 over all chunks. Nothing here knows which rows are live
(`segment_view`). `get`, `find` and `row` are closures without a reference to the segment, so a pin is a plain reference and
the file's end is known when the last one goes (`retire`).
"""

from __future__ import annotations

import weakref
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa

from khonsu_engine.columns.chunk import Chunk, open_chunk
from khonsu_engine.columns.key_order import Edge, Order, edges_of, order_of
from khonsu_engine.columns.segment_meta import SegmentMeta, decode_meta, encode_meta
from khonsu_engine.columns.zone_map import may_match, range_meets
from khonsu_engine.commands import EVERY_KEY, Key, KeyRange, Row, Timestamp
from khonsu_engine.errors import CorruptDatabase
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.protocols import Store
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import arrow_schema

__all__ = ["TIMESTAMPS", "Segment", "decode_meta", "encode_meta", "segment_schema"]

TIMESTAMPS = "__ts"
"""Name of the last column when rows keep their commit timestamps."""


def segment_schema(table: Table, timestamps: bool = False) -> pa.Schema:
    """The Arrow schema of a segment's batches: the table's columns in order, and `__ts`."""
    schema = arrow_schema([column.type for column in table.columns], [column.name for column in table.columns])
    return schema.append(pa.field(TIMESTAMPS, pa.int64())) if timestamps else schema


class _File:
    """The chunks of one file, opened as they are needed. Two threads may open one twice; either copy is right."""

    __slots__ = ("__weakref__", "_buffer", "_meta", "_order", "_schema", "_store", "chunks", "table")

    def __init__(self, meta: SegmentMeta, table: Table, store: Store, order: Order) -> None:
        self.table = table
        self.chunks: list[Chunk | None] = [None] * len(meta.chunks)
        self._meta = meta
        self._store = store
        self._order = order
        self._schema = segment_schema(table, meta.timestamps)
        self._buffer: pa.Buffer | None = None

    def open(self, number: int) -> Chunk:
        """Chunk `number`, verified."""
        known = self._meta.chunks[number]
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = pa.py_buffer(self._store.map_file(self._meta.name))
        if known.offset + known.length > buffer.size:
            raise self._corrupt(number, "is cut off")
        message = buffer.slice(known.offset, known.length)
        if zlib.crc32(message) != known.checksum:
            raise self._corrupt(number, "does not match its checksum")
        batch = pa.ipc.read_record_batch(message, self._schema)
        if batch.num_rows != known.rows:
            raise self._corrupt(number, f"has {batch.num_rows} rows, not {known.rows}")
        chunk = self.chunks[number] = open_chunk(self.table, known, batch, self._order)
        return chunk

    def _corrupt(self, number: int, what: str) -> CorruptDatabase:
        return CorruptDatabase(
            f"segment file {self._meta.name} of table {self.table.name}: chunk {number} {what}",
            hint="Restore the database from a backup; other tables are not affected.",
        )


class Segment:
    """`find(key)`: position or -1. `get(key)`: the row of `key`, live or not, or None. `row(position)`: its values."""

    __slots__ = ("__weakref__", "_file", "_firsts", "_lasts", "_order", "chained", "find", "get", "meta", "row", "table")

    find: Callable[[Key], int]
    get: Callable[[Key], Row | None]
    row: Callable[[int], Row]

    def __init__(self, meta: SegmentMeta, table: Table, store: Store) -> None:
        self.meta = meta
        self.table = table
        self._order = order = order_of(table)
        self._file = file = _File(meta, table, store, order)
        self._firsts = firsts = [chunk.first if order is None else order(chunk.first) for chunk in meta.chunks]
        self._lasts = [chunk.last if order is None else order(chunk.last) for chunk in meta.chunks]
        self.chained: tuple[Any, int, dict[Key, int]] | None = None  # a note of `bulk_install` to itself
        self.get = _get_function(file, firsts, order)
        self.find = _find_function(file, firsts, order, meta.chunk_rows)
        self.row = _row_function(file, meta.chunk_rows)

    def __repr__(self) -> str:
        return f"Segment({self.meta.name}, {self.meta.rows} rows, {self.meta.first!r} to {self.meta.last!r})"

    # -- by position ----------------------------------------------------------------------------------------------

    def chunk(self, number: int) -> Chunk:
        """Chunk `number`, opened if it is not yet."""
        return self._file.chunks[number] or self._file.open(number)

    def key_at(self, position: int) -> Key:
        """The key at `position`."""
        number, i = divmod(position, self.meta.chunk_rows)
        return self.chunk(number).key_at(i)

    def timestamp_at(self, position: int) -> Timestamp:
        """When the row at `position` was committed (at the latest)."""
        if not self.meta.timestamps:
            return self.meta.timestamp_max
        number, i = divmod(position, self.meta.chunk_rows)
        timestamp: int = self.chunk(number).batch.column(len(self.table.columns))[i].as_py()
        return timestamp

    # -- by key ---------------------------------------------------------------------------------------------------

    def bounds(self, range: KeyRange) -> tuple[int, int]:
        """(start, stop): the positions of the keys within `range`. Opens at most the two chunks at its ends."""
        if range is EVERY_KEY:
            return 0, self.meta.rows
        low, high = edges_of(range, self._order)
        start = 0 if low is None else self._cut(low)
        stop = self.meta.rows if high is None else self._cut(high)
        return start, max(start, stop)

    def _cut(self, edge: Edge) -> int:
        """The number of keys before `edge`."""
        bisect, value = edge
        number = bisect(self._lasts, value)
        if number == len(self._lasts):
            return self.meta.rows
        whole = number * self.meta.chunk_rows
        if bisect(self._firsts, value) <= number:
            return whole
        return whole + self.chunk(number).cut(edge)

    def overlaps(self, other: Segment) -> bool:
        """Do the key ranges of the two meet?"""
        mine = KeyRange(self.meta.first, self.meta.last)
        return range_meets(mine, other.meta.first, other.meta.last, self._order)

    def may_match(self, range: KeyRange, predicate: Predicate) -> bool:
        """May a row within `range` satisfy `predicate`? Decided by key ranges and statistics alone."""
        return any(
            range_meets(range, chunk.first, chunk.last, self._order) and may_match(predicate, chunk.columns, chunk.rows)
            for chunk in self.meta.chunks
        )

    # -- life -----------------------------------------------------------------------------------------------------

    def stamp(self, timestamp: Timestamp) -> None:
        """Say when these rows were committed: a bulk write's segments learn it when they are published. Repeatable."""
        self.meta = msgspec.structs.replace(self.meta, timestamp_min=timestamp, timestamp_max=timestamp)

    def retire(self, removable: deque[str]) -> None:
        """The newest state does not need this file: append its name to `removable` when no pin does.

        Nothing else happens then: a finaliser runs anywhere, so it takes no latch and removes no file itself."""
        weakref.finalize(self._file, removable.append, self.meta.name).atexit = False


def _get_function(file: _File, firsts: list[Any], order: Order) -> Callable[[Key], Row | None]:
    chunks, open_file = file.chunks, file.open
    if order is not None:
        return _ordered_get_function(file, firsts, order)
    if len(firsts) == 1:

        def get_from_one(key: Key) -> Row | None:
            return (chunks[0] or open_file(0)).get(key)

        return get_from_one

    def get(key: Key) -> Row | None:
        number = bisect_right(firsts, key) - 1
        return (chunks[number] or open_file(number)).get(key) if number >= 0 else None

    return get


def _ordered_get_function(file: _File, firsts: list[Any], order: Callable[[Any], Any]) -> Callable[[Key], Row | None]:
    chunks, open_file = file.chunks, file.open

    def get(key: Key) -> Row | None:
        number = bisect_right(firsts, order(key)) - 1
        return (chunks[number] or open_file(number)).get(key) if number >= 0 else None

    return get


def _find_function(file: _File, firsts: list[Any], order: Order, chunk_rows: int) -> Callable[[Key], int]:
    chunks, open_file = file.chunks, file.open

    def find(key: Key) -> int:
        number = bisect_right(firsts, key if order is None else order(key)) - 1
        if number < 0:
            return -1
        i = (chunks[number] or open_file(number)).find(key)
        return i + number * chunk_rows if i >= 0 else -1

    return find


def _row_function(file: _File, chunk_rows: int) -> Callable[[int], Row]:
    chunks, open_file = file.chunks, file.open

    def row(position: int) -> Row:
        number = position // chunk_rows
        return (chunks[number] or open_file(number)).row(position - number * chunk_rows)

    return row
