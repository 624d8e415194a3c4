"""Arrow in: a stream of batches into a table, made if need be.

Called by `core`; calls `bulk`, or `dml.insert_rows` for a few rows. Columns are matched by name, in any case; missing ones get
their default or NULL. Each column is cast to the exact type it is stored in; what does not fit is an error that names the column.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pyarrow as pa

from khonsu_engine.schema.catalog import ROW_ID, Column, Table
from khonsu_engine.schema.types import BIGINT, arrow_schema, conform, rows_from_arrow, type_of_arrow
from khonsu_sql.errors import (
    DataError,
    DuplicateColumn,
    DuplicateTable,
    InvalidTableDefinition,
    NotNullViolation,
    ReadOnlySqlTransaction,
    UndefinedColumn,
    UndefinedTable,
)
from khonsu_sql.session import IngestMode
from khonsu_sql.sql.bulk import write_bulk
from khonsu_sql.sql.context import Context
from khonsu_sql.sql.dml import insert_rows

__all__ = ["ingest"]


def ingest(name: str, reader: pa.RecordBatchReader, mode: IngestMode, context: Context) -> int:
    """Write all rows of `reader` to the table called `name` (any case). Returns their number."""
    if context.transaction.read_only:
        raise ReadOnlySqlTransaction("cannot ingest in a read-only transaction")
    table = _table(name, reader.schema, mode, context)
    given = _given(table, reader.schema)
    batches = (_aligned(table, given, batch, context) for batch in _read(reader))
    truncate = mode is IngestMode.REPLACE
    head: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        context.check_cancelled()
        head.append(batch)
        rows += batch.num_rows
        if rows >= context.database.limits.bulk_rows_min:
            return write_bulk(table, chain(head, batches), context, truncate=truncate)
    if truncate:
        return write_bulk(table, head, context, truncate=True)
    types = [table.columns[position].type for position in table.visible]
    return len(insert_rows(table, [row for batch in head for row in rows_from_arrow(types, batch)], context))


def _read(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except pa.ArrowException as error:
        raise DataError(f"the data could not be read: {str(error).splitlines()[0]}") from error


# --- the table


def _table(name: str, schema: pa.Schema, mode: IngestMode, context: Context) -> Table:
    table = context.transaction.catalog.find(name)
    if table is None:
        if mode is IngestMode.APPEND:
            raise UndefinedTable(f'table "{name}" does not exist', hint='mode="create" or "create_append" makes it.')
        return _create(name, schema, context)
    if mode is IngestMode.CREATE:
        raise DuplicateTable(f'table "{name}" already exists', hint='mode="append" adds to it, mode="replace" empties it first.')
    return table


def _create(name: str, schema: pa.Schema, context: Context) -> Table:
    if not name or "\0" in name:
        raise InvalidTableDefinition("a table needs a name without NUL")
    if not schema.names:
        raise InvalidTableDefinition("a table needs at least one column")
    columns = [Column(field.name, type_of_arrow(field.type), field.nullable) for field in schema]
    columns.append(Column(ROW_ID, BIGINT, nullable=False, hidden=True))
    folded = [column.name.casefold() for column in columns]
    for number, column in enumerate(folded):
        if column in folded[:number]:
            raise DuplicateColumn(f'column "{schema.names[number] if number < len(schema.names) else ROW_ID}" comes twice')
    return context.transaction.create_table(Table(0, "main", name, 0, tuple(columns), (len(columns) - 1,), f"{name}_pkey"))


# --- its columns


def _given(table: Table, schema: pa.Schema) -> dict[int, int]:
    """Position in the table -> position in the data."""
    given: dict[int, int] = {}
    for number, name in enumerate(schema.names):
        position = table.position.get(name.casefold())
        if position is None or table.columns[position].hidden:
            raise UndefinedColumn(f'table "{table.name}" has no column "{name}"')
        if position in given:
            raise DuplicateColumn(f'the data has two columns called "{name}"')
        given[position] = number
    for position in table.visible:
        column = table.columns[position]
        if position not in given and column.default is None and not column.nullable:
            raise NotNullViolation(
                f'the data has no column "{column.name}", which must not be NULL and has no default',
                evidence={"table": table.name, "column": column.name},
            )
    return given


def _aligned(table: Table, given: dict[int, int], batch: pa.RecordBatch, context: Context) -> pa.RecordBatch:
    """The visible columns of the table, with exactly their types."""
    ours = sorted(given)
    types = [table.columns[position].type for position in ours]
    names = [table.columns[position].name for position in ours]
    conformed = conform(types, batch.select([given[position] for position in ours]), names)
    found: dict[int, Any] = dict(zip(ours, conformed.columns, strict=True))
    for position in table.visible:
        if position not in found:
            found[position] = _filled(table.columns[position], batch.num_rows, context)
    wanted = [table.columns[position] for position in table.visible]
    schema = arrow_schema([column.type for column in wanted], [column.name for column in wanted])
    return pa.RecordBatch.from_arrays([found[position] for position in table.visible], schema=schema)


def _filled(column: Column, rows: int, context: Context) -> pa.Array:
    """The default of a column the data does not have, or NULL."""
    if column.default is None or rows == 0:
        return pa.nulls(rows, column.type.arrow)
    row_numbers = pa.table({"n": pa.array(range(rows), pa.int64())})
    values = context.evaluator.evaluate([column.default], row_numbers)
    batch = pa.RecordBatch.from_arrays([values.column(0).combine_chunks()], names=[column.name])
    return conform([column.type], batch, [column.name], foreign=False).column(0)
