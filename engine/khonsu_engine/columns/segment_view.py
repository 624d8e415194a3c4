"""A segment as one table version sees it: with the positions that are dead.

Made by flush, bulk writes and recovery; replaced, never changed. A position is dead when a newer version of its key was moved
into another segment, or a tombstone was; its timestamp is when that happened (first committer wins needs it until the
snapshots older than it are gone). Saved with the manifest by `encode_dead`; timestamps are not, they die with the snapshots.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from khonsu_engine.columns.key_search import NO_POSITIONS, Positions
from khonsu_engine.columns.segment import Segment
from khonsu_engine.commands import Key, Row, Timestamp
from khonsu_engine.errors import CorruptDatabase

__all__ = ["SegmentView", "decode_dead", "encode_dead"]


class SegmentView:
    """`dead`: sorted positions; `dead_timestamps`: when each died. `get(key)`: the live row of `key` or None.

    `latest`: the newest timestamp of anything here."""

    __slots__ = ("_live_bits", "dead", "dead_timestamps", "get", "latest", "segment")

    get: Callable[[Key], Row | None]

    def __init__(self, segment: Segment, dead: Positions = NO_POSITIONS, dead_timestamps: Positions = NO_POSITIONS) -> None:
        assert len(dead) == len(dead_timestamps)
        self.segment = segment
        self.dead = dead
        self.dead_timestamps = dead_timestamps
        self.latest: Timestamp = max(segment.meta.timestamp_max, dead_timestamps.max().item() if len(dead) else 0)
        self._live_bits = b"" if not len(dead) else np.packbits(self.live_mask(0, segment.meta.rows), bitorder="little").tobytes()
        self.get = segment.get if not len(dead) else _live_get(segment, self._live_bits)

    def __repr__(self) -> str:
        return f"SegmentView({self.segment!r}, {len(self.dead)} dead)"

    @property
    def live_rows(self) -> int:
        """How many rows are not dead."""
        return self.segment.meta.rows - len(self.dead)

    def find(self, key: Key) -> int:
        """The position of the live row of `key`, or -1."""
        position = self.segment.find(key)
        return position if position >= 0 and self.is_live(position) else -1

    def is_live(self, position: int) -> bool:
        """Is the row at `position` not dead?"""
        bits = self._live_bits
        return not bits or bits[position >> 3] >> (position & 7) & 1 == 1

    def newest(self, key: Key) -> Timestamp:
        """When the row of `key` was committed, or when it died; 0: the key is not in this segment."""
        position = self.segment.find(key)
        if position < 0:
            return 0
        if self.is_live(position):
            return self.segment.timestamp_at(position)
        timestamp: int = self.dead_timestamps[np.searchsorted(self.dead, position)].item()
        return timestamp

    def live_mask(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """A new array over the positions from `start` to `stop`: True where the row is not dead."""
        mask = np.ones(stop - start, np.bool_)
        low, high = np.searchsorted(self.dead, (start, stop))
        mask[self.dead[low:high] - start] = False
        return mask

    def with_dead(self, positions: Positions, timestamps: Positions) -> SegmentView:
        """This view with more dead positions (in any order); one that is dead already keeps its timestamp."""
        if not len(positions):
            return self
        everything = np.concatenate((self.dead, positions))
        dead, first = np.unique(everything, return_index=True)
        return SegmentView(self.segment, dead, np.concatenate((self.dead_timestamps, timestamps))[first])


def _live_get(segment: Segment, live_bits: bytes) -> Callable[[Key], Row | None]:
    find, row = segment.find, segment.row

    def get(key: Key) -> Row | None:
        position = find(key)
        return row(position) if position >= 0 and live_bits[position >> 3] >> (position & 7) & 1 else None

    return get


def encode_dead(view: SegmentView) -> bytes:
    """The dead positions as bytes: gaps between them as 32-bit numbers, compressed. Empty when there are none."""
    if not len(view.dead):
        return b""
    return zlib.compress(np.diff(view.dead, prepend=0).astype("<u4").tobytes(), 1)


def decode_dead(segment: Segment, raw: bytes, timestamp: Timestamp) -> SegmentView:
    """The inverse of `encode_dead`; all positions count as dead since `timestamp` (the checkpoint's). Raises CorruptDatabase."""
    if not raw:
        return SegmentView(segment)
    try:
        dead = np.cumsum(np.frombuffer(zlib.decompress(raw), "<u4").astype(np.int64))
    except (zlib.error, ValueError) as error:
        raise CorruptDatabase(f"the deletion vector of segment file {segment.meta.name} is damaged: {error}") from error
    if dead[-1] >= segment.meta.rows:
        raise CorruptDatabase(f"the deletion vector of segment file {segment.meta.name} goes beyond its {segment.meta.rows} rows")
    return SegmentView(segment, dead, np.full(len(dead), timestamp, np.int64))
