"""LocalTransaction: waist 2 of an embedded database.

Made by `Database.begin`, used by one thread at a time; calls the pinned table versions to read and the committer to commit.
A transaction reads at one timestamp, buffers its writes by key, and records what it read: point reads as keys with
columns, everything else as predicates, each before the read happens.

Invariants: at SERIALIZABLE every read is recorded (also of zero rows) unless the transaction is declared read only; guards are
recorded at every level; a buffered write keeps the timestamp as of which its key was known. After commit or rollback, by
error too, the transaction is over and its snapshot is released exactly once.
Left out (refused by name): locks and savepoints, read refresh (issue B).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import ref

import msgspec

from khonsu_engine.columns.key_search import common_key
from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.columns.version import PRUNED
from khonsu_engine.commands import (
    ALL_COLUMNS,
    EVERY_KEY,
    Bulk,
    Commit,
    Isolation,
    Key,
    KeyRange,
    Operation,
    Outcome,
    ReadPredicate,
    Refusal,
    Row,
    TableId,
    Timestamp,
    TransactionId,
    Write,
)
from khonsu_engine.errors import EngineClosed, NotSupported, SerializationConflict, StoreFailed, UniqueViolation
from khonsu_engine.mvcc.clock import milliseconds_of
from khonsu_engine.mvcc.predicates import ALL, Predicate
from khonsu_engine.schema.catalog import CATALOG_TABLE, Catalog, Table
from khonsu_engine.state_machine import effects_of
from khonsu_engine.tickets import CommitTicket

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.columns.scan import Scan
    from khonsu_engine.database import Database

__all__ = ["LocalTransaction"]

_NO_WRITES: dict[Key, Write] = {}


class LocalTransaction:
    """One transaction of an embedded database (`protocols.Transaction`)."""

    __slots__ = (
        "__weakref__",
        "_ahead",
        "_bulk",
        "_catalog",
        "_created",
        "_database",
        "_dropped",
        "_guard_keys",
        "_guards",
        "_id",
        "_name",
        "_outcome",
        "_predicates",
        "_reads",
        "_recording",
        "_tables",
        "_unsure",
        "_writes",
        "isolation",
        "open",
        "read_only",
        "read_timestamp",
        "seen",
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
    ) -> None:
        self.token: ref[LocalTransaction] | None = None
        """What the snapshot is registered by, as long as it is read."""
        self._database = database
        self._name = name
        self._id: TransactionId | None = None
        self.isolation = isolation
        self.read_only = read_only
        self.read_timestamp = read_timestamp
        self._tables = tables
        self._catalog: Catalog | None = None
        self._recording = isolation is Isolation.SERIALIZABLE and not read_only
        self._reads: dict[TableId, dict[Key, int]] = {}
        self._predicates: list[ReadPredicate] = []
        self._guards: list[ReadPredicate] = []
        self._guard_keys: dict[TableId, dict[Key, int]] = {}
        self._writes: dict[TableId, dict[Key, Write]] = {}
        self._bulk: dict[TableId, list[Bulk]] = {}
        self._created: set[TableId] = set()
        self._dropped: set[TableId] = set()
        self.open = True
        self._outcome: Outcome | None = None
        self._unsure = False
        self.seen: Timestamp = 0
        """The newest commit that what was read here depends on; looked after only in a snapshot ahead of *durable*."""
        self._ahead = read_timestamp > database.state.durable

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
    def catalog(self) -> Catalog:
        """The catalog of the snapshot with this transaction's own DDL over it."""
        if self._catalog is None:
            self._catalog = self._database.state.catalog_at(self.read_timestamp)
        return self._catalog

    @property
    def changed_catalog(self) -> bool:
        """Has this transaction uncommitted DDL?"""
        return CATALOG_TABLE in self._writes

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, table: TableId, key: Key, *, columns: int = ALL_COLUMNS, constraint: bool = False) -> Row | None:
        """The visible row of `key`, own writes included; the read is recorded first."""
        if self._recording or constraint:
            self._record(table, key, columns, constraint)
        return self.peek(table, key)

    def _record(self, table: TableId, key: Key, columns: int, constraint: bool) -> None:
        into = self._guard_keys if constraint else self._reads
        by_key = into.get(table)
        if by_key is None:
            into[table] = {key: columns}
        else:
            by_key[key] = by_key.get(key, 0) | columns

    def peek(self, table: TableId, key: Key) -> Row | None:
        """`get` without recording: for rows a recorded scan has returned already."""
        own = self._writes.get(table)
        if own is not None:
            write = own.get(key)
            if write is not None:
                return write.row
        if self._ahead:
            self.seen = max(self.seen, self._tables[table].timestamp_of(key, self.read_timestamp))
        if self._bulk:
            row = self._own_bulk_row(table, key)
            if row is not None:
                return row
            if any(part.truncate for part in self._bulk.get(table, ())):
                return None
        found = self._tables[table].get(key, self.read_timestamp)
        assert found is not PRUNED, "a registered snapshot is never pruned"
        return found

    def _own_bulk_row(self, table: TableId, key: Key) -> Row | None:
        for part in self._bulk.get(table, ()):
            for segment in part.segments:
                found: Row | None = segment.get(key)
                if found is not None:
                    return found
        return None

    def scan(
        self,
        table: TableId,
        columns: Sequence[int],
        range: KeyRange,
        predicate: Predicate,
        *,
        read_columns: int = ALL_COLUMNS,
        constraint: bool = False,
    ) -> Scan:
        """Arrow batches of at least the matching visible rows, own writes included; the read is recorded first."""
        self.record(table, range, predicate, read_columns, constraint=constraint)
        if self._ahead:
            self.seen = self.read_timestamp
        base, own_segments = self._pinned(table)
        own = self._writes.get(table)
        return base.scan(self.read_timestamp, columns, range, predicate, own=dict(own) if own else None, own_segments=own_segments)

    def rows(
        self, table: TableId, range: KeyRange, predicate: Predicate | None, *, columns: int = ALL_COLUMNS, reverse: bool = False
    ) -> Iterator[tuple[Key, Row]]:
        """Visible rows within `range` in key order; the read is recorded first, unless `predicate` is None: the caller did, by `record`."""
        if predicate is not None:
            self.record(table, range, predicate, columns)
        if self._ahead:
            self.seen = self.read_timestamp
        base, own_segments = self._pinned(table)
        return base.rows(self.read_timestamp, range, reverse=reverse, own=self._writes.get(table), own_segments=own_segments)

    def record(self, table: TableId, range: KeyRange, predicate: Predicate, columns: int, *, constraint: bool = False) -> None:
        """Note what is about to be read; `constraint`: what is validated at every level."""
        if constraint:
            self._guards.append(ReadPredicate(table, range, predicate, columns, self.read_timestamp))
        elif self._recording:
            self._predicates.append(ReadPredicate(table, range, predicate, columns, self.read_timestamp))

    def _pinned(self, table: TableId) -> tuple[TableVersion, tuple[Any, ...]]:
        """The pinned version of a table (an empty one after an own truncation) and the segments of own bulk writes."""
        version = self._tables[table]
        parts = self._bulk.get(table)
        if not parts:
            return version, ()
        if any(part.truncate for part in parts):
            version = TableVersion(version.table, (), Memtable(version.table))
        return version, tuple(segment for part in parts for segment in part.segments)

    def guard(self, table: TableId, what: Key | Predicate) -> None:
        """Record an existence check that is validated at every level: a key, or a predicate over the whole table."""
        if isinstance(what, Predicate):
            self._guards.append(ReadPredicate(table, EVERY_KEY, what, ALL_COLUMNS, self.read_timestamp))
        else:
            self._record(table, what, ALL_COLUMNS, True)

    # -- writing --------------------------------------------------------------------------------------------------

    def put(self, table: TableId, write: Write) -> None:
        """Buffer one write; writes of one key add up to their net effect.

        Raises UniqueViolation when an INSERT meets a visible row of its key."""
        by_key, key = self._writes.get(table, _NO_WRITES), write.key
        earlier = by_key.get(key)
        if earlier is not None:
            self._merge(by_key, table, earlier, write)
            return
        if write.operation == Operation.INSERT and self._visible_elsewhere(table, key):
            raise self.duplicate(table, key)
        if by_key is _NO_WRITES:  # only now: a table that refused a row was not written
            by_key = self._writes[table] = {}
        by_key[key] = write

    def _merge(self, by_key: dict[Key, Write], table: TableId, earlier: Write, write: Write) -> None:
        if write.operation == Operation.INSERT and earlier.row is not None:
            raise self.duplicate(table, write.key)
        before, row = earlier.before, write.row
        operation = Operation.DELETE if row is None else Operation.INSERT if before is None else Operation.UPDATE
        by_key[write.key] = Write(operation, write.key, row, before, earlier.base)

    def _visible_elsewhere(self, table: TableId, key: Key) -> bool:
        if self._bulk.get(table):
            return self.peek(table, key) is not None
        return self._tables[table].get(key, self.read_timestamp) is not None

    def duplicate(self, table: TableId, key: Key) -> UniqueViolation:
        """The error for a key of `table` that exists already."""
        schema = self._tables[table].table
        names = ", ".join(schema.columns[position].name for position in schema.key_columns)
        return UniqueViolation(
            f'duplicate key value violates unique constraint "{schema.key_name}"',
            detail=f"Key ({names})=({_shown(key)}) already exists in table {schema.name}.",
            evidence={"table": schema.name, "key": key, "constraint": schema.key_name},
        )

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
        if truncate:
            self._writes.pop(table.id, None)
            self._bulk[table.id] = []
        self._replace_deletions(table.id, part.segments)
        self._bulk.setdefault(table.id, []).append(part)
        return sum(segment.meta.rows for segment in part.segments)

    def _replace_deletions(self, table: TableId, segments: Sequence[Any]) -> None:
        """A key deleted here and written again in bulk is updated: own writes lie over own bulk rows, so the deletion must not stay."""
        by_key = self._writes.get(table, {})
        for key, write in [(key, write) for key, write in by_key.items() if write.row is None]:
            for segment in segments:
                row = segment.get(key)
                if row is not None:
                    operation = Operation.INSERT if write.before is None else Operation.UPDATE
                    by_key[key] = Write(operation, key, row, write.before, write.base)

    def conflicting_key(self, table: TableId, segment: Any) -> Key | None:
        """A key of `segment` this transaction can see already (for bulk writes), or None."""
        version, own_segments = self._pinned(table)
        own = self._writes.get(table, _NO_WRITES)
        for key, write in own.items():
            if write.row is not None and segment.find(key) >= 0:
                return key
        deleted = {key for key, write in own.items() if write.row is None}
        for other in own_segments:
            shared = common_key(segment, other)
            if shared is not None:
                return shared
        return version.overlapping_key(segment, self.read_timestamp, deleted)

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
        self.put(CATALOG_TABLE, Write(Operation.INSERT, key, row, None, self.read_timestamp))
        parts = [made, *(made.index_table(index) for index in made.indexes)]
        self._tables = {**self._tables, **{part.id: TableVersion(part, (), Memtable(part)) for part in parts}}
        self._created.update(part.id for part in parts)
        self._catalog = Catalog(self.catalog.timestamp, {**self.catalog.tables, key: made})
        return made

    def drop_table(self, table: Table) -> None:
        """Remove a table, its rows and its indexes. Conflicts with every concurrent change of its rows, at every level."""
        key = (table.schema, table.name.casefold())
        before = self.get(CATALOG_TABLE, key, constraint=True)
        self.put(CATALOG_TABLE, Write(Operation.DELETE, key, None, before, self.read_timestamp))
        for part in (table.id, *(index.id for index in table.indexes)):
            self._writes.pop(part, None)
            self._bulk.pop(part, None)
            if part not in self._created:
                self.guard(part, ALL)
                self._dropped.add(part)
        rest = {name: other for name, other in self.catalog.tables.items() if name != key}
        self._catalog = Catalog(self.catalog.timestamp, rest)

    # -- not in this version --------------------------------------------------------------------------------------

    def lock(self, target: Any, mode: Any) -> Any:
        raise NotSupported("row locks are not supported yet")

    def savepoint(self) -> int:
        raise NotSupported("savepoints are not supported yet")

    def rollback_to(self, savepoint: int) -> None:
        raise NotSupported("savepoints are not supported yet")

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
        bulk = tuple(part for parts in self._bulk.values() for part in parts)
        touched = {*self._writes, *self._bulk, *self._reads, *(read.table for read in self._predicates)} - self._dropped
        schemas = {table: self._tables[table].table for table in touched}
        return Commit(
            self.id,
            self.isolation,
            self.read_timestamp,
            self._reads,
            tuple(self._predicates),
            tuple(self._guards),
            self._guard_keys,
            self._writes,
            schemas,
            frozenset(self._created),
            bulk,
        )

    def _conflict(self, refusal: Refusal) -> SerializationConflict:
        table = self._database.table_name(refusal.table)
        shown = "; ".join(_shown(key) for key in refusal.keys)
        return SerializationConflict(
            f'could not serialize access to table "{table}" ({refusal.rule} conflict)',
            detail=f"{f'Key ({shown})' if shown else 'Rows'} of {table} changed at {milliseconds_of(refusal.timestamp)} ms, "
            f"after this transaction's snapshot at {milliseconds_of(self.read_timestamp)} ms.",
            hint="Run the transaction again; run_transaction() does it for you.",
            evidence={
                "rule": refusal.rule,
                "table": table,
                "keys": refusal.keys,
                "commit_timestamp": refusal.timestamp,
                "read_timestamp": self.read_timestamp,
            },
        )

    def rollback(self) -> None:
        """Forget everything. Idempotent."""
        self._release()
        if self.open:
            self.open = False
            self._discard()

    def _discard(self) -> None:
        """The files of own bulk writes go as soon as nobody reads or names them."""
        self._database.bulk.discard(tuple(part for parts in self._bulk.values() for part in parts))

    def _release(self) -> None:
        """Read no more. Repeatable."""
        if self.token is not None:
            self._database.release(self.token)
            self.token = None

    def _require_open(self) -> None:
        if not self.open:
            raise EngineClosed("the transaction has ended")


def _shown(key: Key) -> str:
    text = ", ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)
    return text if len(text) <= 100 else text[:97] + "…"
