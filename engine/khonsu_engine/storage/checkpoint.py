"""A checkpoint's manifest: which segments, dead rows and definitions make up the state as of one commit.

Called by maintenance after everything up to the cut has moved into segments. Pure assembly: nothing is written here.

Invariant: nothing committed above the cut is in the manifest; the log after the cut holds it. So segments of bulk writes
published meanwhile, and deaths above the cut, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from khonsu_engine.columns.segment import encode_meta
from khonsu_engine.columns.segment_view import SegmentView, encode_dead
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.commands import TableId, Timestamp
from khonsu_engine.schema.catalog import CATALOG_TABLE, Catalog
from khonsu_engine.storage.manifest import CatalogRow, Manifest, SegmentEntry, TableEntry

__all__ = ["manifest_of"]


def manifest_of(
    tables: Mapping[TableId, TableVersion], catalog: Catalog, mark: tuple[int, bytes, Timestamp], counters: Mapping[str, int]
) -> Manifest:
    """The manifest as of `mark` (index, record hash, timestamp). `catalog`: the one of that timestamp."""
    index, record_hash, timestamp = mark
    rows = tuple(
        CatalogRow(*key, msgspec.msgpack.encode(table), _defined_at(tables[CATALOG_TABLE], key, timestamp))
        for key, table in catalog.tables.items()
    )
    entries = tuple(TableEntry(number, tuple(_segments(tables[number], timestamp))) for number in catalog.by_id)
    return Manifest(index, timestamp, record_hash, rows, entries, dict(counters))


def _defined_at(catalog_table: TableVersion, key: tuple[str, str], timestamp: Timestamp) -> Timestamp:
    version = catalog_table.memtable.chains.get(key)
    while version is not None and version.timestamp > timestamp:
        version = version.older
    return timestamp if version is None else version.timestamp


def _segments(version: TableVersion, timestamp: Timestamp) -> Iterator[SegmentEntry]:
    table = version.table
    for view in version.segments:
        meta = view.segment.meta
        if meta.timestamp_min > timestamp:
            continue
        yield SegmentEntry(meta.name, encode_meta(meta, table), encode_dead(_as_of(view, timestamp)))


def _as_of(view: SegmentView, timestamp: Timestamp) -> SegmentView:
    """The view with the deaths up to `timestamp` only."""
    early = view.dead_timestamps <= timestamp
    return view if early.all() else SegmentView(view.segment, view.dead[early], view.dead_timestamps[early])
