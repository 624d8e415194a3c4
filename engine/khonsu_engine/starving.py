"""A transaction that has lost too often: it locks what it reads.

Made by `Database.begin(holds_reads=True)`, for a call that is a transaction by itself and has lost to others at its commit more than once.
What validation would look at, the keys and the ranges of its predicates, is locked hard before it is read; so nobody commits into it, and
it ends.
Invariant: a lock is followed by a look whether the snapshot still holds there; else the statement starts again (`restarts.Superseded`).
"""

from __future__ import annotations

from typing import Any

from khonsu_engine.commands import Key, KeyRange, TableId
from khonsu_engine.mvcc.lock_table import LockMode
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.transaction import LocalTransaction

__all__ = ["StarvingTransaction"]


class StarvingTransaction(LocalTransaction):
    """Reads at SERIALIZABLE as SELECT … FOR UPDATE would, ranges included. Its calls raise LockWait and Superseded where reads do not."""

    __slots__ = ("_holding",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._holding = self._recording

    def rollback_to(self, savepoint: int) -> None:
        """As ever; what it notes as read then was locked before, or never seen by anybody."""
        self._holding = False
        try:
            super().rollback_to(savepoint)
        finally:
            self._holding = self._recording

    def record(self, table: TableId, range: KeyRange, predicate: Predicate, columns: int, *, constraint: bool = False) -> None:
        """Lock the range, then note it."""
        if self._holding and not constraint and table not in self._write_set.created:
            self.lock_range(table, range, LockMode.EXCLUSIVE)
        super().record(table, range, predicate, columns, constraint=constraint)

    def _record(self, table: TableId, key: Key, columns: int, constraint: bool) -> None:
        if self._holding and not constraint and table not in self._write_set.created:
            self.lock_rows(table, (key,), LockMode.EXCLUSIVE)
        super()._record(table, key, columns, constraint)
