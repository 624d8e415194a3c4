"""Tables, columns, constraints and the catalog of one snapshot: immutable values.

Called by everyone who needs to know a table's shape. The catalog is stored as rows of an ordinary versioned
table (`CATALOG_TABLE`, key = (schema, name)), so DDL is isolated and rolled back exactly as data is.
Expressions (DEFAULT, CHECK) are opaque text here: the engine knows no SQL; the front evaluates them.

Invariants: table ids are never reused; `Row` has one value per column in order; a table without a primary key has a
hidden last column `ROW_ID` that is its key, so *every* table has a key and key columns are never NULL.
Left out: ALTER (issue C), secondary non-unique indexes (issue C), foreign keys (issue C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from operator import itemgetter
from typing import Any

import msgspec

from khonsu_engine.schema.types import SqlType
from khonsu_engine.schema.values import Converter, identity

__all__ = ["CATALOG_TABLE", "FIRST_USER_TABLE", "ROW_ID", "Catalog", "Check", "Column", "Index", "Table"]

CATALOG_TABLE = 1
"""TableId of the catalog's own table: columns (schema VARCHAR, name VARCHAR, definition BLOB), key (schema, name)."""

FIRST_USER_TABLE = 64

ROW_ID = "__rowid"
"""Name of the hidden key column (BIGINT) of a table without a primary key."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """One column. `default` is an expression in the front's canonical text, or None. `hidden` ones are not in `SELECT *`.

    `merge`: its rule under the conflict policy MERGE, one of `mvcc.policies.MERGE_RULES`, or None."""

    name: str
    type: SqlType
    nullable: bool = True
    default: str | None = None
    hidden: bool = False
    merge: str | None = None


class Check(msgspec.Struct, frozen=True, array_like=True):
    """A CHECK constraint: its name, its expression as opaque text, the positions of the columns it reads."""

    name: str
    expression: str
    columns: tuple[int, ...]


class Index(msgspec.Struct, frozen=True, array_like=True):
    """A unique constraint kept as a table of its own (`id`): rows (indexed columns…, primary key columns…).

    Its key is the indexed values alone; a row with a NULL among them has no entry (NULLs are distinct).
    """

    id: int
    name: str
    columns: tuple[int, ...]
    unique: bool = True


class Table(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """One table at one schema version. `key_columns`: positions of the key's columns, never empty.

    `version` names the shape of its rows. `conflict_resolution`: the policy of writes that name none, or None."""

    id: int
    schema: str
    name: str
    version: int
    columns: tuple[Column, ...]
    key_columns: tuple[int, ...]
    key_name: str = ""
    checks: tuple[Check, ...] = ()
    indexes: tuple[Index, ...] = ()
    conflict_resolution: str | None = None

    @cached_property
    def position(self) -> dict[str, int]:
        """Column position by case-folded name."""
        return {column.name.casefold(): number for number, column in enumerate(self.columns)}

    @cached_property
    def visible(self) -> tuple[int, ...]:
        """Positions of the columns a user sees, in order."""
        return tuple(number for number, column in enumerate(self.columns) if not column.hidden)

    @cached_property
    def has_row_id(self) -> bool:
        """True when the key is the hidden row id."""
        return self.columns[-1].hidden

    @cached_property
    def key_of(self) -> Callable[[tuple[Any, ...]], Any]:
        """row -> canonical key: a scalar for one column, a tuple for several."""
        return itemgetter(*self.key_columns)

    @cached_property
    def to_log(self) -> tuple[tuple[int, Converter], ...]:
        """(position, conversion) of the columns whose values the log writes differently; often none."""
        return tuple((number, column.type.to_log) for number, column in enumerate(self.columns) if column.type.to_log is not identity)

    @cached_property
    def from_log(self) -> tuple[tuple[int, Converter], ...]:
        """The same for values read from the log."""
        return tuple((number, column.type.from_log) for number, column in enumerate(self.columns) if column.type.from_log is not identity)

    def index_table(self, index: Index) -> Table:
        """The table that holds `index`: its columns are the indexed ones, then the key columns of this table."""
        positions = (*index.columns, *self.key_columns)
        columns = tuple(
            Column(f"{number}_{self.columns[position].name}", self.columns[position].type, nullable=False)
            for number, position in enumerate(positions)
        )
        return Table(index.id, self.schema, index.name, self.version, columns, tuple(range(len(index.columns))), index.name)


class Catalog(msgspec.Struct, frozen=True, dict=True):
    """All tables visible at one timestamp. Replaced as a whole by a commit that contains DDL; compare by identity.

    `tables`: by (schema, case-folded name). `timestamp`: commit timestamp of the newest DDL it contains.
    """

    timestamp: int
    tables: dict[tuple[str, str], Table]

    @cached_property
    def by_id(self) -> dict[int, Table]:
        """Tables by id, index tables included."""
        found: dict[int, Table] = {}
        for table in self.tables.values():
            found[table.id] = table
            for index in table.indexes:
                found[index.id] = table.index_table(index)
        return found

    def with_definitions(self, definitions: Mapping[tuple[str, str], Table | None]) -> Catalog:
        """The same with other tables under these names, or none."""
        if not definitions:
            return self
        tables = {**self.tables, **definitions}
        return Catalog(self.timestamp, {name: table for name, table in tables.items() if table is not None})

    def find(self, name: str, schema: str = "main") -> Table | None:
        """The table of that name (any case), or None."""
        return self.tables.get((schema, name.casefold()))
