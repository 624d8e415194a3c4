"""What a committing thread waits on until the sync that covers its commit.

Made by the committer, answered by its sync thread, waited on by sessions. A ticket without an outcome belongs to somebody who only read
what is not durable yet. Invariant: answered exactly once; waiting may be interrupted anywhere and repeated.
"""

from __future__ import annotations

import threading

from khonsu_engine.commands import Outcome, Timestamp, TransactionId
from khonsu_engine.errors import CommitOutcomeUnknown

__all__ = ["CommitTicket", "outcome_unknown"]


class CommitTicket:
    """Something appended that is not durable yet. One waiter; `wait` may be interrupted and called again."""

    __slots__ = ("_answered", "_error", "_lock", "outcome", "timestamp")

    def __init__(self, timestamp: Timestamp, outcome: Outcome | None) -> None:
        self.timestamp = timestamp
        self.outcome = outcome
        self._answered = False
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def answer(self, error: Exception | None) -> None:
        """Called once, by the sync thread or at close."""
        self._error = error
        self._answered = True
        self._lock.release()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until durable. False at the timeout. Raises CommitOutcomeUnknown when the sync failed."""
        if not self._answered:  # an interrupt may come between the two calls: then the lock stays taken, and nobody asks for it again
            if not self._lock.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds):
                return False
            self._lock.release()
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
