"""How a transaction locks what it reads: the rows of SELECT … FOR UPDATE and FOR SHARE, ranges of keys, whole tables.

Base of `transaction.LocalTransaction`, on top of `writing`; asks `transaction_locks`. All locks here are hard, whatever the transaction's
mode, and are held until it ends: no savepoint lets go of them. Invariant: a row counts as locked only after it was seen, under the lock,
that nobody has committed a newer version than the one visible here; otherwise the statement starts again (`restarts.Superseded`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from khonsu_engine.commands import Isolation, Key, KeyRange, TableId, Timestamp
from khonsu_engine.mvcc.lock_ranges import covers, overlaps
from khonsu_engine.mvcc.lock_table import LockMode
from khonsu_engine.restarts import Superseded
from khonsu_engine.writing import TransactionWriter

__all__ = ["RowLocker"]


class RowLocker(TransactionWriter):
    """The locking part of a transaction. `fresh`: no statement has ended yet, nothing that was read has been handed out."""

    __slots__ = ("fresh",)

    fresh: bool

    def lock_rows(self, table: TableId, keys: Iterable[Key], mode: LockMode, *, wait: bool = True) -> bool:
        """Hard locks on these keys, whose rows are as visible here. Raises LockWait, and Superseded when one is newer.

        Without `wait` False when somebody else is in the way of one of them; those before it are held then."""
        self._require_open()
        keys = list(keys)
        if not (self._locks or self._made_locks()).acquire_rows(table, keys, mode, wait=wait):
            return False
        for key in keys:
            self._refuse_superseded(table, key, self._base(table, key))
        return True

    def lock_if_free(self, table: TableId, key: Key, mode: LockMode) -> bool:
        """As `lock_rows` for one row, without waiting. A row that somebody has deleted meanwhile is not free either, as it was not a
        moment before, so that it takes no new start to pass over it."""
        if self._is_gone(table, key):
            return False
        if not (self._locks or self._made_locks()).acquire_rows(table, (key,), mode, wait=False):
            return False
        return not self._is_gone(table, key)

    def lock_range(self, table: TableId, keys: KeyRange, mode: LockMode, *, wait: bool = True) -> bool:
        """`lock` of a range; nothing newer than the snapshot is in it: else Superseded, but for a snapshot that must stay."""
        if not self.lock(table, keys, mode, wait=wait):
            return False
        if self.isolation is not Isolation.REPEATABLE_READ or self.fresh:
            for change in reversed(self._database.state.changes.get(table, ())):
                if change.timestamp <= self.read_timestamp:
                    break
                if _meets(change, keys):
                    raise Superseded(table, keys, change.timestamp)
        return True

    def _base(self, table: TableId, key: Key) -> Timestamp:
        """The timestamp as of which the row is known."""
        own = self._writes.get(table)
        write = None if own is None else own.get(key)
        return self.read_timestamp if write is None else write.base

    def _is_gone(self, table: TableId, key: Key) -> bool:
        """Has it been deleted since? Raises Superseded when it is newer and still there."""
        base = self._base(table, key)
        try:
            self._refuse_superseded(table, key, base)
        except Superseded:
            state = self._database.state
            if state.tables[table].get(key, state.published) is not None:
                raise
            return True
        return False


def _meets(change: Any, keys: KeyRange) -> bool:
    """May a committed change, of a row or of many, have touched a key of that range?"""
    segments = getattr(change, "segments", None)
    if segments is None:
        return covers(keys, change.key)
    return bool(change.truncate) or any(overlaps(keys, KeyRange(each.meta.first, each.meta.last)) for each in segments)
