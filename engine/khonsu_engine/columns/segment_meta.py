"""What is known of a segment without opening its file: `SegmentMeta`, and its encoded form.

Made by `build`, kept in memory, in manifests and in the log records of bulk writes. Small: a few hundred bytes a chunk.
Values (keys, minima, maxima) are canonical and travel through their types' `to_log` and `from_log`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from khonsu_engine.commands import Key, TableId, Timestamp
from khonsu_engine.errors import CorruptDatabase
from khonsu_engine.schema.catalog import Table

__all__ = ["ChunkMeta", "ColumnStatistics", "SegmentMeta", "decode_meta", "encode_meta"]


class ColumnStatistics(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Bounds of one column of one chunk, for pruning. None: not known (or nothing but NULLs). NaN is greater than all."""

    minimum: Any
    maximum: Any
    nulls: int


class ChunkMeta(msgspec.Struct, frozen=True, array_like=True):
    """One record batch: where it stands in the file (bytes), CRC-32 of those bytes, its first and last key, its statistics."""

    rows: int
    offset: int
    length: int
    checksum: int
    first: Any
    last: Any
    columns: tuple[ColumnStatistics, ...]


class SegmentMeta(msgspec.Struct, frozen=True, array_like=True):
    """One segment. All chunks but the last have `chunk_rows` rows.

    `timestamps`: the file has a last column `__ts`, the commit timestamp of each row; without it every row counts as committed
    at `timestamp_max`. Segments of a bulk write get their timestamps when they are published.
    """

    name: str
    table: TableId
    schema_version: int
    rows: int
    chunk_rows: int
    size_bytes: int
    timestamp_min: Timestamp
    timestamp_max: Timestamp
    timestamps: bool
    chunks: tuple[ChunkMeta, ...]

    @property
    def first(self) -> Key:
        """The smallest key."""
        key: Key = self.chunks[0].first
        return key

    @property
    def last(self) -> Key:
        """The largest key."""
        key: Key = self.chunks[-1].last
        return key


def encode_meta(meta: SegmentMeta, table: Table) -> bytes:
    """`meta` as bytes."""
    return msgspec.msgpack.encode(msgspec.structs.replace(meta, chunks=_converted(meta, table, "to_log")))


def decode_meta(raw: bytes, table: Table) -> SegmentMeta:
    """The inverse of `encode_meta`. Raises CorruptDatabase."""
    try:
        meta = msgspec.msgpack.decode(raw, type=SegmentMeta)
        return msgspec.structs.replace(meta, chunks=_converted(meta, table, "from_log"))
    except (msgspec.DecodeError, ValueError, TypeError, IndexError) as error:
        raise CorruptDatabase(f"the description of a segment of table {table.name} is damaged: {error}") from error


def _converted(meta: SegmentMeta, table: Table, direction: str) -> tuple[ChunkMeta, ...]:
    convert = [getattr(column.type, direction) for column in table.columns]
    keys = [convert[position] for position in table.key_columns]

    def key(value: Any) -> Any:
        if len(keys) == 1:
            return keys[0](value)
        return tuple([change(part) for change, part in zip(keys, value, strict=True)])

    def statistics(number: int, known: ColumnStatistics) -> ColumnStatistics:
        return ColumnStatistics(convert[number](known.minimum), convert[number](known.maximum), known.nulls)

    return tuple(
        msgspec.structs.replace(
            chunk,
            first=key(chunk.first),
            last=key(chunk.last),
            columns=tuple([statistics(number, known) for number, known in enumerate(chunk.columns)]),
        )
        for chunk in meta.chunks
    )
