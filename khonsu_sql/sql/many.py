"""executemany: one plan, many parameter sets.

Called by `execute`; calls `dml`. An INSERT that reads no table evaluates all its sets in one query: they become one Arrow table, and
its columns take the place of the parameters. Everything else runs set by set, in order, each seeing what the ones before did.

Invariant: the one query means exactly what the many would; where that is not certain (values of several types under one
parameter, types without a column of their own), or where it fails, they run one by one, and the errors are theirs.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from decimal import Decimal
from types import NoneType
from typing import Any
from uuid import UUID

import pyarrow as pa

from khonsu_engine.commands import ALL_COLUMNS, Operation
from khonsu_engine.errors import EngineError
from khonsu_engine.mvcc.predicates import ALL
from khonsu_engine.schema.arrow_rows import arrow_array
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import BIGINT, BLOB, BOOLEAN, DOUBLE, INTEGER, VARCHAR, SqlType, arrow_schema
from khonsu_sql.errors import Error, QueryCanceled
from khonsu_sql.session import Result
from khonsu_sql.sql.context import Context
from khonsu_sql.sql.dml import run_write, write
from khonsu_sql.sql.plan import PlannedRead, Query, Source, WriteFromQuery

__all__ = ["run_many"]

SETS_MIN = 4
"""From so many sets on the one query is faster than the many."""

Sets = Sequence[Sequence[Any]]


def run_many(plan: WriteFromQuery, sets: Sets, context: Context) -> Result:
    """The row counts added up, and the rows of RETURNING one after the other."""
    batch = _evaluated_at_once(plan, sets, context)
    if batch is not None:
        return write(plan, (), batch.to_batches(), context)
    total = Result(None, 0, plan.operation.name)
    for values in sets:
        context.check_cancelled()
        result = run_write(plan, values, context)
        total.rowcount += result.rowcount
        if result.columns is not None:
            total.columns = result.columns
            total.rows = (total.rows or []) + (result.rows or [])
    return total


def _evaluated_at_once(plan: WriteFromQuery, sets: Sets, context: Context) -> pa.Table | None:
    """What the query gives for all sets in order, or None: one by one."""
    query = plan.query
    if plan.operation is not Operation.INSERT or query.sources or len(sets) < SETS_MIN or not query.parameters:
        return None
    if plan.returning is not None and plan.returning.parameters:
        return None
    columns = list(zip(*sets, strict=True))
    types = [_type_of(values) for values in columns]
    if None in types:
        return None
    known = [sql_type for sql_type in types if sql_type is not None]
    try:
        with context.evaluator.batches(_over_sets(query, known), (), {_SETS: _relation(known, columns)}) as stream:
            return stream.read_all()
    except QueryCanceled:
        raise
    except (Error, EngineError, UnicodeEncodeError):
        return None


# --- the sets as a table


def _type_of(values: Sequence[Any]) -> SqlType | None:
    """The type DuckDB gives to each of these values of one parameter, or None if they have none in common."""
    kinds = set(map(type, values))
    known = values
    if NoneType in kinds:
        kinds.remove(NoneType)
        known = [value for value in values if value is not None]
    if not kinds:
        return SqlType("NULL")
    if len(kinds) > 1:
        return None
    kind = kinds.pop()
    if kind is int:
        return next((sql_type for sql_type in _INTEGERS if sql_type.low <= min(known) and max(known) <= sql_type.high), None)
    if kind is Decimal:
        return _decimal(known)
    if kind is datetime.datetime or kind is datetime.time:
        zoned = {value.tzinfo is not None for value in known}
        return _MOMENTS.get((kind, zoned.pop())) if len(zoned) == 1 else None
    return _SIMPLE.get(kind)


def _decimal(values: Sequence[Decimal]) -> SqlType | None:
    """The smallest type that holds all of them."""
    if not all(value.is_finite() for value in values):
        return None
    scale = max(0, *(-int(value.as_tuple().exponent) for value in values))
    whole = max(value.adjusted() + 1 for value in values)
    precision = max(whole, 0) + scale
    return SqlType("DECIMAL", max(precision, 1), scale) if precision <= 38 else None


_INTEGERS = (INTEGER, BIGINT, SqlType("HUGEINT"))
_MOMENTS = {
    (datetime.datetime, False): SqlType("TIMESTAMP"),
    (datetime.datetime, True): SqlType("TIMESTAMPTZ"),
    (datetime.time, False): SqlType("TIME"),
}
_SIMPLE = {
    bool: BOOLEAN,
    float: DOUBLE,
    str: VARCHAR,
    bytes: BLOB,
    datetime.date: SqlType("DATE"),
    datetime.timedelta: SqlType("INTERVAL"),
    UUID: SqlType("UUID"),
}


def _relation(types: Sequence[SqlType], columns: Sequence[Sequence[Any]]) -> pa.Table:
    """A column per parameter, and their order."""
    arrays = [arrow_array(sql_type, _canonical(sql_type, values)) for sql_type, values in zip(types, columns, strict=True)]
    order = pa.array(range(len(columns[0])), pa.int64())
    return pa.table([*arrays, order], schema=arrow_schema([*types, BIGINT]))


def _canonical(sql_type: SqlType, values: Sequence[Any]) -> Sequence[Any]:
    """Text is looked at later, by the column."""
    if sql_type.canonical_fast is not None or sql_type.kind in ("DOUBLE", "NULL", "VARCHAR"):
        return values
    return [None if value is None else sql_type.canonical(value) for value in values]


# --- the query over them


_SETS = "khonsu_sets"

_PARAMETER = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\d+)""")
"""Quoted text, a quoted name, or a parameter, as the generator writes them."""


def _over_sets(query: Query, types: Sequence[SqlType]) -> Query:
    """`query`, once per set, in their order."""

    def column(found: re.Match[str]) -> str:
        return f"{_SETS}.c{query.parameters[int(found[1]) - 1]}" if found[1] else found[0]

    text = _PARAMETER.sub(column, query.sql)
    columns = tuple(Column(f"c{number}", sql_type) for number, sql_type in enumerate((*types, BIGINT)))
    table = Table(0, "", "the parameter sets", 0, columns, (len(types),))
    source = Source(_SETS, PlannedRead(table, ALL_COLUMNS, ALL), tuple(range(len(columns))))
    sql = f"SELECT khonsu_values.* FROM {_SETS}, LATERAL ({text}) AS khonsu_values ORDER BY {_SETS}.c{len(types)}"
    return Query(sql, (source,))
