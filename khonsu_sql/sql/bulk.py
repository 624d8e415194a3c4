"""Many new rows at once: checked by the column, numbered, and written ahead of the commit as sorted segments.

Called by `dml` (INSERT … SELECT of many rows) and `ingest`; calls the evaluator for CHECKs and `LocalTransaction.put_bulk`. Rows
never become tuples, and stream: of a table with UNIQUE constraints only their columns are kept (as Arrow) until the table itself
is written, because its index tables are filled after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

import khonsu_engine.errors as engine_errors
from khonsu_engine.schema.catalog import ROW_ID, Index, Table
from khonsu_engine.schema.types import arrow_schema
from khonsu_sql.sql.constraints import Change, changes_of, check_batch, raise_not_null, row_at, unique_violation
from khonsu_sql.sql.context import Context

if TYPE_CHECKING:
    from khonsu_sql.errors import UniqueViolation

__all__ = ["write_bulk"]


def write_bulk(
    table: Table, batches: Iterable[pa.RecordBatch], context: Context, *, truncate: bool = False, kept: list[pa.RecordBatch] | None = None
) -> int:
    """Insert `batches`: the visible columns with exact types. Returns the number of rows; appends whole batches to `kept`.

    `truncate`: all older rows of the table go. Raises NotNullViolation, CheckViolation, UniqueViolation.
    """
    columns_of: dict[int, list[pa.RecordBatch]] = {index.id: [] for index in table.indexes}

    def whole() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            context.check_cancelled()
            if batch.num_rows == 0:
                continue
            complete = _numbered(table, batch, context) if table.has_row_id else batch
            _check(table, complete, context)
            for index in table.indexes:
                columns_of[index.id].append(_entries(table, index, complete))
            if kept is not None:
                kept.append(complete)
            yield complete

    count = _put(table, table, None, whole(), context, truncate)
    for index in table.indexes:
        _put(table, table.index_table(index), index, iter(columns_of.pop(index.id)), context, truncate)
    return count


def _put(table: Table, target: Table, index: Index | None, batches: Iterator[pa.RecordBatch], context: Context, truncate: bool) -> int:
    try:
        return context.transaction.put_bulk(target, batches, truncate=truncate)
    except engine_errors.UniqueViolation as error:
        raise _explained(table, index, error) from error


def _explained(table: Table, index: Index | None, error: engine_errors.UniqueViolation) -> UniqueViolation:
    wanted = table.id if index is None else index.id
    change: Change = next(change for change in changes_of(table, (), ()) if change.table == wanted)
    return unique_violation(change, error.evidence["key"], error.evidence)


def _numbered(table: Table, batch: pa.RecordBatch, context: Context) -> pa.RecordBatch:
    """With the hidden row ids as the last column."""
    first = context.database.reserve_row_ids(table.id, batch.num_rows)
    return batch.append_column(pa.field(ROW_ID, pa.int64()), pa.array(range(first, first + batch.num_rows), pa.int64()))


def _check(table: Table, batch: pa.RecordBatch, context: Context) -> None:
    for position, column in enumerate(table.columns):
        if not column.nullable and batch.column(position).null_count:
            at = batch.column(position).is_null().index(True).as_py()
            raise_not_null(table, position, row_at(table, batch, at))
    if table.checks:
        check_batch(table, pa.Table.from_batches([batch]), context.evaluator)


def _entries(table: Table, index: Index, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows of the index's table: none for a row with a NULL among the indexed values."""
    target = table.index_table(index)
    positions = (*index.columns, *table.key_columns)
    entries = pa.RecordBatch.from_arrays(
        [batch.column(position) for position in positions],
        schema=arrow_schema([column.type for column in target.columns], [column.name for column in target.columns]),
    )
    for number in range(len(index.columns)):
        column = entries.column(number)
        if column.null_count:
            entries = entries.filter(pc.is_valid(column))
    return entries
