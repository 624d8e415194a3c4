"""Bulk writes: many new rows become sorted segment files *ahead* of the commit that names them.

Called by `TransactionWriter.put_bulk` and, for what was not committed, by its end. Rows stream in as Arrow batches, are
sorted in runs of `Limits.bulk_run_rows`, checked for duplicates among themselves, in the transaction and in its snapshot, and
written. Nothing of it is visible to others before the commit; a file no record names is swept at the next open.

Invariant: the segments of one bulk write share no key, with each other, with older own writes, or with the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from khonsu_engine.columns.build import write_segments
from khonsu_engine.columns.key_search import common_key
from khonsu_engine.columns.segment import Segment, encode_meta, segment_schema
from khonsu_engine.columns.sorting import find_duplicate, sort_batches
from khonsu_engine.commands import Bulk, BulkFile
from khonsu_engine.schema.catalog import Table

if TYPE_CHECKING:
    from khonsu_engine.database import Database
    from khonsu_engine.writing import TransactionWriter

__all__ = ["BulkWriter"]


class BulkWriter:
    """Writes runs of rows for the transactions of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, transaction: TransactionWriter, table: Table, batches: Iterator[pa.RecordBatch], *, truncate: bool) -> Bulk:
        """All `batches` as segments. Raises UniqueViolation; then no file is left behind."""
        segments: list[Segment] = []
        try:
            for run in _runs(batches, self._database.limits.bulk_run_rows):
                for segment in self._sorted_run(transaction, table, run):
                    self._refuse_duplicates(transaction, table, segment, segments, truncate)
                    segments.append(segment)
        except BaseException:
            self._forget(segments)
            raise
        files = tuple(BulkFile(segment.meta.name, encode_meta(segment.meta, table)) for segment in segments)
        return Bulk(table.id, files, tuple(segments), transaction.read_timestamp, truncate)

    def _sorted_run(self, transaction: TransactionWriter, table: Table, run: list[pa.RecordBatch]) -> list[Segment]:
        rows = sort_batches(table, run, segment_schema(table))
        twice = find_duplicate(table, rows)
        if twice is not None:
            raise transaction.duplicate(table.id, twice)
        database = self._database
        return write_segments(database.store, table, (rows,), limits=database.limits, new_name=database.new_file_name)

    def _refuse_duplicates(
        self, transaction: TransactionWriter, table: Table, segment: Segment, earlier: list[Segment], truncate: bool
    ) -> None:
        shared = (common_key(segment, other) for other in earlier)
        key = next((found for found in shared if found is not None), None)
        if key is None and not truncate:
            key = transaction.conflicting_key(table.id, segment)
        if key is not None:
            self._forget([segment])
            raise transaction.duplicate(table.id, key)

    def discard(self, bulk: tuple[Bulk, ...]) -> None:
        """These writes will not be committed: their files go as soon as nobody reads them."""
        for part in bulk:
            self._forget(list(part.segments))

    def _forget(self, segments: list[Segment]) -> None:
        for segment in segments:
            segment.retire(self._database.unused_files)
        if segments:
            self._database.maintenance.wake()


def _runs(batches: Iterator[pa.RecordBatch], rows_max: int) -> Iterator[list[pa.RecordBatch]]:
    """`batches` in groups of at most `rows_max` rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        while batch.num_rows > rows_max - rows:
            held.append(batch.slice(0, rows_max - rows))
            batch = batch.slice(rows_max - rows)
            yield held
            held, rows = [], 0
        if batch.num_rows:
            held.append(batch)
            rows += batch.num_rows
    if held:
        yield held
