"""khonsu.conflicts: the conflicts of the recent past with their evidence. khonsu.hot_keys: where they were, and where locks were
waited for. Reads the engine's `conflict_ring` and the waits that `locks` remembers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_sql.sql.system.view import identifier, moment, moment_of, view

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["CONFLICTS", "HOT_KEYS"]


def _conflicts(database: Database) -> list[tuple[Any, ...]]:
    return [
        (
            moment(found.at),
            found.sqlstate,
            found.rule,
            found.told,
            found.table,
            found.index,
            found.keys,
            identifier(found.transaction_id),
            identifier(found.other_transaction_id),
            moment_of(found.commit_timestamp),
            found.commit_timestamp,
            moment_of(found.read_timestamp),
            found.read_timestamp,
            found.hint,
        )
        for found in database.conflicts.listed()
    ]


CONFLICTS = view(
    "conflicts",
    (
        ("at", "TIMESTAMPTZ"),
        ("sqlstate", "VARCHAR"),
        ("rule", "VARCHAR"),
        ("told", "BOOLEAN"),
        ("table_name", "VARCHAR"),
        ("index_name", "VARCHAR"),
        ("keys", "VARCHAR[]"),
        ("transaction_id", "VARCHAR"),
        ("other_transaction_id", "VARCHAR"),
        ("other_committed_at", "TIMESTAMPTZ"),
        ("commit_timestamp", "BIGINT"),
        ("read_at", "TIMESTAMPTZ"),
        ("read_timestamp", "BIGINT"),
        ("hint", "VARCHAR"),
    ),
    _conflicts,
)


class _Heat:
    """What happened at one place."""

    __slots__ = ("conflicts", "last", "restarts", "waits")

    def __init__(self) -> None:
        self.conflicts = self.restarts = self.waits = 0
        self.last = 0.0


def _hot_keys(database: Database) -> list[tuple[Any, ...]]:
    """The hottest first."""
    places: dict[tuple[str | None, str | None, str | None], _Heat] = {}
    for found in database.conflicts.listed():
        for key in found.keys or (None,):
            heat = places.setdefault((found.table, found.index, key), _Heat())
            heat.conflicts += found.told
            heat.restarts += not found.told
            heat.last = max(heat.last, found.at)
    for at, *place in list(database.locks.recent_waits):
        heat = places.setdefault((place[0], place[1], place[2]), _Heat())
        heat.waits += 1
        heat.last = max(heat.last, at)
    rows = [(*place, heat.conflicts, heat.restarts, heat.waits, moment(heat.last)) for place, heat in places.items()]
    return sorted(rows, key=lambda row: (-sum(row[3:6]), str(row[:3])))


HOT_KEYS = view(
    "hot_keys",
    (
        ("table_name", "VARCHAR"),
        ("index_name", "VARCHAR"),
        ("key", "VARCHAR"),
        ("conflicts", "BIGINT"),
        ("restarts", "BIGINT"),
        ("waits", "BIGINT"),
        ("last_at", "TIMESTAMPTZ"),
    ),
    _hot_keys,
)
