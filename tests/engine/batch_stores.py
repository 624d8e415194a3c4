"""Small keyed batches for tests, and a clock that moves when it is told to."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from khonsu_engine.database import Database
from khonsu_engine.keyed.batches import BatchStore, BatchTransaction
from khonsu_engine.keyed.key_value import KeyValueStore
from khonsu_engine.limits import Limits

LEVELS = ("serializable", "repeatable read", "read committed")


class Clock:
    """`now`: seconds since 1970, or of any beginning."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


def store_with(clock: Clock, database: Database | None = None, *, limits: Limits | None = None, revisions_kept: int = 8) -> BatchStore:
    """A store in memory whose time is `clock`'s."""
    made = database or (Database.open(None) if limits is None else Database.open(None, limits=limits))
    return BatchStore(made, clock=clock, release=made.close, revisions_kept=revisions_kept)


def entries_with(clock: Clock, database: Database | None = None) -> KeyValueStore:
    """The same for entries."""
    made = database or Database.open(None)
    return KeyValueStore("a", made, clock=clock, monotonic=clock, release=made.close)


def batch(*numbers: int | None, note: str | None = None) -> pa.RecordBatch:
    """Rows (id, note)."""
    return pa.record_batch({"id": pa.array(numbers, pa.int64()), "note": pa.array([note] * len(numbers), pa.string())})


def ids(found: pa.RecordBatch | None) -> list[int] | None:
    """The column `id`; None: no batch."""
    return None if found is None else found.column("id").to_pylist()


def value(transaction: BatchTransaction, key: str) -> int | None:
    """The number in a batch of one."""
    found = ids(transaction.read(key))
    return None if found is None else found[0]


def write(store: BatchStore, values: dict[str, int]) -> None:
    """Each key one number, in one transaction."""
    with store.start_transaction() as transaction:
        for key, number in values.items():
            transaction.write(key, batch(number))


def content(store: BatchStore, prefix: str = "") -> dict[str, list[int] | None]:
    """key -> ids, of a fresh snapshot."""
    with store.start_transaction(read_only=True) as transaction:
        return {key: ids(found) for key, found in transaction.scan(prefix)}
