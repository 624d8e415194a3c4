"""The conflict policies of the rows a transaction has buffered.

Between `reading` and `writing`. Invariants: at SERIALIZABLE a policy acts on nothing this transaction has read; a row that two statements
wrote has a policy only if both had the same.
"""

from __future__ import annotations

import msgspec

from khonsu_engine.commands import ConflictPolicy, Key, KeyRange, Operation, Refusal, TableId, Write
from khonsu_engine.errors import SerializationConflict
from khonsu_engine.mvcc.validation import in_range
from khonsu_engine.reading import SnapshotReader, StatementPolicy
from khonsu_engine.schema.catalog import Table

__all__ = ["PolicyKeeper"]

_NO_WRITES: dict[Key, Write] = {}


class PolicyKeeper(SnapshotReader):
    """What becomes of own rows that collide, as far as the transaction knows."""

    __slots__ = ()

    def _with_policy(self, write: Write, policy: StatementPolicy, earlier: Write | None) -> Write:
        """The write with its row's policy. At SERIALIZABLE a policy acts on what was not read, and columns that were taken over are read;
        a sum that is assigned is one, because it is added to theirs less what it was (of an own row: when that was computed)."""
        row, table = policy.row, policy.row.table
        if not self._policied or (table.indexes and table.indexes[0].id not in self._indexed):
            self._policied = True
            self._indexed.update((index.id, table) for index in table.indexes)
        if self._recording and policy.taken and write.operation == Operation.UPDATE:
            self._record(table.id, write.key, policy.taken, False)
            if earlier is not None and earlier.before is not None and row.policy is ConflictPolicy.MERGE:
                self._settle(table.id, earlier)
        return msgspec.structs.replace(write, policy=row)

    def _read_beside(self, table: TableId, what: Key | KeyRange, columns: int) -> int:
        """The columns a read uses beside the statement's own deltas; own rows it looks at are decided by no policy any more."""
        if self.policy is not None and self.policy.row.table.id == table:
            columns &= ~self.policy.unread
        own = self._writes.get(table, _NO_WRITES)
        looked_at = [own[key] for key in own if in_range(key, what)] if isinstance(what, KeyRange) else [own[what]] if what in own else []
        base = self._indexed.get(table)
        for write in looked_at:
            if base is not None:
                self._look_at_entry(base, write)
            elif write.policy is not None and (columns & ~write.policy.keys or (_may_vanish(write) and None in (write.row, write.before))):
                self._settle(table, write)
        return columns

    def _look_at_entry(self, base: Table, entry: Write) -> None:
        """An own entry of a unique constraint was seen, and with it the row it belongs to: what IGNORE drops, it drops with its entries."""
        own, width = self._writes.get(base.id, _NO_WRITES), len(base.key_columns)
        for image in (entry.before, entry.row):
            if image is not None:
                write = own.get(image[-1] if width == 1 else image[-width:])
                if write is not None and write.policy is not None and _may_vanish(write):
                    self._settle(base.id, write)

    def _settle(self, table: TableId, write: Write) -> None:
        """An own row was read: from its base on it may not have changed. Raises SerializationConflict when it has, and the snapshot
        has moved over that: the read would be noted too late."""
        if write.base < self.read_timestamp:
            timestamp = self._tables[table].newest(write.key, write.base)
            if timestamp > write.base:
                raise self._conflict(Refusal("write-write", table, (write.key,), timestamp))
        self._settled.add((table, write.key))

    def _unsettled(self) -> dict[TableId, dict[Key, Write]]:
        """The rows to commit; those that were read again have no policy."""
        touched = {table for table, _ in self._settled if table in self._writes}
        rows = {**self._writes, **{table: dict(self._writes[table]) for table in touched}}
        for table, key in self._settled:
            write = rows.get(table, _NO_WRITES).get(key)
            if write is not None and write.policy is not None:
                rows[table][key] = msgspec.structs.replace(write, policy=None)
        return rows

    def _conflict(self, refusal: Refusal) -> SerializationConflict:
        """The error for `refusal`."""
        raise NotImplementedError


def _may_vanish(write: Write) -> bool:
    """May a policy leave this write out, so that the row is not as it was seen?"""
    return write.policy.policy is ConflictPolicy.IGNORE
