"""What became of a transaction, by its id.

Part of `keyspace`. Open transactions are known by weak references: one that is dropped has been rolled back. Of ended ones the last
`ENDED_MAX` are known; what became of the others, and of those before the database was opened, the log may still know.

Invariant: finalisers take no latch; they append to a queue.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from functools import partial
from typing import Any

import msgspec

from khonsu_engine.commands import Timestamp, TransactionId

__all__ = ["ABORTED", "ACTIVE", "UNKNOWN", "Statuses", "TransactionStatus"]

ENDED_MAX = 4_096


class TransactionStatus(msgspec.Struct, frozen=True):
    """`state`: active, committed, aborted or unknown. `timestamp`, `index`: of the commit; None unless it committed, 0 when it wrote
    nothing."""

    state: str
    timestamp: Timestamp | None = None
    index: int | None = None


ACTIVE = TransactionStatus("active")
ABORTED = TransactionStatus("aborted")
UNKNOWN = TransactionStatus("unknown")


class Statuses:
    """The transactions of one keyspace. Thread-safe."""

    def __init__(self) -> None:
        self._latch = threading.Lock()
        self._open: dict[TransactionId, weakref.ref[Any]] = {}
        self._dropped: deque[TransactionId] = deque()
        self._ended: dict[TransactionId, TransactionStatus] = {}

    def begun(self, transaction_id: TransactionId, transaction: object) -> None:
        """It is active as long as `transaction` lives, or until it has ended."""
        reference = weakref.ref(transaction, partial(_note, self._dropped, transaction_id))
        with self._latch:
            self._drain()
            self._open[transaction_id] = reference

    def ended(self, transaction_id: TransactionId, status: TransactionStatus) -> None:
        """It has ended so."""
        with self._latch:
            self._open.pop(transaction_id, None)
            self._keep(transaction_id, status)

    def of(self, transaction_id: TransactionId) -> TransactionStatus:
        """UNKNOWN: not known here."""
        with self._latch:
            self._drain()
            return ACTIVE if transaction_id in self._open else self._ended.get(transaction_id, UNKNOWN)

    def active(self) -> int:
        """How many are open."""
        with self._latch:
            self._drain()
            return len(self._open)

    def _drain(self) -> None:
        while self._dropped:
            gone = self._dropped.popleft()
            if self._open.pop(gone, None) is not None:
                self._keep(gone, ABORTED)

    def _keep(self, transaction_id: TransactionId, status: TransactionStatus) -> None:
        self._ended[transaction_id] = status
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]


def _note(dropped: deque[TransactionId], transaction_id: TransactionId, reference: object) -> None:
    dropped.append(transaction_id)
