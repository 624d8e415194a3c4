"""One opened record batch of a segment: rows by position and positions by key, from memoryviews.

Made by `segment` when a chunk is first touched. Finding a key costs a binary search; which one depends on the key:
    one integer column without gaps   subtraction
    one integer column                bisect over the typed memoryview
    one text or binary column         bisect over every 64th key, then a byte search within those 64
    anything else                     bisect over every 64th key, then over the keys themselves
Positions are local to the chunk. Left out: everything about other chunks, files and visibility.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

from khonsu_engine.columns.key_order import Edge, Order
from khonsu_engine.columns.readers import cell_reader, fixed_view, kind_of, offsets_and_data, row_reader
from khonsu_engine.columns.segment_meta import ChunkMeta
from khonsu_engine.commands import Key, Row
from khonsu_engine.schema.catalog import Table

__all__ = ["Chunk", "open_chunk"]

STRIDE = 64
BLOCK_BYTES_MAX = 8192
"""Blocks of longer texts are searched by comparing keys: repeated content could make a byte search slow."""


class Chunk(NamedTuple):
    """`find(key)`: position or -1. `get(key)`: its row or None. `row(i)`, `key_at(i)`: by position.

    `cut(edge)`: how many keys lie before an edge."""

    batch: pa.RecordBatch
    get: Callable[[Key], Row | None]
    find: Callable[[Key], int]
    row: Callable[[int], Row]
    key_at: Callable[[int], Key]
    cut: Callable[[Edge], int]


def open_chunk(table: Table, meta: ChunkMeta, batch: pa.RecordBatch, order: Order) -> Chunk:
    """The functions of one batch, whose columns are those of `table` (and perhaps `__ts`)."""
    types = [column.type for column in table.columns]
    plain = [known.maximum is not None and known.maximum == known.maximum for known in meta.columns]
    columns = batch.columns
    row = row_reader(columns[: len(types)], types, plain)
    positions = table.key_columns
    if len(positions) == 1:
        key_at: Callable[[int], Key] = cell_reader(columns[positions[0]], types[positions[0]])
    else:
        key_at = row_reader([columns[position] for position in positions], [types[position] for position in positions])
    find, cut = _searches(table, meta, batch, key_at, order)
    return Chunk(batch, _getter(find, row), find, row, key_at, cut)


def _getter(find: Callable[[Key], int], row: Callable[[int], Row]) -> Callable[[Key], Row | None]:
    def get(key: Key) -> Row | None:
        i = find(key)
        return row(i) if i >= 0 else None

    return get


Searches = tuple[Callable[[Key], int], Callable[[Edge], int]]


def _searches(table: Table, meta: ChunkMeta, batch: pa.RecordBatch, key_at: Callable[[int], Key], order: Order) -> Searches:
    """(find, cut) by the best way for the kind of the key."""
    if len(table.key_columns) == 1:
        position = table.key_columns[0]
        kind = kind_of(table.columns[position].type)
        if kind == "number":
            return _number_searches(batch.column(position), meta)
        if kind in ("text", "bytes"):
            return _text_searches(batch.column(position), kind, key_at)
    return _general_searches(batch.num_rows, key_at, order)


def _number_searches(array: pa.Array, meta: ChunkMeta) -> Searches:
    keys, rows, first = fixed_view(array), meta.rows, meta.first

    def cut(edge: Edge) -> int:
        return edge[0](keys, edge[1])

    if meta.last - first == rows - 1:

        def find_dense(key: Any) -> int:
            i: int = key - first
            return i if 0 <= i < rows else -1

        return find_dense, cut

    def find(key: Any) -> int:
        i = bisect_left(keys, key)
        return i if i < rows and keys[i] == key else -1

    return find, cut


def _text_searches(array: pa.Array, kind: str, key_at: Callable[[int], Any]) -> Searches:
    offsets, data = offsets_and_data(array)
    rows = len(array)
    samples = [key_at(i) for i in range(0, rows, STRIDE)]
    everything = range(rows)
    encode = str.encode if kind == "text" else bytes

    def find(key: Any) -> int:
        stop = bisect_right(samples, key) * STRIDE
        if stop == 0:
            return -1
        start = stop - STRIDE
        stop = min(stop, rows)
        begin = offsets[start]
        block = bytes(data[begin : offsets[stop]])
        if len(block) > BLOCK_BYTES_MAX:
            return _compared(everything, key_at, key, start, stop)
        wanted = encode(key)
        at = block.find(wanted)
        while at >= 0:
            # The last row that begins here: an empty key, always the first one of all, may begin at the same place.
            i = bisect_right(offsets, begin + at, start, stop) - 1 if wanted else start
            if offsets[i] == begin + at and offsets[i + 1] - offsets[i] == len(wanted):
                return i
            at = block.find(wanted, at + 1)
        return -1

    return find, _cut_function(samples, everything, key_at)


def _cut_function(samples: list[Any], everything: range, ordered_at: Callable[[int], Any]) -> Callable[[Edge], int]:
    """Where an edge lies: first among the samples, then between two of them."""

    def cut(edge: Edge) -> int:
        bisect, value = edge
        stop = bisect(samples, value) * STRIDE
        return bisect(everything, value, max(stop - STRIDE, 0), min(stop, len(everything)), key=ordered_at)

    return cut


def _compared(everything: range, key_at: Callable[[int], Any], key: Any, start: int, stop: int) -> int:
    i = bisect_left(everything, key, start, stop, key=key_at)
    return i if i < stop and key_at(i) == key else -1


def _general_searches(rows: int, key_at: Callable[[int], Any], order: Order) -> Searches:
    everything = range(rows)
    ordered_at = key_at if order is None else _composed(order, key_at)
    samples = [ordered_at(i) for i in range(0, rows, STRIDE)]

    def find(key: Any) -> int:
        wanted = key if order is None else order(key)
        stop = bisect_right(samples, wanted) * STRIDE
        return _compared(everything, ordered_at, wanted, max(stop - STRIDE, 0), min(stop, rows))

    return find, _cut_function(samples, everything, ordered_at)


def _composed(outer: Callable[[Any], Any], inner: Callable[[int], Any]) -> Callable[[int], Any]:
    return lambda i: outer(inner(i))
