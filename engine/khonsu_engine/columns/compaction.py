"""Fewer segments from many: merging those that overlap, are small, or are mostly dead.

Driven by maintenance: `choose` says what is worth merging (or that nothing is), `Compaction.write` merges outside every latch,
`finish` exchanges the segments under the commit latch. The memtable is not touched. Dead rows are left behind: whoever pins the new
table version reads above their end, and what conflicts need of deletions is in `TableVersion.deleted` already. `__ts` goes where no
snapshot can tell the difference any more.

A merge goes through the key space in parts of about one segment, so its memory does not grow with the table; sorting and copying
are Arrow's and NumPy's, which let other threads run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from khonsu_engine.columns.build import Span, write_segments
from khonsu_engine.columns.key_order import in_order, order_of
from khonsu_engine.columns.key_search import chunks_between
from khonsu_engine.columns.row_sizes import limits_for_chunks
from khonsu_engine.columns.segment import Segment, segment_schema
from khonsu_engine.columns.segment_view import SegmentView
from khonsu_engine.columns.sorting import sort_batches
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.commands import Key, KeyRange, Timestamp
from khonsu_engine.limits import Limits
from khonsu_engine.protocols import Store
from khonsu_engine.schema.catalog import Table

__all__ = ["Compaction", "choose"]

DEAD_SHARE_MAX = 0.5
SMALL_SHARE = 4
"""A segment is small when it could be this many times as large."""


def choose(version: TableVersion, limits: Limits, horizon: Timestamp, upto: Timestamp) -> Compaction | None:
    """The merge that is due, or None.

    `horizon`: the oldest timestamp anybody reads at. `upto`: segments with anything committed above it are left alone (they are
    not part of the checkpoint being made). Due are segments more than half dead; else the smallest of those that cover one key,
    when more than `overlap_max` do; else all small ones, when there are more of them than that."""
    views = [view for view in version.segments if view.segment.meta.timestamp_max <= upto]
    chosen = _due(version.table, views, limits)
    return Compaction(version, chosen, horizon, upto) if chosen else None


def _due(table: Table, views: Sequence[SegmentView], limits: Limits) -> Sequence[SegmentView]:
    dead = [view for view in views if len(view.dead) > DEAD_SHARE_MAX * view.segment.meta.rows]
    if dead:
        return dead[: limits.overlap_max]
    covering = _overlap(table, views)
    if len(covering) > limits.overlap_max:
        return _smallest(covering, len(covering) - limits.overlap_max + 1)
    small = [view for view in views if _is_small(view, limits)]
    return small if len(small) > limits.overlap_max else ()


def _is_small(view: SegmentView, limits: Limits) -> bool:
    rows, size_bytes = limits.segment_rows_max, limits.segment_bytes_max
    return view.live_rows * SMALL_SHARE <= rows and view.segment.meta.size_bytes * SMALL_SHARE <= size_bytes


def _overlap(table: Table, views: Sequence[SegmentView]) -> list[SegmentView]:
    """The largest set of segments that all cover one key."""
    order = order_of(table)

    def ordered(key: Key) -> Any:
        return key if order is None else order(key)

    most: list[SegmentView] = []
    open_here: list[SegmentView] = []
    for view in sorted(views, key=lambda view: ordered(view.segment.meta.first)):
        first = ordered(view.segment.meta.first)
        open_here = [other for other in open_here if ordered(other.segment.meta.last) >= first]
        open_here.append(view)
        if len(open_here) > len(most):
            most = list(open_here)
    return most


def _smallest(views: Sequence[SegmentView], count: int) -> list[SegmentView]:
    """The `count` smallest (at least 2), and the next larger ones as long as each is no larger than all before it."""
    by_size = sorted(views, key=lambda view: view.live_rows)
    chosen = by_size[: max(count, 2)]
    total = sum(view.live_rows for view in chosen)
    for view in by_size[len(chosen) :]:
        if view.live_rows > total:
            break
        chosen.append(view)
        total += view.live_rows
    return chosen


class Compaction:
    """One merge of `views`, segments of `base`; `horizon` and `upto` as for `choose`."""

    def __init__(self, base: TableVersion, views: Sequence[SegmentView], horizon: Timestamp, upto: Timestamp) -> None:
        self.base = base
        self.views = tuple(views)
        self.segments: list[Segment] = []
        self._horizon = horizon
        self._upto = upto

    def write(self, store: Store, limits: Limits, new_name: Callable[[], str]) -> list[Segment]:
        """Write the live rows of the segments as new ones. Raises StoreFailed: nothing is left behind then."""
        span: Span = (
            min(view.segment.meta.timestamp_min for view in self.views),
            max(view.segment.meta.timestamp_max for view in self.views),
        )
        timestamps = span[0] < span[1] and span[1] > self._horizon
        limits = limits_for_chunks(limits, (chunk for view in self.views for chunk in view.segment.meta.chunks))
        tables = self._merged(limits, timestamps)
        self.segments = write_segments(store, self.base.table, tables, limits=limits, new_name=new_name, span=span, timestamps=timestamps)
        return self.segments

    def _merged(self, limits: Limits, timestamps: bool) -> Iterator[pa.Table]:
        """The live rows as tables that follow each other in key order, each of about one segment."""
        schema = segment_schema(self.base.table, timestamps)
        for part in self._parts(limits):
            batches = [batch for view in self.views for batch in _live_batches(view, part, schema)]
            if batches:
                yield sort_batches(self.base.table, batches, schema)

    def _parts(self, limits: Limits) -> Iterator[KeyRange]:
        """The key space cut at first keys of chunks into parts of about one segment, by rows and by bytes."""
        order = order_of(self.base.table)
        sizes = {chunk.first: (0, 0) for view in self.views for chunk in view.segment.meta.chunks}
        for view in self.views:
            for chunk in view.segment.meta.chunks:
                rows, size = sizes[chunk.first]
                sizes[chunk.first] = (rows + chunk.rows, size + chunk.length)
        low: Any = None
        count = size_bytes = 0
        for first in in_order(sizes, order):
            rows, size = sizes[first]
            if count and (count + rows > limits.segment_rows_max or size_bytes + size > limits.segment_bytes_max):
                yield KeyRange(low, first, True, False)
                low, count, size_bytes = first, 0, 0
            count, size_bytes = count + rows, size_bytes + size
        yield KeyRange(low, None)

    def finish(self, current: TableVersion) -> TableVersion | None:
        """The table version after the merge. Under the commit latch; short.

        None: the segments are not what they were (flush, TRUNCATE); the files written are of no use then."""
        replaced = {id(view) for view in self.views}
        others = [view for view in current.segments if id(view) not in replaced]
        if len(others) != len(current.segments) - len(self.views):
            return None
        return current.replaced((*others, *(SegmentView(segment) for segment in self.segments)), settled=self._upto)


def _live_batches(view: SegmentView, part: KeyRange, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The live rows of one segment within `part`, with the columns of `schema`."""
    segment = view.segment
    start, stop = segment.bounds(part)
    live = view.live_mask(start, stop)
    for number in chunks_between(segment, start, stop):
        offset = number * segment.meta.chunk_rows
        batch = segment.chunk(number).batch
        low, high = max(start, offset), min(stop, offset + batch.num_rows)
        batch = _with_timestamps(segment, batch, schema).slice(low - offset, high - low)
        mask = live[low - start : high - start]
        yield batch if mask.all() else batch.filter(pa.array(mask))


def _with_timestamps(segment: Segment, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`batch` with or without `__ts`, as `schema` has it."""
    arrays = batch.columns[: len(segment.table.columns)]
    if len(schema) > len(arrays):
        known = segment.meta.timestamps
        arrays.append(batch.columns[-1] if known else pa.array(np.full(batch.num_rows, segment.meta.timestamp_max, np.int64)))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
