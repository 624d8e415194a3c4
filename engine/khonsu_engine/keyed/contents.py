"""The batches of one transaction: heads and contents, read and written together.

Made by `batches` for each transaction; `blind` writes through it, too. Invariants: a live head has its content at its revision; the content
of a revision is written once. What is kept beyond its turn is deleted by `drop_old`, right before the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import Row
from khonsu_engine.keyed.heads import Heads, is_live, put_row
from khonsu_engine.keyed.policies import Value
from khonsu_engine.keyed.shapes import EXPIRES_AT, LIVE, OLDEST, REVISION, KeyedTables
from khonsu_engine.keyed.sweep import drop_contents

if TYPE_CHECKING:
    from khonsu_engine.keyed.work import Work
    from khonsu_engine.transaction import LocalTransaction

__all__ = ["Contents", "revision_of"]


class Contents:
    """`heads`: of the same transaction. `revisions_kept`: how many older ones stay readable."""

    __slots__ = ("_revisions_kept", "_table", "_work", "heads")

    def __init__(self, work: Work, tables: KeyedTables, revisions_kept: int) -> None:
        self.heads = Heads(work, tables.batches)
        self._work = work
        self._table = tables.contents
        self._revisions_kept = revisions_kept

    def data(self, transaction: LocalTransaction, key: str, revision: int) -> bytes | None:
        """The batch at that revision; None: it was a deletion, or has expired."""
        row = transaction.peek(self._table.id, (key, revision))
        if row is None or (row[2] is not None and row[2] <= self._work.moment):
            return None
        data: bytes = row[3]
        return data

    def value(self, transaction: LocalTransaction, key: str) -> Value | None:
        """What is under `key` now, own writes included; None: nothing. Nothing is recorded."""
        head = self.heads.peek(transaction, key)
        if head is None or not is_live(head, self._work.moment):
            return None
        data = self.data(transaction, key, head[REVISION])
        assert data is not None, "a live head has its content"
        return Value(data, head[LIVE], head[EXPIRES_AT])

    def put(self, transaction: LocalTransaction, key: str, value: Value) -> int:
        """Buffer a value; returns the revision this transaction makes of the key."""

        def stored(revision: int) -> tuple[Any, ...]:
            return value.rows, len(value.data), self._oldest(key, revision)

        revision: int = self.heads.write(transaction, key, value.expires_at, stored)[REVISION]
        self._put_data(transaction, key, revision, (key, revision, value.expires_at, value.data))
        return revision

    def delete(self, transaction: LocalTransaction, key: str, *, blind: bool = False) -> bool:
        """Buffer a deletion; False when there is nothing to delete. `blind`: that is not recorded as a read."""
        own = revision_of(self.heads.before[key]) + 1 if key in self.heads.before else None
        find = self.heads.peek if blind else self.heads.get
        deleted = self.heads.delete(transaction, key, lambda revision: (None, None, self._oldest(key, revision)), find)
        if deleted and own is not None:
            self._put_data(transaction, key, own, None)
        return deleted

    def drop_old(self, transaction: LocalTransaction) -> None:
        """Delete the revisions of what was written here that are kept no longer."""
        for key, before in self.heads.before.items():
            if before is not None:
                base = self._work.base(self._table.id, key)
                drop_contents(transaction, self._table, before, self._oldest(key, before[REVISION] + 1), base)

    def _put_data(self, transaction: LocalTransaction, key: str, revision: int, row: Row | None) -> None:
        before = transaction.peek(self._table.id, (key, revision))
        put_row(transaction, self._table.id, before, row, _key_of, self._work.base(self._table.id, key))

    def _oldest(self, key: str, revision: int) -> int:
        before = self.heads.before[key]
        return revision if before is None else max(before[OLDEST], revision - self._revisions_kept)


def _key_of(row: Row) -> tuple[Any, Any]:
    return row[0], row[1]


def revision_of(head: Row | None) -> int:
    """0: never written."""
    return 0 if head is None else head[REVISION]
