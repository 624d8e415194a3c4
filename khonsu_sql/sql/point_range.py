"""The point path over short key ranges: rows in key order, exact filters, ORDER BY, LIMIT, COUNT, SUM, MIN and MAX.

Called by `point` for a SELECT from one table whose conditions bound a prefix of the primary key. The function goes through
the range row by row, at most `ROWS_MAX` rows; a longer range is DuckDB's, and a plan that meets long ranges again and again stops
trying. Like every point function it means exactly what its fallback does, or raises `Fallback`.

Exact here: COUNT; MIN and MAX of columns whose SQL order is that of their values; SUM of integers. Sums of floats depend on the
order of addition, so they are not. Left out: GROUP BY, DISTINCT, joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from khonsu_engine.commands import KeyRange
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import parse_type
from khonsu_sql.session import ColumnInfo
from khonsu_sql.sql.plan import PointRead, Query
from khonsu_sql.sql.point_code import Code, Tally, Unsupported, comparison_of, function_of, row_text
from khonsu_sql.sql.predicates import instantiate
from khonsu_sql.sql.shape import Call, ColumnRef, Constant, Expression, OrderItem, Output, Parameter, Shape

__all__ = ["ROWS_MAX", "read_range"]

ROWS_MAX = 1_000
"""Rows a point function looks at before it leaves the statement to DuckDB."""

BIGINT, HUGEINT = parse_type("BIGINT"), parse_type("HUGEINT")


def read_range(shape: Shape, plan: Query, count: int) -> PointRead:
    """The point plan of a SELECT over a key range. Raises Unsupported."""
    table, code = shape.sources[0].table, Code()
    bounds = _bounds(code, table, shape.where)
    conditions = [code.condition(conjunct, table.columns) for conjunct in shape.where]
    aggregates = any(isinstance(output.expression, Call) for output in shape.outputs)
    body = _aggregated(code, table, shape) if aggregates else _listed(code, table, shape)
    read = plan.sources[0].read
    code.names.update(KeyRange=KeyRange, instantiate=instantiate, predicate=read.predicate, tally=Tally())
    loop = [
        "seen = 0",
        *body.start,
        "for _, row in rows:",
        "    seen += 1",
        f"    if seen > {ROWS_MAX}: tally.missed(); raise FALLBACK",
        *("    " + line for line in code.after),
        f"    if not ({' and '.join(f'({condition})' for condition in conditions)}): continue",
        *("    " + line for line in body.each),
        "tally.hits += 1",
        *body.end,
    ]
    head = ["if tally.hopeless: raise FALLBACK", *code.before, f"bounds = {bounds}"]
    reverse = body.reverse
    alone = [
        "tables = state.tables",
        "timestamp = state.durable",
        "if tables is not state.tables: raise FALLBACK",
        f"rows = tables[{table.id}].rows(timestamp, bounds, reverse={reverse})",
    ]
    scan = f"{table.id}, bounds, instantiate(predicate, parameters), columns={read.columns}, reverse={reverse}"
    inside = [f"rows = transaction.rows({scan})"]
    return PointRead(
        function_of(code, "transaction", count, [*head, *inside, *loop]),
        function_of(code, "state", count, [*head, *alone, *loop]),
        body.columns,
        f"range of {table.name} by primary key",
        plan,
    )


# -- the range ----------------------------------------------------------------------------------------------------------------


def _bounds(code: Code, table: Table, where: Sequence[Expression]) -> str:
    """Code for the KeyRange that the conditions imply: equalities on a prefix of the key, then one bounded column."""
    found = [comparison for comparison in map(comparison_of, where) if comparison is not None]
    prefix: list[str] = []
    sides: dict[str, tuple[str, str]] = {}
    for position in table.key_columns:
        column = table.columns[position]
        if not column.type.sql_ordered or column.type.kind in ("REAL", "DOUBLE"):
            break
        here = [(operator, value) for number, operator, value in found if number == position]
        equal = next((value for operator, value in here if operator == "="), None)
        if equal is not None:
            prefix.append(code.compared(equal, column))
            continue
        for operator, value in here:
            if operator != "<>":
                sides.setdefault(operator[0], (operator, code.compared(value, column)))
        break
    if not prefix and not sides:
        raise Unsupported
    low, high = sides.get(">"), sides.get("<")
    single = len(table.key_columns) == 1
    return (
        f"KeyRange({_bound(prefix, low, single)}, {_bound(prefix, high, single)}, "
        f"{low is None or low[0] == '>='}, {high is None or high[0] == '<='})"
    )


def _bound(prefix: list[str], side: tuple[str, str] | None, single: bool) -> str:
    parts = [*prefix, *([side[1]] if side is not None else [])]
    if not parts:
        return "None"
    return parts[0] if single else f"({', '.join(parts)},)"


# -- what comes out -----------------------------------------------------------------------------------------------------------


class _Body(msgspec.Struct):
    """Lines before, in and after the loop over `row`; the result's columns; the direction of the loop."""

    start: list[str]
    each: list[str]
    end: list[str]
    columns: tuple[ColumnInfo, ...]
    reverse: bool = False


