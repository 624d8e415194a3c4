"""Read this first: the engine's waists 2 (Transaction) and 4 (Store) as Protocols, and the tickets between them.

Waist 3 (Command, Record) is data: `commands`. Every implementation passes the contract suite of its waist in
`tests/contracts`. Names and meanings here are fixed; rooms around them may move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.columns.scan import Scan
    from khonsu_engine.commands import Isolation, Key, KeyRange, Operation, Outcome, Row, TableId, Timestamp, TransactionId, Write
    from khonsu_engine.mvcc.predicates import Predicate

__all__ = ["Buffer", "Delete", "DeleteRange", "Put", "Store", "StoreOperation", "Ticket", "Transaction"]


Buffer = bytes | bytearray | memoryview


class Put(msgspec.Struct, frozen=True, gc=False):
    """Set `key` to `value` (both bytes; value under 64 KiB)."""

    key: bytes
    value: bytes


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Remove `key`; absent is fine."""

    key: bytes


class DeleteRange(msgspec.Struct, frozen=True, gc=False):
    """Remove every key with start <= key < end."""

    start: bytes
    end: bytes


StoreOperation = Put | Delete | DeleteRange


@runtime_checkable
class Store(Protocol):
    """Waist 4: an ordered keyspace of small values and a set of immutable files, with an explicit sync.

    Raises `StoreFailed` for refused writes, `CorruptDatabase` for damage, `EngineClosed` after `close` or in a fork.
    `durable` is False for stores that vanish with the process (then `sync` is a no-op and no log is kept).
    """

    durable: bool

    def get(self, key: bytes) -> bytes | None: ...
    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in order (or backwards). Raises on damage, never ends early."""
        ...

    def put(self, key: bytes, value: bytes) -> None:
        """`write([Put(key, value)])` without its allocations: the one call of a commit's critical section."""
        ...

    def write(self, operations: Sequence[StoreOperation]) -> None:
        """All operations atomically, in order; not yet durable."""
        ...

    def sync(self) -> None:
        """Everything written before this call is durable when it returns. Releases the GIL."""
        ...

    def add_file(self, name: str, chunks: Iterable[Buffer]) -> int:
        """Create the immutable file `name` from `chunks`; durable (file and directory entry) before it returns.

        Returns its size in bytes."""
        ...

    def map_file(self, name: str) -> Buffer:
        """The file's bytes, memory-mapped, read-only. Raises `CorruptDatabase` naming a missing file."""
        ...

    def remove_file(self, name: str) -> None:
        """Remove the file; absent is fine. Existing mappings stay valid."""
        ...

    def files(self) -> list[str]:
        """Names of all files, for the sweep at open."""
        ...

    def checkpoint(self, directory: Path) -> None: ...
    def close(self) -> None: ...


class Ticket(Protocol):
    """Something that must be waited for. `wait` blocks until it is answered, raises what went wrong, or returns False at the timeout.

    What nobody has begun to wait for need not be worked on. `outcome`: of the waiter's own commit, when that is what is waited for."""

    @property
    def outcome(self) -> Outcome | None: ...
    def wait(self, timeout_seconds: float | None = None) -> bool: ...


class Transaction(Protocol):
    """Waist 2. One thread at a time. Column sets are bit masks (`commands.ALL_COLUMNS`)."""

    id: TransactionId
    isolation: Isolation
    read_timestamp: Timestamp

    def get(self, table: TableId, key: Key, *, columns: int = -1, constraint: bool = False) -> Row | None:
        """The visible row of `key`, own writes included. The read is recorded (SERIALIZABLE) before it is done, absent keys too;
        with `constraint` it is recorded as a guard at every level."""
        ...

    def scan(
        self,
        table: TableId,
        columns: Sequence[int],
        range: KeyRange,
        predicate: Predicate,
        *,
        read_columns: int = -1,
        constraint: bool = False,
        recorded: bool = False,
    ) -> Scan:
        """An iterable of Arrow record batches: at least the visible rows within `range` that satisfy `predicate`, own writes
        included; it may return more (callers filter again). Records the read, with `read_columns`, before it reads, unless it is
        `recorded` by the caller, in another way."""
        ...

    def rows(
        self, table: TableId, range: KeyRange, predicate: Predicate | None, *, columns: int = -1, reverse: bool = False
    ) -> Iterator[tuple[Key, Row]]:
        """Visible rows within `range` in key order as tuples (a superset filter as for `scan`); for short ranges.

        `predicate` None: what is read has been recorded by `record`, in another way."""
        ...

    def peek(self, table: TableId, key: Key) -> Row | None:
        """`get` of a row whose read has been recorded in another way."""
        ...

    def record(self, table: TableId, range: KeyRange, predicate: Predicate, columns: int) -> None:
        """Record a read of the matching rows, without reading: for rows found through an index."""
        ...

    def put(self, table: TableId, write: Write) -> None:
        """Buffer one write. Constraints other than the key's own are the caller's work."""
        ...

    def put_batch(self, table: TableId, operation: Operation, batch: pa.RecordBatch) -> None:
        """Buffer many rows at once (INSERT only in this version): they never become tuples. Raises UniqueViolation."""
        ...

    def guard(self, table: TableId, what: Any) -> None:
        """An existence check on a key or a `Predicate`, validated at every isolation level."""
        ...

    def lock(self, table: TableId, target: Any, mode: Any, *, wait: bool = True) -> bool:
        """A hard lock on a key or a `KeyRange`, until the end. Raises LockWait; without `wait` False when somebody else is in the way."""
        ...

    def lock_rows(self, table: TableId, keys: Iterable[Key], mode: Any, *, wait: bool = True) -> bool:
        """`lock` of each of these keys, whose rows are as visible here: else Superseded."""
        ...

    def savepoint(self) -> int:
        """Where the writes stand now, for `rollback_to`."""
        ...

    def rollback_to(self, savepoint: int) -> None:
        """Take back every write since; what was read stays read."""
        ...

    def commit(self) -> Outcome | Ticket:
        """End the transaction. A ticket: sequenced, waiting for the sync.

        Raises SerializationConflict or the violation; then nothing was applied."""
        ...

    def rollback(self) -> None: ...
