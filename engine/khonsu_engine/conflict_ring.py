"""The conflicts of the recent past, for `khonsu.conflicts`, and how many there were by rule.

Made by `database`. `add` is called where a conflict is told to the user, and where a statement or a call starts again because of one,
unseen; never on the way of a transaction that meets none. Takes no latch: appending and counting are single steps.

Invariants: at most `ENTRIES_MAX` entries, each with at most `evidence.KEYS_MAX` keys as texts of bounded length; no row, no key as a value
and no exception is kept alive by it. Left out: conflicts of applications that use the engine without SQL, which have the exception.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import msgspec

from khonsu_engine.commands import Timestamp, TransactionId
from khonsu_engine.evidence import shown_key
from khonsu_engine.tally import Tally

__all__ = ["ENTRIES_MAX", "RULES", "ConflictRing", "RecordedConflict"]

ENTRIES_MAX = 1_024

RULES = ("write-write", "read-write", "catalog", "unique", "intent", "deadlock")


class RecordedConflict(msgspec.Struct, frozen=True):
    """One conflict. `at`: seconds since 1970. `told`: to the user; else something started again unseen. The rest as in `evidence`."""

    at: float
    sqlstate: str
    rule: str
    told: bool
    table: str | None
    index: str | None
    keys: tuple[str, ...]
    transaction_id: TransactionId | None
    other_transaction_id: TransactionId | None
    commit_timestamp: Timestamp | None
    read_timestamp: Timestamp | None
    hint: str | None


class ConflictRing:
    """`told`: how many conflicts the user saw, by rule; `restarts`: how many nobody saw."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries: deque[RecordedConflict] = deque(maxlen=entries_max)
        self.told = {rule: Tally() for rule in RULES}
        self.restarts = Tally()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, error: Any, *, told: bool) -> None:
        """Note `error` (of the engine or of the front), if it is a conflict: has evidence with a rule."""
        known = error.evidence
        rule = known.get("rule")
        if rule is None:
            return
        self._entries.append(
            RecordedConflict(
                time.time(),
                error.sqlstate,
                rule,
                told,
                known["table"],
                known["index"],
                tuple(map(shown_key, known["keys"])),
                known["transaction_id"],
                known["other_transaction_id"],
                known["commit_timestamp"],
                known["read_timestamp"],
                error.hint,
            )
        )
        (self.told[rule] if told else self.restarts).add()

    def listed(self) -> list[RecordedConflict]:
        """All entries, oldest first."""
        return list(self._entries)
