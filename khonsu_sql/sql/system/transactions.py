"""khonsu.transactions: the transactions that are open now. Reads the engine's snapshot registry, and `sessions` for what they are doing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from khonsu_engine.open_transactions import OpenTransaction, open_transactions
from khonsu_sql.isolation import name_of
from khonsu_sql.session import TransactionStatus
from khonsu_sql.sessions import sessions_on
from khonsu_sql.sql.system.view import identifier, moment, moment_of, view

if TYPE_CHECKING:
    from khonsu_engine.database import Database
    from khonsu_sql.local import LocalSession

__all__ = ["TRANSACTIONS"]


def _rows(database: Database) -> list[tuple[Any, ...]]:
    sessions = {session.name: session for session in sessions_on(database)}
    now = time.time()
    return [
        (
            identifier(found.id),
            identifier(found.connection),
            name_of(found.isolation),
            found.locking.name,
            found.read_only,
            _state(found, sessions.get(found.connection)),
            moment(now - found.age_seconds),
            found.age_seconds,
            moment_of(found.read_timestamp),
            found.read_timestamp,
            found.snapshot_age_seconds,
            found.writes,
            found.reads,
        )
        for found in open_transactions(database.snapshots)
    ]


def _state(found: OpenTransaction, session: LocalSession | None) -> str | None:
    """None: it belongs to no session of SQL, and nobody can tell."""
    if found.waiting:
        return "waiting"
    if session is None:
        return None
    if session.status is TransactionStatus.FAILED:
        return "failed"
    return "active" if session.working else "idle"


TRANSACTIONS = view(
    "transactions",
    (
        ("transaction_id", "VARCHAR"),
        ("connection", "VARCHAR"),
        ("isolation", "VARCHAR"),
        ("locking", "VARCHAR"),
        ("read_only", "BOOLEAN"),
        ("state", "VARCHAR"),
        ("began_at", "TIMESTAMPTZ"),
        ("age_seconds", "DOUBLE"),
        ("read_at", "TIMESTAMPTZ"),
        ("read_timestamp", "BIGINT"),
        ("snapshot_age_seconds", "DOUBLE"),
        ("writes", "BIGINT"),
        ("reads", "BIGINT"),
    ),
    _rows,
)
