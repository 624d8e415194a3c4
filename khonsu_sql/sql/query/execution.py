"""One query, from relations to rows or batches.

Called by `evaluator`, which is what the rest of the front sees; with this file DuckDB and Arrow are loaded. Small input goes to the
narrow instance. A result that is small too is fetched as rows, which takes 170 to 350 µs less than Arrow: at first where the input is
small, then where the statement's last result was. If that turns out to be wrong (more rows than the caller wants, values that only Arrow
carries) the query runs again as a stream: nobody has seen anything of it yet.

A cursor whose call failed is closed, not given back: what state it is in is DuckDB's secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from khonsu_engine.errors import EngineError
from khonsu_engine.schema.types import SqlType, arrow_from_rows, python_rows_from_arrow
from khonsu_sql.errors import translate
from khonsu_sql.session import ColumnInfo
from khonsu_sql.sql.plan import Query
from khonsu_sql.sql.query.calls import Calls
from khonsu_sql.sql.query.cursors import PooledCursor
from khonsu_sql.sql.query.instance import narrow, wide
from khonsu_sql.sql.query.parameters import parameters
from khonsu_sql.sql.query.relations import Served, serve, serve_sources
from khonsu_sql.sql.query.results import columns_of, faithful, only_arrow
from khonsu_sql.sql.query.statements import Prepared, prepare, text_of
from khonsu_sql.sql.query.streams import Batches, Stream, translated

__all__ = ["Job", "job_of_expressions", "job_of_query", "kept", "select", "stream"]

NARROW_ROWS_MAX = 65_536
"""Rows of the largest source up to which a query runs in one thread."""

FEW_ROWS = 256
"""Rows up to which it is faster to make Arrow of DuckDB's Python objects than to have Arrow from DuckDB."""

Rows = list[tuple[Any, ...]]


class Job(NamedTuple):
    """A query with all it needs. `names`: of its columns, if they are not DuckDB's."""

    text: str
    values: list[Any]
    relations: list[Served]
    names: Sequence[str] | None

    @property
    def small(self) -> bool:
        """True when a second thread would have nothing to do."""
        return all(served.table.num_rows <= NARROW_ROWS_MAX for served in self.relations)

    def acquire(self) -> PooledCursor:
        """A cursor on which `relations` are bound."""
        cursor = (narrow() if self.small else wide()).acquire()
        try:
            with translated(cursor, self.relations):
                cursor.bind(self.relations)
        except BaseException:
            cursor.close()
            raise
        return cursor


def job_of_query(query: Query, values: Sequence[Any], relations: Mapping[str, Any]) -> Job:
    """`query` with the statement's `values` and a relation for each of its sources."""
    served = serve_sources(query.sources, relations)
    return Job(text_of(query.sql, served), parameters([values[index] for index in query.parameters]), served, query.columns)


def job_of_expressions(expressions: Sequence[str], table: pa.Table | None, types: Sequence[SqlType] | None) -> Job:
    """Expressions in DuckDB's dialect over each row of `table`, whose columns they name; without a table, once."""
    chosen = ", ".join(f"({expression}) AS c{number}" for number, expression in enumerate(expressions))
    if table is None:
        return Job(f"SELECT {chosen}", [], [], None)
    names = table.schema.names
    known = [SqlType("NULL")] * len(names) if types is None else types
    served = serve("khonsu_rows", table, names, known, shown="the row")
    return Job(text_of(f"SELECT {chosen} FROM khonsu_rows", [served]), [], [served], None)


def stream(calls: Calls, job: Job) -> Stream:
    """The result as batches, whatever its size."""
    columns, rows, batches, _ = _begun(calls, job, FEW_ROWS)
    if rows is None:
        return Stream(columns, (), batches)
    types = [column.type for column in columns]
    return Stream(columns, [arrow_from_rows(types, rows, [column.name for column in columns])] if rows else (), None)


def select(calls: Calls, job: Job, rows_max: int | None) -> tuple[tuple[ColumnInfo, ...], Rows | None, Stream | None]:
    """The result as rows, or as a stream when there are more than `rows_max`."""
    columns, rows, batches, prepared = _begun(calls, job, rows_max)
    if batches is None:
        return columns, rows, None
    head, more = _taken(batches, rows_max)
    if more:
        return columns, None, Stream(columns, head, batches)
    prepared.few = True
    return columns, _rows(columns, head), None


def kept(columns: tuple[ColumnInfo, ...], batches: Sequence[pa.RecordBatch], rows_max: int | None) -> tuple[Rows | None, Stream | None]:
    """Batches that were read, as rows, or as a stream when there are more than `rows_max`."""
    if rows_max is not None and sum(batch.num_rows for batch in batches) > rows_max:
        return None, Stream(columns, batches, None)
    return _rows(columns, batches), None


def _begun(calls: Calls, job: Job, rows_max: int | None) -> tuple[tuple[ColumnInfo, ...], Rows | None, Batches | None, Prepared]:
    """The result as rows if that is the faster way and they are no more than `rows_max`, else as batches. Such rows are canonical."""
    cursor = job.acquire()
    try:
        with translated(cursor, job.relations):
            prepared = prepare(job.text, cursor.connection)
            if prepared.as_rows(job.small):
                columns, rows = _fetched(calls, cursor, job, prepared, rows_max)
                if rows is not None:
                    cursor.release()
                    return columns, rows, None, prepared
        batches = Batches(calls, cursor, job.relations, prepared.statement, job.values, job.names)
    except BaseException:
        cursor.close()
        raise
    return batches.columns, None, batches, prepared


def _fetched(
    calls: Calls, cursor: PooledCursor, job: Job, prepared: Prepared, rows_max: int | None
) -> tuple[tuple[ColumnInfo, ...], Rows | None]:
    """The columns, and the rows if it was right to fetch them as such. The statement is over then."""
    connection = cursor.connection

    def work() -> tuple[tuple[ColumnInfo, ...], Rows | None]:
        connection.execute(prepared.statement, job.values)
        columns = columns_of(connection.description, job.names)
        if only_arrow(columns):
            prepared.arrow = True
            return columns, None
        if rows_max is None:
            return columns, connection.fetchall()
        rows = connection.fetchmany(rows_max + 1)
        if len(rows) > rows_max:
            prepared.few = False
            return columns, None
        connection.fetchall()  # nothing; the statement is over only then
        return columns, rows

    columns, rows = calls.run(cursor, work)
    if rows is None:
        cursor.abort(connection.abort)
    elif not faithful(columns, rows):
        return columns, None
    return columns, rows


def _taken(batches: Batches, rows_max: int | None) -> tuple[list[pa.RecordBatch], bool]:
    """What was read until it is decided, and whether there are more than `rows_max` rows; if not, `batches` have ended."""
    head: list[pa.RecordBatch] = []
    count = 0
    try:
        while (batch := batches.read()) is not None:
            head.append(batch)
            count += batch.num_rows
            if rows_max is not None and count > rows_max:
                return head, True
    except BaseException:
        batches.end()
        raise
    batches.end()
    return head, False


def _rows(columns: Sequence[ColumnInfo], batches: Sequence[pa.RecordBatch]) -> Rows:
    types = [column.type for column in columns]
    try:
        return [row for batch in batches for row in python_rows_from_arrow(types, batch)]
    except EngineError as error:
        raise translate(error) from error
