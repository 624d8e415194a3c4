"""CHECK constraints on the point path: code that notices a row that violates one.

Called by `point` for INSERT and UPDATE. A check is bound like a SELECT over its table; what is made of simple conditions on columns
and literals is compiled, anything else has no point plan. A violation is only noticed here: the general path raises it.
Invariant: a CHECK is violated when it is false; NULL is not false.
"""

from __future__ import annotations

from collections.abc import Sequence

from khonsu_engine.schema.catalog import Catalog, Check, Column, Table
from khonsu_engine.schema.sql_type import quoted
from khonsu_sql.sql.bind import bind
from khonsu_sql.sql.parse import parse
from khonsu_sql.sql.point_code import COMPARISONS, Code, Unsupported, comparison_of
from khonsu_sql.sql.shape import ColumnRef, Expression, Operation, Parameter

__all__ = ["check_lines"]

CHECK_BYTES_MAX = 1 << 20


def check_lines(code: Code, table: Table, checks: Sequence[Check]) -> list[str]:
    """Lines that leave a row that violates one of `checks` to the general path, which says so."""
    lines = []
    for check in checks:
        named = Catalog(0, {(table.schema, table.name.casefold()): table})
        bound = bind(parse(f"SELECT {check.expression} FROM {quoted(table.name)}", CHECK_BYTES_MAX)[0], named)
        if bound.shape is None or len(bound.shape.outputs) != 1:
            raise Unsupported
        lines.append(f"if {_refuted(code, bound.shape.outputs[0].expression, table.columns)}: raise FALLBACK")
    return lines


def _refuted(code: Code, expression: Expression, columns: tuple[Column, ...]) -> str:
    """Code that is true exactly when `expression` (of a CHECK) is false for the row `new`; NULL is not false."""
    match expression:
        case Operation(name="and" | "or" as word, operands=parts):
            return (" or " if word == "and" else " and ").join(f"({_refuted(code, part, columns)})" for part in parts)
        case Operation(name="is null", operands=(ColumnRef(column=number),)):
            return f"new[{number}] is not None"
        case Operation(name="not", operands=(Operation(name="is null", operands=(ColumnRef(column=number),)),)):
            return f"new[{number}] is None"
        case Operation(name="in", operands=(ColumnRef(column=number), *values)) if columns[number].type.kind not in ("REAL", "DOUBLE"):
            listed = ", ".join([code.compared(value, columns[number]) for value in values])
            return f"new[{number}] is not None and new[{number}] not in ({listed},)"
    found = comparison_of(expression)
    if found is None or isinstance(found[2], Parameter):
        raise Unsupported
    number, operator, other = found
    sql_type = columns[number].type
    if not sql_type.sql_ordered or sql_type.kind in ("REAL", "DOUBLE"):  # NaN has SQL's own order
        raise Unsupported
    return f"new[{number}] is not None and not new[{number}] {COMPARISONS[operator]} {code.compared(other, columns[number])}"
