"""One immutable state of where a table's rows live: segments below, one memtable above.

Made by the state machine (empty tables, bulk writes) and by maintenance (`flush`, `compaction`); pinned by snapshots together
with a read timestamp; read by transactions and by compiled point functions. Only the memtable behind it changes, and only
at its newer end, so a pin at S reads the same for ever.

Invariants, for everybody who reads at S >= `valid_from`:
* a key's versions in the memtable are newer than its row in the segments, and the segments hold at most one live row of a key;
* everything in the segments was committed at or below S, so segments need no visibility of their own;
* whoever reads below `valid_from` (the timestamp of a bulk write that was published but is not yet durable) reads `previous`.
Conflicts are looked up by `newest`, in the newest table version only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.version import PRUNED, Pruned
from khonsu_engine.commands import Key, Row, Timestamp
from khonsu_engine.schema.catalog import Table

if TYPE_CHECKING:
    from khonsu_engine.columns.segment_view import SegmentView

__all__ = ["TableVersion"]

Get = Callable[[Key, Timestamp], "Row | None | Pruned"]


class TableVersion:
    """`get(key, S)`: the hottest function of the product, is a closure made for this very version (`_get_function`)."""

    __slots__ = ("floor", "get", "memtable", "previous", "segments", "table", "valid_from")

    get: Get
    """(key, S) -> the row visible at S, None if there is none, PRUNED if only a registered snapshot could know."""

    def __init__(
        self,
        table: Table,
        segments: Iterable[SegmentView] = (),
        memtable: Memtable | None = None,
        *,
        previous: TableVersion | None = None,
        valid_from: Timestamp = 0,
        floor: Timestamp = 0,
    ) -> None:
        self.table = table
        self.segments: tuple[SegmentView, ...] = tuple(segments)
        self.memtable = Memtable(table) if memtable is None else memtable
        self.previous = previous
        self.valid_from = valid_from
        self.floor = floor
        self.get = _get_function(self)

    def newest(self, key: Key) -> Timestamp:
        """When `key` last changed (a deletion is a change); at most `floor` or 0 when nobody can remember a change."""
        version = self.memtable.chains.get(key)
        if version is not None:
            return version.timestamp
        newest = self.floor
        for view in self.segments:
            newest = max(newest, view.newest(key))
        return newest


def _get_function(version: TableVersion) -> Get:
    """`TableVersion.get` with everything it needs in closure cells."""
    chain_of: Any = version.memtable.chains.get
    below = _segment_function(version.segments)

    def get(key: Key, timestamp: Timestamp) -> Row | None | Pruned:
        head = chain_of(key)
        while head is not None:
            if head.timestamp <= timestamp:
                row: Row | None = head.row
                return row
            older = head.older  # read before `older_end`: `Memtable.prune` writes them the other way round
            if timestamp >= head.older_end:
                return PRUNED
            head = older
        return below(key)

    previous = version.previous
    if previous is None:
        return get
    valid_from, earlier = version.valid_from, previous.get

    def get_either(key: Key, timestamp: Timestamp) -> Row | None | Pruned:
        return get(key, timestamp) if timestamp >= valid_from else earlier(key, timestamp)

    return get_either


def _segment_function(segments: tuple[SegmentView, ...]) -> Callable[[Key], Row | None]:
    """key -> its live row in the segments. The largest segment is asked first: it most likely has it."""
    if not segments:
        return _nothing
    functions = [view.get for view in sorted(segments, key=lambda view: -view.segment.meta.rows)]
    if len(functions) == 1:
        return functions[0]

    def get(key: Key) -> Row | None:
        for function in functions:
            row = function(key)
            if row is not None:
                return row
        return None

    return get


def _nothing(key: Key) -> Row | None:
    return None
