"""Heads: one row per key with its revision and its expiry, as one transaction reads and writes them.

Called by `contents`, `blind` and `key_value` within a call of their `Work`. A head is a row of `batches` or `entries`: key, revision,
expires_at, and from LIVE on what is stored.

* The revision counts the commits that wrote or deleted the key: 1, 2, 3, … A transaction that writes a key twice raises it once.
* A deletion leaves the head without a value, so that the revision goes on.
* A value whose expiry is not after the moment of the transaction reads as absent.

Reading records no column but the revision, which every change raises and collecting does not: an expired value that is collected
conflicts with nobody who found it expired. Writing reads nothing: that the head is still the same is checked by the write itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import Operation, Row, TableId, Write
from khonsu_engine.keyed.expiry import FORGET_AFTER
from khonsu_engine.keyed.keys import prefix_range
from khonsu_engine.keyed.shapes import EXPIRES_AT, LIVE, REVISION
from khonsu_engine.mvcc.predicates import ALL
from khonsu_engine.schema.catalog import Table

if TYPE_CHECKING:
    from khonsu_engine.keyed.work import Work
    from khonsu_engine.transaction import LocalTransaction

__all__ = ["Heads", "is_live", "put_head", "put_row"]

_REVISION_COLUMN = 1 << REVISION

Payload = Callable[[int], tuple[Any, ...]]
"""revision -> what is stored from LIVE on."""

Find = Callable[["LocalTransaction", str], Row | None]


def is_live(head: Row | None, moment: datetime) -> bool:
    """Is there a value at that moment?"""
    return head is not None and head[LIVE] is not None and (head[EXPIRES_AT] is None or head[EXPIRES_AT] > moment)


class Heads:
    """The heads in `table`. `before`: what they were, for the keys written here (None: there was none)."""

    __slots__ = ("_work", "before", "table")

    def __init__(self, work: Work, table: Table) -> None:
        self._work = work
        self.table = table
        self.before: dict[str, Row | None] = {}

    def find(self, transaction: LocalTransaction, key: str) -> Row | None:
        """The head of `key`, live or not, for the user, who may write what follows from it; the read is recorded."""
        self._work.note_read(self.table.id, key)
        return transaction.get(self.table.id, key, columns=_REVISION_COLUMN)

    def get(self, transaction: LocalTransaction, key: str) -> Row | None:
        """The head of `key`, for a write of this very call; the read is recorded."""
        return transaction.get(self.table.id, key, columns=_REVISION_COLUMN)

    def peek(self, transaction: LocalTransaction, key: str) -> Row | None:
        """The head of `key`, for a write that does not depend on it: nothing is recorded."""
        return transaction.peek(self.table.id, key)

    def listed(self, transaction: LocalTransaction, prefix: str) -> list[Row]:
        """The live heads of all keys with that prefix, in order; the read is recorded as one of the whole range."""
        table, moment = self.table.id, self._work.moment
        rows = [row for _, row in transaction.rows(table, prefix_range(prefix), ALL, columns=_REVISION_COLUMN)]
        for row in rows:
            self._work.note_read(table, row[0])
        return [row for row in rows if is_live(row, moment)]

    def write(self, transaction: LocalTransaction, key: str, expires_at: datetime | None, payload: Payload) -> Row:
        """Buffer a value; returns the new head."""
        current = transaction.peek(self.table.id, key)
        before = self.before.setdefault(key, current)
        revision = 1 if before is None else before[REVISION] + 1
        head = (key, revision, expires_at, *payload(revision))
        self._put(transaction, key, current, head)
        return head

    def delete(self, transaction: LocalTransaction, key: str, payload: Payload, find: Find | None = None) -> bool:
        """Buffer a deletion; False when there is nothing to delete. `payload`: of a head without a value. `find`: `peek`, not `get`."""
        current = (find or self.get)(transaction, key)
        if current is None or not is_live(current, self._work.moment):
            return False
        before = self.before.setdefault(key, current)
        if before is None:
            self._put(transaction, key, current, None)
            return True
        revision = before[REVISION] + 1
        self._put(transaction, key, current, (key, revision, self._work.moment + FORGET_AFTER, *payload(revision)))
        return True

    def _put(self, transaction: LocalTransaction, key: str, current: Row | None, head: Row | None) -> None:
        put_head(transaction, self.table, current, head, self._work.base(self.table.id, key))


def put_head(transaction: LocalTransaction, table: Table, before: Row | None, after: Row | None, base: int) -> None:
    """Buffer the change of one head and of its entry in the index of expiries."""
    (index,) = table.indexes
    old, new = _entry(before), _entry(after)
    put_row(transaction, table.id, before, after, lambda row: row[0], base)
    if old != new:
        put_row(transaction, index.id, old, None, _entry_key, base)
        put_row(transaction, index.id, None, new, _entry_key, base)


def put_row(
    transaction: LocalTransaction, table: TableId, before: Row | None, after: Row | None, key_of: Callable[[Row], Any], base: int
) -> None:
    """Buffer the change of one row from `before` to `after`, either of which may be None."""
    row = after if before is None else before
    if row is not None:
        operation = Operation.INSERT if before is None else Operation.DELETE if after is None else Operation.UPDATE
        transaction.put(table, Write(operation, key_of(row), after, before, base))


def _entry(head: Row | None) -> Row | None:
    return None if head is None or head[EXPIRES_AT] is None else (head[EXPIRES_AT], head[0], head[0])


def _entry_key(entry: Row) -> tuple[Any, Any]:
    return entry[0], entry[1]
