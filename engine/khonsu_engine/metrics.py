"""What a database has counted since it was opened, and how large what it keeps in memory is: `khonsu.metrics`.

Called by `database.metrics` and by the view. Nothing here counts: rooms count what passes through them, under a latch they hold anyway or
with a `Tally`. Looking is cheap (tens of microseconds, and a microsecond for each table) and works while writes are refused.

Invariant: every number comes from one read of its room, so each is right for a moment, not all of them for the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from khonsu_engine.open_transactions import open_transactions

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["Metric", "measure"]


class Metric(msgspec.Struct, frozen=True):
    """`unit`: what is counted, `seconds` or `bytes`."""

    name: str
    value: int | float
    unit: str
    description: str


def measure(database: Database) -> list[Metric]:
    """Every metric, as of now."""
    return [Metric(*found) for part in (_ends, _conflicts, _locks, _upkeep, _open, _history, _stored) for found in part(database)]


Measured = Iterator[tuple[str, int | float, str, str]]


def _ends(database: Database) -> Measured:
    commits = max(0, database.committer.commits - database.reservations.value)
    yield "commits", commits, "transactions", "committed transactions that wrote"
    yield "read_only_commits", database.read_only_commits.value, "transactions", "transactions that wrote nothing and ended with COMMIT"
    yield "rollbacks", database.rollbacks.value, "transactions", "transactions that were rolled back, by ROLLBACK or by an error"
    yield "savepoints", database.savepoints.value, "savepoints", "SAVEPOINT statements and nested transaction blocks"


def _conflicts(database: Database) -> Measured:
    refused = sum(list(database.committer.conflicts.values()))
    yield "refused_commits", refused, "commits", "commits that validation refused, told or tried again unseen"
    for rule, tally in database.conflicts.told.items():
        yield f"conflicts_{rule.replace('-', '_')}", tally.value, "conflicts", f"conflicts told, by rule: {rule}"
    yield (
        "silent_restarts",
        database.conflicts.restarts.value,
        "restarts",
        "statements and calls that started again unseen after a conflict",
    )
    yield "retries", database.retries.value, "attempts", "attempts of run_transaction after the first one"


def _locks(database: Database) -> Measured:
    locks = database.locks
    held, waiting = locks.sizes()
    yield "locks_held", held, "locks", "rows and ranges that are locked"
    yield "locks_waiting", waiting, "transactions", "transactions that wait for a lock"
    yield "lock_waits", locks.waits, "waits", "times a transaction began to wait for a lock"
    yield "lock_wait_seconds", locks.waited_seconds, "seconds", "time spent in waits that have ended, of all threads together"
    yield "lock_timeouts", locks.timeouts, "errors", "waits that lock_timeout ended (55P03)"
    yield "deadlocks", locks.deadlocks, "errors", "transactions that lost a deadlock (40P01)"


def _upkeep(database: Database) -> Measured:
    yield "syncs", database.committer.syncer.syncs, "syncs", "times the log was synced"
    yield "checkpoints", database.maintenance.checkpoints, "checkpoints", "checkpoints written"
    yield "compactions", database.maintenance.compactions, "merges", "merges of segments"


def _open(database: Database) -> Measured:
    found = open_transactions(database.snapshots)
    oldest = max((transaction.snapshot_age_seconds for transaction in found), default=0.0)
    yield "open_transactions", len(found), "transactions", "transactions that have begun and not ended"
    yield "snapshots", len(database.snapshots), "snapshots", "snapshots that keep old versions, those of transactions included"
    yield "oldest_snapshot_age_seconds", oldest, "seconds", "age of the oldest snapshot of a transaction"


def _history(database: Database) -> Measured:
    state = database.state
    changes = sum(map(len, list(state.changes.values())))
    yield "change_list_entries", changes, "versions", "committed changes kept to validate open transactions against"
    tables = list(state.tables.values())
    versions = sum(len(table.memtable.log) for table in tables)
    yield "memtable_versions", versions, "versions", "recent versions of rows that are not in segments yet"
    yield "memtable_bytes", sum(table.memtable.size_bytes for table in tables), "bytes", "what they take, about"
    yield "outcomes_kept", len(state.outcomes), "connections", "connections whose last outcome is remembered"
    yield "recent_commits_kept", len(state.recent), "commits", "commits whose transaction is remembered, for evidence"
    yield "conflicts_kept", len(database.conflicts), "conflicts", "entries of khonsu.conflicts"
    yield "lock_waits_kept", len(database.locks.recent_waits), "waits", "lock waits remembered for khonsu.hot_keys"


def _stored(database: Database) -> Measured:
    segments = [view.segment for table in list(database.state.tables.values()) for view in table.segments]
    yield "log_bytes", database.committer.log_bytes, "bytes", "log written since the last checkpoint"
    yield "segments", len(segments), "segments", "segments of all tables and indexes"
    yield "segment_bytes", sum(segment.meta.size_bytes for segment in segments), "bytes", "size of their files"
