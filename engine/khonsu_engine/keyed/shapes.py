"""The tables of keyed batches and entries, and their making at first use.

Called by `keyspace` (and for their columns by SQL). They are tables like any others, in the schema `khonsu`:

    batches         one row per key: revision, expiry, number of rows, size, oldest revision kept; NULL rows: deleted
    batch_contents  one row per revision kept: the batch as bytes. A revision without one was a deletion, or has expired
    entries         one row per key: revision, expiry, value; NULL value: deleted

`batches` and `entries` begin with key, revision, expires_at and what is NULL when there is no value. Their index `…_expiry` has an entry
(expires_at, key) for each row that has an expiry. A deleted row has one, too: when its revision may be forgotten.

Invariant: `ensure` makes them in a transaction of its own, so nobody's transaction depends on who was first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from khonsu_engine.commands import Outcome
from khonsu_engine.errors import CannotConnect, SerializationConflict, UniqueViolation
from khonsu_engine.schema.catalog import Catalog, Column, Index, Table
from khonsu_engine.schema.types import parse_type

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["EXPIRES_AT", "KEY", "LIVE", "OLDEST", "REVISION", "SCHEMA", "KeyedTables", "ensure", "shape_of"]

SCHEMA = "khonsu"

KEY, REVISION, EXPIRES_AT, LIVE = range(4)
"""Positions in a head; LIVE: a column that is NULL when there is no value."""

OLDEST = 5
"""Position of the oldest revision kept, in a head of `batches`."""


class KeyedTables(NamedTuple):
    """The three tables as the catalog knows them."""

    batches: Table
    contents: Table
    entries: Table


def _shape(name: str, key_columns: tuple[int, ...], columns: dict[str, str], *, expires: bool) -> Table:
    described = tuple(Column(column, parse_type(of.removesuffix("!")), nullable=not of.endswith("!")) for column, of in columns.items())
    indexes = (Index(0, f"{name}_expiry", (EXPIRES_AT, KEY)),) if expires else ()
    return Table(0, SCHEMA, name, 0, described, key_columns, f"{name}_pkey", (), indexes)


_SHAPES = KeyedTables(
    _shape(
        "batches",
        (0,),
        {
            "key": "VARCHAR!",
            "revision": "BIGINT!",
            "expires_at": "TIMESTAMPTZ",
            "rows": "BIGINT",
            "size_bytes": "BIGINT",
            "oldest_revision": "BIGINT!",
        },
        expires=True,
    ),
    _shape(
        "batch_contents",
        (0, 1),
        {"key": "VARCHAR!", "revision": "BIGINT!", "expires_at": "TIMESTAMPTZ", "data": "BLOB!"},
        expires=False,
    ),
    _shape(
        "entries",
        (0,),
        {"key": "VARCHAR!", "revision": "BIGINT!", "expires_at": "TIMESTAMPTZ", "value": "BLOB", "is_text": "BOOLEAN"},
        expires=True,
    ),
)


def shape_of(name: str) -> Table:
    """The table of that name as it is made; its id is 0. Raises KeyError."""
    return {shape.name: shape for shape in _SHAPES}[name]


def ensure(database: Database) -> KeyedTables:
    """The tables, made now if there are none; durable when this returns.

    Raises CannotConnect when another version of this program made them differently, and what a commit raises."""
    while True:
        catalog = database.catalog
        found = _found(catalog)
        if found is not None:
            database.wait_durable(catalog.timestamp)
            return found
        _make(database)


def _found(catalog: Catalog) -> KeyedTables | None:
    known = [catalog.find(shape.name, SCHEMA) for shape in _SHAPES]
    for table, shape in zip(known, _SHAPES, strict=True):
        if table is not None and (table.columns, table.key_columns) != (shape.columns, shape.key_columns):
            raise CannotConnect(f"the table {SCHEMA}.{shape.name} was made by another version of this program", hint="Use that version.")
    batches, contents, entries = known
    return None if batches is None or contents is None or entries is None else KeyedTables(batches, contents, entries)


def _make(database: Database) -> None:
    """All that are missing. Somebody else may be doing the same: who is first wins, and the other looks again."""
    transaction = database.begin(writes_first=True)
    try:
        for shape in _SHAPES:
            if transaction.catalog.find(shape.name, SCHEMA) is None:
                transaction.create_table(shape)
        answer = transaction.commit()
        if not isinstance(answer, Outcome):
            answer.wait()
    except (SerializationConflict, UniqueViolation):
        return
    finally:
        transaction.rollback()
