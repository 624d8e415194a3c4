"""PEP 249's type objects and constructors.

A column's `type_code` in `Cursor.description` is its SQL type as text (`BIGINT`, `DECIMAL(10,2)`, `INTEGER[]`); it equals the
type object of its family, so both `code == NUMBER` and a look at the exact type work. Lists, structs and maps are of no family.
Called by users and `khonsu_sql`; calls nobody.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from khonsu_sql.session import ColumnInfo

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "Date",
    "DateFromTicks",
    "Description",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "TypeObject",
    "describe",
]

Description = tuple[str, str, None, None, int | None, int | None, bool | None]
"""One column as PEP 249 has it: name, type_code, display_size, internal_size, precision, scale, null_ok."""


class TypeObject:
    """A family of SQL types: equal to itself and to the text of each type in it, whatever its parameters."""

    __slots__ = ("name", "types")

    def __init__(self, name: str, *types: str) -> None:
        self.name = name
        self.types = frozenset(types)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return not other.endswith("]") and other.partition("(")[0].strip().upper() in self.types
        return self is other

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"khonsu_sql.{self.name}"


STRING = TypeObject("STRING", "VARCHAR", "TEXT", "CHAR", "BPCHAR", "STRING", "UUID", "JSON", "ENUM")
BINARY = TypeObject("BINARY", "BLOB", "BYTEA", "BIT")
NUMBER = TypeObject(
    "NUMBER",
    *("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
    *("DECIMAL", "NUMERIC", "REAL", "FLOAT", "DOUBLE"),
)
DATETIME = TypeObject(
    "DATETIME",
    *("DATE", "TIME", "TIMETZ", "TIME WITH TIME ZONE", "INTERVAL", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
    *("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"),
)
ROWID = TypeObject("ROWID")
"""No column is of this family: the row ids of tables without a primary key are hidden."""

Date = datetime.date
Time = datetime.time
Timestamp = datetime.datetime
Binary = bytes


def DateFromTicks(ticks: float) -> datetime.date:  # noqa: N802 - PEP 249's name
    """The local date of `ticks` seconds since 1970."""
    return datetime.date.fromtimestamp(ticks)


def TimeFromTicks(ticks: float) -> datetime.time:  # noqa: N802 - PEP 249's name
    """The local time of day of `ticks` seconds since 1970."""
    return datetime.datetime.fromtimestamp(ticks).time()


def TimestampFromTicks(ticks: float) -> datetime.datetime:  # noqa: N802 - PEP 249's name
    """The local timestamp, without time zone, of `ticks` seconds since 1970."""
    return datetime.datetime.fromtimestamp(ticks)


def describe(column: ColumnInfo) -> Description:
    """`column` as PEP 249 has it. Precision and scale are those of DECIMAL."""
    sql_type = column.type
    sizes = (sql_type.precision, sql_type.scale) if sql_type.kind == "DECIMAL" else (None, None)
    return (column.name, str(sql_type), None, None, *sizes, column.nullable)
