"""What comes out of a point function: the columns of a row, aggregates over rows, ORDER BY and LIMIT.

Called by `point` (one row) and `point_scan` (the body of its loops). Sums of floats depend on the order of addition and floats have
SQL's own order, so neither is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import msgspec

from khonsu_engine.schema.types import SqlType, parse_type
from khonsu_sql.session import ColumnInfo
from khonsu_sql.sql.point_access import tuple_text
from khonsu_sql.sql.point_code import Code, Unsupported
from khonsu_sql.sql.shape import Call, ColumnRef, Constant, Expression, OrderItem, Parameter, Shape

__all__ = ["Body", "aggregated", "listed", "shown"]

BIGINT, HUGEINT = parse_type("BIGINT"), parse_type("HUGEINT")


def shown(code: Code, expressions: Sequence[Expression]) -> tuple[str, list[SqlType]]:
    """Code for the row as the driver hands it out, and the types of its columns."""
    cells, types, references = [], [], []
    for expression in expressions:
        reference = code.reference(expression)
        if reference is not None:
            references.append(reference)
            types.append(code.column(reference).type)
            cells.append(code.cell(reference))
        elif isinstance(expression, Constant) and expression.type is not None and expression.value.__class__ in (int, bool):
            types.append(expression.type)
            cells.append(code.literal(expression.value))
        else:
            raise Unsupported
    if all(sql_type.python_identity for sql_type in types):
        whole = [ColumnRef(0, number) for number in range(len(code.tables[0].columns))]
        return (code.rows[0] if references == whole and len(cells) == len(whole) else f"({', '.join(cells)},)"), types
    plain = zip(cells, types, strict=True)
    parts = [cell if sql_type.python_identity else f"{code.name('python', sql_type.to_python)}({cell})" for cell, sql_type in plain]
    return f"({', '.join(parts)},)", types


class Body(msgspec.Struct):
    """Lines before, in and after the loops; the result's columns."""

    start: list[str]
    each: list[str]
    end: list[str]
    columns: tuple[ColumnInfo, ...]


def aggregated(code: Code, shape: Shape) -> Body:
    """One row of aggregates."""
    if shape.order or shape.limit is not None or shape.offset is not None:
        raise Unsupported
    start, each, results, columns = [], [], [], []
    for output in shape.outputs:
        name = code.variable()
        call = output.expression
        if not isinstance(call, Call) or call.distinct:
            raise Unsupported
        sql_type, first, line = _aggregate(code, call, name)
        start.append(f"{name} = {first}")
        each.append(line)
        results.append(name if sql_type.python_identity else f"{code.name('python', sql_type.to_python)}({name})")
        columns.append(ColumnInfo(output.name, sql_type))
    return Body(start, each, [f"return [({', '.join(results)},)]"], tuple(columns))


def _aggregate(code: Code, call: Call, name: str) -> tuple[Any, str, str]:
    """(type of the result, its value for no rows, the line for each row)."""
    if call.name == "count" and not call.operands:
        return BIGINT, "0", f"{name} += 1"
    reference = code.reference(call.operands[0]) if len(call.operands) == 1 else None
    if reference is None:
        raise Unsupported
    sql_type, cell = code.column(reference).type, code.cell(reference)
    match call.name:
        case "count":
            return BIGINT, "0", f"{name} += {cell} is not None"
        case "sum" if sql_type.is_integer and sql_type.kind != "HUGEINT":
            return HUGEINT, "None", f"if {cell} is not None: {name} = {cell} + ({name} or 0)"
        case "min" | "max" as which if sql_type.sql_ordered and sql_type.kind not in ("REAL", "DOUBLE"):
            better = f"{cell} is not None and ({name} is None or {cell} {'<' if which == 'min' else '>'} {name})"
            return sql_type, "None", f"if {better}: {name} = {cell}"
    raise Unsupported


def listed(code: Code, shape: Shape, *, in_order: bool, beside: str = "") -> Body:
    """Rows, ordered and limited. `in_order`: they come in the order that is asked for. `beside`: code for what comes with each row."""
    row, types = shown(code, [output.expression for output in shape.outputs])
    columns = tuple(ColumnInfo(output.name, sql_type) for output, sql_type in zip(shape.outputs, types, strict=True))
    if beside:
        row = f"({row}, {beside})"
    limit, offset = _count(code, shape.limit), _count(code, shape.offset)
    start, each, end = ["found = []"], [f"found.append({row})"], [f"return found[{offset}:]" if offset else "return found"]
    if not in_order:
        each, sorting = _sorting(code, shape.order, row)
        cut = f"[{offset or 0}:{'' if limit is None else f'{offset or 0} + {limit}'}]"
        return Body(start, each, [*sorting, f"return [item[-1] for item in found{cut}]"], columns)
    if limit is not None:
        start += [f"wanted = {offset or 0} + {limit}", "if wanted == 0: return []"]
        each += ["if len(found) == wanted:", "    tally.hits += 1", *("    " + line for line in end)]
    return Body(start, each, end, columns)


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


def _sorting(code: Code, items: Sequence[OrderItem], row: str) -> tuple[list[str], list[str]]:
    """(lines that collect what is sorted by with each row, lines that sort): one stable sort for each run of one direction."""
    keys: list[list[str]] = []
    directions: list[bool] = []
    for item in items:
        reference = code.reference(item.expression)
        assert isinstance(reference, ColumnRef)
        sql_type, cell = code.column(reference).type, code.cell(reference)
        if not sql_type.sql_ordered or sql_type.kind in ("REAL", "DOUBLE"):
            raise Unsupported
        nulls = f"{cell} is {'not ' if item.nulls_first != item.descending else ''}None"
        if not directions or directions[-1] != item.descending:
            directions.append(item.descending)
            keys.append([])
        keys[-1] += [nulls, cell]
    each = [f"found.append(({''.join(f'{tuple_text(key)}, ' for key in keys)}{row}))"]
    runs = reversed(list(enumerate(directions)))
    return each, [f"found.sort(key={code.name('item', itemgetter(number))}, reverse={descending})" for number, descending in runs]
