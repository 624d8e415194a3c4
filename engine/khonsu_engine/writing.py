"""How a transaction writes: rows, bulk files and DDL buffered over its snapshot, with the way back to a savepoint.

Base of `transaction.LocalTransaction`, on top of `own_policies` and `reading`; asks `transaction_locks` for write intents. Invariants: a
buffered write keeps the timestamp as of which its key was known; that a key was found free or taken is a read, and stays one when the
write is rolled back to a savepoint; where statements may start again (`restarts`), a row newer than the snapshot is noticed here, after its
intent was granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import monotonic_ns
from typing import TYPE_CHECKING

import msgspec

from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.columns.version import Version
from khonsu_engine.commands import EVERY_KEY, Isolation, Key, KeyRange, Operation, TableId, Timestamp, TransactionId, Write
from khonsu_engine.errors import EngineClosed, NotSupported, UniqueViolation
from khonsu_engine.evidence import duplicate
from khonsu_engine.locks import Locking
from khonsu_engine.mvcc.lock_table import LockMode, Target
from khonsu_engine.mvcc.policies import policy_of_both
from khonsu_engine.mvcc.predicates import ALL
from khonsu_engine.own_policies import PolicyKeeper
from khonsu_engine.reading import NO_COLUMNS
from khonsu_engine.restarts import Superseded
from khonsu_engine.schema.catalog import CATALOG_TABLE, Table
from khonsu_engine.transaction_locks import TransactionLocks

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.database import Database

__all__ = ["TransactionWriter"]

_NO_WRITES: dict[Key, Write] = {}


class TransactionWriter(PolicyKeeper):
    """The writing half of a transaction."""

    __slots__ = (
        "__weakref__",
        "_began",
        "_id",
        "_lock_timeout_seconds",
        "_locking",
        "_locks",
        "_name",
        "_undo",
        "isolation",
        "open",
        "restarts",
    )

    def __init__(
        self,
        database: Database,
        name: bytes,
        isolation: Isolation,
        read_only: bool,
        read_timestamp: Timestamp,
        tables: Mapping[TableId, TableVersion],
        restarts: bool,
        locking: Locking,
        lock_timeout_seconds: float | None,
    ) -> None:
        super().__init__(database, read_timestamp, tables, recording=isolation is Isolation.SERIALIZABLE and not read_only)
        self._name = name
        self._id: TransactionId | None = None
        self.isolation = isolation
        self.restarts = restarts
        self._began = monotonic_ns()
        self._locking = locking
        self._lock_timeout_seconds = lock_timeout_seconds
        self._locks: TransactionLocks | None = None
        self._undo = self._write_set.undo
        self.open = True

    @property
    def id(self) -> TransactionId:
        """16 bytes: when it began, made to rise within a connection, and the connection's 8 random ones. Made at first use."""
        if self._id is None:
            self._id = self._database.new_transaction_id(self._name)
        return self._id

    @property
    def wrote(self) -> bool:
        """Has anything been buffered?"""
        return bool(self._writes or self._bulk)

    @property
    def changed_catalog(self) -> bool:
        """Has this transaction uncommitted DDL?"""
        return CATALOG_TABLE in self._writes

    def _require_open(self) -> None:
        if not self.open:
            raise EngineClosed("the transaction has ended")

    # -- rows -----------------------------------------------------------------------------------------------------

    def put(self, table: TableId, write: Write) -> None:
        """Buffer one write; writes of one key add up to their net effect.

        Raises UniqueViolation when an INSERT meets a visible row of its key, Superseded when its row is newer than the snapshot."""
        by_key, key = self._writes.get(table, _NO_WRITES), write.key
        policy = self.policy
        if policy is not None and policy.row.table.id == table:
            write = self._with_policy(write, policy, by_key.get(key))
        earlier = by_key.get(key)
        if earlier is not None:
            self._merge(by_key, table, earlier, write)
            return
        if self.restarts:
            if self._locking and (policy is None or self._locking is Locking.PESSIMISTIC):
                (self._locks or self._made_locks()).intend(table, key)
            if policy is None or (self.isolation is Isolation.READ_COMMITTED and self._locking is Locking.PESSIMISTIC):
                self._refuse_superseded(table, key, write.base)
        if write.operation == Operation.INSERT and self._visible_elsewhere(table, key):
            raise self.duplicate(table, key)
        if by_key is _NO_WRITES:  # only now: a table that refused a row was not written
            by_key = self._writes[table] = {}
        self._undo.append((table, key, None))
        by_key[key] = write

    def _refuse_superseded(self, table: TableId, key: Key, base: Timestamp) -> None:
        version = self._database.state.tables.get(table)
        if version is not None:
            timestamp = version.newest(key, base)
            if timestamp > base:
                raise Superseded(table, key, timestamp)

    def _merge(self, by_key: dict[Key, Write], table: TableId, earlier: Write, write: Write) -> None:
        if write.operation == Operation.INSERT and earlier.row is not None:
            raise self.duplicate(table, write.key)
        before, row = earlier.before, write.row
        operation = Operation.DELETE if row is None else Operation.INSERT if before is None else Operation.UPDATE
        self._undo.append((table, write.key, earlier))
        by_key[write.key] = Write(operation, write.key, row, before, earlier.base, policy_of_both(earlier, write))

    def _visible_elsewhere(self, table: TableId, key: Key) -> bool:
        if self._bulk.get(table):
            return self.peek(table, key) is not None
        return self._tables[table].get(key, self.read_timestamp) is not None

    def duplicate(self, table: TableId, key: Key) -> UniqueViolation:
        """The error for a key of `table` that exists already, which was read by this."""
        if self._recording:
            self._record(table, key, NO_COLUMNS, False)
        version = self._tables[table]
        found = None if key in self._writes.get(table, _NO_WRITES) else version.memtable.get(key, self.read_timestamp)
        timestamp = found.timestamp if isinstance(found, Version) else 0
        other = self._database.state.recent.transaction_at(timestamp)
        return duplicate(version.table, self.names_of(table), key, self.id, self.read_timestamp, other, timestamp)

    def reserve_row_ids(self, table: TableId, count: int) -> int:
        """The first of `count` new hidden row ids."""
        return self._database.reserve_row_ids(table, count)

    def put_batch(self, table: TableId, operation: Operation, batch: pa.RecordBatch) -> None:
        """Buffer the rows of one Arrow batch (all catalog columns, exact types). INSERT only in this version."""
        if operation is not Operation.INSERT:
            raise NotSupported("put_batch writes INSERT batches only")
        self.put_bulk(self._tables[table].table, iter((batch,)))

    def put_bulk(self, table: Table, batches: Iterator[pa.RecordBatch], *, truncate: bool = False) -> int:
        """Write many new rows ahead of the commit, as sorted segments; returns their number.

        `batches` hold all catalog columns (the hidden row id included) in order with exact types, and stream: no more than
        `Limits.bulk_run_rows` rows are held at once. `truncate`: every older row of the table goes at commit.
        Raises UniqueViolation for a key that exists or comes twice; what was written is swept then."""
        part = self._database.bulk.write(self, table, batches, truncate=truncate)
        self._write_set.keep()
        if truncate:
            self._writes.pop(table.id, None)
            self._bulk[table.id] = []
        self._write_set.replace_deletions(table.id, part.segments)
        self._bulk.setdefault(table.id, []).append(part)
        return sum(segment.meta.rows for segment in part.segments)

    # -- locks, savepoints ----------------------------------------------------------------------------------------

    def lock(self, table: TableId, target: Target, mode: LockMode, *, wait: bool = True) -> bool:
        """A hard lock on a key or a `KeyRange`, until the end. Raises LockWait; without `wait` False when somebody else is in the way."""
        self._require_open()
        return (self._locks or self._made_locks()).acquire(table, target, mode, hard=True, wait=wait)

    def wait_no_more(self) -> None:
        """The statement that waits for a lock goes no further, though the transaction does: others need not queue behind it."""
        if self._locks is not None:
            self._locks.give_up()

    def set_lock_timeout(self, seconds: float | None) -> None:
        """How long to wait for a hard lock, from the next wait on; None is without end."""
        self._lock_timeout_seconds = seconds
        if self._locks is not None:
            self._locks.timeout_seconds = seconds

    def _made_locks(self) -> TransactionLocks:
        hard = self._locking is Locking.PESSIMISTIC
        self._locks = TransactionLocks(self, self._database, self._began, hard, self._lock_timeout_seconds)
        return self._locks

    def savepoint(self) -> int:
        """Where the writes stand now, for `rollback_to`. Savepoints made later end when this one is rolled back to."""
        return len(self._undo)

    def rollback_to(self, savepoint: int) -> None:
        """Take back every write, bulk write and DDL since `savepoint`. What was read stays read, also that a key was free."""
        self._require_open()
        if self._recording:
            for table, key in self._write_set.inserted_since(savepoint):
                self._record(table, key, NO_COLUMNS, False)
        created = set(self._write_set.created)
        gone = self._write_set.rollback_to(savepoint)
        for part in gone:
            for segment in part.segments:
                self.record(part.table, KeyRange(segment.meta.first, segment.meta.last), ALL, NO_COLUMNS)
        if len(created) > len(self._write_set.created):
            self._reads.forget(created - self._write_set.created.keys())
        self._database.bulk.discard(gone)
        self._catalog = None

    # -- DDL ------------------------------------------------------------------------------------------------------

    def create_table(self, table: Table) -> Table:
        """Add a table (its id, version and index ids are assigned here) and return it as catalogued."""
        key = (table.schema, table.name.casefold())
        database = self._database
        indexes = tuple(msgspec.structs.replace(index, id=database.new_table_id()) for index in table.indexes)
        made = msgspec.structs.replace(table, id=database.new_table_id(), version=1, indexes=indexes)
        row = (*key, msgspec.msgpack.encode(made))
        before = self.get(CATALOG_TABLE, key, constraint=True)
        if before is not None:
            raise UniqueViolation(f'relation "{table.name}" already exists', evidence={"table": table.name})
        self._write_set.keep()
        self.put(CATALOG_TABLE, Write(Operation.INSERT, key, row, None, self.read_timestamp))
        parts = [made, *(made.index_table(index) for index in made.indexes)]
        self._write_set.created.update({part.id: TableVersion(part, (), Memtable(part)) for part in parts})
        self._write_set.definitions[key] = made
        self._tables = {**self._tables, **self._write_set.created}
        self._catalog = None
        return made

    def alter_table(self, table: Table, changed: Table) -> None:
        """Another definition of a table whose rows keep their shape: same id, version, column types and indexes."""
        key = (table.schema, table.name.casefold())
        before = self.get(CATALOG_TABLE, key, constraint=True)
        operation = Operation.INSERT if before is None else Operation.UPDATE
        self._write_set.keep()
        row = (*key, msgspec.msgpack.encode(changed))
        self.put(CATALOG_TABLE, Write(operation, key, row, before, self.read_timestamp))
        self._write_set.definitions[key] = changed
        self._catalog = None

    def drop_table(self, table: Table) -> None:
        """Remove a table, its rows and its indexes. Waits for those who have locked rows, and conflicts with every other concurrent change
        of its rows, at every level. Raises LockWait."""
        if self.restarts and self._database.locks.has_hard:
            self.lock(table.id, EVERY_KEY, LockMode.EXCLUSIVE)
        key = (table.schema, table.name.casefold())
        before = self.get(CATALOG_TABLE, key, constraint=True)
        writes = self._write_set
        writes.keep()
        self.put(CATALOG_TABLE, Write(Operation.DELETE, key, None, before, self.read_timestamp))
        for part in (table.id, *(index.id for index in table.indexes)):
            self._writes.pop(part, None)
            self._bulk.pop(part, None)
            if part not in writes.created:
                self.guard(part, ALL)
                writes.dropped.add(part)
        writes.definitions[key] = None
        self._catalog = None
