"""Why a statement must start again, unseen by the user.

Raised by `LocalTransaction.put` in transactions that asked for it (`begin(restarts=True)`), caught by whoever runs statements: it takes
the statement back (`undo_statement`), waits if that is what it takes, calls `renew` or `renew_after_wait`, and runs it once more.
`commit` raises LockWait, too; then the transaction is still open, and it is called again. No EngineError: nobody has done anything wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from khonsu_engine.commands import Key, TableId, Timestamp

if TYPE_CHECKING:
    from khonsu_engine.lock_waiter import LockWaiter

__all__ = ["LockWait", "Restart", "Superseded"]


class Restart(Exception):
    """The statement cannot go on in this snapshot."""


class LockWait(Restart):
    """A lock must be waited for: `ticket` says when it makes sense to start again."""

    def __init__(self, ticket: LockWaiter) -> None:
        super().__init__(ticket)
        self.ticket = ticket


class Superseded(Restart):
    """A row to be written has a version newer than the snapshot, committed at `timestamp`."""

    def __init__(self, table: TableId, key: Key, timestamp: Timestamp) -> None:
        super().__init__(table, key, timestamp)
        self.table = table
        self.key = key
        self.timestamp = timestamp