def _aggregated(code: Code, table: Table, shape: Shape) -> _Body:
    """One row of aggregates."""
    if shape.order or shape.limit is not None or shape.offset is not None:
        raise Unsupported
    start, each, results, columns = [], [], [], []
    for output in shape.outputs:
        name = code.variable()
        call = output.expression
        if not isinstance(call, Call) or call.distinct:
            raise Unsupported
        sql_type, first, line = _aggregate(call, table, name)
        start.append(f"{name} = {first}")
        each.append(line)
        results.append(name if sql_type.python_identity else f"{code.name('python', sql_type.to_python)}({name})")
        columns.append(ColumnInfo(output.name, sql_type))
    return _Body(start, each, [f"return [({', '.join(results)},)]"], tuple(columns))


def _aggregate(call: Call, table: Table, name: str) -> tuple[Any, str, str]:
    """(type of the result, its value for no rows, the line for each row)."""
    match call:
        case Call(name="count", operands=()):
            return BIGINT, "0", f"{name} += 1"
        case Call(name="count", operands=(ColumnRef(column=column),)):
            return BIGINT, "0", f"{name} += row[{column}] is not None"
        case Call(name="sum", operands=(ColumnRef(column=column),)) if table.columns[column].type.is_integer:
            if table.columns[column].type.kind == "HUGEINT":
                raise Unsupported
            return HUGEINT, "None", f"if row[{column}] is not None: {name} = row[{column}] + ({name} or 0)"
        case Call(name="min" | "max" as which, operands=(ColumnRef(column=column),)):
            sql_type = table.columns[column].type
            if not sql_type.sql_ordered or sql_type.kind in ("REAL", "DOUBLE"):
                raise Unsupported
            sign = "<" if which == "min" else ">"
            better = f"row[{column}] is not None and ({name} is None or row[{column}] {sign} {name})"
            return sql_type, "None", f"if {better}: {name} = row[{column}]"
    raise Unsupported


def _listed(code: Code, table: Table, shape: Shape) -> _Body:
    """Rows, ordered and limited."""
    outputs = columns_of_outputs(shape.outputs)
    shown = row_text(code, table, outputs)
    columns = tuple(ColumnInfo(output.name, table.columns[number].type) for output, number in zip(shape.outputs, outputs, strict=True))
    limit, offset = _count(code, shape.limit), _count(code, shape.offset)
    direction = _direction(table, shape)
    if direction is None:
        order = _order_text(table, shape.order)
        cut = f"[{offset or 0}:{'' if limit is None else f'{offset or 0} + {limit}'}]"
        end = [f"found.sort(key={code.name('order', order)})", f"return [{shown} for row in found{cut}]"]
        return _Body(["found = []"], ["found.append(row)"], end, columns)
    each = ["found.append(" + shown + ")"]
    start = ["found = []"]
    if limit is not None:
        start.append(f"wanted = {offset or 0} + {limit}")
        start.append("if wanted == 0: return []")
        each.append("if len(found) == wanted: break")
    return _Body(start, each, [f"return found[{offset}:]" if offset else "return found"], columns, direction)


def columns_of_outputs(outputs: Sequence[Output]) -> list[int]:
    """The columns of a select list of plain columns."""
    columns = []
    for output in outputs:
        if not isinstance(output.expression, ColumnRef):
            raise Unsupported
        columns.append(output.expression.column)
    return columns


def _count(code: Code, expression: Expression | None) -> str | None:
    """Code for LIMIT or OFFSET."""
    match expression:
        case None:
            return None
        case Constant(value=value) if value.__class__ is int and value >= 0:
            return str(value)
        case Parameter(index=index):
            code.before.append(f"if p{index}.__class__ is not int or not 0 <= p{index} < {2**62}: raise FALLBACK")
            return f"p{index}"
    raise Unsupported


def _direction(table: Table, shape: Shape) -> bool | None:
    """Does key order do for ORDER BY: forwards (False), backwards (True), or not at all (None)?"""
    if not shape.order:
        return False
    fixed = {found[0] for found in map(comparison_of, shape.where) if found is not None and found[1] == "="}
    wanted = [(item.expression.column, item.descending) for item in shape.order if isinstance(item.expression, ColumnRef)]
    if len(wanted) != len(shape.order):
        raise Unsupported
    wanted = [(column, descending) for column, descending in wanted if column not in fixed]
    key = [column for column in table.key_columns if column not in fixed]
    directions = {descending for _, descending in wanted}
    if len(directions) > 1 or [column for column, _ in wanted] != key[: len(wanted)]:
        return None
    return directions == {True}


def _order_text(table: Table, items: Sequence[OrderItem]) -> Any:
    """A sort key over rows for ORDER BY; all items must go in one direction each that Python can sort by."""
    parts: list[tuple[int, bool, bool]] = []
    for item in items:
        if not isinstance(item.expression, ColumnRef):
            raise Unsupported
        sql_type = table.columns[item.expression.column].type
        if not sql_type.sql_ordered or sql_type.kind in ("REAL", "DOUBLE") or (item.descending and not sql_type.is_integer):
            raise Unsupported
        parts.append((item.expression.column, item.descending, item.nulls_first))

    def order(row: tuple[Any, ...]) -> tuple[Any, ...]:
        key: list[Any] = []
        for column, descending, nulls_first in parts:
            value = row[column]
            if value is None:
                key += (not nulls_first, 0)
            else:
                key += (nulls_first, -value if descending else value)
        return tuple(key)

    return order
