"""Why a statement must start again, unseen by the user.

Raised by `LocalTransaction.put` in transactions that asked for it (`begin(restarts=True)`), caught by whoever runs statements: it takes
the statement back (`undo_statement`), calls `renew`, and runs it once more. No EngineError: nobody has done anything wrong.
"""

from __future__ import annotations

from khonsu_engine.commands import Key, TableId, Timestamp

__all__ = ["Restart", "Superseded"]


class Restart(Exception):
    """The statement cannot go on in this snapshot."""


class Superseded(Restart):
    """A row to be written has a version newer than the snapshot, committed at `timestamp`."""

    def __init__(self, table: TableId, key: Key, timestamp: Timestamp) -> None:
        super().__init__(table, key, timestamp)
        self.table = table
        self.key = key
        self.timestamp = timestamp
