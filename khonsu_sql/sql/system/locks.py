"""khonsu.locks: every lock that is held, and every transaction that waits for one. Reads `engine.locks`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from khonsu_sql.sql.system.view import identifier, moment, view

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["LOCKS"]


def _rows(database: Database) -> list[tuple[Any, ...]]:
    offset = time.time() - time.monotonic()
    return [
        (
            *database.place_of(lock.table, lock.target),
            lock.mode.name,
            lock.hard,
            lock.granted,
            identifier(lock.owner),
            None if lock.granted else tuple(identifier(name) for name in lock.blockers),
            None if lock.waiter is None else moment(lock.waiter.since + offset),
        )
        for lock in database.locks.listed()
    ]


LOCKS = view(
    "locks",
    (
        ("table_name", "VARCHAR"),
        ("index_name", "VARCHAR"),
        ("key", "VARCHAR"),
        ("mode", "VARCHAR"),
        ("hard", "BOOLEAN"),
        ("granted", "BOOLEAN"),
        ("transaction_id", "VARCHAR"),
        ("waits_for", "VARCHAR[]"),
        ("waiting_since", "TIMESTAMPTZ"),
    ),
    _rows,
)
