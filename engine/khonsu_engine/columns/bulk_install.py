"""Bulk writes and the table they are published into: which keys exist already, and how segments come in above a memtable.

Called through `TableVersion.overlapping_key` (statement time, outside the latch) and `TableVersion.with_bulk` (under it).

The invariant to keep: what the memtable says of a key is newer than what the segments say. A new segment breaks it for keys with a
chain, which end in a tombstone (a live row would have been refused, a concurrent one is a conflict). For those the row is
installed as an ordinary version of the same timestamp, and its position in the new segment is dead from the start. A chain that
already ends at this timestamp is the transaction's own later word on its bulk row and stays.
Finding those keys is the long part; `overlapping_key` does it ahead and leaves what it found with the segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from khonsu_engine.columns.key_search import common_positions, find_many
from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.segment import Segment
from khonsu_engine.columns.segment_view import SegmentView
from khonsu_engine.columns.version import Version
from khonsu_engine.commands import Key, KeyRange, Timestamp

if TYPE_CHECKING:
    from khonsu_engine.columns.table_version import TableVersion

__all__ = ["installed", "overlapping_key", "own_versions"]

SLICE = 1_024


def overlapping_key(version: TableVersion, segment: Segment, timestamp: Timestamp, deleted: Iterable[Key]) -> Key | None:
    """A key of `segment` with a row visible at `timestamp` and not in `deleted`, or None."""
    gone = frozenset(deleted)
    chained = _chained(version.memtable, segment)
    for key in chained:
        if key not in gone and version.get(key, timestamp) is not None:
            return key
    for view in version.segments:
        positions = common_positions(segment, view.segment)
        for position in np.setdiff1d(positions, view.dead, assume_unique=True).tolist():
            key = view.segment.key_at(position)
            if key not in gone and version.get(key, timestamp) is not None:
                return key
    return None


def _chained(memtable: Memtable, segment: Segment) -> dict[Key, int]:
    """The keys of `segment` that have a chain, with their positions; noted in the segment for `installed`."""
    seen = len(memtable.log)
    keys = memtable.ordered_keys().between(KeyRange(segment.meta.first, segment.meta.last))
    found: dict[Key, int] = {}
    for start in range(0, len(keys), SLICE):
        part = keys[start : start + SLICE]
        positions = find_many(segment, part)
        found.update((part[hit], int(positions[hit])) for hit in np.flatnonzero(positions >= 0).tolist())
    segment.chained = (memtable, seen, found)
    return found


def own_versions(memtable: Memtable, timestamp: Timestamp) -> Memtable:
    """A new memtable with nothing but what the truncating commit itself wrote."""
    fresh = Memtable(memtable.table, memtable.batch_rows)
    own = []
    for written in reversed(memtable.log):
        if written.timestamp != timestamp:
            break
        own.append(written)
    for written in reversed(own):
        fresh.install(Version(written.key, timestamp, written.row, written.before, None, timestamp))
    return fresh


def installed(memtable: Memtable, segment: Segment, timestamp: Timestamp) -> SegmentView:
    """The view of a new segment; rows whose keys have chains are in the memtable then."""
    segment.stamp(timestamp)
    found = _chained_now(memtable, segment)
    for key, position in found.items():
        head = memtable.chains[key]
        if head.timestamp != timestamp:
            memtable.install(Version(key, timestamp, segment.row(position), head.row, None, timestamp))
    dead = np.array(sorted(found.values()), np.int64)
    return SegmentView(segment).with_dead(dead, np.full(len(dead), timestamp, np.int64))


def _chained_now(memtable: Memtable, segment: Segment) -> dict[Key, int]:
    """What `_chained` found, brought up to date by the versions logged since."""
    noted, seen, found = segment.chained or (None, 0, {})
    if noted is not memtable:
        seen, found = 0, {}
    found = dict(found)
    for version in memtable.log[seen:]:
        position = segment.find(version.key)
        if position >= 0:
            found[version.key] = position
    segment.chained = None
    return found
