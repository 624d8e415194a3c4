"""Many keys against one segment at once.

Called by flush (which positions die), scans (which positions are superseded) and bulk writes (which keys exist already).
One integer key column is searched by NumPy; one column of another type by Arrow's hash tables; the rest, and small numbers of
keys, one by one or by a common sort. Only chunks whose key range can hold an answer are opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from khonsu_engine.columns.readers import kind_of
from khonsu_engine.columns.sorting import equal_to_next, integer_keys, key_columns
from khonsu_engine.commands import Key, KeyRange

if TYPE_CHECKING:
    from khonsu_engine.columns.segment import Segment

__all__ = ["NO_POSITIONS", "Positions", "chunks_between", "common_key", "common_positions", "find_many"]

Numbers = np.ndarray[Any, Any]
Positions = np.ndarray[Any, np.dtype[np.int64]]

FEW_KEYS = 8

NO_POSITIONS: Positions = np.zeros(0, np.int64)
NO_POSITIONS.flags.writeable = False


def find_many(segment: Segment, keys: Sequence[Key]) -> Positions:
    """The position of each key, -1 where the segment does not have it."""
    if _is_number(segment) and len(keys) > FEW_KEYS:
        dtype = segment.table.columns[segment.table.key_columns[0]].type.arrow.to_pandas_dtype()
        return _find_numbers(segment, np.array(keys, dtype))
    return np.fromiter(map(segment.find, keys), np.int64, len(keys))


def _is_number(segment: Segment) -> bool:
    positions = segment.table.key_columns
    sql_type = segment.table.columns[positions[0]].type
    return len(positions) == 1 and kind_of(sql_type) == "number" and sql_type.is_integer


def _find_numbers(segment: Segment, keys: Numbers) -> Positions:
    found = np.full(len(keys), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    chunks = segment.meta.chunks
    lows = np.searchsorted(ordered, [chunk.first for chunk in chunks], "left")
    highs = np.searchsorted(ordered, [chunk.last for chunk in chunks], "right")
    for number, (low, high) in enumerate(zip(lows.tolist(), highs.tolist(), strict=True)):
        if low < high:
            here = _chunk_numbers(segment, number)
            wanted = ordered[low:high]
            places = np.searchsorted(here, wanted)
            hits = here[np.minimum(places, len(here) - 1)] == wanted
            found[order[low:high][hits]] = places[hits] + number * segment.meta.chunk_rows
    return found


def _chunk_numbers(segment: Segment, number: int) -> Numbers:
    numbers: Numbers = segment.chunk(number).batch.column(segment.table.key_columns[0]).to_numpy()
    return numbers


def common_positions(segment: Segment, other: Segment) -> Positions:
    """Positions in `other` (ascending) of all keys that are in `segment` too."""
    if not segment.overlaps(other):
        return NO_POSITIONS
    mine = _keys_within(segment, other)
    theirs = _keys_within(other, segment)
    if mine.num_rows == 0 or theirs.num_rows == 0:
        return NO_POSITIONS
    start = other.bounds(_range_of(segment))[0]
    numbers = integer_keys(segment.table, mine) if _is_number(segment) else None
    if numbers is not None:
        wanted = integer_keys(segment.table, theirs)
        places = np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)  # type: ignore[arg-type]
        return np.flatnonzero(numbers[places] == wanted) + start
    if mine.num_columns == 1 and not pa.types.is_floating(mine.schema.types[0]):
        mask = pc.is_in(theirs.column(0), value_set=mine.column(0).combine_chunks())
        return np.flatnonzero(mask.to_numpy()) + start
    return _common_by_sort(mine, theirs) + start


def common_key(segment: Segment, other: Segment) -> Key | None:
    """A key that is in both, or None."""
    positions = common_positions(segment, other)
    return other.key_at(int(positions[0])) if len(positions) else None


def _common_by_sort(mine: pa.Table, theirs: pa.Table) -> Positions:
    """Both sides in one sorted table: a key both have stands twice in a row, theirs second."""
    marked = [
        keys.append_column("position", pa.array(positions))
        for keys, positions in ((mine, np.full(mine.num_rows, -1, np.int64)), (theirs, np.arange(theirs.num_rows)))
    ]
    both = pa.concat_tables(marked).combine_chunks()
    both = both.take(pc.sort_indices(both, sort_keys=[(name, "ascending") for name in both.column_names]))
    twice = equal_to_next(both.drop_columns(["position"]))
    return np.sort(both.column("position").to_numpy()[twice + 1])


def _range_of(segment: Segment) -> KeyRange:
    return KeyRange(segment.meta.first, segment.meta.last)


def _keys_within(segment: Segment, other: Segment) -> pa.Table:
    """The keys of `segment` that lie within the key range of `other`."""
    start, stop = segment.bounds(_range_of(other))
    batches = [_sliced(segment, number, start, stop) for number in chunks_between(segment, start, stop)]
    if not batches:
        batches = [segment.chunk(0).batch.slice(0, 0)]
    return key_columns(segment.table, pa.Table.from_batches(batches))


def _sliced(segment: Segment, number: int, start: int, stop: int) -> pa.RecordBatch:
    offset = number * segment.meta.chunk_rows
    low = max(start - offset, 0)
    batch = segment.chunk(number).batch
    return batch.slice(low, min(stop - offset, batch.num_rows) - low)


def chunks_between(segment: Segment, start: int, stop: int) -> Iterator[int]:
    """The numbers of the chunks that hold the positions from `start` to `stop`."""
    rows = segment.meta.chunk_rows
    return iter(range(start // rows, -(-stop // rows))) if start < stop else iter(())
