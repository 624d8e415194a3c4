"""Recovery: from what the store holds to a `State`, before anybody is served.

Called by `Database` once. Manifest with its catalog and segments, then the log after it, record by record, each checked
(index without a hole, hash chain, checksum); DDL as it comes. What no manifest and no record names is swept. Idempotent:
nothing is written but the sweep, and a sync so that what was found is as durable as it is told to be.

Errors: CorruptDatabase names the record or file; nothing is ever skipped. Left out: watermark, point in time (issue D).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.segment import Segment, decode_meta
from khonsu_engine.columns.segment_view import SegmentView, decode_dead
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.columns.version import Version
from khonsu_engine.commands import Bulk, Committed, TableId, Timestamp
from khonsu_engine.errors import CorruptDatabase
from khonsu_engine.protocols import Store
from khonsu_engine.schema.catalog import CATALOG_TABLE, Catalog, Table
from khonsu_engine.state_machine import CATALOG_SCHEMA, State, apply, definition_of, empty_state
from khonsu_engine.storage import keys, log, manifest

__all__ = ["Recovered", "recover"]


class Recovered(msgspec.Struct):
    """`log_files`: file -> index of the record that names it. `log_bytes`, `replayed`: of the records after the checkpoint."""

    state: State
    checkpoint: manifest.Manifest | None
    log_files: dict[str, int]
    log_bytes: int = 0
    replayed: int = 0


def recover(store: Store) -> Recovered:
    """Read everything. Raises CorruptDatabase, CannotConnect (a newer version)."""
    checkpoint = manifest.read(store)
    state = empty_state() if checkpoint is None else _restored(store, checkpoint)
    recovered = Recovered(state, checkpoint, {})
    for index, raw in _records(store, state.index):
        _replay(store, recovered, index, raw)
    if store.get(keys.log_key(state.index + 1)) is not None:
        raise CorruptDatabase(f"the log could not be read beyond record {state.index}, but record {state.index + 1} is there")
    _sweep(store, recovered)
    store.sync()
    state.durable = state.published
    state.durable_mark = (state.index, state.last_hash, state.published)
    return recovered


def _records(store: Store, after: int) -> Iterator[tuple[int, bytes]]:
    for key, raw in store.scan(*keys.log_range(after + 1)):
        yield keys.log_index(key), raw


def _replay(store: Store, recovered: Recovered, index: int, raw: bytes) -> None:
    state = recovered.state
    if index != state.index + 1:
        raise CorruptDatabase(f"the log has a hole: record {state.index + 1} is missing, the next one is {index}")
    header, record = log.decode(raw, state.catalog.by_id, store.map_file, index)
    if header.previous_hash != state.last_hash:
        raise CorruptDatabase(f"log record {index} does not continue record {index - 1}: its previous hash differs")
    bulk = _opened(store, state, record) if isinstance(record, Committed) else ()
    apply(state, record, bulk)
    state.last_hash = header.hash
    for name in log.files_of(header, record):
        recovered.log_files[name] = index
    recovered.log_bytes += len(raw)
    recovered.replayed += 1


def _opened(store: Store, state: State, record: Committed) -> tuple[Bulk, ...]:
    """The bulk writes of a record with their segments; tables the record makes itself are found in its catalog rows."""
    if not record.bulk:
        return ()
    known = dict(state.catalog.by_id)
    for effect in record.effects:
        if effect.table == CATALOG_TABLE:
            for _, _, row, _ in effect.rows:
                if row is not None:
                    made = definition_of(row)
                    known |= {part.id: part for part in (made, *map(made.index_table, made.indexes))}
    opened = []
    for table, truncate, files in record.bulk:
        segments = tuple(Segment(decode_meta(file.meta, known[table]), known[table], store) for file in files)
        opened.append(Bulk(table, files, segments, 0, truncate))
    return tuple(opened)


def _restored(store: Store, checkpoint: manifest.Manifest) -> State:
    """The state as of the checkpoint."""
    tables: dict[TableId, TableVersion] = {CATALOG_TABLE: TableVersion(CATALOG_SCHEMA, (), Memtable(CATALOG_SCHEMA))}
    known: dict[tuple[str, str], Table] = {}
    newest = 0
    for row in checkpoint.catalog:
        key, image = (row.schema, row.name), (row.schema, row.name, row.definition)
        known[key] = definition_of(image)
        newest = max(newest, row.timestamp)
        tables[CATALOG_TABLE].memtable.install(Version(key, row.timestamp, image, None, None, row.timestamp))
    catalog = Catalog(newest, known)
    entries = {entry.id: entry for entry in checkpoint.tables}
    for number, table in catalog.by_id.items():
        entry = entries.get(number)
        views = [] if entry is None else [_view(store, table, segment, checkpoint.timestamp) for segment in entry.segments]
        tables[number] = TableVersion(table, views, Memtable(table))
    state = State(tables, catalog, checkpoint.timestamp, checkpoint.index, checkpoint.record_hash)
    state.counters.update(checkpoint.counters)
    return state


def _view(store: Store, table: Table, entry: manifest.SegmentEntry, timestamp: Timestamp) -> SegmentView:
    segment = Segment(decode_meta(entry.meta, table), table, store)
    return decode_dead(segment, bytes(manifest.dead_vector(store, entry)), timestamp)


def _sweep(store: Store, recovered: Recovered) -> None:
    """Remove files of bulk writes and checkpoints that were never finished."""
    named = set(recovered.log_files)
    if recovered.checkpoint is not None:
        named |= manifest.named_files(recovered.checkpoint)
    present = set(store.files())
    missing = named - present
    if missing:
        raise CorruptDatabase(f"the file {min(missing)} is missing", detail=f"{len(missing)} of {len(named)} files are missing")
    for name in present - named:
        store.remove_file(name)
