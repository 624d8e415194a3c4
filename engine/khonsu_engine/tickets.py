"""What a committing thread waits on until the sync that covers its commit.

Made by the committer, waited on by sessions, answered by whoever synced: a sync thread, or a waiting thread itself when it found no
sync under way. A ticket without an outcome belongs to somebody who only read what is not durable yet. Invariant: the first answer
counts; answering and waiting may be interrupted anywhere and repeated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from khonsu_engine.commands import Outcome, Timestamp, TransactionId
from khonsu_engine.errors import CommitOutcomeUnknown

__all__ = ["CommitTicket", "outcome_unknown"]


class CommitTicket:
    """Something appended that is not durable yet. One waiter; `wait` may be interrupted and called again.

    A wait, be it of 0 seconds, has it synced; before, it becomes durable with any later sync, and when the database is closed. `expedite`
    sees to that; `expedite(True)`, of a thread that may be kept, at best before it returns."""

    __slots__ = ("_answered", "_error", "_expedite", "_lock", "outcome", "timestamp")

    def __init__(self, timestamp: Timestamp, outcome: Outcome | None, expedite: Callable[[bool], None]) -> None:
        self.timestamp = timestamp
        self.outcome = outcome
        self._expedite = expedite
        self._answered = False
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def answer(self, error: Exception | None) -> None:
        """Called by one thread at a time; repeated where an interrupt may have cut it short."""
        if not self._answered:
            self._error = error
            self._answered = True
        if self._lock.locked():  # or the waiter has it, who does not need it any more
            self._lock.release()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until durable. False at the timeout. Raises CommitOutcomeUnknown when the sync failed."""
        if not self._answered:
            self._expedite(timeout_seconds is None)
        if not self._answered and not self._lock.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds):
            return False
        if self._error is None:
            return True
        if self.outcome is None:
            raise self._error
        raise outcome_unknown(self.outcome.transaction_id, self._error) from self._error


def outcome_unknown(transaction_id: TransactionId, cause: Exception) -> CommitOutcomeUnknown:
    """The error for a commit that was appended and cannot be made durable."""
    return CommitOutcomeUnknown(
        "the outcome of the commit is unknown: its record was written, but it could not be made durable",
        transaction_id=transaction_id,
        detail=str(cause),
        hint="Reopen the database and ask for the outcome of this transaction id.",
    )
