"""The manifest: what a checkpoint left behind, so that recovery replays only the log after it.

Called by the checkpoint (`write`), by recovery (`read`, `dead_vector`) and by the sweep of unnamed files (`named_files`).
Everything it names is durable before it is written, and it replaces the one before in one atomic write. It is kept as many
small values: one head, one per catalog row, per table and per segment, longer ones cut into pieces, and the counters.
Only what differs from the stored one is written, so a checkpoint costs what changed, not what there is.

Invariants: `read` returns what was written or raises CorruptDatabase: the head knows how many entries there are and their crc.
Left out: what is in a segment's description (`columns.segment`) and in a dead vector (`columns.table_version`): bytes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from zlib import crc32

import msgspec

from khonsu_engine.commands import TableId, Timestamp
from khonsu_engine.errors import CorruptDatabase
from khonsu_engine.protocols import Buffer, Delete, Put, Store, StoreOperation
from khonsu_engine.storage.keys import COUNTER, MANIFEST, counter_key, counter_name, kind_range, manifest_key, manifest_place

__all__ = ["CatalogRow", "Manifest", "SegmentEntry", "TableEntry", "dead_vector", "named_files", "read", "write"]

PIECE_BYTES_MAX = 60_000
DEAD_INLINE_BYTES_MAX = 16_000
"""A dead vector up to this size stands in its segment's entry; a larger one becomes a file."""

_HEAD = b"h"
_CATALOG = b"c"
_TABLE = b"t"
_SEGMENT = b"s"

Place = tuple[bytes, TableId, int]


class CatalogRow(msgspec.Struct, frozen=True, array_like=True):
    """One row of the catalog's table as of the checkpoint: key (schema, case-folded name), and its commit timestamp."""

    schema: str
    name: str
    definition: bytes
    timestamp: Timestamp


class SegmentEntry(msgspec.Struct, frozen=True, array_like=True):
    """One segment: its file, its encoded description, and which of its rows are dead.

    `dead`: the encoded vector, or b"" when there is none or when it stands in the file `dead_file`."""

    name: str
    meta: bytes
    dead: bytes = b""
    dead_file: str = ""


