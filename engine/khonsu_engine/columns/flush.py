"""From memtable to segments: everything up to a cut timestamp moves down, a new memtable takes what is newer.

Driven by maintenance (one thread): `cut` and `write` and `prepare` outside the commit latch, for as long as they take and in
slices that let other threads run; `finish` under it, which only adds what was published since the last `prepare`.

Why nobody sees the difference: the cut is at or below *durable*, so every later pin reads at or above it, where the newest version
of each key up to the cut is all that is needed of the past. Earlier pins keep the earlier table version with its memtable.
Tombstones are not kept: they mark the row below dead. What first-committer-wins still needs of them (`TableVersion.deleted`)
is kept while a snapshot older than the deletion is in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from khonsu_engine.columns.build import Span, arrow_tables, write_segments
from khonsu_engine.columns.key_search import NO_POSITIONS, find_many
from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.row_sizes import limits_for_versions
from khonsu_engine.columns.segment import Segment
from khonsu_engine.columns.segment_view import SegmentView
from khonsu_engine.columns.sorting import sorted_by_key
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.columns.version import Version
from khonsu_engine.commands import Key, Timestamp
from khonsu_engine.limits import Limits
from khonsu_engine.protocols import Store

__all__ = ["Flush", "cut"]

SLICE = 1_024


def cut(base: TableVersion, timestamp: Timestamp, horizon: Timestamp) -> Flush | None:
    """Plan to move everything up to `timestamp` (at most *durable*) out of the memtable of `base`; None: there is nothing.

    `horizon`: the oldest timestamp anybody reads at. Outside the commit latch."""
    flush = Flush(base, timestamp, horizon)
    return flush if flush.moved else None


class Flush:
    """One flush of one table. `moved`: the newest version up to the cut of each key, by key."""

    def __init__(self, base: TableVersion, timestamp: Timestamp, horizon: Timestamp) -> None:
        self.base = base
        self.timestamp = timestamp
        self.segments: list[Segment] = []
        self.moved: dict[Key, Version] = {}
        self._horizon = horizon
        self._views: dict[int, SegmentView] = {}
        self._deletions: Mapping[Key, Timestamp] = {}
        self._memtable = Memtable(base.table, base.memtable.batch_rows)
        self._copied = 0
        log = base.memtable.log
        for start in range(0, len(log), SLICE):
            self.moved.update((version.key, version) for version in log[start : start + SLICE] if version.timestamp <= timestamp)
            time.sleep(0)

    def write(self, store: Store, limits: Limits, new_name: Callable[[], str]) -> list[Segment]:
        """Write the rows as segment files, find the positions that die. Raises StoreFailed: nothing is left behind then."""
        kept = [version for version in self.moved.values() if version.row is not None]
        if kept:
            self.segments = self._written(kept, store, limits, new_name)
        for view in self.base.segments:
            self._views[id(view)] = self._with_moved_dead(view)
        self._deletions = self._deleted()
        return self.segments

    def _written(self, kept: list[Version], store: Store, limits: Limits, new_name: Callable[[], str]) -> list[Segment]:
        """Arrow first, in slices, and then its sort: that one lets other threads run, `list.sort` does not."""
        table = self.base.table
        span = _span(kept)
        timestamps = [version.timestamp for version in kept] if span[0] < span[1] and span[1] > self._horizon else None
        rows = [version.row for version in kept if version.row is not None]
        unsorted = pa.concat_tables(arrow_tables(table, rows, timestamps))
        return write_segments(
            store,
            table,
            (sorted_by_key(table, unsorted),),
            limits=limits_for_versions(limits, kept),
            new_name=new_name,
            span=span,
            timestamps=timestamps is not None,
        )

    def _with_moved_dead(self, view: SegmentView) -> SegmentView:
        versions = list(self.moved.values())
        positions, stamps = [NO_POSITIONS], [NO_POSITIONS]
        for start in range(0, len(versions), SLICE):
            part = versions[start : start + SLICE]
            found = find_many(view.segment, [version.key for version in part])
            hits = np.flatnonzero(found >= 0)
            positions.append(found[hits])
            stamps.append(np.array([part[hit].timestamp for hit in hits.tolist()], np.int64))
            time.sleep(0)
        return view.with_dead(np.concatenate(positions), np.concatenate(stamps))

    def prepare(self, newest: Timestamp = 0) -> None:
        """Copy what is newer than the cut into the new memtable. Outside the latch, as often as one likes.

        `newest`: no reader of the version to come takes a snapshot below it. Chains are pruned by it: a hot row's would otherwise be
        as long as its commits during the flush, and freeing a chain of 100,000 versions overflows the C stack."""
        log = self.base.memtable.log
        chains, prune = self._memtable.chains, self._memtable.prune
        upto = len(log)
        for start in range(self._copied, upto, SLICE):
            stop = min(start + SLICE, upto)
            for version in log[start:stop]:
                if version.timestamp > self.timestamp:
                    stamp = version.timestamp
                    self._memtable.install(Version(version.key, stamp, version.row, version.before, None, stamp))
                    if chains[version.key].older is not None:
                        prune(version.key, newest)
            self._copied = stop

    def finish(self, current: TableVersion, newest: Timestamp = 0) -> TableVersion | None:
        """The table version after the flush. Under the commit latch; short when `prepare` was called just before.

        None: the rows are gone meanwhile (TRUNCATE) or the segments were exchanged; the files written are of no use then."""
        base = self.base
        if current.memtable is not base.memtable or current.segments[: len(base.segments)] != base.segments:
            return None
        assert current.deleted is base.deleted
        self.prepare(newest)
        below = [self._views.get(id(view), view) for view in current.segments]
        return current.replaced(
            (*below, *(SegmentView(segment) for segment in self.segments)),
            memtable=self._memtable,
            deleted=self._deletions,
            settled=self.timestamp,
        )

    def _deleted(self) -> Mapping[Key, Timestamp]:
        """Deletions that a snapshot in use may not know of."""
        horizon = self._horizon
        still = {key: timestamp for key, timestamp in self.base.deleted.items() if timestamp > horizon}
        for version in self.moved.values():
            if version.row is None and version.timestamp > horizon:
                still[version.key] = version.timestamp
        return still


def _span(versions: list[Version]) -> Span:
    stamps = [version.timestamp for version in versions]
    return min(stamps), max(stamps)
