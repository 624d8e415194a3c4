"""Recent versions of one table: a chain per key, and all of them in publication order (the version log).

Written only under the commit latch (`install`, `prune`); read by anybody without one: readers use single `dict.get`s,
list slices and chain links, each of which is atomic. Ordered reads go through `ordered_keys`, an immutable value that whoever
needs it catches up from the log.

Invariants: every key's versions are newer than whatever the segments below hold for it (`table_version`); the log is
never shortened, so position n of it means the same version for ever; a memtable is left behind, never emptied, by a flush.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from khonsu_engine.columns.key_order import Order, order_of
from khonsu_engine.columns.ordered_keys import OrderedKeys
from khonsu_engine.columns.version import PRUNED, Pruned, Version
from khonsu_engine.commands import Key, Timestamp
from khonsu_engine.limits import DEFAULT
from khonsu_engine.schema.catalog import Table

__all__ = ["Memtable"]

VERSION_BYTES = 250
"""What a version costs beside its values: its struct, its tuple, its place in dict, log and change list."""

PRUNED_STEPS = 8
"""How many versions of a chain are looked at in any case."""


class Memtable:
    """`chains`: key -> newest version. `log`: every version installed, in publication order.

    `batch_rows`: `Limits.version_chunk_rows`, versions sealed at once into an Arrow batch (`recent`)."""

    __slots__ = ("_measured", "_ordered", "_pruned", "batch_rows", "chains", "log", "order", "recent", "table")

    def __init__(self, table: Table, batch_rows: int = DEFAULT.version_chunk_rows) -> None:
        self.table = table
        self.batch_rows = batch_rows
        self.chains: dict[Key, Version] = {}
        self.log: list[Version] = []
        self.order: Order = order_of(table)
        self.recent: Any = None  # the log as Arrow batches, made by the first scan (`recent.recent_of`)
        self._ordered = OrderedKeys([], [], 0, self.order)
        self._measured = (0, 0)
        self._pruned: dict[Key, tuple[Timestamp, Sequence[Timestamp]]] = {}  # long chains -> for whom they were looked through

    def install(self, version: Version) -> None:
        """Publish `version`: log it, link it before the chain of its key. Under the commit latch only.

        Repeating it after an interrupt at any point changes nothing: what is the head has been logged, and a version that
        was logged but not linked is the last one of the log."""
        key = version.key
        head = self.chains.get(key)
        if head is version:
            return
        log = self.log
        if not log or log[-1] is not version:
            log.append(version)
        version.older = head
        self.chains[key] = version

    def get(self, key: Key, timestamp: Timestamp) -> Version | Pruned | None:
        """The version of `key` a reader at `timestamp` sees; None: look into the segments."""
        version = self.chains.get(key)
        while version is not None and version.timestamp > timestamp:
            older = version.older  # read before `older_end`: `prune` writes them the other way round
            if timestamp >= version.older_end:
                return PRUNED
            version = older
        return version

    def prune(self, key: Key, horizon: Timestamp, active: Sequence[Timestamp] = ()) -> None:
        """Drop versions of `key` that nobody can see. Under the commit latch only; may be interrupted and repeated.

        `horizon`: no snapshot will be taken below it. `active`: registered snapshots below it, ascending. A version goes when
        its successor is not above `horizon` and no active snapshot lies between the two.

        What was kept once stays for the same `horizon` and the same `active` (the very object): of a long chain only the head is looked
        at until there are others, so many snapshots do not make each write of a hot row look at as many versions."""
        kept, steps = self.chains.get(key), 0
        while kept is not None and kept.older is not None:
            if steps == PRUNED_STEPS and self._was_pruned(key, horizon, active):
                return
            steps += 1
            older: Version | None = kept.older
            end = kept.older_end
            while older is not None and end <= horizon and not _any_between(active, older.timestamp, end):
                end, older = older.older_end, older.older
                kept.older_end = end  # before `older`: a reader between the two meets PRUNED, never a wrong row
            kept.older = older
            kept = older
        if steps > PRUNED_STEPS:
            self._pruned[key] = (horizon, active)
        elif self._pruned:
            self._pruned.pop(key, None)

    def _was_pruned(self, key: Key, horizon: Timestamp, active: Sequence[Timestamp]) -> bool:
        known = self._pruned.get(key)
        return known is not None and known[0] == horizon and known[1] is active

    @property
    def size_bytes(self) -> int:
        """Approximate bytes of all versions of the log. Each version is looked at once, whoever asks first."""
        counted, total = self._measured
        log = self.log
        upto = len(log)
        if upto > counted:
            total += sum(map(_size_of, log[counted:upto]))
            self._measured = (upto, total)
        return total

    def ordered_keys(self) -> OrderedKeys:
        """The keys of all versions published before the call, in order. Two threads may do the same work; either result is right."""
        known = self._ordered
        upto = len(self.log)
        if upto != known.seen:
            self._ordered = known = known.with_keys([version.key for version in self.log[known.seen : upto]], upto)
        return known


def _any_between(active: Sequence[Timestamp], begin: Timestamp, end: Timestamp) -> bool:
    return bisect_left(active, end) > bisect_left(active, begin)


def _size_of(version: Version) -> int:
    row = version.row
    if row is None:
        return VERSION_BYTES
    return VERSION_BYTES + 32 * len(row) + sum([len(value) for value in row if isinstance(value, (str, bytes))])
