"""What a person wants to know of a table, as values without anything of the engine in them.

Made by `describe` from a catalog, for `Connection.tables()`; the shell's `\\d` shows it. Types and expressions are SQL text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from khonsu_engine.schema.catalog import Catalog, Table

__all__ = ["CheckDescription", "ColumnDescription", "KeyDescription", "TableDescription", "describe"]


class ColumnDescription(msgspec.Struct, frozen=True):
    """One column. `default`: an expression, or None."""

    name: str
    type: str
    nullable: bool
    default: str | None


class KeyDescription(msgspec.Struct, frozen=True):
    """The primary key, or a unique constraint: its name and its columns in order."""

    name: str
    columns: tuple[str, ...]
    primary: bool


class CheckDescription(msgspec.Struct, frozen=True):
    """A CHECK constraint."""

    name: str
    expression: str


class TableDescription(msgspec.Struct, frozen=True):
    """A table: its visible columns in order, its keys (the primary one first, if there is one), its checks."""

    schema: str
    name: str
    columns: tuple[ColumnDescription, ...]
    keys: tuple[KeyDescription, ...]
    checks: tuple[CheckDescription, ...]


def describe(catalog: Catalog) -> tuple[TableDescription, ...]:
    """All tables of `catalog`, by name. Those of the schema `khonsu` are not the user's."""
    return tuple(_describe(table) for _, table in sorted(catalog.tables.items()) if table.schema == "main")


def _describe(table: Table) -> TableDescription:
    columns = [table.columns[position] for position in table.visible]
    return TableDescription(
        table.schema,
        table.name,
        tuple(ColumnDescription(column.name, column.type.sql, column.nullable, column.default) for column in columns),
        _keys(table),
        tuple(CheckDescription(check.name, check.expression) for check in table.checks),
    )


def _keys(table: Table) -> tuple[KeyDescription, ...]:
    def names(positions: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(table.columns[position].name for position in positions)

    primary = () if table.has_row_id else (KeyDescription(table.key_name, names(table.key_columns), True),)
    return (*primary, *(KeyDescription(index.name, names(index.columns), False) for index in table.indexes))
