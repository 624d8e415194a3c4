"""Keyed batches and entries as SQL sees them: `khonsu.batches`, `khonsu.entries`, and the content of one batch as a table.

They are views of the schema `khonsu` to the binder, but their rows are read in the transaction: from its snapshot, recorded, and with
conflicts as for any table. What is written goes through the engine's own API (`khonsu_engine.keyed`).

The content of a batch is described when a statement is bound, so a plan with one is bound against no catalog: it is never kept.
Invariant: the description of a batch is a `Table` of the schema `khonsu` whose name no view has: `khonsu_batch:` and the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from khonsu_engine.commands import KeyRange
from khonsu_engine.errors import NotSupported
from khonsu_engine.keyed.shapes import SCHEMA, shape_of
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import conform, type_of_arrow
from khonsu_sql.errors import FeatureNotSupported

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.transaction import LocalTransaction

__all__ = [
    "CONTENT_FUNCTION",
    "RESERVED",
    "STORED",
    "describe_content",
    "find_stored",
    "is_content",
    "is_stored",
    "read_stored",
    "shown_name",
]

CONTENT_FUNCTION = "khonsu_batch"
"""The table function."""

_CONTENT = f"{CONTENT_FUNCTION}:"

STORED = ("batches", "entries")

RESERVED = (*STORED, "batch_contents")
"""Names of tables of the schema `khonsu` that exist once the API was used."""


def find_stored(name: str) -> Table | None:
    """The description of `khonsu.batches` or `khonsu.entries` (any case); None: another name."""
    return shape_of(name.casefold()) if name.casefold() in STORED else None


def is_stored(table: Table) -> bool:
    """Is that view of the schema `khonsu` one of those here?"""
    return table.name in STORED or is_content(table)


def is_content(table: Table) -> bool:
    """Is that the content of a batch?"""
    return table.name.startswith(_CONTENT)


def shown_name(table: Table) -> str:
    """What a view of the schema `khonsu` is called in messages."""
    if is_content(table):
        return f"{CONTENT_FUNCTION}({table.name.removeprefix(_CONTENT)!r})"
    return f"{table.schema}.{table.name}"


def describe_content(transaction: LocalTransaction, key: str) -> Table | None:
    """The batch under `key` as a table; None: there is none. Raises FeatureNotSupported (0A000) when SQL has no word for it."""
    from khonsu_engine.keyed.reading import content_of

    batch = content_of(transaction, key)
    if batch is None:
        return None
    columns: list[Column] = []
    for field in batch.schema:
        if not field.name or field.name.casefold() in {column.name.casefold() for column in columns}:
            raise FeatureNotSupported(f"batch {key!r} cannot be read as a table: it has a column without a name, or two of one")
        try:
            columns.append(Column(field.name, type_of_arrow(field.type), field.nullable))
        except NotSupported as error:
            message = f"batch {key!r} cannot be read as a table: column {field.name!r}: {error.message}"
            raise FeatureNotSupported(message, hint="Read it with the engine's API.") from error
    if not columns:
        raise FeatureNotSupported(f"batch {key!r} cannot be read as a table: it has no columns")
    return Table(0, SCHEMA, f"{_CONTENT}{key}", 0, tuple(columns), (0,))


def read_stored(
    transaction: LocalTransaction, table: Table, columns: Sequence[int], key_range: KeyRange, predicate: Predicate, read_columns: int
) -> pa.Table:
    """At least the rows of the view `table` that satisfy `predicate`; the read is recorded first."""
    import pyarrow as pa

    from khonsu_engine.keyed.reading import content_of, live_rows

    if not is_content(table):
        return live_rows(transaction, table.name, columns, key_range, predicate, read_columns)
    key = table.name.removeprefix(_CONTENT)
    batch = content_of(transaction, key)
    assert batch is not None, "it was described in this very snapshot"
    names = [table.columns[column].name for column in columns]
    types = [table.columns[column].type for column in columns]
    return pa.Table.from_batches([conform(types, batch.select(list(columns)), names)])
