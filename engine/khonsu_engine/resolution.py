"""Conflict policies applied: the collisions of a commit decided against the newest state, where commits are ordered.

Called by `committer` under its latch before validation, and by `transaction` when a snapshot moves. A core: no clock, no I/O.
What comes out is a commit whose colliding rows are based on the newest versions; it is validated like any other then.

Invariants: unique entries, foreign keys and the catalog take no policy; the index entries of a table with a collision are derived again
from before and after images, all of them, and each is checked against the newest state; nothing is decided half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from khonsu_engine.columns.version import PRUNED
from khonsu_engine.commands import Collision, Commit, Key, Operation, Refusal, Row, TableId, Write
from khonsu_engine.errors import EngineError, UniqueViolation
from khonsu_engine.evidence import facts, shown_key
from khonsu_engine.mvcc.policies import CONFLICT, RowPolicy, decided
from khonsu_engine.schema.catalog import Index, Table
from khonsu_engine.state_machine import State, validate

__all__ = ["resolved", "without_policies"]


def resolved(state: State, command: Commit) -> Commit | Refusal:
    """`command` itself when nothing collides; else one whose collisions are decided.

    Raises UniqueViolation, CheckViolation, NumericOutOfRange for a row that a policy made, unless something that was read does not stand:
    then that is the answer, because run again there may be no violation. The evidence names the commit of theirs."""
    try:
        return _resolved(state, command)
    except EngineError:
        refusal = validate(state, without_policies(command))
        if refusal is not None:
            return refusal
        raise


def _resolved(state: State, command: Commit) -> Commit | Refusal:
    writes: dict[TableId, Mapping[Key, Write]] | None = None
    collisions: list[Collision] = []
    schemas = dict(command.schemas)
    for table, by_key in command.writes.items():
        version = state.tables.get(table)
        if version is None:
            continue
        changed: dict[Key, Write] | None = None
        lost: Refusal | None = None
        for key, write in by_key.items():
            policy: RowPolicy | None = write.policy
            timestamp = version.newest(key, write.base)
            if timestamp <= write.base:
                continue
            if policy is None:
                lost = Refusal("write-write", table, (key,), timestamp)
                continue
            try:
                outcome = decided(policy, write, _newest(state, table, key), timestamp)
            except EngineError as error:
                error.evidence["commit_timestamp"] = timestamp
                raise
            if outcome is CONFLICT or any(part.table == table for part in command.bulk):
                return Refusal("write-write", table, (key,), timestamp)
            changed = dict(by_key) if changed is None else changed
            if isinstance(outcome, Write):
                changed[key] = outcome
            else:
                del changed[key]
            collisions.append(Collision(policy.table.name, key, policy.policy.value, timestamp))
            base = policy.table
        if changed is not None:
            if lost is not None:  # nothing can be derived from images that do not stand
                return lost
            writes = dict(command.writes) if writes is None else writes
            writes[table] = changed
            _derive_entries(state, command, base, changed, writes, schemas)
    if writes is None:
        return command
    kept = {table: by_key for table, by_key in writes.items() if by_key}
    return msgspec.structs.replace(command, writes=kept, schemas=schemas, collisions=(*command.collisions, *collisions))


def _derive_entries(
    state: State,
    command: Commit,
    table: Table,
    rows: Mapping[Key, Write],
    writes: dict[TableId, Mapping[Key, Write]],
    schemas: dict[TableId, Any],
) -> None:
    """The entries of the table's unique constraints, from what its rows were and are. Raises UniqueViolation."""
    for index in table.indexes:
        version = state.tables[index.id]
        removed = dict(_entries(table, index, (write.before for write in rows.values())))
        added: dict[Key, Row] = {}
        for key, entry in _entries(table, index, (write.row for write in rows.values())):
            if key in added:
                raise _duplicate(command, table, index, key)
            added[key] = entry
        entries: dict[Key, Write] = {}
        for key in {**removed, **added}:
            before, entry_row = _newest(state, index.id, key), added.get(key)
            if entry_row is not None and before is not None and key not in removed:
                raise _duplicate(command, table, index, key, state)
            if before != entry_row:
                operation = Operation.DELETE if entry_row is None else Operation.INSERT if before is None else Operation.UPDATE
                entries[key] = Write(operation, key, entry_row, before, state.published)
        writes[index.id] = entries
        schemas[index.id] = version.table


def _newest(state: State, table: TableId, key: Key) -> Row | None:
    row = state.tables[table].get(key, state.published)
    assert row is not PRUNED, "the newest version is never pruned"
    return row


def _entries(table: Table, index: Index, rows: Iterator[Row | None]) -> Iterator[tuple[Key, Row]]:
    """(key, row) of the entry of each row that has one: no NULL among the indexed values."""
    for row in rows:
        if row is not None:
            indexed = tuple(row[position] for position in index.columns)
            if None not in indexed:
                key = indexed[0] if len(indexed) == 1 else indexed
                yield key, (*indexed, *(row[position] for position in table.key_columns))


def without_policies(command: Commit) -> Commit:
    """What can be judged before COMMIT: the writes without rows that have a policy, and the index entries these derive."""
    if not command.policied:
        return command
    writes = command.writes
    left: dict[TableId, Mapping[Key, Write]] = {}
    derived: dict[TableId, set[Key]] = {}
    for table, by_key in writes.items():
        left[table] = {key: write for key, write in by_key.items() if write.policy is None}
        for write in by_key.values():
            if write.policy is not None:
                for index in write.policy.table.indexes:
                    images = iter((write.before, write.row))
                    derived.setdefault(index.id, set()).update(key for key, _ in _entries(write.policy.table, index, images))
    for table, keys in derived.items():
        if table in left:
            left[table] = {key: write for key, write in left[table].items() if key not in keys}
    return msgspec.structs.replace(command, writes={table: by_key for table, by_key in left.items() if by_key})


def _duplicate(command: Commit, table: Table, index: Index, key: Key, state: State | None = None) -> UniqueViolation:
    """`state`: where somebody else has committed that key; without it two rows of this commit have it."""
    found = None if state is None else state.tables[index.id].memtable.chains.get(key)
    timestamp = 0 if found is None else found.timestamp
    known = facts(
        "unique",
        (table.name, index.name),
        (key,),
        transaction_id=command.transaction_id,
        read_timestamp=command.read_timestamp,
        other=None if state is None else state.recent.transaction_at(timestamp),
        commit_timestamp=timestamp,
    )
    names = ", ".join(table.columns[position].name for position in index.columns)
    return UniqueViolation(
        f'duplicate key value violates unique constraint "{index.name}"',
        detail=f"Key ({names})=({shown_key(key)}) already exists in table {table.name}.",
        evidence={**known, "key": key, "constraint": index.name},
    )
