"""How a transaction reads: one snapshot, its own writes over it, and a note of what was read.

Base of `transaction.LocalTransaction`, which may move the snapshot; calls the pinned table versions. Invariants: at SERIALIZABLE every read
is recorded before it is done (also of zero rows), unless the transaction is declared read only; guards are recorded at every level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from khonsu_engine.columns.key_search import common_key
from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.columns.version import PRUNED
from khonsu_engine.commands import (
    ALL_COLUMNS,
    EVERY_KEY,
    Key,
    KeyRange,
    ReadPredicate,
    Refusal,
    Row,
    TableId,
    Timestamp,
    Write,
)
from khonsu_engine.evidence import Names, names_of
from khonsu_engine.mvcc.policies import RowPolicy
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.read_set import ReadSet
from khonsu_engine.schema.catalog import Catalog, Table
from khonsu_engine.write_set import WriteSet

if TYPE_CHECKING:
    from khonsu_engine.columns.scan import Scan
    from khonsu_engine.database import Database
    from khonsu_engine.errors import SerializationConflict

__all__ = ["NO_COLUMNS", "SnapshotReader", "StatementPolicy"]

_NO_WRITES: Mapping[Key, Write] = {}

NO_COLUMNS = 0
"""What was read of a row is that it is there, or not."""


class StatementPolicy(msgspec.Struct, frozen=True):
    """The conflict policy of one statement: that of its rows, and two masks of columns.

    `unread`: those it only adds to (deltas), which are not read by it. `taken`: those whose old value goes into what an UPDATE writes,
    though it does not name them."""

    row: RowPolicy
    unread: int = 0
    taken: int = 0


class SnapshotReader:
    """The reading half of a transaction."""

    __slots__ = (
        "_ahead",
        "_bulk",
        "_catalog",
        "_database",
        "_indexed",
        "_keys_read",
        "_policied",
        "_reads",
        "_recording",
        "_settled",
        "_tables",
        "_write_set",
        "_writes",
        "policy",
        "read_timestamp",
        "seen",
    )

    def __init__(self, database: Database, read_timestamp: Timestamp, tables: Mapping[TableId, TableVersion], *, recording: bool) -> None:
        self._database = database
        self.read_timestamp = read_timestamp
        self._tables = tables
        self._catalog: Catalog | None = None
        self._recording = recording
        self._reads = ReadSet()
        self._keys_read = self._reads.keys
        self._write_set = WriteSet()
        self._writes = self._write_set.rows
        self._bulk = self._write_set.bulk
        self.policy: StatementPolicy | None = None
        """Of the statement that runs, when it has another one than FAIL."""
        self._policied = False
        self._indexed: dict[TableId, Table] = {}
        """The base tables of the indexes of rows with a policy, by the index's id."""
        self._settled: set[tuple[TableId, Key]] = set()
        """Own rows with a policy that were read: no policy decides them any more."""
        self.seen: Timestamp = 0
        """The newest commit that what was read here depends on; looked after only in a snapshot ahead of *durable*."""
        self._ahead = read_timestamp > database.state.durable

    @property
    def catalog(self) -> Catalog:
        """The catalog of the snapshot with this transaction's own DDL over it."""
        if self._catalog is None:
            self._catalog = self._database.state.catalog_at(self.read_timestamp).with_definitions(self._write_set.definitions)
        return self._catalog

    def names_of(self, table: TableId) -> Names:
        """The names of a table this transaction has seen, for messages: also of one that is gone by now."""
        known = names_of(self.catalog, table) or names_of(self._database.state.catalog, table)
        if known is None:
            known = (self._tables[table].table.name if table in self._tables else f"#{table}", None)
        return known

    if TYPE_CHECKING:

        def _conflict(self, refusal: Refusal) -> SerializationConflict: ...

    def get(self, table: TableId, key: Key, *, columns: int = ALL_COLUMNS, constraint: bool = False) -> Row | None:
        """The visible row of `key`, own writes included; the read is recorded first."""
        if self._recording or constraint:
            if self._policied or self.policy is not None:
                columns = self._read_beside(table, key, columns)
            self._record(table, key, columns, constraint)
        return self.peek(table, key)

    def _record(self, table: TableId, key: Key, columns: int, constraint: bool) -> None:
        into = self._reads.guard_keys if constraint else self._keys_read
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
        recorded: bool = False,
    ) -> Scan:
        """Arrow batches of at least the matching visible rows, own writes included; the read is recorded first, unless it is `recorded`
        by the caller, in another way."""
        if not recorded:
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
            self._reads.guards.append(ReadPredicate(table, range, predicate, columns, self.read_timestamp))
        elif self._recording:
            if self._policied or self.policy is not None:
                columns = self._read_beside(table, range, columns)
            self._reads.predicates.append(ReadPredicate(table, range, predicate, columns, self.read_timestamp))

    def _read_beside(self, table: TableId, what: Key | KeyRange, columns: int) -> int:
        """The columns a read uses beside the statement's own deltas. It is `own_policies.PolicyKeeper`'s to say."""
        raise NotImplementedError

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
            self._reads.guards.append(ReadPredicate(table, EVERY_KEY, what, ALL_COLUMNS, self.read_timestamp))
        else:
            self._record(table, what, ALL_COLUMNS, True)

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
