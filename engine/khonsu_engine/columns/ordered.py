"""Visible rows as tuples in key order, merged from segments, memtable and a transaction's own writes.

Called through `TableVersion.rows`, for short ranges and ORDER BY key … LIMIT. Which keys the memtable has, and where the
range begins and ends in each segment, is found at once; rows are read as the caller asks for them.

A key that has a chain is answered by `TableVersion.get`, also when it is a segment's and got its chain after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from khonsu_engine.columns.key_order import Order, contains, in_order
from khonsu_engine.columns.ordered_keys import OrderedKeys
from khonsu_engine.columns.segment import Segment
from khonsu_engine.columns.segment_view import SegmentView
from khonsu_engine.columns.version import PRUNED, SnapshotPruned
from khonsu_engine.commands import Key, KeyRange, Row, Timestamp, Write

if TYPE_CHECKING:
    from khonsu_engine.columns.table_version import TableVersion

__all__ = ["ordered_rows"]

Pairs = Iterator[tuple[Key, Row]]


def ordered_rows(
    version: TableVersion,
    timestamp: Timestamp,
    range: KeyRange,
    reverse: bool,
    own: Mapping[Key, Write],
    own_segments: Sequence[Segment],
) -> Pairs:
    """See `TableVersion.rows`. Not a generator itself, so that everything is pinned when it returns."""
    while version.previous is not None and timestamp < version.valid_from:
        version = version.previous
    order = version.memtable.order
    keys = version.memtable.ordered_keys()
    own_keys = in_order((key for key in own if contains(range, key, order)), order, reverse=reverse)
    streams = [_view_rows(view, range, reverse) for view in version.segments]
    below = _visible(_merged([stream for stream in streams if stream is not None], order, reverse), version, timestamp, own, keys)
    parts: list[Pairs] = [below]
    if keys.seen:
        parts.append(_chained(keys.iterate(range, reverse), version, timestamp, own))
    if own_segments:
        views = [_view_rows(SegmentView(segment), range, reverse) for segment in own_segments]
        parts.append(_not_own(_merged([stream for stream in views if stream is not None], order, reverse), own))
    if own_keys:
        parts.append(_own_rows(own_keys, own))
    return _merged(parts, order, reverse)


def _merged(streams: list[Pairs], order: Order, reverse: bool) -> Pairs:
    """Streams in key order as one. A key comes from one stream only."""
    if len(streams) == 1:
        return streams[0]
    key: Callable[[Any], Any] = itemgetter(0) if order is None else lambda pair: order(pair[0])
    return merge(*streams, key=key, reverse=reverse)


def _view_rows(view: SegmentView, range: KeyRange, reverse: bool) -> Pairs | None:
    """The live rows of one segment within `range`; None if it has none."""
    start, stop = view.segment.bounds(range)
    return _positions_rows(view, start, stop, reverse) if start < stop else None


def _positions_rows(view: SegmentView, start: int, stop: int, reverse: bool) -> Pairs:
    row_at, key_of, is_live = view.segment.row, view.segment.table.key_of, view.is_live
    positions = range(stop - 1, start - 1, -1) if reverse else range(start, stop)
    dead = len(view.dead) > 0
    for position in positions:
        if not dead or is_live(position):
            row = row_at(position)
            yield key_of(row), row


def _visible(pairs: Pairs, version: TableVersion, timestamp: Timestamp, own: Mapping[Key, Write], listed: OrderedKeys) -> Pairs:
    """Segment rows that neither the memtable nor an own write replaces."""
    chains, get = version.memtable.chains, version.get
    for pair in pairs:
        key = pair[0]
        if key in chains:
            if key not in own and key not in listed:
                row = get(key, timestamp)
                if row is PRUNED:
                    raise SnapshotPruned
                if row is not None:
                    yield key, row
        elif key not in own:
            yield pair


def _chained(keys: Iterator[Key], version: TableVersion, timestamp: Timestamp, own: Mapping[Key, Write]) -> Pairs:
    get = version.get
    for key in keys:
        if key not in own:
            row = get(key, timestamp)
            if row is PRUNED:
                raise SnapshotPruned
            if row is not None:
                yield key, row


def _not_own(pairs: Pairs, own: Mapping[Key, Write]) -> Pairs:
    return (pair for pair in pairs if pair[0] not in own)


def _own_rows(keys: list[Key], own: Mapping[Key, Write]) -> Pairs:
    for key in keys:
        row = own[key].row
        if row is not None:
            yield key, row
