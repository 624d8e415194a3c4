"""The version log of a memtable as Arrow batches, and the segment rows it hides: what scans need, made when they need it.

Called by `scan` only. Commits pay one list append per version; the first scan after them converts what is new: every
`batch_rows` row versions are sealed once into a record batch, the rest is the open batch. Every row version is a *slot* with a
begin and an end timestamp (NEVER until it is superseded). A tombstone has no slot; it ends the slot before it. The first version of
a key in the log supersedes the key's row in the segments, if there is one: `Superseded`, per table version, finds them.

Everything is behind one latch per memtable, never the commit latch, and goes in slices of SLICE versions. A slice becomes known by
the assignment of one value, so an interrupt (Ctrl-C) anywhere leaves a state from which the next scan goes on. Readers use the
arrays without the latch: ends change only from NEVER to a timestamp above every reader's that may see it late.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from khonsu_engine.columns.key_search import NO_POSITIONS, Positions, find_many
from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.segment_view import SegmentView
from khonsu_engine.columns.version import Version
from khonsu_engine.commands import Key, Row, Timestamp
from khonsu_engine.schema.types import arrow_from_rows

__all__ = ["NEVER", "Recent", "RecentLog", "Superseded", "recent_of"]

NEVER = (1 << 63) - 1
SLICE = 1_024
MERGED_BATCHES = 16
"""So many sealed batches become one."""

_FIRST_SLOTS = 1_024


class Recent(NamedTuple):
    """The log up to `upto`. Slots 0 to `slots` stand in `sealed` (first slot, batch), then in `open`. `first`: how many entries
    of `first_keys` count. `last`: newest slots of keys of the last slice (-1: tombstones only), on their way into the dict."""

    upto: int
    slots: int
    sealed: tuple[tuple[int, pa.RecordBatch], ...]
    open: list[Row]
    begin: Positions
    end: Positions
    earlier: Positions
    first: int
    last: dict[Key, int]


class RecentLog:
    """The Arrow side of one memtable."""

    def __init__(self, memtable: Memtable) -> None:
        self.latch = threading.Lock()
        self.first_keys: list[Key] = []
        self.first_timestamps: list[Timestamp] = []
        self._memtable = memtable
        self._names = [column.name for column in memtable.table.columns]
        self._types = [column.type for column in memtable.table.columns]
        self._last: dict[Key, int] = {}
        self._open_batch: tuple[int, int, pa.RecordBatch | None] = (0, 0, None)
        self._state = Recent(0, 0, (), [], NO_POSITIONS, NO_POSITIONS, NO_POSITIONS, 0, {})

    def catch_up(self) -> Recent:
        """The log as it is now. Under `latch`."""
        state = self._state
        self._last.update(state.last)
        upto = len(self._memtable.log)
        while state.upto < upto:
            state = self._state = self._advanced(state, min(upto, state.upto + SLICE))
            self._last.update(state.last)
        return state

    def open_batch(self, state: Recent) -> pa.RecordBatch | None:
        """The rows that are not sealed yet as a batch, converted once per state. Under `latch`."""
        if not state.open:
            return None
        start, rows, batch = self._open_batch
        if batch is None or (start, rows) != (state.slots - len(state.open), len(state.open)):
            batch = self._converted(state.open)
            self._open_batch = (state.slots - len(state.open), len(state.open), batch)
        return batch

    def begun_slot(self, state: Recent, key: Key, timestamp: Timestamp) -> int:
        """The newest slot of `key` begun at or below `timestamp`, ended or not, or -1. Under `latch`."""
        slot = self._last.get(key, -1)
        while slot >= 0 and state.begin[slot] > timestamp:
            slot = int(state.earlier[slot])
        return slot

    def _converted(self, rows: Sequence[Row]) -> pa.RecordBatch:
        return arrow_from_rows(self._types, rows, self._names)

    def _advanced(self, state: Recent, upto: int) -> Recent:
        """`state` and the versions up to `upto`. What it writes in place lies beyond what `state` counts, or may be repeated."""
        versions = self._memtable.log[state.upto : upto]
        begin, end, earlier = (_with_room(slots, state.slots + len(versions)) for slots in (state.begin, state.end, state.earlier))
        del self.first_keys[state.first :], self.first_timestamps[state.first :]
        last: dict[Key, int] = {}
        rows = self._placed(versions, state.slots, last, begin.data, end.data, earlier.data)
        slots = state.slots + len(rows)
        sealed, still_open = self._sealed(state.sealed, [*state.open, *rows], slots)
        return Recent(upto, slots, sealed, still_open, begin, end, earlier, len(self.first_keys), last)

    def _placed(
        self, versions: list[Version], slots: int, last: dict[Key, int], begin: memoryview, end: memoryview, earlier: memoryview
    ) -> list[Row]:
        """Give each row version a slot, end the slot before it, note first versions of keys; returns the rows."""
        known = self._last
        rows: list[Row] = []
        for version in versions:
            key, timestamp = version.key, version.timestamp
            before = last.get(key)
            if before is None:
                before = known.get(key)
                if before is None:
                    self.first_keys.append(key)
                    self.first_timestamps.append(timestamp)
                    before = -1
            if before >= 0 and end[before] == NEVER:
                end[before] = timestamp
            row = version.row
            if row is None:
                last[key] = before
                continue
            slot = slots + len(rows)
            begin[slot], end[slot], earlier[slot] = timestamp, NEVER, before
            last[key] = slot
            rows.append(row)
        return rows

    def _sealed(
        self, sealed: tuple[tuple[int, pa.RecordBatch], ...], rows: list[Row], slots: int
    ) -> tuple[tuple[tuple[int, pa.RecordBatch], ...], list[Row]]:
        """Seal as many full batches as there are."""
        size = self._memtable.batch_rows
        while len(rows) >= size:
            sealed = _merged((*sealed, (slots - len(rows), self._converted(rows[:size]))), size)
            rows = rows[size:]
        return sealed, rows


def _merged(sealed: tuple[tuple[int, pa.RecordBatch], ...], size: int) -> tuple[tuple[int, pa.RecordBatch], ...]:
    """The last MERGED_BATCHES batches as one, when they are all small."""
    tail = sealed[-MERGED_BATCHES:]
    if len(tail) < MERGED_BATCHES or any(batch.num_rows != size for _, batch in tail):
        return sealed
    whole = pa.concat_batches([batch for _, batch in tail])
    return (*sealed[:-MERGED_BATCHES], (tail[0][0], whole))


def _with_room(slots: Positions, count: int) -> Positions:
    """`slots`, or a larger copy with room for `count`."""
    if count <= len(slots):
        return slots
    larger = np.zeros(max(count, 2 * len(slots), _FIRST_SLOTS), np.int64)
    larger[: len(slots)] = slots
    return larger


def recent_of(memtable: Memtable) -> RecentLog:
    """The Arrow side of `memtable`, made at the first call."""
    found: Any = memtable.recent
    if found is None:
        with _making:
            found = memtable.recent
            if found is None:
                found = memtable.recent = RecentLog(memtable)
    result: RecentLog = found
    return result


_making = threading.Lock()


def _forget_parent() -> None:
    """In a forked child: the latch may be held by a thread that is not here."""
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forget_parent)


class Superseded:
    """Which rows of one table version's segments its memtable supersedes, and when: per segment (positions, timestamps)."""

    __slots__ = ("_state", "_views")

    def __init__(self, views: Sequence[SegmentView]) -> None:
        self._views = views
        self._state: tuple[int, tuple[tuple[Positions, Positions], ...]] = (0, tuple((NO_POSITIONS, NO_POSITIONS) for _ in views))

    def catch_up(self, log: RecentLog, state: Recent) -> tuple[tuple[Positions, Positions], ...]:
        """Up to `state`. Under the latch of `log`."""
        seen, found = self._state
        while seen < state.first:
            upto = min(seen + SLICE, state.first)
            keys = log.first_keys[seen:upto]
            timestamps = np.array(log.first_timestamps[seen:upto], np.int64)
            found = tuple(_extended(view, known, keys, timestamps) for view, known in zip(self._views, found, strict=True))
            seen = upto
            self._state = (seen, found)
        return found


def _extended(view: SegmentView, known: tuple[Positions, Positions], keys: list[Key], timestamps: Positions) -> tuple[Positions, Positions]:
    positions = find_many(view.segment, keys)
    hits = positions >= 0
    if not hits.any():
        return known
    return np.concatenate((known[0], positions[hits])), np.concatenate((known[1], timestamps[hits]))
