"""khonsu.locks: every lock that is held, and every transaction that waits for one. Reads `engine.locks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_sql.sql.system.view import view

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["LOCKS"]


def _rows(database: Database) -> list[tuple[Any, ...]]:
    return [
        (
            database.table_name(lock.table),
            str(lock.target),
            lock.mode.name,
            lock.hard,
            lock.granted,
            lock.owner.hex(),
        )
        for lock in database.locks.listed()
    ]


LOCKS = view(
    "locks",
    (
        ("table_name", "VARCHAR"),
        ("key", "VARCHAR"),
        ("mode", "VARCHAR"),
        ("hard", "BOOLEAN"),
        ("granted", "BOOLEAN"),
        ("transaction_id", "VARCHAR"),
    ),
    _rows,
)
