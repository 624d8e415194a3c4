"""LocalTransaction: waist 2 of an embedded database.

Made by `Database.begin`, used by one thread at a time; calls the pinned table versions to read and the committer to commit.
A transaction reads at one timestamp, buffers its writes by key, and records what it read: point reads as keys with
columns, everything else as predicates, each before the read happens.

Invariants: at SERIALIZABLE every read is recorded (also of zero rows) unless the transaction is declared read only; guards are
recorded at every level; a buffered write keeps the timestamp as of which its key was known. After commit or rollback, by
error too, the transaction is over and its snapshot is released exactly once.

A statement that meets a row newer than the snapshot may start again (`restarts`), unseen: `renew` moves the snapshot to what is published,
after everything read, guarded and buffered before was validated up to there; so whatever is recorded holds as of `read_timestamp`.
READ COMMITTED does so for each statement. Left out (refused by name): locks (issue B).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import ref

import msgspec

from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.commands import (
    Commit,
    Isolation,
    Key,
    Operation,
    Outcome,
    Refusal,
    TableId,
    Timestamp,
    TransactionId,
    Write,
)
from khonsu_engine.errors import EngineClosed, NotSupported, SerializationConflict, StoreFailed, UniqueViolation
from khonsu_engine.evidence import conflict, duplicate
from khonsu_engine.mvcc.predicates import ALL
from khonsu_engine.read_set import ReadMark
from khonsu_engine.reading import SnapshotReader
from khonsu_engine.restarts import Superseded
from khonsu_engine.schema.catalog import CATALOG_TABLE, Table
from khonsu_engine.state_machine import effects_of, validate
from khonsu_engine.tickets import CommitTicket

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.database import Database

__all__ = ["LocalTransaction", "StatementMark"]

StatementMark = tuple[int, ReadMark]

_NO_WRITES: dict[Key, Write] = {}


class LocalTransaction(SnapshotReader):
    """One transaction of an embedded database (`protocols.Transaction`)."""

    __slots__ = (
        "__weakref__",
        "_id",
        "_name",
        "_outcome",
        "_restarts",
        "_undo",
        "_unsure",
        "fresh",
        "isolation",
        "keeps_snapshot",
        "open",
        "read_only",
        "token",
    )

    def __init__(
        self,
        database: Database,
        name: bytes,
        isolation: Isolation,
        read_only: bool,
        read_timestamp: Timestamp,
        tables: Mapping[TableId, TableVersion],
        restarts: bool = False,
    ) -> None:
        self.token: ref[LocalTransaction] | None = None
        """What the snapshot is registered by, as long as it is read."""
        super().__init__(database, read_timestamp, tables, recording=isolation is Isolation.SERIALIZABLE and not read_only)
        self._name = name
        self._id: TransactionId | None = None
        self.isolation = isolation
        self.read_only = read_only
        self._restarts = restarts
        self.keeps_snapshot = isolation is not Isolation.READ_COMMITTED
        self.fresh = True
        """No statement has ended yet: nothing that was read has been handed out."""
        self._undo = self._write_set.undo
        self.open = True
        self._outcome: Outcome | None = None
        self._unsure = False

    # -- identity -------------------------------------------------------------------------------------------------

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

    # -- writing --------------------------------------------------------------------------------------------------

    def put(self, table: TableId, write: Write) -> None:
        """Buffer one write; writes of one key add up to their net effect.

        Raises UniqueViolation when an INSERT meets a visible row of its key, Superseded when its row is newer than the snapshot."""
        by_key, key = self._writes.get(table, _NO_WRITES), write.key
        earlier = by_key.get(key)
        if earlier is not None:
            self._merge(by_key, table, earlier, write)
            return
        if self._restarts:
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
        by_key[write.key] = Write(operation, write.key, row, before, earlier.base)

    def _visible_elsewhere(self, table: TableId, key: Key) -> bool:
        if self._bulk.get(table):
            return self.peek(table, key) is not None
        return self._tables[table].get(key, self.read_timestamp) is not None

    def duplicate(self, table: TableId, key: Key) -> UniqueViolation:
        """The error for a key of `table` that exists already."""
        return duplicate(self._tables[table].table, key)

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

    def drop_table(self, table: Table) -> None:
        """Remove a table, its rows and its indexes. Conflicts with every concurrent change of its rows, at every level."""
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

    # -- not in this version --------------------------------------------------------------------------------------

    def lock(self, target: Any, mode: Any) -> Any:
        raise NotSupported("row locks are not supported yet")

    # -- savepoints, statements that start again ------------------------------------------------------------------

    def savepoint(self) -> int:
        """Where the writes stand now, for `rollback_to`. Savepoints made later end when this one is rolled back to."""
        return len(self._undo)

    def rollback_to(self, savepoint: int) -> None:
        """Take back every write, bulk write and DDL since `savepoint`. What was read stays read."""
        self._require_open()
        self._database.bulk.discard(self._write_set.rollback_to(savepoint))
        self._catalog = None

    def begin_statement(self, *, writes: bool) -> StatementMark:
        """Where a statement begins that may start again. At READ COMMITTED it gets a snapshot of its own, from the second one on."""
        if not self.keeps_snapshot and not self.fresh:
            self._move(writes or self.wrote)
        return len(self._undo), self._reads.mark()

    def undo_statement(self, mark: StatementMark) -> None:
        """Take the statement back that began there, what it read included."""
        self.rollback_to(mark[0])
        self._reads.restore(mark[1])

    def renew(self, cause: Superseded, *, last: bool = False) -> None:
        """Move the snapshot to what is published, for a statement that was taken back because of `cause`.

        Raises SerializationConflict when what was read or written before does not stand there, at REPEATABLE READ once
        something was handed out, and when that was the `last` attempt."""
        if last or (self.isolation is Isolation.REPEATABLE_READ and not self.fresh):
            raise self._conflict(Refusal("write-write", cause.table, (cause.key,), cause.timestamp))
        self._move(True)

    def _move(self, newest: bool) -> None:
        """Another snapshot, not older, at which everything recorded and buffered holds. Raises SerializationConflict."""
        database, before = self._database, self._freeze() if self.wrote or not self._reads.empty else None
        assert self.token is not None, "the transaction has ended"
        with database.snapshots.pinned(newest, self.read_timestamp) as (timestamp, tables):
            refusal = None if before is None else validate(database.state, before)
            if refusal is not None:
                raise self._conflict(refusal)
            database.snapshots.move(self.token, timestamp)
            created = self._write_set.created
            self._tables = {**tables, **created} if created else tables
            self._catalog = None
            self.read_timestamp = timestamp
            self._ahead = timestamp > database.state.durable

    # -- the end --------------------------------------------------------------------------------------------------

    def commit(self) -> Outcome | CommitTicket:
        """End the transaction. Raises SerializationConflict (nothing applied); after an interrupt `outcome` tells how it ended."""
        self._require_open()
        if not self.wrote:
            return self._finish_without_writes()
        assert not self.read_only, "reads were not recorded: writes cannot be validated"
        command = self._freeze()
        effects = effects_of(command)
        try:
            self._unsure, self.open = True, False  # from here on it has ended, whatever interrupts
            result = self._database.committer.commit(command, effects)
        except BaseException as error:
            self._unsure, self.open = not isinstance(error, (StoreFailed, EngineClosed)), False
            self._discard()
            raise
        finally:
            self._release()
        if isinstance(result, Refusal):
            self._unsure = False
            self._discard()
            raise self._conflict(result)
        self._outcome = result if isinstance(result, Outcome) else result.outcome
        self._unsure = False
        return result

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: None while it is open, and when nothing was applied.

        What is not durable yet is waited for, and after an interrupt in `commit` the committer is asked. Raises CommitOutcomeUnknown."""
        known = self._outcome
        if self._unsure or (known is not None and known.timestamp > self._database.state.durable):
            self._outcome = self._database.outcome(self.id)
            self._unsure = False
        return self._outcome

    def _finish_without_writes(self) -> Outcome | CommitTicket:
        self.open = False
        self._release()
        self._outcome = Outcome(b"", 0, 0)
        return self._database.committer.durable_ticket(self.read_timestamp) or self._outcome

    def _freeze(self) -> Commit:
        reads, writes = self._reads, self._write_set
        touched = {*writes.rows, *writes.bulk, *reads.keys, *(read.table for read in reads.predicates)} - writes.dropped
        schemas = {table: self._tables[table].table for table in touched}
        return Commit(
            self.id,
            self.isolation,
            self.read_timestamp,
            reads.keys,
            tuple(reads.predicates),
            tuple(reads.guards),
            reads.guard_keys,
            writes.rows,
            schemas,
            frozenset(writes.created),
            writes.parts,
        )

    def _conflict(self, refusal: Refusal) -> SerializationConflict:
        return conflict(refusal, self._database.table_name(refusal.table), self.read_timestamp)

    def rollback(self) -> None:
        """Forget everything. Idempotent."""
        self._release()
        if self.open:
            self.open = False
            self._discard()

    def _discard(self) -> None:
        """The files of own bulk writes go as soon as nobody reads or names them."""
        self._database.bulk.discard(self._write_set.parts)

    def _release(self) -> None:
        """Read no more. Repeatable."""
        if self.token is not None:
            self._database.snapshots.release(self.token)
            self.token = None

    def _require_open(self) -> None:
        if not self.open:
            raise EngineClosed("the transaction has ended")
