"""The transactions that are open now, as the snapshot registry knows them: nothing is registered a second time.

Called by `metrics` and by `khonsu.transactions`, from any thread, while the transactions go on: `LocalTransaction.described` reads each
value once, and it may be of the moment before. Invariants: a transaction is not changed by this; its id is not made here (only its own
thread may), so it is None until its first lock or its COMMIT has made it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from khonsu_engine.commands import Isolation, Timestamp, TransactionId
from khonsu_engine.locks import Locking
from khonsu_engine.mvcc.clock import milliseconds_of

if TYPE_CHECKING:
    from khonsu_engine.snapshots import SnapshotRegistry

__all__ = ["OpenTransaction", "open_transactions"]


class OpenTransaction(msgspec.Struct, frozen=True):
    """One transaction.

    connection  the 8 bytes of its connection;  age_seconds  since it began;  waiting  for a lock
    writes      buffered changes, entries of unique constraints and rows of bulk writes included
    reads       recorded reads: keys, predicates and guards
    """

    id: TransactionId | None
    connection: bytes
    isolation: Isolation
    locking: Locking
    read_only: bool
    age_seconds: float
    read_timestamp: Timestamp
    waiting: bool
    writes: int
    reads: int

    @property
    def snapshot_age_seconds(self) -> float:
        """For how long, at most, it has read this snapshot: since the last commit in it was made, or since the transaction began."""
        return min(self.age_seconds, max(0.0, time.time() - milliseconds_of(self.read_timestamp) / 1000))


def open_transactions(snapshots: SnapshotRegistry) -> list[OpenTransaction]:
    """All of them, the one that began first first."""
    found = [reader.described() for reader in snapshots.holders() if reader.open]
    return sorted(found, key=lambda transaction: -transaction.age_seconds)
