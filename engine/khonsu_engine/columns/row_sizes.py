"""How many rows make a chunk and a segment, where rows are large.

Called by flush and compaction. A chunk is read, summed and mapped as a whole, and no Arrow array of texts or bytes holds more than
2 GiB; so the bounds in rows are lowered until chunks and segments have about the bytes of `Limits`. Small rows are not affected.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from khonsu_engine.columns.segment_meta import ChunkMeta
from khonsu_engine.columns.version import Version
from khonsu_engine.limits import Limits

__all__ = ["ARROW_BYTES_MAX", "limits_for_chunks", "limits_for_versions"]

ARROW_BYTES_MAX = 1 << 30
"""No chunk that is made of rows of known size has more."""

MESSAGE_BYTES = 8 << 10
"""Of a chunk that may be anything but its rows."""

FIXED_BYTES = 16
"""Of a row besides its texts and bytes, about."""


def limits_for_versions(limits: Limits, versions: Iterable[Version]) -> Limits:
    """For rows that are at hand: exact for the largest of them."""
    count = total = largest = 0
    for version in versions:
        row = version.row or ()
        size = FIXED_BYTES + sum([len(value) for value in row if isinstance(value, str | bytes)])
        count, total, largest = count + 1, total + size, max(largest, size)
    return _lowered(limits, total / max(count, 1), largest)


def limits_for_chunks(limits: Limits, chunks: Iterable[ChunkMeta]) -> Limits:
    """For rows of chunks: as if all rows were as large as those of the chunk with the largest ones are on average."""
    densest = max((max(chunk.length - MESSAGE_BYTES, 0) / chunk.rows for chunk in chunks), default=0.0)
    return _lowered(limits, densest, densest)


def _lowered(limits: Limits, row_bytes: float, row_bytes_max: float) -> Limits:
    if row_bytes * limits.chunk_rows_max <= limits.chunk_bytes_max and row_bytes_max * limits.chunk_rows_max <= ARROW_BYTES_MAX:
        chunk_rows = limits.chunk_rows_max
    else:
        chunk_rows = max(1, int(min(limits.chunk_bytes_max / row_bytes, ARROW_BYTES_MAX / row_bytes_max, limits.chunk_rows_max)))
    segment_rows = limits.segment_rows_max
    if row_bytes * segment_rows > limits.segment_bytes_max:
        segment_rows = max(chunk_rows, int(limits.segment_bytes_max / row_bytes))
    return msgspec.structs.replace(limits, chunk_rows_max=chunk_rows, segment_rows_max=segment_rows)
