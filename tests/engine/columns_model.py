"""A table version under test beside the plainest model there is: for each key the list of (timestamp, row).

`Bench` does to both what an engine would do (commit, prune, flush, bulk write, truncate, merge, recover) with tiny bounds, holds
pins the way transactions do, and compares every kind of read. Used by the state machine and by the thread test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from khonsu_engine.columns import compaction, flush
from khonsu_engine.columns.build import write_segments
from khonsu_engine.columns.key_order import contains, order_of
from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.scan import Scan
from khonsu_engine.columns.segment import Segment, decode_meta, encode_meta, segment_schema
from khonsu_engine.columns.segment_view import decode_dead, encode_dead
from khonsu_engine.columns.sorting import sort_batches
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.columns.version import Version
from khonsu_engine.commands import EVERY_KEY, KeyRange, Operation, Write
from khonsu_engine.limits import Limits
from khonsu_engine.mvcc.predicates import ALL, Predicate, matcher
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import arrow_from_rows, parse_type, rows_from_arrow
from khonsu_engine.storage.memory import MemoryStore

LIMITS = Limits(
    memtable_versions_max=16, segment_rows_max=24, chunk_rows_max=8, version_chunk_rows=4, overlap_max=3, bulk_rows_min=4, bulk_run_rows=20
)

Row = tuple[Any, ...]


def table_of(*columns: str, key: tuple[int, ...], number: int = 64) -> Table:
    """A table whose columns are given by type name."""
    made = tuple(Column(f"c{n}", parse_type(name), nullable=n not in key) for n, name in enumerate(columns))
    return Table(number, "main", "t", 1, made, key, "t_pkey")


class Pin(NamedTuple):
    """What a transaction holds: its timestamp, the table version of that moment, its own writes and bulk segments."""

    timestamp: int
    version: TableVersion
    own: dict[Any, Write]
    own_segments: list[Segment]


class Model:
    """The truth: `histories[key]` = [(timestamp, row or None), …] oldest first; `truncated`: when."""

    def __init__(self) -> None:
        self.histories: dict[Any, list[tuple[int, Row | None]]] = {}
        self.truncated = 0

    def put(self, key: Any, timestamp: int, row: Row | None) -> None:
        self.histories.setdefault(key, []).append((timestamp, row))

    def get(self, key: Any, timestamp: int) -> Row | None:
        row = None
        for stamp, found in self.histories.get(key, ()):
            if stamp <= timestamp:
                row = found
        return row

    def changed(self, key: Any) -> int:
        history = self.histories.get(key)
        return max(self.truncated, history[-1][0] if history else 0)

    def visible(self, timestamp: int) -> dict[Any, Row]:
        rows = {key: self.get(key, timestamp) for key in self.histories}
        return {key: row for key, row in rows.items() if row is not None}

    def truncate(self, timestamp: int) -> None:
        for key, history in self.histories.items():
            if history[-1][1] is not None:
                self.put(key, timestamp, None)
        self.truncated = timestamp


class Bench:
    """One table, its model, and the pins in use."""

    def __init__(self, table: Table, limits: Limits = LIMITS) -> None:
        self.table = table
        self.limits = limits
        self.store = MemoryStore()
        self.version = TableVersion(table, (), Memtable(table, limits.version_chunk_rows))
        self.model = Model()
        self.now = 10
        self.durable = 10
        self.pins: list[Pin] = []
        self.removable: deque[str] = deque()
        self.order = order_of(table)
        self._names = 0

    def new_name(self) -> str:
        self._names += 1
        return f"segment-{self._names}"

    @property
    def horizon(self) -> int:
        return min([self.durable, *(pin.timestamp for pin in self.pins)])

    # -- what happens to a table ----------------------------------------------------------------------------------

    def commit(self, rows: Mapping[Any, Row | None]) -> int:
        """One commit of these rows (None: deletion)."""
        self.now += 2
        for key, row in rows.items():
            before = self.model.get(key, self.now)
            version = Version(key, self.now, row, before, None, self.now)
            self.version.memtable.install(version)
            self.version.memtable.install(version)
            self.model.put(key, self.now, row)
        return self.now

    def prune(self, exact: bool) -> None:
        """What committers do after each commit, for all keys."""
        horizon, active = self.horizon, ()
        if exact:
            horizon, active = self.durable, sorted({pin.timestamp for pin in self.pins})
        for key in list(self.version.memtable.chains):
            self.version.memtable.prune(key, horizon, active)

    def make_segments(self, rows: Sequence[Row]) -> list[Segment]:
        """Segments written ahead, unpublished."""
        batch = arrow_from_rows([column.type for column in self.table.columns], rows, [column.name for column in self.table.columns])
        made = sort_batches(self.table, [batch], segment_schema(self.table))
        return write_segments(self.store, self.table, [made], limits=self.limits, new_name=self.new_name)

    def bulk(
        self, rows: Sequence[Row], *, truncate: bool, also: Mapping[Any, Row | None], between: Mapping[Any, Row | None], checked: bool
    ) -> None:
        """A commit with bulk rows and ordinary writes (`also`) over them; `between`: committed between check and commit.

        Not `checked`: as recovery does it."""
        segments = self.make_segments(rows) if rows else []
        for segment in segments if checked else ():
            assert truncate or self.version.overlapping_key(segment, self.now) is None
        if between:
            self.commit(between)
        self.now += 2
        if truncate:
            self.model.truncate(self.now)
        for row in rows:
            self.model.put(self.table.key_of(row), self.now, row)
        for key, row in also.items():
            version = Version(key, self.now, row, self.model.get(key, self.now), None, self.now)
            self.version.memtable.install(version)
            self.model.put(key, self.now, row)
        version = self.version.with_bulk(segments, self.now, truncate=truncate, settled=self.durable)
        again = version.with_bulk(segments, self.now, truncate=truncate, settled=self.durable)
        assert again is version or not (segments or truncate)
        self.version = version

    def flush(self, upto: int, while_writing: Sequence[Mapping[Any, Row | None]] = ()) -> None:
        """Move everything up to `upto` down; `while_writing`: what others commit meanwhile."""
        plan = flush.cut(self.version, min(upto, self.durable), self.horizon)
        if plan is None:
            return
        plan.write(self.store, self.limits, self.new_name)
        for rows in while_writing:
            self.commit(rows)
            plan.prepare()
        finished = plan.finish(self.version)
        assert finished is not None
        self.version = finished

    def compact(self, everything: bool) -> bool:
        """Merge what is due, or all there is; False when there was nothing."""
        plan = compaction.choose(self.version, self.limits, self.horizon, self.durable)
        if everything:
            views = [view for view in self.version.segments if view.segment.meta.timestamp_max <= self.durable]
            plan = compaction.Compaction(self.version, views, self.horizon, self.durable) if views else None
        if plan is None:
            return False
        plan.write(self.store, self.limits, self.new_name)
        finished = plan.finish(self.version)
        assert finished is not None
        for view in plan.views:
            view.segment.retire(self.removable)
        self.version = finished
        return True

    def recover(self) -> None:
        """Everything durable, in segments, and opened again from what is saved. Pins keep what they have."""
        self.durable = self.now
        self.flush(self.now)
        saved = [(encode_meta(view.segment.meta, self.table), encode_dead(view)) for view in self.version.segments]
        segments = [(Segment(decode_meta(meta, self.table), self.table, self.store), dead) for meta, dead in saved]
        views = [decode_dead(segment, dead, self.now) for segment, dead in segments]
        self.version = TableVersion(
            self.table, views, Memtable(self.table, self.limits.version_chunk_rows), floor=self.version.floor, deleted=self.version.deleted
        )

    # -- pins -----------------------------------------------------------------------------------------------------

    def pin(self, timestamp: int) -> Pin:
        """Begin reading at `timestamp`, between durable and now."""
        made = Pin(timestamp, self.version, {}, [])
        self.pins.append(made)
        return made

    def expected(self, pin: Pin) -> dict[Any, Row]:
        """What `pin` must see, own writes included."""
        rows = self.model.visible(pin.timestamp)
        for segment in pin.own_segments:
            rows |= {segment.key_at(position): segment.row(position) for position in range(segment.meta.rows)}
        for key, write in pin.own.items():
            rows.pop(key, None)
            if write.row is not None:
                rows[key] = write.row
        return rows

    def in_order(self, keys: Any, reverse: bool = False) -> list[Any]:
        return sorted(keys, key=self.order, reverse=reverse) if self.order else sorted(keys, reverse=reverse)

    # -- comparisons ----------------------------------------------------------------------------------------------

    def check_points(self, pin: Pin, keys: Sequence[Any]) -> None:
        for key in keys:
            assert pin.version.get(key, pin.timestamp) == self.model.get(key, pin.timestamp), key

    def check_newest(self, keys: Sequence[Any]) -> None:
        """Whoever reads at or above the horizon must see a conflict exactly when there is one."""
        for key in keys:
            newest, truth = self.version.newest(key), self.model.changed(key)
            for base in {self.horizon, self.durable, self.now, *(pin.timestamp for pin in self.pins)}:
                assert (newest > base) == (truth > base), (key, newest, truth, base)
                assert (self.version.newest(key, base) > base) == (truth > base), (key, truth, base)

    def rows(self, pin: Pin, range: KeyRange, reverse: bool) -> tuple[Iterator[tuple[Any, Row]], list[tuple[Any, Row]]]:
        """(what the product yields, what it must)."""
        expected = self.expected(pin)
        keys = self.in_order((key for key in expected if contains(range, key, self.order)), reverse)
        found = pin.version.rows(pin.timestamp, range, reverse=reverse, own=pin.own, own_segments=pin.own_segments)
        return found, [(key, expected[key]) for key in keys]

    def scan(self, pin: Pin, range: KeyRange = EVERY_KEY, predicate: Predicate = ALL) -> tuple[Scan, dict[Any, Row], dict[Any, Row]]:
        """(the scan, rows it may return, rows it must return)."""
        scan = pin.version.scan(
            pin.timestamp, list(_positions(self.table)), range, predicate, own=dict(pin.own), own_segments=tuple(pin.own_segments)
        )
        visible = self.expected(pin)
        matches = matcher(predicate)
        needed = {key: row for key, row in visible.items() if contains(range, key, self.order) and matches(row)}
        return scan, visible, needed

    def check_scan(self, scan: Scan, visible: dict[Any, Row], needed: dict[Any, Row]) -> None:
        found = rows_of(self.table, scan)
        by_key = {self.table.key_of(row): row for row in found}
        assert len(by_key) == len(found), "a key came twice"
        assert by_key.items() <= visible.items()
        assert needed.items() <= by_key.items()

    def own_write(self, pin: Pin, key: Any, row: Row | None) -> None:
        before = self.expected(pin).get(key)
        if before is None and row is None:
            return
        operation = Operation.DELETE if row is None else Operation.INSERT if before is None else Operation.UPDATE
        pin.own[key] = Write(operation, key, row, before, pin.timestamp)


def _positions(table: Table) -> range:
    return range(len(table.columns))


def rows_of(table: Table, scan: Scan) -> list[Row]:
    """The visible rows of a scan of all columns."""
    types = [column.type for column in table.columns]
    found: list[Row] = []
    for batch in scan:
        assert batch.schema == scan.schema
        if scan.masked:
            batch = batch.filter(batch.column(len(types)))
        found += rows_from_arrow(types, batch.select(list(range(len(types)))))
    return found


def same_meta(left: Any, right: Any) -> bool:
    """Are two descriptions equal (NaN included)?"""
    return repr(left) == repr(right)


__all__ = ["LIMITS", "Bench", "Model", "Pin", "rows_of", "same_meta", "table_of"]
