"""The state of a log and the two functions that may look at or change it: `validate` and `apply` (waist 3).

Called by the committer (under the commit latch) and by recovery. A core: no clock, no thread, no I/O, no setting.
`validate` runs once, where commands are ordered; `apply` installs a record's effects, never validates and cannot fail for
a record that was validated. Installation is resumable: an `Installation` knows how far it came, each step may be repeated,
so an interrupt between any two bytecodes is finished by whoever comes next (see `committer`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.columns.version import Version
from khonsu_engine.commands import (
    Bulk,
    Collision,
    Command,
    Commit,
    Committed,
    Effect,
    Outcome,
    Record,
    Refusal,
    Reserve,
    Reserved,
    Row,
    TableId,
    Timestamp,
)
from khonsu_engine.mvcc.recent_commits import RecentCommits
from khonsu_engine.mvcc.validation import BulkChange, conflict_of
from khonsu_engine.schema.catalog import CATALOG_TABLE, Catalog, Column, Table
from khonsu_engine.schema.types import parse_type

__all__ = ["CATALOG_SCHEMA", "Installation", "Reservation", "State", "apply", "definition_of", "effects_of", "empty_state", "validate"]

CHANGES_TRIM = 512
"""Changes of a table, at least, that stay listed whoever reads."""

OUTCOMES_MAX = 4_096
"""Connections whose last outcome is remembered; the one that wrote longest ago is forgotten first."""

COLLISIONS_KEPT = 1_000
"""How many of the rows a policy decided an outcome remembers."""

CATALOG_SCHEMA = Table(
    id=CATALOG_TABLE,
    schema="khonsu",
    name="catalog",
    version=1,
    columns=(
        Column("schema", parse_type("VARCHAR"), nullable=False),
        Column("name", parse_type("VARCHAR"), nullable=False),
        Column("definition", parse_type("BLOB"), nullable=False),
    ),
    key_columns=(0, 1),
    key_name="catalog_pkey",
)


class State:
    """Everything that follows from the log up to `index`.

    `tables`: the newest table versions; the dict is replaced, never changed. `changes`: per table what was committed since
    the oldest snapshot, `cut`: up to where that list has been cut. `catalogs`: newest first, as many as snapshots need.
    `published` >= `durable` are the two watermarks
    (timestamps); `durable_mark` is (index, hash, timestamp) of the last durable commit, one value.
    `outcomes`: the last one of each connection, by its 8 bytes. `recent`: who committed when, lately. `ahead`: may anybody read above
    *durable*? Not after a failed sync.
    """

    __slots__ = (
        "ahead",
        "catalog",
        "catalogs",
        "changes",
        "counters",
        "cut",
        "durable",
        "durable_mark",
        "index",
        "last_hash",
        "outcomes",
        "published",
        "recent",
        "tables",
        "tenure",
    )

    def __init__(self, tables: dict[TableId, TableVersion], catalog: Catalog, timestamp: Timestamp, index: int, last_hash: bytes) -> None:
        self.tables = tables
        self.changes: dict[TableId, list[Any]] = {}
        self.cut: dict[TableId, Timestamp] = {}
        self.catalog = catalog
        self.catalogs: tuple[Catalog, ...] = (catalog,)
        self.published = self.durable = timestamp
        self.index = index
        self.last_hash = last_hash
        self.durable_mark = (index, last_hash, timestamp)
        self.counters: dict[str, int] = {}
        self.outcomes: dict[bytes, Outcome] = {}
        self.recent = RecentCommits()
        self.tenure = 0
        self.ahead = True

    def catalog_at(self, timestamp: Timestamp) -> Catalog:
        """The catalog a snapshot at `timestamp` sees."""
        for catalog in self.catalogs:
            if catalog.timestamp <= timestamp:
                return catalog
        return self.catalogs[-1]

    def cut_changes(self, table: TableId, horizon: Timestamp) -> None:
        """Forget the older half of the changes of `table`, if they are many and nobody reads below `horizon`. Under the commit latch."""
        listed = self.changes.get(table, ())
        middle = len(listed) // 2
        if len(listed) > CHANGES_TRIM and listed[middle].timestamp <= horizon:
            self.cut[table] = listed[middle - 1].timestamp  # first: whoever finds the shorter list finds this
            self.changes[table] = list(listed[middle:])


def empty_state() -> State:
    """The state before the first commit."""
    tables = {CATALOG_TABLE: TableVersion(CATALOG_SCHEMA, (), Memtable(CATALOG_SCHEMA))}
    return State(tables, Catalog(0, {}), 0, 0, bytes(16))


def definition_of(row: Row) -> Table:
    """The table a row of the catalog describes."""
    return msgspec.msgpack.decode(row[2], type=Table)


def validate(state: State, command: Command, floor: Timestamp = 0) -> Refusal | None:
    """May `command` be ordered now? None = yes. `floor`: what was published up to there has been validated before."""
    if isinstance(command, Reserve):
        return None
    refusal = _schema_conflict(state, command)
    return refusal or conflict_of(state.tables, state.changes, command, floor)


def _schema_conflict(state: State, command: Commit) -> Refusal | None:
    """Every table touched must still be the very table the transaction saw (or one it makes itself)."""
    known = state.catalog.by_id
    for table, seen in command.schemas.items():
        if table in command.created or table == CATALOG_TABLE:
            continue
        current = known.get(table)
        if current is not seen and (current is None or current.version != seen.version):
            return Refusal("catalog", table, (), _changed_at(state, table, seen))
    return None


def _changed_at(state: State, table: TableId, seen: Table) -> Timestamp:
    """When `table` ceased to be what was seen; 0: so long ago that it is forgotten, and durable."""
    changed = 0
    for catalog in state.catalogs:
        known = catalog.by_id.get(table)
        if known is not None and known.version == seen.version:
            return changed
        changed = catalog.timestamp
    return 0


def effects_of(command: Commit) -> tuple[Effect, ...]:
    """What a commit changes, catalog first. A key inserted and deleted again has no effect."""
    effects = []
    for table in sorted(command.writes):
        rows = tuple(
            [
                (write.operation, write.key, write.row, write.before)
                for write in command.writes[table].values()
                if write.row is not None or write.before is not None
            ]
        )
        if rows:
            effects.append(Effect(table, command.schemas[table].version, rows))
    return tuple(effects)


class Reservation:
    """A raised counter on its way into the state; repeatable like an `Installation`."""

    __slots__ = ("_record",)

    tables: frozenset[TableId] = frozenset()

    def __init__(self, record: Reserved) -> None:
        self._record = record

    def run(self, state: State) -> None:
        """Raise the counter, then publish."""
        record = self._record
        state.counters[record.counter] = max(record.upto, state.counters.get(record.counter, 0))
        state.index = record.index
        state.published = record.timestamp


class Installation:
    """The effects of one record on their way into the state. `run` may be interrupted anywhere and run again."""

    __slots__ = ("_bulk", "_bulk_step", "_collisions", "_record", "_step", "_versions", "timestamp")

    def __init__(self, record: Committed, bulk: tuple[Bulk, ...], collisions: tuple[Collision, ...] = ()) -> None:
        self.timestamp = record.timestamp
        self._collisions = collisions[:COLLISIONS_KEPT]
        self._record = record
        self._bulk = bulk
        self._step = self._bulk_step = 0
        timestamp = record.timestamp
        self._versions = [
            (effect.table, Version(key, timestamp, row, before, None, timestamp))
            for effect in record.effects
            for _, key, row, before in effect.rows
        ]

    @property
    def tables(self) -> set[TableId]:
        """What the record changes, index tables too."""
        return {effect.table for effect in self._record.effects} | {part.table for part in self._bulk}

    def run(self, state: State) -> None:
        """Install what is not installed yet, then publish."""
        versions, tables, changes = self._versions, state.tables, state.changes
        while self._step < len(versions):
            table, version = versions[self._step]
            if table == CATALOG_TABLE:
                _install_definition(state, version)
                tables = state.tables
            tables[table].memtable.install(version)
            listed = changes.get(table)
            if listed is None:
                changes[table] = [version]
            elif listed[-1] is not version:
                listed.append(version)
            self._step += 1
        while self._bulk_step < len(self._bulk):
            _install_bulk(state, self._bulk[self._bulk_step], self.timestamp)
            self._bulk_step += 1
        self._publish(state)

    def _publish(self, state: State) -> None:
        record, outcomes = self._record, state.outcomes
        name = record.transaction_id[8:]
        outcomes.pop(name, None)  # the latest stand last
        outcomes[name] = Outcome(record.transaction_id, record.timestamp, record.index, self._collisions)
        if len(outcomes) > OUTCOMES_MAX:
            del outcomes[next(iter(outcomes))]
        state.recent.add(record.timestamp, record.transaction_id)
        state.index = record.index
        state.published = record.timestamp


def _install_definition(state: State, version: Version) -> None:
    """DDL: a table appears, changes, or goes. A dropped table's rows stay until no snapshot can see them (`committer.forget`)."""
    catalog = state.catalog
    name: Any = version.key
    if catalog.timestamp == version.timestamp:
        known, rest = dict(catalog.tables), state.catalogs[1:]
    else:
        known, rest = dict(catalog.tables), state.catalogs
    if version.row is None:
        known.pop(name, None)
    else:
        table = definition_of(version.row)
        known[name] = table
        added = {part.id: part for part in (table, *(table.index_table(index) for index in table.indexes))}
        missing = {number: TableVersion(part, (), Memtable(part)) for number, part in added.items() if number not in state.tables}
        state.tables = {**state.tables, **missing}
    fresh = Catalog(version.timestamp, known)
    state.catalogs = (fresh, *rest)
    state.catalog = fresh


def _install_bulk(state: State, part: Bulk, timestamp: Timestamp) -> None:
    """Publish a bulk write. The change is listed first: validation may see it early, never late; both steps may be repeated."""
    listed = state.changes.setdefault(part.table, [])
    change = BulkChange(timestamp, part.segments, part.truncate)
    if not (listed and listed[-1] == change):
        listed.append(change)
    current = state.tables[part.table]
    grown = current.with_bulk(part.segments, timestamp, truncate=part.truncate, settled=state.durable)
    state.tables = {**state.tables, part.table: grown}


def apply(state: State, record: Record, bulk: tuple[Bulk, ...] = ()) -> Outcome | None:
    """Install a record of the log (recovery): the same steps the committer takes, without validation."""
    if isinstance(record, Reserved):
        Reservation(record).run(state)
        return None
    Installation(record, bulk).run(state)
    return Outcome(record.transaction_id, record.timestamp, record.index)
