"""Who committed at which timestamp, as far back as it is remembered: what the evidence of a conflict is completed with.

Part of `state_machine.State`; `add` is called at every publication under the commit latch, `transaction_at` by anybody. A core: no clock,
no thread, no I/O.

Invariants: bounded, two generations of `GENERATION` commits, of which the older one goes as a whole; what is not remembered is unknown
(None), never guessed; adding one commit again changes nothing.
"""

from __future__ import annotations

from khonsu_engine.commands import Timestamp, TransactionId

__all__ = ["GENERATION", "RecentCommits"]

GENERATION = 32_768


class RecentCommits:
    """The last commits: at least `GENERATION` of them, at most twice as many."""

    __slots__ = ("_newer", "_older", "_size")

    def __init__(self, generation: int = GENERATION) -> None:
        self._size = generation
        self._older: dict[Timestamp, TransactionId] = {}
        self._newer: dict[Timestamp, TransactionId] = {}

    def __len__(self) -> int:
        return len(self._older) + len(self._newer)

    def add(self, timestamp: Timestamp, transaction_id: TransactionId) -> None:
        """That transaction committed then."""
        newer = self._newer
        newer[timestamp] = transaction_id
        if len(newer) >= self._size:
            self._older, self._newer = newer, {}

    def transaction_at(self, timestamp: Timestamp) -> TransactionId | None:
        """Who committed exactly then; None: unknown."""
        newer = self._newer  # before `_older`: a generation that ends meanwhile is found in one of them
        return newer.get(timestamp) or self._older.get(timestamp)
