"""The schema `khonsu`: read-only system views over the session's database, which SQL queries like tables.

Called by the binder (`find_view`) and by `sql.context` (`read_view`), which materialises what a view shows at the start of the statement
that names it. To add a view: declare it with `view(…)` in a room of this package and name it in `_VIEWS`.

    view          what a view is, and how it is declared
    locks         khonsu.locks
    transactions  khonsu.transactions
    conflicts     khonsu.conflicts, khonsu.hot_keys
    metrics       khonsu.metrics
    keyed         khonsu.batches, khonsu.entries, khonsu_batch('key'): read in the transaction
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from khonsu_sql.sql.system.conflicts import CONFLICTS, HOT_KEYS
from khonsu_sql.sql.system.keyed import (
    CONTENT_FUNCTION,
    RESERVED,
    STORED,
    describe_content,
    find_stored,
    is_content,
    is_stored,
    read_stored,
    shown_name,
)
from khonsu_sql.sql.system.locks import LOCKS
from khonsu_sql.sql.system.metrics import METRICS
from khonsu_sql.sql.system.transactions import TRANSACTIONS
from khonsu_sql.sql.system.view import SCHEMA, SystemView, is_view

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.database import Database
    from khonsu_engine.schema.catalog import Table

__all__ = [
    "CONTENT_FUNCTION",
    "SCHEMA",
    "describe_content",
    "find_view",
    "is_content",
    "is_reserved",
    "is_stored",
    "is_view",
    "known_names",
    "read_stored",
    "read_view",
    "shown_name",
    "view_names",
]

_VIEWS: dict[str, SystemView] = {shown.table.name: shown for shown in (CONFLICTS, HOT_KEYS, LOCKS, METRICS, TRANSACTIONS)}


def find_view(name: str) -> Table | None:
    """The description of `khonsu.<name>` (any case), or None."""
    found = _VIEWS.get(name.casefold())
    return find_stored(name) if found is None else found.table


def is_reserved(name: str) -> bool:
    """May no statement make, change or drop `khonsu.<name>`?"""
    return find_view(name) is not None or name.casefold() in RESERVED


def view_names() -> list[str]:
    """The names of all views, without the schema."""
    return list(_VIEWS)


def known_names() -> list[str]:
    """Everything `khonsu.<name>` may name."""
    return [*_VIEWS, *STORED]


def read_view(table: Table, database: Database) -> pa.Table:
    """What the view described by `table` shows now: all its columns."""
    return _VIEWS[table.name].read(database)
