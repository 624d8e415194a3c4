"""Which snapshots are in use, and the horizon below which nobody reads.

Called by the database (begin, end of a transaction) and the committer (pruning), always under the snapshot latch,
which belongs to the database: this room has no thread. Invariant: `oldest` is never above a registered snapshot.
"""

from __future__ import annotations

import msgspec

__all__ = ["Readers", "Snapshots"]


class Readers(msgspec.Struct, frozen=True, gc=False):
    """Who reads, as of one moment: `active`, the registered timestamps, ascending; a snapshot taken later is at `newest` or above."""

    newest: int
    active: tuple[int, ...]


class Snapshots:
    """A multiset of read timestamps with its minimum."""

    __slots__ = ("_counts", "oldest")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.oldest: int | None = None

    def __len__(self) -> int:
        return sum(self._counts.values())

    def register(self, timestamp: int) -> None:
        """A snapshot at `timestamp` is in use once more."""
        self._counts[timestamp] = self._counts.get(timestamp, 0) + 1
        if self.oldest is None or timestamp < self.oldest:
            self.oldest = timestamp

    def release(self, timestamp: int) -> None:
        """One user of `timestamp` less."""
        count = self._counts[timestamp] - 1
        if count:
            self._counts[timestamp] = count
            return
        del self._counts[timestamp]
        if timestamp == self.oldest:
            self.oldest = min(self._counts) if self._counts else None

    def horizon(self, newest: int) -> int:
        """The oldest timestamp anybody reads at; `newest` (what a snapshot taken now would get) when nobody does."""
        return newest if self.oldest is None or self.oldest > newest else self.oldest

    def readers(self, newest: int) -> Readers:
        """Who reads now, below `newest` (what a snapshot taken now would get)."""
        return Readers(newest, tuple(sorted(timestamp for timestamp in self._counts if timestamp < newest)))
