"""The conflict policies of the rows a transaction has buffered.

Between `reading` and `writing`. Invariants: at SERIALIZABLE a policy acts on nothing this transaction has read; a row that two statements
wrote has a policy only if both had the same.
"""

from __future__ import annotations

import msgspec

from khonsu_engine.commands import ConflictPolicy, Key, Operation, TableId, Write
from khonsu_engine.mvcc.policies import RowPolicy
from khonsu_engine.reading import SnapshotReader, StatementPolicy

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

    def _policy_of(self, earlier: Write, write: Write) -> RowPolicy | None:
        """Of a row written twice: that of both, if it is the same; none of a sum that was deleted in between."""
        one: RowPolicy | None = earlier.policy
        other: RowPolicy | None = write.policy
        if one is None or other is None or one.policy is not other.policy:
            return None
        if one.policy is ConflictPolicy.MERGE and earlier.row is None and earlier.before is not None:
            return None
        return other.with_assigned(one.assigned)

    def _unsettled(self) -> dict[TableId, dict[Key, Write]]:
        """The rows to commit; those that were read again have no policy."""
        rows = self._writes
        for table, key in self._settled:
            write = rows.get(table, _NO_WRITES).get(key)
            if write is not None and write.policy is not None:
                rows = {**rows, table: {**rows[table], key: msgspec.structs.replace(write, policy=None)}}
        return rows
