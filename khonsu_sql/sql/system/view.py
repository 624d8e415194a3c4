"""What a system view is: its name, its columns, and the function that returns its rows.

Made by the rooms of this package, one value per view; looked up by `sql.from_items` (names), read by `sql.context` (rows).

Invariants: to the binder a view is a `Table` of the schema `khonsu` that no catalog holds, with id 0 and without a key; its rows are
canonical values (what `SqlType` stores) or an Arrow table of exactly its columns. `rows` only looks: it records no read, takes no lock
of a transaction, waits for no sync and works while writes are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from khonsu_engine.commands import Timestamp
from khonsu_engine.mvcc.clock import milliseconds_of
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import arrow_from_rows, arrow_schema, parse_type

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.database import Database

__all__ = ["SCHEMA", "Rows", "SystemView", "identifier", "is_view", "moment", "moment_of", "view"]

SCHEMA = "khonsu"
"""The schema of all system views."""

Rows = Callable[["Database"], "Sequence[tuple[Any, ...]] | pa.Table"]
"""What a view shows now: tuples of canonical values in order of its columns, or an Arrow table of them."""


class SystemView(msgspec.Struct, frozen=True):
    """A read-only relation `khonsu.<name>`."""

    table: Table
    rows: Rows

    def read(self, database: Database) -> pa.Table:
        """All columns of all rows, as of now."""
        import pyarrow as pa

        found = self.rows(database)
        types, names = [column.type for column in self.table.columns], [column.name for column in self.table.columns]
        if isinstance(found, pa.Table):
            assert found.schema.equals(arrow_schema(types, names)), f"{SCHEMA}.{self.table.name}: {found.schema}"
            return found
        return pa.Table.from_batches([arrow_from_rows(types, found, names)])


def view(name: str, columns: Sequence[tuple[str, str]], rows: Rows) -> SystemView:
    """The view `khonsu.<name>`. `columns`: (name, SQL type) in order."""
    described = tuple(Column(column, parse_type(sql_type)) for column, sql_type in columns)
    return SystemView(Table(0, SCHEMA, name, 0, described, (0,)), rows)


# -- values of columns ------------------------------------------------------------------------------------------------


def moment(seconds: float | None) -> datetime | None:
    """A TIMESTAMPTZ, of seconds since 1970."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def moment_of(timestamp: Timestamp | None) -> datetime | None:
    """A TIMESTAMPTZ, of a commit or read timestamp; its milliseconds are all that is physical in it."""
    return moment(milliseconds_of(timestamp) / 1000) if timestamp else None


def identifier(name: Any) -> str | None:
    """A transaction id or the name of a connection, as text."""
    return name.hex() if isinstance(name, bytes) and name else None


def is_view(table: Table) -> bool:
    """Is that the description of a system view?"""
    return table.schema == SCHEMA
