"""INSERT, UPDATE, DELETE of what a query returns, with constraints and RETURNING.

Called by `execute` with a `WriteFromQuery`; calls the evaluator for the query, the CHECKs and RETURNING, `constraints` for the
rest, and `bulk` for many rows at once. Safe from the Halloween problem: the query is read to its end (or, in bulk, from a
snapshot without this statement's rows) before the first row is buffered.

A query may return one target row several times (UPDATE … FROM): the first one counts, as in PostgreSQL.
Left out: ON CONFLICT, MERGE (issues B, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from khonsu_engine.commands import ALL_COLUMNS, Operation, Row
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import arrow_from_rows, arrow_schema, conform, rows_from_arrow
from khonsu_sql.errors import InternalError
from khonsu_sql.session import Result
from khonsu_sql.sql.bulk import write_bulk
from khonsu_sql.sql.constraints import changes_of, check_batch, check_not_null, put_changes
from khonsu_sql.sql.context import Context, Relations, relations_of, result_of
from khonsu_sql.sql.plan import Query, WriteFromQuery

__all__ = ["insert_rows", "run_write", "write"]

Affected = tuple[int, Callable[[], pa.Table]]
"""How many rows, and a function that gives them: all columns of the table, new rows (or the old ones of DELETE)."""


def run_write(plan: WriteFromQuery, values: Sequence[Any], context: Context) -> Result:
    """The rows affected, and those of RETURNING. Its subqueries see what was there before the statement."""
    relations = relations_of(plan.query.sources, values, context)
    return write(plan, values, context.evaluator.batches(plan.query, values, relations), context)


def write(plan: WriteFromQuery, values: Sequence[Any], batches: Iterable[pa.RecordBatch], context: Context) -> Result:
    """`run_write` with the query's result at hand."""
    returning = plan.returning
    others: Relations = {} if returning is None else relations_of(returning.sources[1:], values, context)
    match plan.operation:
        case Operation.INSERT:
            count, affected = _insert(plan, batches, context)
        case Operation.UPDATE:
            count, affected = _update(plan, batches, context)
        case _:
            count, affected = _delete(plan, batches, context)
    if returning is None:
        return Result(None, count, plan.operation.name)
    return _returning(plan, returning, values, affected(), others, context)


def _returning(
    plan: WriteFromQuery, returning: Query, values: Sequence[Any], affected: pa.Table, others: Relations, context: Context
) -> Result:
    source = returning.sources[0]
    relations = {source.name: affected.select(list(source.projection)), **others}
    result = result_of(context.evaluator.run(returning, values, relations, rows_max=None))
    result.status = plan.operation.name
    result.rowcount = affected.num_rows
    return result


# --- INSERT


def _insert(plan: WriteFromQuery, batches: Iterable[pa.RecordBatch], context: Context) -> Affected:
    table = plan.table
    types = [table.columns[position].type for position in table.visible]
    names = [table.columns[position].name for position in table.visible]
    checked = (conform(types, batch, names, foreign=False) for batch in batches)
    head, more = _taken(checked, context.database.limits.bulk_rows_min)
    if more and context.transaction.policy is None:  # bulk rows take no conflict policy
        kept: list[pa.RecordBatch] | None = None if plan.returning is None else []
        count = write_bulk(table, chain(head, checked), context, kept=kept)
        return count, lambda: pa.Table.from_batches(kept or [], _schema(table))
    rows = insert_rows(table, [row for batch in chain(head, checked) for row in rows_from_arrow(types, batch)], context)
    return len(rows), lambda: _arrow(table, rows)


def _taken(batches: Iterator[pa.RecordBatch], rows_min: int) -> tuple[list[pa.RecordBatch], bool]:
    """The first batches, and whether they have `rows_min` rows (so that there may be more)."""
    taken: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        taken.append(batch)
        rows += batch.num_rows
        if rows >= rows_min:
            return taken, True
    return taken, False


def insert_rows(table: Table, rows: list[Row], context: Context) -> list[Row]:
    """Buffer new rows, given as canonical values of the visible columns. Returns them whole, hidden row ids included."""
    if table.has_row_id and rows:
        first = context.database.reserve_row_ids(table.id, len(rows))
        rows = [(*row, number) for number, row in enumerate(rows, first)]
    _check(table, rows, ALL_COLUMNS, context)
    put_changes(changes_of(table, (), rows), context)
    return rows


# --- UPDATE


def _update(plan: WriteFromQuery, batches: Iterable[pa.RecordBatch], context: Context) -> Affected:
    table, assigned = plan.table, plan.assigned
    olds, news = [], []
    for old, values in _targets(table, assigned, batches, context):
        new = list(old)
        for position, value in zip(assigned, values, strict=True):
            new[position] = value
        olds.append(old)
        news.append(tuple(new))
    _check(table, news, sum(1 << position for position in set(assigned)), context)
    put_changes(changes_of(table, olds, news), context)
    return len(news), lambda: _arrow(table, news)


def _targets(
    table: Table, assigned: Sequence[int], batches: Iterable[pa.RecordBatch], context: Context
) -> Iterator[tuple[Row, tuple[Any, ...]]]:
    """Each row the query names, once, as it is visible now, with the values that stand beside its key."""
    positions = (*table.key_columns, *assigned)
    types = [table.columns[position].type for position in positions]
    names = [table.columns[position].name for position in positions]
    width = len(table.key_columns)
    seen: set[Any] = set()
    for batch in batches:
        context.check_cancelled()
        for row in rows_from_arrow(types, conform(types, batch, names, foreign=False)):
            key = row[0] if width == 1 else row[:width]
            if key not in seen:
                seen.add(key)
                yield _visible(table, key, context), row[width:]


def _visible(table: Table, key: Any, context: Context) -> Row:
    """The row of a key the scan has returned (and recorded)."""
    row = context.transaction.peek(table.id, key)
    if row is None:
        raise InternalError(f"table {table.name}: a scan returned key {key!r}, which a look-up does not find", sqlstate="XX001")
    return row


# --- DELETE


def _delete(plan: WriteFromQuery, batches: Iterable[pa.RecordBatch], context: Context) -> Affected:
    table = plan.table
    olds = [old for old, _ in _targets(table, (), batches, context)]
    put_changes(changes_of(table, olds, ()), context)
    return len(olds), lambda: _arrow(table, olds)


# --- rows as Arrow


def _check(table: Table, rows: Sequence[Row], columns: int, context: Context) -> None:
    check_not_null(table, rows, columns)
    if table.checks and rows:
        check_batch(table, _arrow(table, rows), context.evaluator, columns)


def _arrow(table: Table, rows: Sequence[Row]) -> pa.Table:
    batch = arrow_from_rows([column.type for column in table.columns], rows, [column.name for column in table.columns])
    return pa.Table.from_batches([batch])


def _schema(table: Table) -> pa.Schema:
    return arrow_schema([column.type for column in table.columns], [column.name for column in table.columns])
