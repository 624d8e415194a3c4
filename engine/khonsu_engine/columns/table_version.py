"""One immutable state of where a table's rows live: segments below, one memtable above.

Made by the state machine (empty tables, bulk writes) and by maintenance (`flush`, `compaction`); pinned by snapshots together
with a read timestamp; read by transactions and by compiled point functions. Only the memtable behind it changes, and only
at its newer end, so a pin at S reads the same for ever.

Invariants, for everybody who reads at S >= `valid_from`:
* a key's versions in the memtable are newer than its live row in the segments, and at most one segment has a live row of it;
* everything in the segments was committed at or below S, so segments need no visibility of their own;
* who reads below `valid_from` (the timestamp of a bulk write that was published and is not yet durable) reads `previous`.
Conflicts are looked up by `newest`, in the newest table version only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from khonsu_engine.columns.bulk_install import installed, overlapping_key, own_versions
from khonsu_engine.columns.key_order import order_of
from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.ordered import ordered_rows
from khonsu_engine.columns.scan import Scan, prepare_scan
from khonsu_engine.columns.segment import Segment
from khonsu_engine.columns.segment_view import SegmentView
from khonsu_engine.columns.version import PRUNED, Pruned, Version
from khonsu_engine.commands import EVERY_KEY, Key, KeyRange, Row, Timestamp, Write
from khonsu_engine.mvcc.predicates import ALL, Predicate
from khonsu_engine.schema.catalog import Table

__all__ = ["TableVersion"]

Get = Callable[[Key, Timestamp], "Row | Pruned | None"]
Below = Callable[[Key], Row | None]


class TableVersion:
    """`segments` in the order of their arrival. `floor`: when the table was last truncated. `deleted`: keys of which nothing is
    left, with the timestamp of their deletion, while a snapshot older than that is in use.
    """

    __slots__ = ("deleted", "floor", "get", "memtable", "previous", "segments", "superseded", "table", "valid_from")

    get: Get
    """(key, S) -> the row visible at S, None if there is none, PRUNED if only a registered snapshot could know.

    The hottest function of the product: a closure made for this very version, with all it needs in its cells."""

    def __init__(
        self,
        table: Table,
        segments: Iterable[SegmentView] = (),
        memtable: Memtable | None = None,
        *,
        previous: TableVersion | None = None,
        valid_from: Timestamp = 0,
        floor: Timestamp = 0,
        deleted: Mapping[Key, Timestamp] | None = None,
    ) -> None:
        self.table = table
        self.segments: tuple[SegmentView, ...] = tuple(segments)
        self.memtable = Memtable(table) if memtable is None else memtable
        self.previous = previous
        self.valid_from = valid_from
        self.floor = floor
        self.deleted: Mapping[Key, Timestamp] = {} if deleted is None else deleted
        self.superseded: Any = None  # which segment rows the memtable hides, made by the first scan (`recent.Superseded`)
        self.get = _get_function(self)

    def __repr__(self) -> str:
        return f"TableVersion({self.table.name}, {len(self.segments)} segments, {len(self.memtable.log)} versions)"

    # -- reading --------------------------------------------------------------------------------------------------

    def newest(self, key: Key, base: Timestamp = 0) -> Timestamp:
        """When `key` last changed (a deletion is a change); 0 when no snapshot in use can be older than that.

        `base`: who only wants to know of changes above it saves the search where there are none: anything up to `base` may be
        returned then."""
        version = self.memtable.chains.get(key)
        if version is not None:
            return version.timestamp
        newest = self.floor
        if self.deleted:
            newest = max(newest, self.deleted.get(key, 0))
        for view in self.segments:
            if view.latest > base:
                newest = max(newest, view.newest(key))
        return newest

    def timestamp_of(self, key: Key, timestamp: Timestamp) -> Timestamp:
        """When what a reader at `timestamp` sees of `key` was committed, at the latest; 0: long ago, it is durable."""
        if timestamp < self.valid_from and self.previous is not None:
            return self.previous.timestamp_of(key, timestamp)
        version = self.memtable.chains.get(key)
        while version is not None and version.timestamp > timestamp:
            version = version.older
        return self.valid_from if version is None else version.timestamp

    def rows(
        self,
        timestamp: Timestamp,
        range: KeyRange = EVERY_KEY,
        *,
        reverse: bool = False,
        own: Mapping[Key, Write] | None = None,
        own_segments: Sequence[Segment] = (),
    ) -> Iterator[tuple[Key, Row]]:
        """The visible (key, row) pairs within `range` in key order, over which `own` writes lie, over `own_segments`.

        What is visible is decided now, rows are read as they are asked for. Raises SnapshotPruned while it runs, for readers
        without a registered snapshot only."""
        return ordered_rows(self, timestamp, range, reverse, dict(own) if own else {}, own_segments)

    def scan(
        self,
        timestamp: Timestamp,
        projection: Sequence[int],
        range: KeyRange = EVERY_KEY,
        predicate: Predicate = ALL,
        *,
        own: Mapping[Key, Write] | None = None,
        own_segments: Sequence[Segment] = (),
    ) -> Scan:
        """Arrow batches of the columns `projection` of at least the visible rows that match; see `scan.Scan`."""
        return prepare_scan(self, timestamp, projection, range, predicate, own or {}, own_segments)

    # -- bulk writes ----------------------------------------------------------------------------------------------

    def overlapping_key(self, segment: Segment, timestamp: Timestamp, deleted: Iterable[Key] = ()) -> Key | None:
        """A key of `segment` with a row visible at `timestamp` and not in `deleted`, or None. Vectorised; outside the latch."""
        return overlapping_key(self, segment, timestamp, deleted)

    def with_bulk(
        self, segments: Sequence[Segment], timestamp: Timestamp, *, truncate: bool = False, settled: Timestamp = 0
    ) -> TableVersion:
        """This version with the rows of a bulk write committed at `timestamp`; with `truncate` they are all there is.

        Under the commit latch, after the commit's ordinary versions were installed (those of `timestamp` stand over the bulk rows).
        `settled`: no later pin reads below it. May be repeated after an interrupt."""
        known = {id(view.segment) for view in self.segments}
        if (segments and id(segments[0]) in known) or (truncate and self.floor == timestamp):
            return self
        memtable = own_versions(self.memtable, timestamp) if truncate else self.memtable
        views = [installed(memtable, segment, timestamp) for segment in segments]
        return TableVersion(
            self.table,
            views if truncate else (*self.segments, *views),
            memtable,
            previous=self.settled(settled),
            valid_from=timestamp,
            floor=timestamp if truncate else self.floor,
            deleted=self.deleted,
        )

    # -- derived versions -----------------------------------------------------------------------------------------

    def settled(self, timestamp: Timestamp) -> TableVersion:
        """This version for pins at or above `timestamp`: without `previous` if they cannot need it."""
        return self.replaced(self.segments, settled=timestamp) if self.previous is not None and self.valid_from <= timestamp else self

    def replaced(
        self,
        segments: Iterable[SegmentView],
        *,
        memtable: Memtable | None = None,
        deleted: Mapping[Key, Timestamp] | None = None,
        settled: Timestamp = 0,
    ) -> TableVersion:
        """A version of the same rows kept elsewhere, for pins at or above `settled`."""
        needed = self.valid_from > settled
        return TableVersion(
            self.table,
            segments,
            memtable or self.memtable,
            previous=self.previous if needed else None,
            valid_from=self.valid_from if needed else 0,
            floor=self.floor,
            deleted=self.deleted if deleted is None else deleted,
        )


def _get_function(version: TableVersion) -> Get:
    """`TableVersion.get` for one version."""
    chain_of: Callable[[Key], Version | None] = version.memtable.chains.get
    below = _below_function(version.table, version.segments)

    def get(key: Key, timestamp: Timestamp) -> Row | Pruned | None:
        head = chain_of(key)
        while head is not None:
            if head.timestamp <= timestamp:
                return head.row
            older = head.older  # read before `older_end`: `Memtable.prune` writes them the other way round
            if timestamp >= head.older_end:
                return PRUNED
            head = older
        return below(key)

    previous = version.previous
    if previous is None:
        return get
    valid_from, earlier = version.valid_from, previous.get

    def get_either(key: Key, timestamp: Timestamp) -> Row | Pruned | None:
        return get(key, timestamp) if timestamp >= valid_from else earlier(key, timestamp)

    return get_either


def _below_function(table: Table, segments: Sequence[SegmentView]) -> Below:
    """key -> its live row in the segments.

    Segments whose key ranges do not meet form a run, searched by one bisect; the runs with most rows are asked first."""
    runs = [_run_function(table, run) for run in _runs(table, segments)]
    if len(runs) == 1:
        return runs[0]
    if not runs:
        return _nothing

    def get(key: Key) -> Row | None:
        for run in runs:
            row = run(key)
            if row is not None:
                return row
        return None

    return get


def _nothing(key: Key) -> Row | None:
    return None


def _runs(table: Table, segments: Sequence[SegmentView]) -> list[list[SegmentView]]:
    order = order_of(table)

    def ordered(key: Key) -> Any:
        return key if order is None else order(key)

    runs: list[list[SegmentView]] = []
    for view in sorted(segments, key=lambda view: ordered(view.segment.meta.first)):
        for run in runs:
            if ordered(run[-1].segment.meta.last) < ordered(view.segment.meta.first):
                run.append(view)
                break
        else:
            runs.append([view])
    return sorted(runs, key=lambda run: -sum(view.live_rows for view in run))


def _run_function(table: Table, run: Sequence[SegmentView]) -> Below:
    """key -> its live row in segments that follow each other in key order."""
    gets = [view.get for view in run]
    if len(gets) == 1:
        return gets[0]
    order = order_of(table)
    firsts: list[Any] = [view.segment.meta.first if order is None else order(view.segment.meta.first) for view in run]

    def get(key: Key) -> Row | None:
        number = bisect_right(firsts, key if order is None else order(key)) - 1
        return gets[number](key) if number >= 0 else None

    return get