class TableEntry(msgspec.Struct, frozen=True):
    """One table: its segments in order. `id`: of a user's table, an index, or the catalog's own."""

    id: TableId
    segments: tuple[SegmentEntry, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """The state as of commit `index`.

    `timestamp`, `record_hash`: of that commit (its hash is the first replayed record's previous one).
    `counters`: as raised by `Reserved` records up to `index`."""

    index: int
    timestamp: Timestamp
    record_hash: bytes
    catalog: tuple[CatalogRow, ...] = ()
    tables: tuple[TableEntry, ...] = ()
    counters: dict[str, int] = {}


class _Head(msgspec.Struct, frozen=True, array_like=True):
    index: int
    timestamp: Timestamp
    record_hash: bytes
    entries: int
    crc: int


_encode = msgspec.msgpack.Encoder().encode
_head = msgspec.msgpack.Decoder(_Head)
_catalog_row = msgspec.msgpack.Decoder(CatalogRow)
_segment = msgspec.msgpack.Decoder(SegmentEntry)
_number = msgspec.msgpack.Decoder(int)


def write(store: Store, manifest: Manifest) -> Manifest:
    """Replace the stored manifest, atomically; not yet synced: nothing the old one names may go before `store.sync()` returned.

    Large dead vectors become files first. Returns the manifest with their names in place of the vectors: that is what to start
    from the next time, and what `named_files` must be asked about."""
    manifest = _with_dead_files(store, manifest)
    wanted = dict(_values(manifest))
    stored = dict(_stored(store))
    operations: list[StoreOperation] = [Delete(key) for key in stored if key not in wanted]
    operations += [Put(key, value) for key, value in wanted.items() if stored.get(key) != value]
    store.write(operations)
    return manifest


def read(store: Store) -> Manifest | None:
    """The stored manifest; None when there was never a checkpoint. Raises CorruptDatabase."""
    stored = dict(_stored(store))
    if not stored:
        return None
    try:
        return _assembled(stored)
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise CorruptDatabase(f"the manifest of the last checkpoint is damaged: {error}") from error


def named_files(manifest: Manifest) -> set[str]:
    """Names of all files the manifest needs. (Records of the log name more: `log.files_of`.)"""
    segments = [segment for table in manifest.tables for segment in table.segments]
    return {segment.name for segment in segments} | {segment.dead_file for segment in segments if segment.dead_file}


def dead_vector(store: Store, segment: SegmentEntry) -> Buffer:
    """The segment's encoded dead vector (b"": no row is dead). Raises CorruptDatabase when its file is missing."""
    return store.map_file(segment.dead_file) if segment.dead_file else segment.dead


def _with_dead_files(store: Store, manifest: Manifest) -> Manifest:
    """Names are made of the content, so a vector that did not change is not written again."""
    present = set(store.files())

    def filed(segment: SegmentEntry) -> SegmentEntry:
        if len(segment.dead) <= DEAD_INLINE_BYTES_MAX:
            return segment
        name = f"{segment.name}-dead-{blake2b(segment.dead, digest_size=8).hexdigest()}"
        if name not in present:
            store.add_file(name, (segment.dead,))
        return SegmentEntry(segment.name, segment.meta, dead_file=name)

    tables = tuple(TableEntry(table.id, tuple(map(filed, table.segments))) for table in manifest.tables)
    return msgspec.structs.replace(manifest, tables=tables)


# -- entries and values -----------------------------------------------------------------------------------------------


def _entries(manifest: Manifest) -> Iterator[tuple[Place, bytes]]:
    """All entries but the head."""
    for number, row in enumerate(manifest.catalog):
        yield (_CATALOG, 0, number), _encode(row)
    for table in manifest.tables:
        yield (_TABLE, table.id, 0), _encode(len(table.segments))
        for number, segment in enumerate(table.segments):
            yield (_SEGMENT, table.id, number), _encode(segment)


def _values(manifest: Manifest) -> Iterator[tuple[bytes, bytes]]:
    entries = dict(_entries(manifest))
    counters = {counter_key(name): _encode(value) for name, value in manifest.counters.items()}
    head = _Head(manifest.index, manifest.timestamp, manifest.record_hash, len(entries), _checksum(entries, counters))
    for (section, table, number), entry in ((_HEAD, 0, 0), _encode(head)), *entries.items():
        for piece, start in enumerate(range(0, len(entry), PIECE_BYTES_MAX)):
            yield manifest_key(section, table, number, piece), entry[start : start + PIECE_BYTES_MAX]
    yield from counters.items()


def _checksum(entries: dict[Place, bytes], counters: dict[bytes, bytes]) -> int:
    crc = 0
    for _, value in (*sorted(entries.items()), *sorted(counters.items())):
        crc = crc32(value, crc)
    return crc


def _stored(store: Store) -> Iterator[tuple[bytes, bytes]]:
    for kind in (COUNTER, MANIFEST):
        yield from store.scan(*kind_range(kind))


def _assembled(stored: dict[bytes, bytes]) -> Manifest:
    """Raises ValueError, KeyError, DecodeError."""
    counters = {key: value for key, value in stored.items() if key.startswith(COUNTER)}
    entries: dict[Place, bytes] = {}
    for key in sorted(stored.keys() - counters.keys()):
        section, table, number, _ = manifest_place(key)
        entries[section, table, number] = entries.get((section, table, number), b"") + stored[key]
    head = _head.decode(entries.pop((_HEAD, 0, 0)))
    if (len(entries), _checksum(entries, counters)) != (head.entries, head.crc):
        raise ValueError(f"{len(entries)} of {head.entries} entries, or their checksum differs")
    catalog = tuple(_catalog_row.decode(entry) for (section, _, _), entry in entries.items() if section == _CATALOG)
    numbers = {counter_name(key): _number.decode(value) for key, value in counters.items()}
    return Manifest(head.index, head.timestamp, head.record_hash, catalog, _tables(entries), numbers)


def _tables(entries: dict[Place, bytes]) -> tuple[TableEntry, ...]:
    counts = [(table, _number.decode(entry)) for (section, table, _), entry in entries.items() if section == _TABLE]
    return tuple(
        TableEntry(table, tuple(_segment.decode(entries[_SEGMENT, table, number]) for number in range(count))) for table, count in counts
    )
