"""Every bound and setting of the engine with its default, in one place.

Read by the composition root (`database`) and handed down as one frozen value; nothing reads a global.
Units stand in the names. The *tiny* profile of the test suite replaces the bounds so that every path that
needs a full memtable, many segments or a checkpoint is walked by small tests.
"""

from __future__ import annotations

import msgspec

__all__ = ["DEFAULT", "INLINE_BODY_BYTES_MAX", "TINY", "Limits"]

INLINE_BODY_BYTES_MAX = 60_000
"""A commit's body up to this size stands in its log record; a larger one is written ahead as a file (waist 4: values < 64 KiB)."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of memtable, segments, overlap and checkpoints. All are settings of `Database.open`.

    memtable_versions_max   versions of one table's memtable before it is turned into a segment
    memtable_bytes_max      approximate bytes of the same
    segment_rows_max        rows of one segment file
    chunk_rows_max          rows of one Arrow record batch inside a segment (the unit of zone maps)
    chunk_bytes_max         about the bytes of one such batch, where that is fewer rows
    segment_bytes_max       about the bytes of one segment file, where that is fewer rows
    version_chunk_rows      recent versions sealed at once into an Arrow chunk
    overlap_max             segments of one table that may cover one key before compaction merges them
    checkpoint_commits      commits since the last checkpoint that start the next one
    checkpoint_bytes        bytes of log since the last checkpoint that start the next one
    bulk_rows_min           rows from which a write of many rows goes through files instead of tuples
    bulk_run_rows           rows of one sorted run of a bulk write (bounds its memory)
    sync_delay_seconds      at `synchronous = normal`: a commit is synced at the latest this long after it was published
    """

    memtable_versions_max: int = 200_000
    memtable_bytes_max: int = 64 << 20
    segment_rows_max: int = 4 << 20
    chunk_rows_max: int = 65_536
    chunk_bytes_max: int = 32 << 20
    segment_bytes_max: int = 1 << 30
    version_chunk_rows: int = 2_048
    overlap_max: int = 8
    checkpoint_commits: int = 200_000
    checkpoint_bytes: int = 128 << 20
    bulk_rows_min: int = 4_096
    bulk_run_rows: int = 1 << 20
    sync_delay_seconds: float = 0.1


DEFAULT = Limits()

TINY = Limits(
    memtable_versions_max=64,
    memtable_bytes_max=16_384,
    segment_rows_max=256,
    chunk_rows_max=64,
    chunk_bytes_max=64 << 10,
    segment_bytes_max=256 << 10,
    version_chunk_rows=16,
    overlap_max=3,
    checkpoint_commits=50,
    checkpoint_bytes=64 << 10,
    bulk_rows_min=100,
    bulk_run_rows=200,
    sync_delay_seconds=0.01,
)
